"""``etui power selftest``, ``record``, ``replay`` and ``compare``: is the meter right here?"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui import __version__
from etui.cli.output import json_option, print_result, table_lines
from etui.cli.param_types import number_option
from etui.cli.power import Seconds, measure, open_meter, print_interval, until_stopped
from etui.errors import ExitCode, writing
from etui.units import change_text, seconds_text, watts_text

if TYPE_CHECKING:
    from etui.energy.recorder import Recorder
    from etui.measure.agreement import Agreement

_UNKNOWN = "–"


@click.command()
@number_option(Seconds, "--seconds", default=5.0, help="Duration in seconds (5).")
@json_option
def selftest(seconds: float, as_json: bool) -> int:
    """Check the meter on this machine; exit with code 4 if a check fails.

    Compares each counter with its integrated power, looks for gaps, and checks that the parts sum
    to the whole. The checks are more conclusive on a busy machine than on an idle one.
    """
    from etui.energy.diagnosis import any_failed, run_selftest

    with open_meter() as recorder:
        start_ns, end_ns = measure(recorder, seconds)
        checks = run_selftest(recorder, start_ns, end_ns)
    failed, marks = any_failed(checks), {True: "✓", False: "✗", None: "-"}
    lines = (f"{marks[c.passed]} {c.name:<11} {c.channel or 'total'}: {c.detail}" for c in checks)
    print_result({"passed": not failed, "checks": checks}, lines, as_json)
    return ExitCode.GATE if failed else ExitCode.DONE


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@number_option(Seconds, "--seconds", default=10.0, help="Duration in seconds (10).")
def record(file: Path, seconds: float) -> None:
    """Write every reading to FILE, for `power replay` or a bug report."""
    from etui.energy.diagnosis import TraceWriter

    with writing(file, "name a new file in a writable folder"):
        out = file.open("x", encoding="utf-8")
    lost = writing(file, "free some space, or name a file on another disk")
    with lost, out, closing(open_meter(doubled=True)) as recorder:
        writer = TraceWriter(out, recorder.channels, recorder.unmeasured)
        recorder.taps.append(writer.write)
        recorder.start()
        with until_stopped():
            time.sleep(seconds)
        recorder.stop()
        if writer.error is not None:
            raise writer.error
    click.echo(
        f"{writer.readings} readings of {len(recorder.channels)} channels in {file}", err=True
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def replay(file: Path, as_json: bool) -> None:
    """Compute the energy of the readings in FILE, as if they were live."""
    from etui.energy import diagnosis

    print_interval(*diagnosis.replay(file), as_json)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@number_option(
    Seconds,
    "--seconds",
    help="Duration in seconds (60); Ctrl-C ends it earlier, with the result so far.",
)
@json_option
def compare(file: Path | None, seconds: float | None, as_json: bool) -> None:
    """Compare channels that cover the same hardware.

    Bias is how much more the second one shows, scatter how much this varies from slice to slice
    after the second one's lag is taken out. Where the second covers more (a wall meter), its bias
    is what only it sees. The lag is found while the power changes: let the machine work and rest
    in turn meanwhile.

    With FILE, compares the readings that `etui power record FILE` has written, here or elsewhere.
    """
    from etui.energy import diagnosis

    if file is not None:
        document = _build_document(*diagnosis.replay(file), None)
    else:
        with open_meter(doubled=True) as recorder:
            start_ns, end_ns = measure(recorder, 60.0 if seconds is None else seconds)
            system = f"{platform.system()} {platform.release()} {platform.machine()}"
            document = _build_document(recorder, start_ns, end_ns, system)
    print_result(document, _format(document), as_json)


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
    bias = "+" if one.bias_watts > 0 else ""
    bias += watts_text(one.bias_watts, uncertainty=one.bias_half_watts)
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
