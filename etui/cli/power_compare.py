"""``etui power compare``: how far the channels of this machine agree, as a table for a report."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui import __version__
from etui.cli.output import json_option, print_result, table_lines
from etui.cli.param_types import FiniteNumber
from etui.errors import ExitCode
from etui.units import change_text, seconds_text, significant, watts_text

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder
    from etui.measure.agreement import Agreement

_SECONDS = 60.0
_UNKNOWN = "–"


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--seconds",
    type=FiniteNumber(0.1, 86_400),
    metavar="N",
    help="Duration in seconds (60); Ctrl-C ends it earlier, with the result so far.",
)
@json_option
def compare(file: Path | None, seconds: float | None, as_json: bool) -> int:
    """Compare channels that cover the same hardware.

    Bias is how much more the second one shows, scatter how much this varies from slice to slice
    after the second one's lag is taken out. Where the second covers more (a wall meter), its bias
    is what only it sees. The lag is found while the power changes: let the machine work and rest
    in turn meanwhile.

    With FILE, compares the readings that `etui power record FILE` has written, here or elsewhere.
    """
    from etui.config.config import load_config
    from etui.energy.diagnosis import replay
    from etui.energy.discovery import open_recorder

    if file is not None:
        recorder, start_ns, end_ns = replay(file)
        document = _build_document(recorder, start_ns, end_ns, None)
    else:
        with open_recorder(load_config(), doubled=True) as recorder:
            recorder.settle(time.monotonic_ns())
            start_ns = time.monotonic_ns()
            try:
                time.sleep(_SECONDS if seconds is None else seconds)
            except KeyboardInterrupt:  # the usual way to end it early
                click.echo(err=True)
            end_ns = time.monotonic_ns()
            recorder.settle(end_ns)
            system = f"{platform.system()} {platform.release()} {platform.machine()}"
            document = _build_document(recorder, start_ns, end_ns, system)
    print_result(document, _format(document), as_json)
    return ExitCode.DONE


def _build_document(
    recorder: Recorder, start_ns: int, end_ns: int, system: str | None
) -> dict[str, Any]:
    from etui.measure.agreement import compare_channels, find_pairs

    pairs = find_pairs(recorder.channels, recorder.list_doubled())
    return {
        "etui": __version__,
        "system": system,
        "seconds": (end_ns - start_ns) / 1e9,
        "channels": [
            {
                "id": channel.id,
                "label": channel.label,
                "kind": channel.kind.value,
                "average_seconds": channel.average_s,
                "period_seconds": recorder.period_s(channel.id),
            }
            for channel in recorder.channels
        ],
        "pairs": [compare_channels(recorder, pair, start_ns, end_ns) for pair in pairs],
    }


def _format(document: dict[str, Any]) -> Iterator[str]:
    where = "" if document["system"] is None else f", {document['system']}"
    yield f"etui {document['etui']}{where}, {seconds_text(document['seconds'])}"
    for channel in document["channels"]:
        period = channel["period_seconds"]
        often = f", refreshed every {seconds_text(period)}" if period else ""
        label = f" ({channel['label']})" if channel["label"] else ""
        yield f"  {channel['id']}{label}: {channel['kind']}{often}"
    pairs: list[Agreement] = document["pairs"]
    if not pairs:
        yield "no two channels of this machine cover the same hardware, so none can be compared"
        return
    head = ("first", "second", "first's mean", "bias", "scatter", "lag", "line")
    yield from table_lines(head, [_format_row(one) for one in pairs])
    if any(one.second_covers_more for one in pairs):
        yield "* covers more than the first: its bias is what only it sees, and no error"
    if any(one.first_watts is not None and one.lag_seconds is None for one in pairs):
        yield (
            "a lag that is – could not be seen, as the power was too even: that scatter is without "
            "a shift"
        )
    if any(one.first_watts is None for one in pairs):
        yield "too few readings of a pair without figures: record for longer"


def _format_row(one: Agreement) -> tuple[str, ...]:
    second = f"{one.second}{' *' if one.second_covers_more else ''}"
    if one.first_watts is None or one.bias_watts is None:
        return (one.first, second, *[_UNKNOWN] * 5)
    bias = f"{one.bias_watts:+.3g}"
    if one.bias_half_watts is not None:
        bias += f" ± {significant(one.bias_half_watts, 2)}"
    bias += " W"
    if one.bias_percent is not None:
        bias += f" ({change_text(one.bias_percent)})"
    line = _UNKNOWN
    if one.slope is not None and one.offset_watts is not None:
        line = f"{one.slope:.3f} × first {one.offset_watts:+.3g} W"
    return (
        one.first,
        second,
        watts_text(one.first_watts),
        bias,
        watts_text(one.scatter_watts),
        _UNKNOWN if one.lag_seconds is None else f"{one.lag_seconds:.2f} s",
        line,
    )
