"""The app over an engine that writes a text at a fixed speed (``benchmarks/paced_engine.py``).

``benchmarks/app_cpu.py`` runs this file with the etui of any checkout, so it imports nothing else
of the benchmarks.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.backends.process import ProcessBackend
from etui.config.config import load_config
from etui.runtime import runtime as opening
from etui.tui.start import run_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from etui.config.config import Config

ENGINE, POLICY = "paced_engine", "long"


def open_process_runtime(
    config: Config, report_log: Callable[[str], None] | None = None
) -> opening.Runtime[ProcessBackend]:
    """Open etui with the engine in its child process."""
    return opening.Runtime(config, lambda own: ProcessBackend(own, worker=ENGINE))


def main() -> None:
    """Run the app until it is closed."""
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] += f"{os.pathsep}{here}"  # where the child process finds the engine
    opening.open_process_runtime = open_process_runtime
    config = load_config()
    raise SystemExit(run_app(replace(config, models_dir=config.home), policy=POLICY))


if __name__ == "__main__":
    main()
