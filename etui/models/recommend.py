"""Which model to begin with on a machine: pure arithmetic on sizes, memory and speed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from etui.models.spec import ModelSpec

LEAST_TOKENS_PER_SECOND = 10.0
"""About twice as fast as people read: a slower answer is waited for."""
_SPARE_SHARE = 0.1
"""Share of the free memory that is left to everything else."""
_COMPUTE_BYTES = 128_000_000
_KV_SHARE = {"f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}
"""Bytes of a KV cache relative to f16: blocks of 32 values with their scale."""
_UNKNOWN_KV_SHARE = 0.25
"""KV cache relative to the weights where an entry does not say it: less than most have at 8k."""
_CAUTIOUS_BYTES_PER_SECOND = 10e9
"""Reading speed of a memory that was not measured: that of one channel of DDR4 at half its peak."""
Fit = Literal["gpu", "memory", "too large", "unknown"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could be chosen."""

    name: str
    weight_bytes: int  # Size of its file
    need_bytes: int  # Memory with its whole context
    tokens_per_second: float | None = None  # Measured or predicted speed; None if unknown
    recommend: bool = True
    read_bytes: int | None = None
    """Bytes that are read for each token; None for all of the file."""


def estimate_need_bytes(spec: ModelSpec, context_tokens: int | None = None) -> int | None:
    """Estimate the memory of a model from its entry, before its header can be read.

    Args:
        context_tokens: Upper limit on its context; None uses the entry's.

    Returns:
        Weights, KV cache of the whole context and compute buffers; None for an unknown size.
    """
    if spec.file_bytes is None:
        return None
    tokens = min(spec.context, context_tokens or spec.context)
    if spec.kv_bytes_per_token is None:
        kv_bytes = _UNKNOWN_KV_SHARE * spec.file_bytes
    else:
        kv_bytes = spec.kv_bytes_per_token * tokens * _KV_SHARE[spec.kv_type]
    return int(spec.file_bytes + kv_bytes + _COMPUTE_BYTES)


def find_fit(need_bytes: int | None, memory_bytes: float | None, gpu_bytes: float | None) -> Fit:
    """Find where a model fits as a whole.

    Args:
        need_bytes: Memory it needs; None if unknown.
        memory_bytes: Free memory of the machine; None if unknown.
        gpu_bytes: Free memory of the GPU; None without one that can be used.
    """
    if need_bytes is None:
        return "unknown"
    with_spare = need_bytes / (1 - _SPARE_SHARE)
    if gpu_bytes is not None and with_spare <= gpu_bytes:
        return "gpu"
    if memory_bytes is None:
        return "unknown"
    return "memory" if with_spare <= memory_bytes else "too large"


def recommend_model(
    candidates: Iterable[Candidate], memory_bytes: float | None, gpu_bytes: float | None
) -> str | None:
    """Recommend the largest model that fits with its context and is fast enough to be read along.

    Where none is fast enough it is the fastest one that fits. A GPU counts as fast enough unless
    its speed is known to be too low; a memory of unknown speed counts as slow.

    Args:
        memory_bytes: Free memory of the machine; None if unknown.
        gpu_bytes: Free memory of the GPU; None without one that can be used.

    Returns:
        The name; None if no model that may be recommended fits.
    """
    speeds: list[tuple[float, Candidate]] = []
    for candidate in candidates:
        fit = find_fit(candidate.need_bytes, memory_bytes, gpu_bytes)
        if candidate.recommend and fit in ("gpu", "memory"):
            speeds.append((_expect_speed(candidate, fit), candidate))
    fast = [model for speed, model in speeds if speed >= LEAST_TOKENS_PER_SECOND]
    if fast:
        return max(fast, key=lambda model: (model.weight_bytes, model.name)).name
    if speeds:
        return max(speeds, key=lambda found: (found[0], found[1].name))[1].name
    return None


def _expect_speed(candidate: Candidate, fit: Fit) -> float:
    """Return the speed by which a model is judged, tokens per second."""
    if candidate.tokens_per_second is not None:
        return candidate.tokens_per_second
    if fit == "gpu":
        return float("inf")
    return _CAUTIOUS_BYTES_PER_SECOND / max(1, candidate.read_bytes or candidate.weight_bytes)
