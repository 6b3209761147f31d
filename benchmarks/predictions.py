"""Predicted against measured tokens per second and joules per token, for calibrated models.

    etui calibrate MODEL                # each model, on a machine at rest
    python -m benchmarks.predictions    # measures the memory if that was not done at rest yet

Each model with a curve of this machine is predicted as if it had never been loaded: from the speed
of the memory alone, from each other model, and from all of them. ``INSIDE`` is whether the measured
value lies in the stated uncertainty.
"""

from __future__ import annotations

import os
from dataclasses import replace

from etui.config.config import load_config
from etui.curves.prediction import MachineFacts, MeasuredModel, forecast_decode
from etui.log.queries import LogReader
from etui.models.catalogue import load_catalogue
from etui.runtime.measure_memory import find_memory_speed, read_machine
from etui.text import format_table

_COLUMNS = ("PREDICTED", "SPREAD", "OFF", "INSIDE")
_HEAD = ("MODEL", "BASIS", "TOK/S", *_COLUMNS, "J/TOKEN", *_COLUMNS)


def main() -> None:
    """Print the table."""
    config = load_config()
    find_memory_speed(config, os.cpu_count() or 1, lambda: False)
    with LogReader(config) as log:
        machine = read_machine(log, config, load_catalogue(config))
    rows = []
    for one in machine.measured:
        others = tuple(other for other in machine.measured if other is not one)
        for basis, measured in (
            ("memory", ()),
            *((f"{other.name} alone", (other,)) for other in others),
            ("all others", others),
        ):
            rows.append((one.name, basis, *_compare(one, replace(machine, measured=measured))))
    print("\n".join(format_table(rows, header=_HEAD)))
    speed = machine.memory_bytes_per_second
    print("memory: not measured at rest" if speed is None else f"memory: {speed / 1e9:.1f} GB/s")


def _compare(one: MeasuredModel, facts: MachineFacts) -> tuple[str, ...]:
    found = forecast_decode(one.work, facts, on_gpu=one.on_gpu)
    speed = one.tokens_per_second
    joules = None if one.watts is None else one.watts / speed
    return (
        *_cells(speed, found.tokens_per_second, found.speed_share),
        *_cells(joules, found.joules_per_token, found.joules_share),
    )


def _cells(measured: float | None, predicted: float | None, share: float | None) -> tuple[str, ...]:
    shown = "-" if measured is None else f"{measured:.3g}"
    if measured is None or predicted is None or share is None:
        return (shown, "-", "-", "-", "-")
    inside = "yes" if abs(measured - predicted) <= share * predicted else "no"
    off = f"{100 * (predicted / measured - 1):+.0f} %"
    return (shown, f"{predicted:.3g}", f"{100 * share:.0f} %", off, inside)


if __name__ == "__main__":
    main()
