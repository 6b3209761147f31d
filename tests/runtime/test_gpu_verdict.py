"""The verdict on three runs: each thing that can be wrong, and nothing wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from etui.runtime.gpu_run import GreedyAnswer, Layers, RunResult, Timed
from etui.runtime.try_gpu import (
    TOLERANCE_NATS,
    Attempt,
    PerToken,
    compare_runs,
    judge,
)

SECOND = 10**9


def result(layers: int, tokens_per_second: int, shift: float = 0.0) -> RunResult:
    """A run whose log-probabilities are ``shift`` nats from those of the reference."""
    return RunResult(
        gpu_layers=layers,
        placed=layers,
        layers=31,
        load_seconds=0.5,
        prefill=Timed(10 * tokens_per_second, 0, SECOND),
        decode=Timed(tokens_per_second, 0, SECOND),
        letters=((-0.5 + shift, -1.5, -2.0, -4.0),),
        answers=(GreedyAnswer((5, 6, 7), (-0.1, -0.2, -0.3), "abc", (-0.1, -0.2, -0.3 + shift)),),
        free=None,
    )


def attempt(layers: Layers, done: RunResult, joules: float = 1.0, kind: str = "counter") -> Attempt:
    spent = PerToken(joules, 0.01, kind)
    return Attempt(layers, done, "", spent, spent, gpu_measured=True)


NONE = attempt("none", result(0, 10))
ALL = attempt("all", result(31, 30), joules=0.5)
AUTO = attempt("auto", result(31, 30), joules=0.5)


ON_CPU = replace(result(31, 30), placed=0)
UNLOGGED = replace(result(0, 30), placed=None)
NO_LAYERS = "`gpu_layers: all` put 0 of 31 layers on the GPU"


def wrong(layers: Layers, shift: float, speed: int = 30) -> Attempt:
    return attempt(layers, result(31, speed, shift))


def failed(layers: Layers, why: str = "out of memory") -> Attempt:
    return Attempt(layers, None, why)


def test_everything_right_names_the_speed_and_the_joules() -> None:
    verdict = judge([NONE, ALL, AUTO])
    assert verdict.ok
    assert verdict.code == "fine"
    assert verdict.text == "everything right: GPU 3 x faster, 2 x fewer J/token"


@pytest.mark.parametrize(
    ("none", "whole", "says"),
    [
        (replace(NONE, decode=PerToken(0.5)), replace(ALL, decode=PerToken(1)), "2 x more J/token"),
        (
            replace(NONE, decode=PerToken(1, 0.1, "estimate")),
            ALL,
            "2 x fewer J/token (estimate)",
        ),
        (NONE, replace(ALL, gpu_measured=False), "the GPU's power is not measured"),
        (NONE, replace(ALL, decode=PerToken(None)), "J/token not measured"),
    ],
)
def test_joules_are_qualified(none: Attempt, whole: Attempt, says: str) -> None:
    verdict = judge([none, whole, AUTO])
    assert verdict.ok
    assert says in verdict.text


@pytest.mark.parametrize(
    ("attempts", "code", "says"),
    [
        ([failed("none", "damaged"), ALL, AUTO], "cpu_failed", "damaged"),
        ([NONE, failed("all"), failed("auto", "same")], "load_failed", "out of memory"),
        # `auto` did not find that all of them do not fit.
        ([NONE, failed("all"), attempt("auto", result(0, 30))], "load_failed", "out of memory"),
        ([NONE, failed("all"), attempt("auto", result(31, 30))], "load_failed", "out of memory"),
        ([NONE, ALL, failed("auto", "device lost")], "auto_failed", "device lost"),
        # Without its log llama.cpp's own report counts, with it only what the log says.
        ([NONE, attempt("all", ON_CPU), AUTO], "no_layers", NO_LAYERS),
        ([NONE, attempt("all", UNLOGGED), AUTO], "no_layers", NO_LAYERS),
        ([NONE, ALL, attempt("auto", result(0, 10))], "auto_no_layers", "auto` put 0"),
        ([NONE, wrong("all", -3.5), AUTO], "answers_differ", "gpu_layers: all"),
        ([NONE, wrong("all", -3.5), AUTO], "answers_differ", "3.5 nats"),
        ([NONE, ALL, wrong("auto", -3.5)], "answers_differ", "gpu_layers: auto"),
        ([NONE, wrong("all", 3.0, 1), AUTO], "answers_differ", "3 nats"),  # before its speed
        ([NONE, wrong("all", math.nan), AUTO], "answers_differ", "not numbers"),
        ([NONE, attempt("all", result(31, 5)), AUTO], "slower", "0.5 x its tokens/s"),
    ],
)
def test_each_fault_has_its_code_and_says_why(
    attempts: list[Attempt], code: str, says: str
) -> None:
    verdict = judge(attempts)
    assert (verdict.ok, verdict.code) == (False, code)
    assert says in verdict.text
    assert verdict.fix or not code.endswith(("no_layers", "slower"))


def test_a_model_too_large_for_the_gpu_runs_partly_on_it() -> None:
    verdict = judge([NONE, failed("all"), attempt("auto", result(12, 20), joules=0.5)])
    assert verdict.ok
    assert "GPU 2 x faster" in verdict.text
    assert "`auto` uses 12 of 31 layers, as all of them failed: out of memory" in verdict.text


def test_another_token_is_rounding_only_where_both_are_close() -> None:
    reference = result(0, 10)
    close, far = (
        replace(
            reference,
            answers=(GreedyAnswer((5, 9, 8), (-0.1, -0.2, -9.0), "abd", (-0.1, -0.2 - margin)),),
        )
        for margin in (TOLERANCE_NATS / 2, 4.0)
    )
    difference = compare_runs(reference, close)
    assert difference.split_margin == pytest.approx(TOLERANCE_NATS / 2)
    assert difference.is_rounding
    difference = compare_runs(reference, far)
    assert difference.split_margin == pytest.approx(4.0)
    assert not difference.is_rounding
    # What follows the first other token answers another text, and is not compared.
    assert compare_runs(reference, close).tokens == pytest.approx(TOLERANCE_NATS / 2)


def test_equal_runs_do_not_differ() -> None:
    difference = compare_runs(result(0, 10), result(31, 30))
    assert (difference.largest, difference.split_margin) == (0.0, None)
