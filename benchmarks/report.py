"""The tables of ``python -m benchmarks``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.figures import Figure
from benchmarks.history import Record, before, change
from benchmarks.runner import Benchmark, Outcome
from etui.units import significant

_HEAD = ("benchmark", "figure (the smaller, the better)", "value", "unit", "90 % interval", "n")
_NUMBERS = (2, 4, 5, 6)
"""Columns that are aligned to the right."""

NOTE = (
    "x and % are ratios of two sides measured in turn, or errors against a known truth: they "
    "compare across machines.\nOther units compare on one machine alone."
)


def list_text(benchmarks: Sequence[Benchmark]) -> str:
    """Lay out the names and what each measures."""
    return columns([(one.name, one.summary) for one in benchmarks])


def outcomes_text(outcomes: Sequence[Outcome], earlier: Mapping[str, Figure]) -> str:
    """Lay out one run, with the change against earlier figures where there are any.

    Args:
        outcomes: What was measured, in order.
        earlier: ``benchmark/figure`` -> figure of the last record of this machine.
    """
    rows: list[tuple[str, ...]] = [(*_HEAD, "change") if earlier else _HEAD]
    for one in outcomes:
        for figure in one.figures:
            cells = (one.name, *_cells(figure))
            moved = change_text(figure, earlier.get(f"{one.name}/{figure.name}"))
            rows.append((*cells, moved) if earlier else cells)
        if one.reason:
            rows.append((one.name, f"{one.status}: {one.reason}"))
    return f"{columns(rows)}\n{NOTE}"


def history_text(records: Sequence[Record], names: Sequence[str]) -> str:
    """Lay out recorded runs, each against the last one before it on the same machine.

    Args:
        records: The runs, the oldest first.
        names: Benchmarks to show.
    """
    blocks = []
    for index, record in enumerate(records):
        earlier = before(records[:index], record.machine)
        rows = [
            (key.partition("/")[0], *_cells(figure), change_text(figure, earlier.get(key)))
            for key, figure in record.figures.items()
            if key.partition("/")[0] in names
        ]
        for status, reasons in (("skipped", record.skipped), ("failed", record.failed)):
            rows += [
                (name, f"{status}: {reason}") for name, reason in reasons.items() if name in names
            ]
        if rows:
            blocks.append(f"{record_line(record)}\n{columns([(*_HEAD, 'change'), *rows])}")
    return "\n\n".join(blocks)


def record_line(record: Record) -> str:
    """Say in one line when, of what and where a run was recorded."""
    machine = record.machine
    commit = (record.commit or "no commit")[:12] + (" (modified)" if record.modified else "")
    versions = [f"{name} {version}" for name, version in machine.packages.items() if version]
    parts = [
        record.date,
        commit,
        machine.cpu,
        f"{machine.cores} cores",
        f"{machine.ram_gib} GiB",
        *machine.gpus,
        machine.os,
        f"Python {machine.python}",
        *versions,
    ]
    return ", ".join(parts)


def change_text(now: Figure, earlier: Figure | None) -> str:
    """Write the change in percent; empty where nothing compares."""
    moved = change(now, earlier)
    return "" if moved is None else f"{100 * moved:+.1f} %"


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Align cells; the last cell of a row may be longer than its column."""
    width = max(map(len, rows), default=0)
    widths = [
        max(len(row[at]) for row in rows if len(row) == width or at < len(row) - 1)
        for at in range(width)
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(widths[at]) if at in _NUMBERS and width > 2 else cell.ljust(widths[at])
            for at, cell in enumerate(row)
        ).rstrip()
        for row in rows
    )


def _cells(figure: Figure) -> tuple[str, ...]:
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f"{significant(figure.low, 3)} .. {significant(figure.high, 3)}"
    return figure.name, significant(figure.value, 3), figure.unit, interval, str(figure.n)
