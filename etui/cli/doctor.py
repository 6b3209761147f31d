"""``etui doctor``: what was found, what was not, and how to fix it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from etui.cli.output import json_option, print_result, stop_signals
from etui.cli.param_types import TEXT
from etui.codec import finite, pick, to_document
from etui.config.config import Config, load_config
from etui.energy.power_limits.limit import describe_limit
from etui.energy.scopes import describe_unread
from etui.errors import EtuiError, ExitCode
from etui.models.files import require
from etui.models.spec import STARTER
from etui.text import format_table, join_lines
from etui.units import bytes_text, count_text, per_token_text, seconds_text, speed_text

if TYPE_CHECKING:
    from etui.runtime.doctor import Diagnosis
    from etui.runtime.gpu_run import RunResult, Timed
    from etui.runtime.remote_models import BackendReport
    from etui.runtime.try_gpu import Attempt, GpuTrial, PerToken


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
@json_option
def doctor(model: str | None, as_json: bool) -> int:
    """Report what etui finds: GPU, power channels, models, folders.

    For every power channel, shows whether it was found and is readable and, if not, the exact
    command or line that fixes it. For every power limit, shows its range and who may set it. Asks
    every remote backend of config.yaml whether it takes the key and serves the models that name it.

    With --try-gpu, loads a model with all, none and `auto` of its layers on the GPU, shows answers,
    tokens/s, J/token and memory side by side, and says in one line what is wrong, if anything is.
    The exit code is then 1 if something is wrong.
    """
    if model is not None:
        return _try_gpu(model, as_json)
    from etui.runtime.doctor import diagnose

    config = load_config()
    diagnosis = diagnose(config)
    print_result(diagnosis, chain(format_diagnosis(diagnosis), _list_hints(config)), as_json)
    return ExitCode.DONE


def _try_gpu(model: str, as_json: bool) -> int:
    """Try the GPU with a model; an empty name takes the smallest."""
    from etui.energy.discovery import open_recorder
    from etui.models.catalogue import load_catalogue
    from etui.runtime.try_gpu import choose_model, look_at_offload, try_gpu

    def report(layers: str, stage: str) -> None:
        click.echo(f"layers {layers}: {stage}", err=True)

    config = load_config()
    spec = choose_model(model, config, load_catalogue(config))
    require(spec, config)
    with stop_signals(), open_recorder(config) as meter:
        trial = try_gpu(spec, look_at_offload(), meter, report)
    print_result(build_document(trial), format_trial(trial), as_json)
    return ExitCode.DONE if trial.verdict.ok else ExitCode.FAILED


def _list_hints(config: Config) -> Iterator[str]:
    """Yield how llama.cpp could be faster here; nothing where it cannot be loaded."""
    from etui.runtime.engine_build import read_status

    with suppress(EtuiError):
        for hint in read_status(config).hints:
            yield f"llama.cpp: {hint}"


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
        yield f"  {describe_unread(diagnosis.unmeasured)}"


def _format_power_limits(diagnosis: Diagnosis) -> Iterator[str]:
    yield "power limits"
    for limit in diagnosis.power_limits:
        yield f"  {_mark(limit.setter != 'user')} {limit.scope}  {describe_limit(limit)}"
        if limit.setter == "user" and limit.command:
            yield f"      by hand: {limit.command}"
    if not diagnosis.power_limits:
        yield "  - none found: no GPU, and no CPU package with a limit in powercap"


def _format_meters(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.meters:
        yield "meters of backends"
    for meter in diagnosis.meters:
        state = join_lines(meter.problem)
        if meter.offset_ns is not None and meter.error_ns is not None:
            offset = seconds_text(meter.offset_ns / 1e9, meter.error_ns / 1e9)
            clock = f"clock offset {offset}"
            state = ", ".join(filter(None, (clock, " and ".join(meter.kinds), state)))
        where = f" at {meter.url}" if meter.url else ""
        yield f"  {_mark(not meter.problem)} {meter.backend}{where}: {state}"
        if meter.fix:
            yield f"      fix: {join_lines(meter.fix)}"


def _format_models(diagnosis: Diagnosis) -> Iterator[str]:
    yield "models on disk"
    for model in diagnosis.models:
        problem = f"  {join_lines(model.problem)}" if model.problem else ""
        name = join_lines(model.name)
        yield f"  {_mark(not model.problem)} {name:<22}{bytes_text(model.file_bytes)}{problem}"
    if not diagnosis.models:
        yield f"  - none; fix: etui models pull {STARTER}"


def _format_tuned(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.tuned:
        yield "settings chosen by sweeps"
    for model in diagnosis.tuned:
        first, *others = (join_lines(line) for line in model.lines)
        yield f"  {_mark(model.used)} {join_lines(model.name):<22}{first}"
        yield from (f"      {line}" for line in others)


def _format_backends(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.backends:
        yield "remote backends"
    for report in diagnosis.backends:
        yield f"  {_mark(not report.problems)} {_describe_backend(report)}"
        yield from (f"      {join_lines(problem)}" for problem in report.problems)
        if not report.entries:
            yield f"      no model of models.yaml names it; add one with `backend: {report.name}`"


def _describe_backend(report: BackendReport) -> str:
    key = {True: "key accepted", False: "key refused", None: ""}[report.key_accepted]
    facts = [
        f"{report.kind} at {report.url}",
        join_lines(report.server or ""),
        f"answers in {seconds_text(report.latency_seconds)}" if report.latency_seconds else "",
        key,
        f"serves {count_text(len(report.models), 'model')}" if report.reachable else "",
    ]
    return f"{report.name}: {', '.join(fact for fact in facts if fact)}"


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


Cell: TypeAlias = "Callable[[Attempt, RunResult], str]"


def format_trial(trial: GpuTrial) -> Iterator[str]:
    """Format the model, the devices, the runs side by side, and the conclusion in one line."""
    yield f"model {join_lines(trial.model)}"
    for device in trial.offload.devices:
        yield f"device {join_lines(device)}"
    if trial.attempts:
        yield from _format_runs(trial)
    for attempt in trial.attempts:
        if attempt.failure:
            yield f"✗ layers {attempt.layers}: {join_lines(attempt.failure)}"
    verdict = trial.verdict
    yield f"{'✓' if verdict.ok else '✗'} {join_lines(verdict.text)}"
    if verdict.fix:
        yield f"  fix: {join_lines(verdict.fix)}"


def _format_runs(trial: GpuTrial) -> list[str]:
    from etui.runtime.try_gpu import compare_runs

    reference = _find_reference(trial)

    def difference(attempt: Attempt, result: RunResult) -> str:
        if reference is None or attempt.layers == "none":
            return "-"
        return f"{compare_runs(reference, result).largest:.3g} nats"

    def answers(attempt: Attempt, result: RunResult) -> str:
        if reference is None or attempt.layers == "none":
            return "-"
        same = sum(
            own.tokens[: len(other.tokens)] == other.tokens[: len(own.tokens)]
            for own, other in zip(reference.answers, result.answers, strict=False)
        )
        return f"{same} of {len(result.answers)}"

    cells: tuple[tuple[str, Cell], ...] = (
        ("layers on the GPU", _layers),
        ("load", lambda _, result: seconds_text(result.load_seconds)),
        ("prefill", lambda _, result: _rate(result.prefill)),
        ("decode", lambda _, result: _rate(result.decode)),
        ("prefill energy", lambda attempt, _: _joules(attempt.prefill)),
        ("decode energy", lambda attempt, _: _joules(attempt.decode)),
        ("device memory", lambda _, result: _memory(result)),
        ("still used after unloading", lambda _, result: _left(result)),
        ("same greedy answers", answers),
        ("largest log-prob. difference", difference),
    )
    rows = [[name, *(_cell(cell, attempt) for attempt in trial.attempts)] for name, cell in cells]
    header = ["gpu_layers", *("0" if a.layers == "none" else a.layers for a in trial.attempts)]
    return format_table(rows, header=header, align="<>")


def _find_reference(trial: GpuTrial) -> RunResult | None:
    return next((a.result for a in trial.attempts if a.layers == "none"), None)


def _cell(cell: Cell, attempt: Attempt) -> str:
    return "failed" if attempt.result is None else cell(attempt, attempt.result)


def _layers(_: Attempt, result: RunResult) -> str:
    experts = f", experts of {result.cpu_moe} in RAM" if result.cpu_moe else ""
    return f"{_count_placed(result)} of {result.layers}{experts}"


def _count_placed(result: RunResult) -> int:
    """Return the layers on the GPU by the log of llama.cpp, else those that were asked for."""
    return result.gpu_layers if result.placed is None else result.placed


def _rate(timed: Timed) -> str:
    return speed_text(timed.tokens_per_second or None)


def _joules(energy: PerToken) -> str:
    return per_token_text(energy.joules, energy.kind, energy.uncertainty)


def _memory(result: RunResult) -> str:
    """Format what the model takes; some drivers do not report what is in use."""
    if not result.gpu_layers:
        return "-"
    taken = result.free.before - result.free.loaded if result.free is not None else 0
    return bytes_text(taken) if taken > 0 else "not reported"


def _left(result: RunResult) -> str:
    if not result.gpu_layers or result.free is None or result.free.before <= result.free.loaded:
        return "-"
    return bytes_text(max(0, result.free.before - result.free.unloaded))


def build_document(trial: GpuTrial) -> dict[str, Any]:
    """Build the document of ``etui doctor --try-gpu --json``."""
    reference = _find_reference(trial)
    runs = [_build_run(attempt, reference) for attempt in trial.attempts]
    document: dict[str, Any] = to_document({
        **pick(trial, "model", "offload"), "runs": runs, "verdict": trial.verdict
    })  # fmt: skip
    return document


def _build_run(attempt: Attempt, reference: RunResult | None) -> dict[str, Any]:
    from etui.runtime.try_gpu import compare_runs

    result = attempt.result
    head = {
        "gpu_layers": 0 if attempt.layers == "none" else attempt.layers,
        "failure": attempt.failure,
    }
    if result is None:
        return head
    difference = None
    if reference is not None and attempt.layers != "none":
        difference = compare_runs(reference, result)
    return {
        **head,
        "layers": result.layers,
        "layers_on_gpu": _count_placed(result),
        **pick(result, "cpu_moe", "load_seconds"),
        "prefill": _build_measured(result.prefill, attempt.prefill),
        "decode": _build_measured(result.decode, attempt.decode),
        "gpu_measured": attempt.gpu_measured,
        "device_memory": result.free,
        "letters": [[finite(nats) for nats in row] for row in result.letters],
        "answers": [answer.text for answer in result.answers],
        "difference": None
        if difference is None
        else {
            "letters_nats": finite(difference.letters),
            "tokens_nats": finite(difference.tokens),
            "split_margin_nats": finite(difference.split_margin),
            "rounding": difference.is_rounding,
        },
    }


def _build_measured(timed: Timed, energy: PerToken) -> dict[str, Any]:
    return {
        **pick(timed, "tokens", "seconds", "tokens_per_second"),
        "joules_per_token": energy.joules,
        **pick(energy, "uncertainty", "kind"),
    }
