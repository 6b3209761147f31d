"""The verdict on three runs: each thing that can be wrong, and nothing wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from etui.runtime.gpu_run import GreedyAnswer, Layers, RunResult, Timed
from etui.runtime.gpu_verdict import (
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


def test_a_run_on_the_cpu_that_fails_leaves_nothing_to_compare_with() -> None:
    verdict = judge([failed("none", "the file is damaged"), ALL, AUTO])
    assert (verdict.ok, verdict.code) == (False, "cpu_failed")
    assert "the file is damaged" in verdict.text


def test_no_load_with_layers_on_the_gpu_works() -> None:
    verdict = judge([NONE, failed("all", "crashed with SIGABRT"), failed("auto", "same")])
    assert (verdict.ok, verdict.code) == (False, "load_failed")
    assert "crashed with SIGABRT" in verdict.text


@pytest.mark.parametrize("placed", [0, 31])
def test_all_layers_fail_though_auto_did_not_find_that_they_do_not_fit(placed: int) -> None:
    auto = attempt("auto", result(placed, 30))
    verdict = judge([NONE, failed("all"), auto])
    assert (verdict.ok, verdict.code) == (False, "load_failed")
    assert "out of memory" in verdict.text


def test_a_model_too_large_for_the_gpu_runs_partly_on_it() -> None:
    verdict = judge([NONE, failed("all"), attempt("auto", result(12, 20), joules=0.5)])
    assert verdict.ok
    assert "GPU 2 x faster" in verdict.text
    assert "`auto` uses 12 of 31 layers, as all of them failed: out of memory" in verdict.text


def test_auto_alone_can_fail() -> None:
    verdict = judge([NONE, ALL, failed("auto", "device lost")])
    assert (verdict.ok, verdict.code) == (False, "auto_failed")
    assert "device lost" in verdict.text


@pytest.mark.parametrize("placed", [0, None])
def test_layers_that_were_asked_for_and_are_not_on_the_device(placed: int | None) -> None:
    # Without its log llama.cpp's own report counts, with it only what the log says.
    on_cpu = replace(result(31 if placed == 0 else 0, 30), placed=placed)
    verdict = judge([NONE, attempt("all", on_cpu), AUTO])
    assert (verdict.ok, verdict.code) == (False, "no_layers")
    assert "`gpu_layers: all` put 0 of 31 layers on the GPU" in verdict.text


def test_auto_that_uses_no_layer_is_no_gpu() -> None:
    verdict = judge([NONE, ALL, attempt("auto", result(0, 10))])
    assert (verdict.ok, verdict.code) == (False, "auto_no_layers")
    assert verdict.fix


@pytest.mark.parametrize("which", ["all", "auto"])
def test_other_answers_are_told_by_their_largest_difference(which: Layers) -> None:
    wrong = attempt(which, result(31, 30, shift=-3.5))
    attempts = {"none": NONE, "all": ALL, "auto": AUTO} | {which: wrong}
    verdict = judge(list(attempts.values()))
    assert (verdict.ok, verdict.code) == (False, "answers_differ")
    assert f"gpu_layers: {which}" in verdict.text
    assert "3.5 nats" in verdict.text


def test_wrong_answers_count_before_their_speed() -> None:
    verdict = judge([NONE, attempt("all", result(31, 1, shift=3.0)), AUTO])
    assert verdict.code == "answers_differ"


def test_a_gpu_that_computes_no_numbers_is_wrong() -> None:
    verdict = judge([NONE, attempt("all", result(31, 30, shift=math.nan)), AUTO])
    assert (verdict.ok, verdict.code) == (False, "answers_differ")
    assert "not numbers" in verdict.text


def test_offloaded_but_slower_than_the_cpu() -> None:
    verdict = judge([NONE, attempt("all", result(31, 5)), AUTO])
    assert (verdict.ok, verdict.code) == (False, "slower")
    assert "0.5 x its tokens/s" in verdict.text
    assert "gpu_layers: 0" in verdict.fix


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
