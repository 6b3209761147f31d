"""What is needed to repeat a turn on this machine, beside the arm: versions and machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from etui import __version__

if TYPE_CHECKING:
    from etui.config import Config


def provenance(config: Config) -> dict[str, Any]:
    """Versions, machine and the settings of llama.cpp that the Config fixes."""
    return {
        "etui": __version__,
        "llama_cpp_python": _version("llama-cpp-python"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": config.threads,
        "context_tokens": config.context_tokens,
        "sample_hz": config.sample_hz,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
