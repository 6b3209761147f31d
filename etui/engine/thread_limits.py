"""The most threads of a model: its own, or those of the settings, and never more than there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.engine.library import choose_threads

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class ThreadLimits:
    """The most threads that compute a model.

    Attributes:
        decode, prefill: Most threads of short and of long batches.
    """

    decode: int
    prefill: int
    adapt: bool  # Whether fewer are used while other processes take the cores
    note: str = ""  # Why a limit is lower than asked for; empty if none is


def choose_thread_limits(spec: ModelSpec, config: Config, *, on_gpu: bool = False) -> ThreadLimits:
    """Choose the most threads of a model.

    The model's own numbers are more specific than that of config.yaml, so they replace it. Whether
    they adapt is left to config.yaml: with ``auto`` they do. With layers on a GPU they never do:
    threads that wait for it look like threads that wait for a core.

    Args:
        config: The number of threads of all others, None for ``auto``, and the root of sysfs.
        on_gpu: Whether layers of the model are on a GPU.
    """
    decode = config.threads if spec.threads is None else spec.threads
    prefill = decode if spec.prefill_threads is None else spec.prefill_threads
    asked = {"threads": decode, "prefill_threads": prefill}
    most = {number: choose_threads(number, config.sysfs_dir) for number in {*asked.values()}}
    limits = {name: most[number] for name, number in asked.items()}
    lowered = [
        (number, limits[name], name)
        for name, number in asked.items()
        if number is not None and number > limits[name]
    ]
    note = ""
    if lowered:
        number, limit, name = max(lowered, key=lambda each: each[0])
        note = f"this process may run on {limit} of the {number} CPUs that `{name}` needs"
    adapt = config.threads is None and not on_gpu
    return ThreadLimits(limits["threads"], limits["prefill_threads"], adapt, note)
