"""What is needed to repeat a turn, in addition to the arm: versions, settings and machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from etui import __version__
from etui.config.machine import machine_name
from etui.curves.measured_under import Conditions, parse_conditions
from etui.engine.library import choose_threads
from etui.engine.thread_limits import choose_thread_limits

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.types import Channel
    from etui.models.spec import ModelSpec


def provenance(config: Config) -> dict[str, Any]:
    """Collect versions, the machine and the llama.cpp settings that come from the Config.

    ``pue`` is only there if it is not 1.
    """
    return {
        "etui": __version__,
        "llama_cpp_python": package_version("llama-cpp-python"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": machine_name(),
        "cpus": os.cpu_count(),
        "threads": choose_threads(config.threads, config.sysfs_dir),
        "threads_setting": config.threads or "auto",
        "context_tokens": config.context_tokens,
        "sample_hz": config.sample_hz,
        **({} if config.pue == 1.0 else {"pue": config.pue}),
    }


def model_settings(spec: ModelSpec, config: Config) -> dict[str, Any]:
    """Collect the llama.cpp settings of one model, which replace those of the Config.

    ``prefill_limit`` (most threads of prefill) is only there if it differs from ``threads``, and
    ``threads`` and ``threads_setting`` only if the model has threads of its own. ``tuned`` is only
    there if a sweep chose settings: its id, and their values.
    """
    settings: dict[str, Any] = {
        "kv_type": spec.kv_type,
        "flash_attention": spec.flash_attention,
        "batch_tokens_setting": spec.batch_tokens or "auto",
        "draft_tokens": spec.draft_tokens,
    }
    limits = choose_thread_limits(spec, config)
    if spec.threads is not None:
        settings |= {"threads": limits.decode, "threads_setting": spec.threads}
    if limits.prefill != limits.decode:
        settings["prefill_limit"] = limits.prefill
    if spec.tuned is not None:
        settings["tuned"] = {"sweep": spec.tuned.sweep, "values": dict(spec.tuned.values)}
    return settings


def conditions(
    config: Config, channels: Sequence[Channel] = (), spec: ModelSpec | None = None
) -> Conditions:
    """Collect everything that joules per token depend on, except for the model's file.

    Args:
        config: Settings of llama.cpp.
        channels: The power channels that are summed; none if unknown.
        spec: The model, whose own settings count; None leaves them unknown.
    """
    ids = tuple(channel.id for channel in channels)
    settings = provenance(config) | ({} if spec is None else model_settings(spec, config))
    return parse_conditions(settings, ids, _sum_limits(channels))


def _sum_limits(channels: Sequence[Channel]) -> float | None:
    limits = [channel.limit_watts for channel in channels]
    known = [watts for watts in limits if watts is not None]
    return sum(known) if known and len(known) == len(limits) else None


def package_version(package: str) -> str | None:
    """Read the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
