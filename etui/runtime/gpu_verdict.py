"""Judge whether the GPU works, from runs with none, all and some of the layers on it: pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.runtime.gpu_run import GreedyAnswer, Layers, RunResult

TOLERANCE_NATS = 1.5
"""Largest difference of a log-probability that rounding explains. Backends round activations to
8, 16 or 32 bits: for the letters of the starter (135M, four bits), kernels of one CPU differ by up
to 0.5 nats, and Vulkan from them by up to 0.8. A kernel that computes something else is off by
several: a uniform guess over its vocabulary is 10.8."""

_AS_FAST = 0.95
"""Speed of the GPU, as a share of the CPU's, below which it counts as slower."""

_SET_NONE = "set `gpu_layers: 0` for the model in models.yaml"

Code = Literal[
    "fine",
    "no_backend",
    "no_device",
    "cpu_failed",
    "load_failed",
    "no_layers",
    "answers_differ",
    "slower",
    "auto_failed",
    "auto_no_layers",
]


@dataclass(frozen=True, slots=True)
class PerToken:
    """Joules per token of an interval, as the meter knows them."""

    joules: float | None  # Joules per token; None if nothing was measured
    uncertainty: float | None = None  # Half width in joules per token; None if unknown
    kind: str | None = None
    """Kind of the measurement (``counter``, ``estimate``, ...); None without one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the three runs: its result, or why there is none.

    Attributes:
        prefill, decode: Joules per token of the two measurements.
    """

    layers: Layers  # `none`, `all` or `auto`
    result: RunResult | None  # What it computed; None if it failed
    failure: str = ""  # Why it failed; empty if it did not
    prefill: PerToken = PerToken(None)
    decode: PerToken = PerToken(None)
    gpu_measured: bool = False  # Whether the meter measures the GPU's power too


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a run's log-probabilities are from those of the CPU, in nats."""

    letters: float
    tokens: float  # Largest difference of a token of the greedy answers, up to the first other one
    split_margin: float | None
    """Where answers differ: the largest advantage of the run's own token over the CPU's; None if
    all answers are equal."""

    @property
    def largest(self) -> float:
        """The largest of all; infinite if a log-probability is not a number."""
        return max(self.letters, self.tokens, self.split_margin or 0.0)

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains all of it: another token may win only where both are close."""
        return self.largest <= TOLERANCE_NATS


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusion: whether all is right, a code for programs, one line, and a fix."""

    ok: bool
    code: Code
    text: str
    fix: str = ""


def compare_runs(reference: RunResult, other: RunResult) -> Difference:
    """Compare what two runs computed for the same questions; a slow one was asked fewer."""
    pairs = zip(reference.letters, other.letters, strict=False)
    letters = max((_largest(a, b) for a, b in pairs), default=0.0)
    tokens = 0.0
    margins: list[float] = []
    for own, answer in zip(reference.answers, other.answers, strict=False):
        tokens = max(tokens, _largest(own.logprobs, answer.reference_logprobs))
        margins.extend(_split_margins(own, answer))
    return Difference(letters, tokens, max(margins, default=None))


def _largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the largest difference of two rows; infinite where one is not a number."""
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=False)]
    return max((d if math.isfinite(d) else math.inf for d in differences), default=0.0)


def _split_margins(own: GreedyAnswer, answer: GreedyAnswer) -> Iterator[float]:
    for a, b, drawn, expected in zip(
        own.tokens, answer.tokens, answer.logprobs, answer.reference_logprobs, strict=False
    ):
        if a != b:
            margin = drawn - expected
            yield margin if math.isfinite(margin) else math.inf
            return


def judge(attempts: Sequence[Attempt]) -> Verdict:
    """Judge the runs with ``none``, ``all`` and ``auto``; the first thing wrong is the verdict."""
    by_layers = {attempt.layers: attempt for attempt in attempts}
    none, whole, auto = (by_layers[name] for name in ("none", "all", "auto"))
    if none.result is None:
        return _fault("cpu_failed", f"the run on the CPU alone failed: {none.failure}")
    if auto.result is None and whole.result is None:
        return _fault("load_failed", f"no run with layers on the GPU worked: {whole.failure}")
    if auto.result is None:
        return _fault("auto_failed", f"`gpu_layers: auto` failed: {auto.failure}")
    if whole.result is None and _placed(auto.result) in (0, auto.result.layers):
        text = f"the run with all layers on the GPU failed: {whole.failure}"
        return _fault("load_failed", text, f"until that is fixed, {_SET_NONE}")
    for attempt in (whole, auto):
        wrong = attempt.result and _find_fault(attempt, attempt.result, none.result)
        if wrong:
            return wrong
    return _praise(none, whole if whole.result is not None else auto, whole.failure)


def _fault(code: Code, text: str, fix: str = "") -> Verdict:
    return Verdict(False, code, text, fix)


def _placed(result: RunResult) -> int:
    return result.gpu_layers if result.placed is None else result.placed


def _find_fault(attempt: Attempt, result: RunResult, reference: RunResult) -> Verdict | None:
    asked = f"`gpu_layers: {attempt.layers}`"
    if not _placed(result):
        text = f"{asked} put 0 of {result.layers} layers on the GPU"
        if attempt.layers == "auto":
            text = f"{text}: its free memory is too small, or every load failed"
            fix = "close other programs that use the GPU, or lower `context` of the model"
            return _fault("auto_no_layers", text, fix)
        return _fault("no_layers", text, "see llama.log in ETUI_HOME/logs for what llama.cpp says")
    difference = compare_runs(reference, result)
    if not difference.is_rounding:
        how = (
            f"log-probabilities differ by up to {difference.largest:.3g} nats, where rounding "
            f"explains {TOLERANCE_NATS:g}"
        )
        if not math.isfinite(difference.largest):
            how = "some of its log-probabilities are not numbers"
        text = f"the GPU computes other answers than the CPU with {asked}: {how}"
        fix = f"update the driver and llama-cpp-python; until then {_SET_NONE}"
        return _fault("answers_differ", text, fix)
    speed = _speed(reference, result)
    if speed < _AS_FAST:
        text = (
            f"offloaded, but slower than the CPU with {asked}: {speed:.2g} x its tokens/s when "
            "decoding"
        )
        return _fault("slower", text, f"{_SET_NONE}; a software device is always slower")
    return None


def _speed(reference: RunResult, result: RunResult) -> float:
    cpu = reference.decode.tokens_per_second
    return result.decode.tokens_per_second / cpu if cpu else math.inf


def _praise(none: Attempt, gpu: Attempt, failure: str) -> Verdict:
    assert none.result is not None
    assert gpu.result is not None
    parts = [f"everything right: GPU {_speed(none.result, gpu.result):.2g} x faster"]
    if none.decode.joules and gpu.decode.joules:
        less = none.decode.joules / gpu.decode.joules
        ratio = f"{less:.2g} x fewer" if less >= 1 else f"{1 / less:.2g} x more"
        parts.append(f"{ratio} J/token{_caveat(none, gpu)}")
    else:
        parts.append("J/token not measured")
    if failure:
        placed = f"{_placed(gpu.result)} of {gpu.result.layers}"
        parts.append(f"`auto` uses {placed} layers, as all of them failed: {failure}")
    return Verdict(True, "fine", ", ".join(parts))


def _caveat(none: Attempt, gpu: Attempt) -> str:
    if not gpu.gpu_measured:
        return " by the CPU alone: the GPU's power is not measured"
    return " (estimate)" if "estimate" in (none.decode.kind, gpu.decode.kind) else ""
