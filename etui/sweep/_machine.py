"""What is swept: the model of the baseline, what it and this machine can do, and a setting of it.

Nothing is loaded here: facts come from the headers of files, llama.cpp's list of devices, and the
drivers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from etui.arm import Arm, Speculate
from etui.config.config import Config
from etui.energy.power_limits.limit import PowerLimit
from etui.engine.library import Device, choose_threads, default_threads, usable_cpus
from etui.engine.offload import Needs, choose_placement, fit_placement, needs, usable_bytes
from etui.engine.placement_speeds import PlacementSpeeds
from etui.engine.session_loader import (
    GPU_BATCH_TOKENS,
    choose_batch_tokens,
    choose_context_tokens,
    resolve_flash_attention,
)
from etui.engine.thread_count import choose_thread_limits
from etui.errors import EtuiError, UsageError
from etui.models.catalogue import Catalogue
from etui.models.files import find_draft_problem, model_path
from etui.models.gguf import Gguf, check_usable
from etui.models.spec import ModelSpec
from etui.routing.library import load_policy
from etui.routing.policy import build_unavailable_error, choose_served_arm
from etui.runtime.model_resolution import (
    catalogue_name,
    find_draft_file,
    find_model_file,
    models_on_disk,
)
from etui.sweep.config import PLAIN_WORK, AxisName, Setting, Value, WorkShape
from etui.text import did_you_mean

DRAFTERS: tuple[Speculate, ...] = ("lookup", "draft", "mtp")  # Methods of speculation that draft

_RECURRENT_KEYS = (".ssm.", ".wkv.", ".shortconv.", ".kda.")
"""Parts of the header keys of recurrent and hybrid models, which cannot take tokens back."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The model that is swept, as it is used now."""

    spec: ModelSpec  # With the speculation of the arm, and the hash of the file
    path: Path
    policy: str | None = None  # Name of the policy that the arm is from; None without one
    shape: WorkShape = PLAIN_WORK  # What one answer computes


def find_baseline(
    model: str, policy: str | None, arm: str | None, config: Config, catalogue: Catalogue
) -> Baseline:
    """Find the model that a user names, or (if given) the first model of the arm that is here.

    ``policy`` is the policy of the arm; None takes that of the Config.
    """
    if arm is None:
        name = catalogue_name(model, config, catalogue)
        return Baseline(*find_model_file(Arm("direct", name), config, catalogue))
    chosen = policy or config.policy
    loaded = load_policy(chosen, config, catalogue.models)
    plan = loaded.arms.get(arm)
    if plan is None:
        raise UsageError(
            f"policy {loaded.name} has no arm {arm!r}{did_you_mean(arm, loaded.arms)}",
            f"`etui policy show {chosen}` shows its arms",
        )
    served = choose_served_arm(plan, models_on_disk(config, catalogue))
    if served is None:
        raise build_unavailable_error(loaded.name, [plan])
    spec, path = find_model_file(served, config, catalogue)
    speculate = "off" if served.reasoning == "vote" else served.speculate
    return Baseline(replace(spec, speculate=speculate), path, chosen, build_work_shape(served))


def build_work_shape(arm: Arm) -> WorkShape:
    """Build the shape of an arm's answers: what it computes if it uses its whole budget.

    Votes beyond the batch of the arm are decoded after the first ones, as one batch more, which
    costs the same again: they are not measured.
    """
    if arm.reasoning == "direct" and arm.readout == "choices":
        return WorkShape(answer_tokens=0, reads_letters=True)
    return WorkShape(
        think_tokens=0 if arm.reasoning == "direct" else arm.think_tokens,
        answer_tokens=arm.max_tokens,
        sequences=min(arm.votes, arm.batch) if arm.reasoning == "vote" else 1,
    )


@dataclass(frozen=True, slots=True)
class PowerRange:
    """The power limits that a sweep can set, the same on every swept device; None if unknown."""

    labels: tuple[str, ...]
    watts: float | None  # The limit now; None also if the devices have different ones
    min_watts: float | None  # Range that all of them allow
    max_watts: float | None
    default_watts: float | None  # The lowest of their defaults
    can_set: bool  # Whether etui may set it itself
    current: tuple[float | None, ...] = ()  # The limit of each device now


@dataclass(frozen=True, slots=True)
class Mixture:
    """What decides where the experts of a model can be."""

    need: Needs
    usable_bytes: int  # Free memory of the GPUs that the model can use

    @property
    def least_cpu_moe(self) -> int:
        """Blocks whose experts have to be in RAM if all layers are on the GPUs."""
        return fit_placement(self.need, self.usable_bytes, self.need.whole.gpu_layers).cpu_moe


@dataclass(frozen=True, slots=True)
class SweptModel:
    """A model on this machine, as far as a sweep can vary it."""

    name: str
    layers: int  # Layers that can be put on a GPU: its blocks and the output matrix
    fitting_layers: int  # How many of them fit on the GPUs now; 0 without a GPU
    obstacles: Mapping[str, str]
    """Method of speculation -> why it cannot be used; a method without an entry can."""
    values: Mapping[AxisName, Value]  # Now, without power limit and model
    quantisation: str = ""  # Quantisation of its weights; empty if unknown
    mixture: Mixture | None = None  # None for a dense model


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What a sweep can vary here."""

    model: str
    models: Mapping[str, SweptModel]  # Models on this machine by name; at least the baseline model
    known_models: tuple[str, ...]
    cores: int  # Physical cores that this process may use, its CPU quota considered
    cpus: int  # Logical CPUs that it may run on: the most threads
    gpus: tuple[Device, ...] = ()  # The GPUs that llama.cpp sees
    power: PowerRange | None = None  # Power limits; None if no device has one that can be read
    shape: WorkShape = PLAIN_WORK  # What one answer computes
    current: Mapping[AxisName, Value] = field(init=False)  # Without an unknown `power_limit`

    def __post_init__(self) -> None:
        values: dict[AxisName, Value] = {"model": self.model, **self.baseline.values}
        if self.power is not None and self.power.watts is not None:
            values["power_limit"] = round_watts(self.power.watts)
        if self.shape.sequences > 1 or self.shape.reads_letters:
            values["speculate"] = "off"
        object.__setattr__(self, "current", values)

    @property
    def baseline(self) -> SweptModel:
        """The model of the baseline."""
        return self.models[self.model]

    @property
    def swept_device(self) -> str:
        """What draws the power: ``gpu`` if the baseline has layers on one, else ``package``."""
        return "gpu" if self.gpus and self.current["gpu_layers"] != 0 else "package"


def round_watts(watts: float) -> int | float:
    """Return whole watts as an integer, so that equal limits have equal names."""
    return int(watts) if float(watts).is_integer() else float(watts)


def read_machine_facts(
    config: Config,
    swept: Baseline,
    catalogue: Catalogue,
    *,
    limits: Sequence[PowerLimit] = (),
    gpus: Sequence[Device] | None = None,
) -> MachineFacts:
    """Read what this machine and its models can do. Nothing is loaded."""
    spec = swept.spec
    found = tuple(_list_gpus(config) if gpus is None else gpus)
    baseline = _read_model(spec, check_usable(swept.path), config, catalogue, found)
    facts = MachineFacts(
        model=spec.name,
        models={spec.name: baseline, **dict(_read_others(spec.name, config, catalogue, found))},
        known_models=tuple(dict.fromkeys((spec.name, *catalogue.models))),
        cores=default_threads(config.sysfs_dir),
        cpus=usable_cpus(),
        gpus=found,
        shape=swept.shape,
    )
    return replace(facts, power=combine_limits(limits, facts.swept_device))


def _list_gpus(config: Config) -> tuple[Device, ...]:
    from etui.engine.residency import Residency

    residency = Residency(config)
    try:
        return residency.gpus()
    finally:
        residency.close()


def _read_others(
    name: str, config: Config, catalogue: Catalogue, gpus: Sequence[Device]
) -> Iterator[tuple[str, SweptModel]]:
    """Read every other model on this machine, except for damaged files."""
    for spec in catalogue:
        path = model_path(spec, config)
        if spec.name == name or not path.is_file():
            continue
        try:
            yield spec.name, _read_model(spec, check_usable(path), config, catalogue, gpus)
        except EtuiError:
            continue


def _read_model(
    spec: ModelSpec, gguf: Gguf, config: Config, catalogue: Catalogue, gpus: Sequence[Device]
) -> SweptModel:
    layers = (gguf.layers or 1) + 1
    context_tokens = choose_context_tokens(config, spec, gguf)
    need = needs(gguf, context_tokens, spec.kv_type, spec.batch_tokens or GPU_BATCH_TOKENS)
    free = [gpu.free_bytes for gpu in gpus]
    usable = usable_bytes(free, spec.split, spec.main_gpu, spec.tensor_split)
    fitting = fit_placement(need, usable, cpu_moe=0).gpu_layers
    speeds = PlacementSpeeds(config).read(gguf, gpus) if need.expert_bytes else ()
    placement = choose_placement(gpus, spec, need, speeds)
    on_gpu = placement.gpu_layers
    threads = choose_thread_limits(spec, config, on_gpu=on_gpu > 0)
    values: dict[AxisName, Value] = {
        "threads": threads.decode,
        "decode_threads": threads.decode,
        "prefill_threads": threads.prefill,
        "batch_tokens": choose_batch_tokens(spec, on_gpu),
        "kv_type": spec.kv_type,
        "flash_attention": resolve_flash_attention(
            spec.flash_attention, spec.kv_type, on_gpu=on_gpu > 0
        ),
        "gpu_layers": "all" if on_gpu == layers else on_gpu,
        "cpu_moe": placement.cpu_moe,
        "split": spec.split,
        "speculate": spec.speculate or "off",
        "draft_tokens": spec.draft_tokens or "auto",
    }
    obstacles = _find_obstacles(spec, gguf, config, catalogue)
    mixture = Mixture(need, usable) if need.expert_bytes else None
    return SweptModel(spec.name, layers, fitting, obstacles, values, gguf.quantisation, mixture)


def _find_obstacles(
    spec: ModelSpec, gguf: Gguf, config: Config, catalogue: Catalogue
) -> dict[str, str]:
    """Find why methods of speculation cannot be used with a model."""
    if any(part in key for key in gguf.metadata for part in _RECURRENT_KEYS):
        why = f"{spec.name} is recurrent and cannot take tokens back"
        return dict.fromkeys((*DRAFTERS, "auto"), why)
    obstacles: dict[str, str] = {}
    if spec.draft is None:
        obstacles["draft"] = f"{spec.name} has no `draft` in models.yaml"
    elif problem := find_draft_problem(spec, spec.draft, config, catalogue):
        obstacles["draft"] = f"{spec.draft} cannot draft for {spec.name}: {problem}"
    if not gguf.nextn_layers:
        obstacles["mtp"] = f"the file of {spec.name} has no heads for multi-token prediction"
    return obstacles


def combine_limits(limits: Sequence[PowerLimit], device: str) -> PowerRange | None:
    """Combine the limits of the swept devices: the range that all of them allow."""
    swept = [limit for limit in limits if limit.scope.partition(":")[0] == device]
    if not swept:
        return None
    now = tuple(limit.watts for limit in swept)
    lows = [limit.min_watts for limit in swept if limit.min_watts is not None]
    highs = [limit.max_watts for limit in swept if limit.max_watts is not None]
    defaults = [limit.default_watts for limit in swept if limit.default_watts is not None]
    return PowerRange(
        labels=tuple(limit.label for limit in swept),
        watts=now[0] if len(set(now)) == 1 else None,
        min_watts=max(lows, default=None),
        max_watts=min(highs, default=None),
        default_watts=min(defaults, default=None),
        can_set=all(limit.setter != "user" for limit in swept),
        current=now,
    )


@dataclass(frozen=True, slots=True)
class Configured:
    """A setting, ready to be loaded."""

    spec: ModelSpec  # The model with the values of the setting, and the hash of its file
    path: Path
    config: Config
    """The Config of all visits: its number of threads does not adapt to the load. That of the
    setting is in ``spec``, which comes first."""
    draft: tuple[ModelSpec, Path] | None  # The model that drafts, and its file, where needed
    power_limit_watts: float | None  # Power limit to set; None leaves it alone


def configure(
    setting: Setting, spec: ModelSpec, config: Config, catalogue: Catalogue
) -> Configured:
    """Map a setting to the entry of its model, and to the Config under which it is measured.

    What the setting does not vary stays as in the entry of its model, and its threads as they are
    now. A quantised cache switches flash attention on where that is no axis.
    """
    values = dict(setting.values)
    model = str(values.get("model", spec.name))
    if model == spec.name:
        catalogue = replace(catalogue, models={**catalogue.models, model: spec})
    found, path = find_model_file(Arm("sweep", model), config, catalogue)
    speculate = cast(Speculate, values.get("speculate", found.speculate or "off"))
    depth = values.get("draft_tokens", found.draft_tokens)
    chosen = replace(
        _set_threads(_set_memory(found, values), values, config),
        speculate=speculate,
        draft_tokens=None
        if speculate == "off" or depth in (None, "auto")
        else int(cast(int, depth)),
    )
    power = values.get("power_limit")
    return Configured(
        spec=chosen,
        path=path,
        config=replace(config, threads=choose_threads(config.threads, config.sysfs_dir)),
        draft=find_draft_file(Arm("sweep", model, speculate=speculate), chosen, config, catalogue),
        power_limit_watts=None if power is None else float(power),
    )


def _set_threads(spec: ModelSpec, values: Mapping[AxisName, Value], config: Config) -> ModelSpec:
    """Set the threads of both phases, so that neither depends on the Config."""
    now = choose_thread_limits(spec, config)
    both = values.get("threads")
    decode = values.get("decode_threads", now.decode if both is None else both)
    prefill = values.get("prefill_threads", now.prefill if both is None else both)
    return replace(spec, threads=int(decode), prefill_threads=int(prefill))


def _set_memory(spec: ModelSpec, values: Mapping[AxisName, Value]) -> ModelSpec:
    """Set what is part of a load: cache, attention, batch, layers and split."""
    axes = {"kv_type", "flash_attention", "gpu_layers", "cpu_moe", "split", "batch_tokens"}
    changes: dict[str, Any] = {name: value for name, value in values.items() if name in axes}
    changed = replace(spec, **changes)
    if changed.kv_type != "f16":
        changed = replace(changed, flash_attention="on")
    return replace(changed, tensor_split=()) if changed.split == "none" else changed
