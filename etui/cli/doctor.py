"""``etui doctor``: what was found, what was not, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from etui.cli.common import print_json, stop_signals
from etui.cli.param_types import TEXT
from etui.errors import ExitCode

if TYPE_CHECKING:
    from etui.runtime.doctor import Diagnosis


@click.command()
@click.option(
    "--try-gpu",
    "model",
    type=TEXT,
    metavar="[MODEL]",
    is_flag=False,
    flag_value="",
    help="Run a model (the smallest on this machine) with and without the GPU, and compare.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(model: str | None, as_json: bool) -> int:
    """Report what etui finds: GPU, power channels, models, folders.

    For every power channel, shows whether it was found and is readable and, if not, the exact
    command or line that fixes it. For every power limit, shows its range and who may set it. Asks
    every remote backend of config.yaml whether it takes the key and serves the models that name it.

    With --try-gpu, loads a model with all, none and `auto` of its layers on the GPU, shows answers,
    tokens/s, J/token and memory side by side, and says in one line what is wrong, if anything is.
    The exit code is then 1 if something is wrong.
    """
    from etui.config.config import load_config

    if model is not None:
        return _try_gpu(model, as_json)
    from etui.runtime.doctor import diagnose

    diagnosis = diagnose(load_config())
    if as_json:
        print_json(diagnosis)
        return ExitCode.DONE
    for line in format_diagnosis(diagnosis):
        click.echo(line)
    return ExitCode.DONE


def _try_gpu(model: str, as_json: bool) -> int:
    """Try the GPU with a model; an empty name takes the smallest."""
    from etui.cli.try_gpu_text import build_document, format_trial
    from etui.config.config import load_config
    from etui.energy.discovery import open_recorder
    from etui.models.catalogue import load_catalogue
    from etui.models.files import require
    from etui.runtime.try_gpu import choose_model, look_at_offload, try_gpu

    def report(layers: str, stage: str) -> None:
        click.echo(f"layers {layers}: {stage}", err=True)

    config = load_config()
    spec = choose_model(model, config, load_catalogue(config))
    require(spec, config)
    with stop_signals(), open_recorder(config) as meter:
        trial = try_gpu(spec, look_at_offload(), meter, report)
    if as_json:
        print_json(build_document(trial))
    else:
        for line in format_trial(trial):
            click.echo(line)
    return ExitCode.DONE if trial.verdict.ok else ExitCode.FAILED


def format_diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    """Format a diagnosis as lines of text, section by section."""
    yield "versions"
    for name, value in diagnosis.versions.items():
        yield f"  {name:<18}{value or 'not installed'}"
    yield from _format_offload(diagnosis)
    yield from _format_channels(diagnosis)
    yield from _format_power_limits(diagnosis)
    yield from _format_models(diagnosis)
    yield from _format_tuned(diagnosis)
    yield from _format_backends(diagnosis)
    yield from _format_meters(diagnosis)
    yield "folders"
    for folder in diagnosis.folders:
        note = f"  ({folder.why_not})" if folder.why_not else ""
        yield f"  {_mark(folder.usable)} {folder.name:<8}{folder.path}{note}"
    if diagnosis.problems:
        yield "problems"
        for problem in diagnosis.problems:
            yield from (f"  {line}" for line in problem.splitlines())


def _format_offload(diagnosis: Diagnosis) -> Iterator[str]:
    offload = diagnosis.offload
    yield "GPU offload"
    if offload.problem:
        yield f"  {_mark(False)} {offload.problem}"
    elif offload.why_not:
        yield f"  {_mark(False)} {offload.why_not}: models run on the CPU"
    elif offload.compiled_in:
        names = f": {', '.join(offload.backends)}" if offload.backends else ""
        yield f"  {_mark(True)} compiled into llama.cpp{names}"
    elif offload.graphics_cards:
        yield f"  {_mark(False)} not compiled into llama.cpp: models run on the CPU"
    else:
        yield "  - not compiled into llama.cpp, and no GPU was found: models run on the CPU"
    for device in offload.devices:
        yield f"    {device}"
    if offload.graphics_cards and not offload.devices:
        yield f"    on the bus: {', '.join(offload.graphics_cards)}"
    if offload.fix:
        yield f"    fix: {offload.fix}"


def _format_channels(diagnosis: Diagnosis) -> Iterator[str]:
    yield "power channels"
    for probe in diagnosis.channels:
        state = "readable" if probe.readable else "not readable" if probe.found else "not found"
        mark = _mark(probe.readable) if probe.found else "-"
        why = f": {probe.why_not}" if probe.why_not else ""
        yield f"  {mark} {probe.id}  {state}{why}"
        if probe.fix:
            yield from (f"      fix: {line}" for line in probe.fix.splitlines())
    if diagnosis.unmeasured:
        from etui.energy.scopes import describe_unread

        yield f"  {describe_unread(diagnosis.unmeasured)}"


def _format_power_limits(diagnosis: Diagnosis) -> Iterator[str]:
    from etui.energy.power_limits.limit import describe_limit

    yield "power limits"
    for limit in diagnosis.power_limits:
        yield f"  {_mark(limit.setter != 'user')} {limit.scope}  {describe_limit(limit)}"
        if limit.setter == "user" and limit.command:
            yield f"      by hand: {limit.command}"
    if not diagnosis.power_limits:
        yield "  - none found: no GPU, and no CPU package with a limit in powercap"


def _format_meters(diagnosis: Diagnosis) -> Iterator[str]:
    from etui.text import join_lines
    from etui.units import offset_text

    if diagnosis.meters:
        yield "meters of backends"
    for meter in diagnosis.meters:
        state = join_lines(meter.problem)
        if meter.offset_ns is not None and meter.error_ns is not None:
            clock = f"clock offset {offset_text(meter.offset_ns, meter.error_ns)}"
            state = ", ".join(filter(None, (clock, " and ".join(meter.kinds), state)))
        where = f" at {meter.url}" if meter.url else ""
        yield f"  {_mark(not meter.problem)} {meter.backend}{where}: {state}"
        if meter.fix:
            yield f"      fix: {join_lines(meter.fix)}"


def _format_models(diagnosis: Diagnosis) -> Iterator[str]:
    from etui.models.spec import STARTER
    from etui.text import join_lines
    from etui.units import bytes_text

    yield "models on disk"
    for model in diagnosis.models:
        problem = f"  {join_lines(model.problem)}" if model.problem else ""
        name = join_lines(model.name)
        yield f"  {_mark(not model.problem)} {name:<22}{bytes_text(model.file_bytes)}{problem}"
    if not diagnosis.models:
        yield f"  - none; fix: etui models pull {STARTER}"


def _format_tuned(diagnosis: Diagnosis) -> Iterator[str]:
    from etui.text import join_lines

    if diagnosis.tuned:
        yield "settings chosen by sweeps"
    for model in diagnosis.tuned:
        first, *others = (join_lines(line) for line in model.lines)
        yield f"  {_mark(model.used)} {join_lines(model.name):<22}{first}"
        yield from (f"      {line}" for line in others)


def _format_backends(diagnosis: Diagnosis) -> Iterator[str]:
    from etui.cli.backend_text import format_report

    if diagnosis.backends:
        yield "remote backends"
    for report in diagnosis.backends:
        lines = list(format_report(report))
        yield f"  {_mark(not report.problems)} {lines[0]}"
        yield from (f"      {line}" for line in lines[1:])


def _mark(good: bool) -> str:
    return "✓" if good else "✗"
