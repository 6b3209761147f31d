"""From a setting to what is loaded: the entry of the model, the Config and the speculation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from etui.arm import Arm, Speculate
from etui.engine.library import choose_threads
from etui.engine.thread_limits import choose_thread_limits
from etui.runtime.serving import find_draft_file, find_model_file

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import FlashAttention, KvType, ModelSpec, SplitMode
    from etui.sweep.setting import AxisName, Setting, Value


@dataclass(frozen=True, slots=True)
class Configured:
    """A setting, ready to be loaded."""

    spec: ModelSpec  # The model with the values of the setting, and the hash of its file
    path: Path
    config: Config
    """The Config of all visits: its number of threads does not adapt to the load. That of the
    setting is in ``spec``, which comes first."""
    draft: tuple[ModelSpec, Path] | None
    """The model that drafts, and its file; None if none is needed."""
    speculate: Speculate  # Where drafted tokens come from
    draft_tokens: int | None  # Number of tokens to draft at a time; None chooses it at each step
    power_limit_watts: float | None  # Power limit to set; None leaves it alone


def configure(
    setting: Setting, spec: ModelSpec, config: Config, catalogue: Catalogue
) -> Configured:
    """Map a setting to the entry of its model, and to the Config under which it is measured.

    What the setting does not vary stays as in the entry of its model, and its threads as they are
    now. A quantised cache switches flash attention on where that is no axis.

    Raises:
        ModelUnavailable: The file of the model, or that of the draft model that it needs, is
            missing, damaged, or has another sha256.
        UsageError: There is no such model.
    """
    values = dict(setting.values)
    model = str(values.get("model", spec.name))
    if model == spec.name:
        catalogue = replace(catalogue, models={**catalogue.models, model: spec})
    found, path = find_model_file(Arm("sweep", model), config, catalogue)
    speculate = cast(Speculate, values.get("speculate", found.speculate or "off"))
    draft_tokens = _choose_depth(values, found) if speculate != "off" else None
    chosen = _set_threads(_set_memory(found, values), values, config)
    chosen = replace(chosen, speculate=speculate, draft_tokens=draft_tokens)
    power = values.get("power_limit")
    return Configured(
        spec=chosen,
        path=path,
        config=replace(config, threads=choose_threads(config.threads, config.sysfs_dir)),
        draft=find_draft_file(Arm("sweep", model, speculate=speculate), chosen, config, catalogue),
        speculate=speculate,
        draft_tokens=draft_tokens,
        power_limit_watts=None if power is None else float(power),
    )


def _choose_depth(values: Mapping[AxisName, Value], spec: ModelSpec) -> int | None:
    depth = values.get("draft_tokens", spec.draft_tokens)
    return None if depth in (None, "auto") else int(cast(int, depth))


def _set_threads(spec: ModelSpec, values: Mapping[AxisName, Value], config: Config) -> ModelSpec:
    """Set the threads of both phases, so that neither depends on the Config."""
    now = choose_thread_limits(spec, config)
    both = values.get("threads")
    decode = values.get("decode_threads", now.decode if both is None else both)
    prefill = values.get("prefill_threads", now.prefill if both is None else both)
    return replace(spec, threads=int(decode), prefill_threads=int(prefill))


def _set_memory(spec: ModelSpec, values: Mapping[AxisName, Value]) -> ModelSpec:
    """Set what is part of a load: cache, attention, batch, layers and split."""
    kv_type = cast("KvType", values.get("kv_type", spec.kv_type))
    flash = cast("FlashAttention", values.get("flash_attention", spec.flash_attention))
    layers = values.get("gpu_layers", spec.gpu_layers)
    split = cast("SplitMode", values.get("split", spec.split))
    batch = values.get("batch_tokens", spec.batch_tokens)
    return replace(
        spec,
        kv_type=kv_type,
        flash_attention=flash if kv_type == "f16" else "on",
        gpu_layers="all" if layers == "all" else "auto" if layers == "auto" else int(layers),
        split=split,
        tensor_split=() if split == "none" else spec.tensor_split,
        batch_tokens=None if batch is None else int(batch),
    )
