"""Which model to begin with on a machine: pure arithmetic on sizes, memory and speed.

The recommendation holds still. It rests only on what was measured while nothing else ran, and the
model that was recommended before stays as long as it fits and no other is clearly better.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from etui.atomic import write_text
from etui.config.machine import machine_name
from etui.models.spec import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

    from etui.config.config import Config

LEAST_TOKENS_PER_SECOND = 10.0
"""About twice as fast as people read: a slower answer is waited for."""
_SPARE_SHARE = 0.1
"""Share of the free memory that is left to everything else."""
_KEPT_SPEED = 0.8 * LEAST_TOKENS_PER_SECOND
"""Speed from which the model that was recommended before is still fast enough."""
_NEW_SPEED, _NEW_SPARE_SHARE = 1.2 * LEAST_TOKENS_PER_SECOND, 0.25
"""What another model has to reach to take its place."""
_CLEARLY = 1.25
"""Ratio of sizes, and of speeds, from which two models are not near-equal."""
_COMPUTE_BYTES = 128_000_000
_KV_SHARE = {"f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}
"""Bytes of a KV cache relative to f16: blocks of 32 values with their scale."""
_UNKNOWN_KV_SHARE = 0.25
"""KV cache relative to the weights where an entry does not say it: less than most have at 8k."""
Fit = Literal["gpu", "memory", "too large", "unknown"]
FIT_TEXTS: Mapping[Fit, str] = {
    "gpu": "GPU",
    "memory": "memory",
    "too large": "too large",
    "unknown": "unknown",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could be chosen."""

    name: str
    weight_bytes: int  # Size of its file
    need_bytes: int  # Memory with its whole context
    tokens_per_second: float | None = None  # Measured or predicted speed; None if unknown
    recommend: bool = True


def estimate_need_bytes(spec: ModelSpec, context_tokens: int | None = None) -> int | None:
    """Estimate the memory of a model with its context from its entry; None for an unknown size."""
    if spec.file_bytes is None:
        return None
    tokens = min(spec.context, context_tokens or spec.context)
    if spec.kv_bytes_per_token is None:
        kv_bytes = _UNKNOWN_KV_SHARE * spec.file_bytes
    else:
        kv_bytes = spec.kv_bytes_per_token * tokens * _KV_SHARE[spec.kv_type]
    return int(spec.file_bytes + kv_bytes + _COMPUTE_BYTES)


def find_fit(
    need_bytes: int | None,
    memory_bytes: float | None,
    gpu_bytes: float | None,
    spare_share: float = _SPARE_SHARE,
) -> Fit:
    """Find where a model fits as a whole, leaving a share of the memory that is free.

    Unknown memory is None, and so is that of a GPU that cannot be used.
    """
    if need_bytes is None:
        return "unknown"
    with_spare = need_bytes / (1 - spare_share)
    if gpu_bytes is not None and with_spare <= gpu_bytes:
        return "gpu"
    if memory_bytes is None:
        return "unknown"
    return "memory" if with_spare <= memory_bytes else "too large"


def recommend_model(
    candidates: Iterable[Candidate],
    memory_bytes: float | None,
    gpu_bytes: float | None,
    kept: str | None = None,
) -> str | None:
    """Recommend the largest model that fits with its context and is fast enough to be read along.

    Where none is fast enough it is the fastest one that fits. A GPU counts as fast enough unless
    its speed is known to be too low; in memory a model of unknown speed is not recommended. What
    was recommended before is ``kept`` while it fits and is about fast enough, unless another is
    clearly larger and would be fast and fit with room to spare. None if no model fits, or no speed
    is known.
    """
    models = [candidate for candidate in candidates if candidate.recommend]

    def find_speed(model: Candidate, spare_share: float = _SPARE_SHARE) -> float | None:
        """Return its speed, infinite for an unknown one on a GPU; None where it does not fit."""
        fit = find_fit(model.need_bytes, memory_bytes, gpu_bytes, spare_share)
        if fit == "gpu" and model.tokens_per_second is None:
            return float("inf")
        return model.tokens_per_second if fit in ("gpu", "memory") else None

    def find_largest(least: float, spare_share: float, least_bytes: float) -> Candidate | None:
        found = [
            model
            for model in models
            if (find_speed(model, spare_share) or 0.0) >= least
            and model.weight_bytes >= least_bytes
        ]
        return max(found, key=lambda model: (model.weight_bytes, model.name), default=None)

    best = find_largest(LEAST_TOKENS_PER_SECOND, _SPARE_SHARE, 0)
    if best is None:
        speeds = [(speed, one.name, one) for one in models if (speed := find_speed(one))]
        best = max(speeds, key=lambda found: found[:2])[2] if speeds else None
    old = next((model for model in models if model.name == kept), None)
    old_speed = None if old is None else find_speed(old, 0.0)
    if old is None or old_speed is None or best is None:
        best = best if old_speed is None else old
    elif old_speed >= _KEPT_SPEED:
        best = find_largest(_NEW_SPEED, _NEW_SPARE_SHARE, _CLEARLY * old.weight_bytes) or old
    elif (find_speed(best) or 0.0) < _CLEARLY * old_speed:
        best = old
    return None if best is None else best.name


def recommended_file(config: Config) -> Path:
    """Return the path of the file that keeps what was recommended."""
    return config.home / "recommended.json"


def load_recommended(config: Config) -> str | None:
    """Load what was recommended on this machine last; None without it."""
    try:
        found = json.loads(recommended_file(config).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = found.get(machine_name()) if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def save_recommended(config: Config, name: str) -> None:
    """Keep what is recommended on this machine; without a writable folder it is not kept."""
    path, kept = recommended_file(config), {}
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        kept = found if isinstance(found, dict) else {}
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, json.dumps({**kept, machine_name(): name}) + "\n")
