"""Facts of machines that do not exist, and of models on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from etui.engine.library import Device
from etui.engine.offload import Needs, fit_placement
from etui.sweep._machine import MachineFacts, Mixture, PowerRange, SweptModel
from etui.sweep.config import PLAIN_WORK, AxisName, Value, WorkShape

NO_DRAFTS = {
    "draft": "small has no `draft` in models.yaml",
    "mtp": "the file of small has no heads for multi-token prediction",
}
GPU_POWER = PowerRange(("GPU 0",), 300.0, 100.0, 400.0, 300.0, True, (300.0,))


def make_model(
    name: str = "small",
    layers: int = 25,
    *,
    fitting: int = 0,
    obstacles: Mapping[str, str] = NO_DRAFTS,
    **values: Any,
) -> SweptModel:
    """A model; keywords are values of axes."""
    usual: dict[AxisName, Value] = {
        "threads": 2,
        "decode_threads": 2,
        "prefill_threads": 2,
        "batch_tokens": 512 if fitting else 128,
        "kv_type": "f16",
        "flash_attention": "auto" if fitting else "off",
        "gpu_layers": "all" if fitting >= layers else fitting,
        "cpu_moe": 0,
        "split": "layer",
        "speculate": "off",
        "draft_tokens": "auto",
    }
    return SweptModel(name, layers, fitting, obstacles, {**usual, **values})


def make_mixture(usable_bytes: int = 20 * 10**9) -> SweptModel:
    """A mixture of 10 blocks of 0.5 GB and 1.5 GB of experts, of which these bytes can be on GPUs.

    Its cache, buffers and output matrix take 3 GB.
    """
    gb = 10**9
    need = Needs(10, 2 * gb, gb, 21 * gb, gb, gb, (3 * gb // 2,) * 10, 3 * gb // 2)
    fitting = fit_placement(need, usable_bytes, cpu_moe=0).gpu_layers
    placement = fit_placement(need, usable_bytes)
    layers = "all" if placement.gpu_layers == 11 else placement.gpu_layers
    plain = make_model("mixture", 11, fitting=fitting)
    values = {**plain.values, "gpu_layers": layers, "cpu_moe": placement.cpu_moe}
    return replace(plain, values=values, mixture=Mixture(need, usable_bytes))


def make_facts(
    *models: SweptModel,
    cores: int = 2,
    cpus: int | None = None,
    gpus: int = 0,
    power: PowerRange | None = None,
    shape: WorkShape = PLAIN_WORK,
) -> MachineFacts:
    """A machine; the first model is that of the baseline."""
    if not models:
        values = dict.fromkeys(("threads", "decode_threads", "prefill_threads"), cores)
        models = (make_model(fitting=25 if gpus else 0, **values),)
    return MachineFacts(
        model=models[0].name,
        models={model.name: model for model in models},
        known_models=(*(model.name for model in models), "absent-4b"),
        cores=cores,
        cpus=cores if cpus is None else cpus,
        gpus=tuple(Device(f"GPU{i}", "fake", 10**10, 10**10) for i in range(gpus)),
        power=power,
        shape=shape,
    )


@dataclass(frozen=True)
class Limit:
    """A power limit as the power limits of this machine report it."""

    scope: str
    watts: float | None = 300.0
    min_watts: float | None = 100.0
    max_watts: float | None = 400.0
    default_watts: float | None = 300.0
    setter: str = "etui"

    @property
    def label(self) -> str:
        return self.scope.upper()
