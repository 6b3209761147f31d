"""The result of ``etui doctor --try-gpu`` as lines of text, and as a document."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from etui.codec import to_document
from etui.runtime.gpu_run import RunResult, Timed
from etui.runtime.gpu_verdict import Attempt, PerToken, compare_runs
from etui.runtime.try_gpu import GpuTrial
from etui.text import format_table, join_lines
from etui.units import bytes_text, per_token_text, rate_text, seconds_text

Cell = Callable[[Attempt, RunResult], str]


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
    reference = next((a.result for a in trial.attempts if a.layers == "none"), None)

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


def _cell(cell: Cell, attempt: Attempt) -> str:
    return "failed" if attempt.result is None else cell(attempt, attempt.result)


def _layers(_: Attempt, result: RunResult) -> str:
    placed = result.gpu_layers if result.placed is None else result.placed
    return f"{placed} of {result.layers}"


def _rate(timed: Timed) -> str:
    return rate_text(timed.tokens, timed.seconds)


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
    reference = next((a.result for a in trial.attempts if a.layers == "none"), None)
    return {
        "model": trial.model,
        "offload": to_document(trial.offload),
        "runs": [_build_run(attempt, reference) for attempt in trial.attempts],
        "verdict": to_document(trial.verdict),
    }


def _build_run(attempt: Attempt, reference: RunResult | None) -> dict[str, Any]:
    result = attempt.result
    head = {
        "gpu_layers": 0 if attempt.layers == "none" else attempt.layers,
        "failure": attempt.failure,
    }
    if result is None:
        return head
    placed = result.gpu_layers if result.placed is None else result.placed
    difference = None
    if reference is not None and attempt.layers != "none":
        difference = compare_runs(reference, result)
    return {
        **head,
        "layers": result.layers,
        "layers_on_gpu": placed,
        "load_seconds": result.load_seconds,
        "prefill": _build_measured(result.prefill, attempt.prefill),
        "decode": _build_measured(result.decode, attempt.decode),
        "gpu_measured": attempt.gpu_measured,
        "device_memory": to_document(result.free),
        "letters": [[_finite(nats) for nats in row] for row in result.letters],
        "answers": [answer.text for answer in result.answers],
        "difference": None
        if difference is None
        else {
            "letters_nats": _finite(difference.letters),
            "tokens_nats": _finite(difference.tokens),
            "split_margin_nats": _finite(difference.split_margin),
            "rounding": difference.is_rounding,
        },
    }


def _build_measured(timed: Timed, energy: PerToken) -> dict[str, Any]:
    return {
        "tokens": timed.tokens,
        "seconds": timed.seconds,
        "tokens_per_second": timed.tokens_per_second,
        "joules_per_token": energy.joules,
        "uncertainty": energy.uncertainty,
        "kind": energy.kind,
    }


def _finite(nats: float | None) -> float | None:
    """Return None for what JSON has no number for."""
    return nats if nats is not None and math.isfinite(nats) else None
