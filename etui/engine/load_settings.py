"""The settings of a load, from the entry of the model, the user's settings and the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etui.engine.library import Device
from etui.engine.thread_limits import choose_thread_limits
from etui.errors import ModelUnavailable
from etui.models.gguf import Gguf

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.engine.llama_session import LlamaSession
    from etui.models.spec import FlashAttention, ModelSpec

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 512
"""Tokens of a batch: a cancel waits for one batch, and a CPU is no faster with longer ones."""


def session_key(spec: ModelSpec, path: Path) -> tuple[object, ...]:
    """Collect the settings a session depends on: a change to any of them requires a reload."""
    return (
        path,
        spec.context,
        spec.gpu_layers,
        spec.kv_type,
        spec.flash_attention,
        spec.split,
        spec.main_gpu,
        spec.tensor_split,
        spec.batch_tokens,
    )


def apply_settings(session: LlamaSession, spec: ModelSpec, config: Config) -> None:
    """Apply the settings of a model that need no load: its threads and the depth of its drafts."""
    limits = choose_thread_limits(spec, config, on_gpu=session.options.offload_kv)
    session.threads.set_limits(limits.decode, limits.prefill, adapt=limits.adapt, note=limits.note)
    session.speculator.draft_tokens = spec.draft_tokens


def check_split(spec: ModelSpec, gpus: Sequence[Device]) -> None:
    """Reject a split over missing GPUs; without any GPU there is nothing to split."""
    asked = max(spec.main_gpu + 1, len(spec.tensor_split))
    if gpus and asked > len(gpus):
        raise ModelUnavailable(
            f"{spec.name} is configured for {asked} GPUs, but llama.cpp sees {len(gpus)}",
            "fix its `main_gpu` or `tensor_split` in models.yaml",
        )


def choose_flash_attention(spec: ModelSpec, layers: int) -> FlashAttention:
    """Choose the flash attention: ``auto`` is off without layers on a GPU."""
    return "off" if spec.flash_attention == "auto" and not layers else spec.flash_attention


def resolve_flash_attention(asked: str, kv_type: str, *, on_gpu: bool) -> str:
    """Return the flash attention that a context uses; ``auto`` where llama.cpp chooses on a GPU.

    A quantised cache needs it.
    """
    if kv_type != "f16":
        return "on"
    return "off" if asked == "auto" and not on_gpu else asked


def choose_batch_tokens(spec: ModelSpec, layers: int) -> int:
    """Choose the most tokens of a batch: the model's own number, or the usual one by device."""
    return spec.batch_tokens or (GPU_BATCH_TOKENS if layers else CPU_BATCH_TOKENS)


def choose_context_tokens(config: Config, spec: ModelSpec, gguf: Gguf) -> int:
    """Limit the configured context by the trained context and the user's `context_tokens`."""
    bounds = [spec.context, gguf.context_tokens, config.context_tokens]
    return min(bound for bound in bounds if bound)


def read_process_seconds(pid: int | None) -> float:
    """Read the CPU seconds of a child process; 0 if there is none."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times() if pid is not None else None
    except psutil.Error:
        return 0.0
    return 0.0 if times is None else float(times.user + times.system)
