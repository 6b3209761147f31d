"""``etui curves``: list the operating curves of the log and draw them in the terminal or as SVG."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import click

from etui.cli.output import json_option, print_event, print_json, print_result, write_output
from etui.cli.param_types import TEXT, path_option
from etui.config.config import Config, load_config
from etui.curves.operating_curve import Conditions, OperatingCurve, list_differences
from etui.errors import EtuiError
from etui.extras import require_extra
from etui.plots.figure import ARM_COLOURS, Figure, Panel, Point
from etui.text import format_table
from etui.units import percent_text


def print_curve(curve: OperatingCurve, form: str, status: str, node: str = "") -> None:
    """Print a curve as ``text``, ``json`` or ``jsonl``, with the node that measured it, if any."""
    from etui.curves.text import doubt_text, fit_lines, points_text
    from etui.log.curve_lookup import build_curve_row

    if form == "json":
        print_json({"status": status, **build_curve_row(curve)})
        return
    if form == "jsonl":
        whose = {"node": node} if node else {}
        print_event("curve", **whose, status=status, **build_curve_row(curve))
        return
    before = f"{node}: " if node else ""
    click.echo(f"{before}{curve.model} on {curve.conditions.machine}, {points_text(curve)}")
    for line in fit_lines(curve):
        click.echo(line)
    if doubt := doubt_text(curve):
        click.echo(f"{before}{doubt}", err=True)


def figure_svg(curves: Sequence[OperatingCurve]) -> str:
    """Draw a panel per curve: measured turns as points, the curve as a line with its 95 % band."""
    figure = Figure(6.4, 4.0 * max(len(curves), 1), rows=max(len(curves), 1))
    for curve, panel in zip(curves, figure.panels, strict=False):
        _draw_panel(panel, curve)
    return figure.document()


def _draw_panel(panel: Panel, curve: OperatingCurve) -> None:
    from etui.curves.text import compute_drawn_lines

    for line, colour in zip(compute_drawn_lines(curve), ARM_COLOURS, strict=False):
        outputs, joules = zip(*line.line, strict=True)
        half = [width for _, width in line.band]
        low = [value - width for value, width in zip(joules, half, strict=True)]
        high = [value + width for value, width in zip(joules, half, strict=True)]
        label = f"{line.computed} prompt tokens"
        panel.band(outputs, low, high, colour)
        panel.line(outputs, joules, colour, label=label)
        panel.points([Point(x, y, colour=colour, size=3.5) for x, y in line.points])
    kind = "estimate" if curve.kind == "estimate" else curve.kind or "unknown kind"
    title = f"{curve.model}, {curve.source}, {kind}"
    panel.name_axes("output tokens", "joules of a turn", title)
    panel.axes.set_xlim(left=0)
    panel.axes.set_ylim(bottom=0)
    if curve.points:
        panel.legend()


@click.command()
@click.argument("model", type=TEXT, required=False)
@path_option(
    "--svg",
    dir_okay=False,
    metavar="FILE",
    help="Also draw the curves as SVG into FILE.",
)
@json_option
def curves(model: str | None, svg: Path | None, as_json: bool) -> None:
    """List and draw operating curves.

    Draws the newest curve of each model and machine: the joules of a turn over its output tokens,
    for up to three prompt lengths. Lists what has changed since the curve was measured.
    """
    from etui.log.curve_lookup import build_curve_row

    if svg is not None:
        require_extra("figures", "--svg")
    config = load_config()
    found = _find_curves(config, model)
    now = _read_conditions(config, {curve.model for curve in found})
    if svg is not None:
        write_output(svg, figure_svg(found), "choose a file in a writable folder")
    rows = [
        build_curve_row(curve)
        | {"differences": list_differences(curve.conditions, now[curve.model])}
        for curve in found
    ]
    print_result({"curves": rows}, _format_curves(found, now), as_json)
    if svg is not None and not as_json:
        click.echo(f"curves drawn in {svg}", err=True)


def _find_curves(config: Config, model: str | None) -> list[OperatingCurve]:
    """Return the newest curve of each model, file, machine, channels and source; at least one."""
    from etui.log.queries import LogReader

    with LogReader(config) as log:
        every = log.curves(model)
    newest: dict[tuple[object, ...], OperatingCurve] = {}
    for curve in every:
        place = curve.conditions
        key = (curve.model, curve.model_sha256, place.machine, place.channels, curve.source)
        newest.setdefault(key, curve)
    if not newest:
        whose = f" of {model}" if model else ""
        name = model or "MODEL"
        raise EtuiError(f"no operating curve{whose} yet", f"run: etui calibrate {name}")
    return list(newest.values())


def _read_conditions(config: Config, models: Collection[str]) -> dict[str, Conditions]:
    """Read the conditions of each model: those of this machine, or of its backend."""
    from etui.energy.discovery import open_recorder
    from etui.log.queries import LogReader
    from etui.models.catalogue import load_catalogue
    from etui.runtime.provenance import conditions, find_conditions

    entries = load_catalogue(config).models
    remote = {m: spec for m in models if (spec := entries.get(m)) is not None and spec.backend}
    with LogReader(config) as log:
        found = {model: find_conditions(log, spec, config) for model, spec in remote.items()}
    with closing(open_recorder(config)) as recorder:
        summed = recorder.selection.summed
        here = (model for model in models if model not in remote)
        return found | {model: conditions(config, summed, entries.get(model)) for model in here}


def _format_curves(found: Sequence[OperatingCurve], now: Mapping[str, Conditions]) -> Iterator[str]:
    from etui.curves.text import age_text, draw_curve, fit_lines, points_text, r2_text

    head = ("model", "source", "n", "R² prefill", "R² decode", "off the grid", "kind", "age")
    rows = [
        (
            curve.model,
            curve.source,
            str(curve.n),
            r2_text(curve.prefill.r2),
            r2_text(curve.decode.r2),
            "-" if curve.held_out_mape is None else percent_text(curve.held_out_mape),
            curve.kind or "-",
            age_text(curve.created_at),
        )
        for curve in found
    ]
    yield from format_table(rows, header=head)
    for curve in found:
        yield ""
        yield f"{curve.model} on {curve.conditions.machine}, {points_text(curve)}"
        for change in list_differences(curve.conditions, now[curve.model]):
            yield f"  not valid here: {change}"
        yield from draw_curve(curve)
        yield from fit_lines(curve)
