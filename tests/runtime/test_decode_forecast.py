"""Tokens per second and joules per token of models that were never loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.curves.operating_curve import PhaseCurve, Speed
from etui.log.totals import Total
from etui.runtime.forecast import (
    CONTEXT_TOKENS,
    DecodeForecast,
    MachineFacts,
    MeasuredModel,
    forecast_decode,
)
from tests.log.test_curve_rows import CURVE

MACHINE = MachineFacts(memory_bytes_per_second=20e9, limit_watts=18.0)
TOTAL = Total("m", 3, 50.0, None, "counter", None, 0, 100, 0.5, 10.0)


def test_a_curve_comes_before_the_log() -> None:
    curve = replace(
        CURVE, decode=PhaseCurve(0.0, 0.25, bend=0.001), speed=Speed(decode_tokens_per_second=33.0)
    )
    found = forecast_decode(10**9, MACHINE, curve, TOTAL)
    assert found.tokens_per_second == 33.0
    assert found.joules_per_token == pytest.approx(0.25 + 0.001 * CONTEXT_TOKENS)
    assert (found.speed_source, found.joules_source) == ("curve", "curve")
    assert found.is_measured


def test_the_log_comes_before_an_estimate() -> None:
    found = forecast_decode(10**9, MACHINE, None, TOTAL)
    assert found == DecodeForecast(10.0, 0.5, "log", "log")


def test_without_any_answer_it_follows_from_the_memory_and_the_power_range() -> None:
    found = forecast_decode(2 * 10**9, MACHINE)
    assert found.tokens_per_second == pytest.approx(10.0)
    assert found.joules_per_token == pytest.approx(1.8)
    assert (found.speed_source, found.joules_source) == ("memory", "power range")
    assert not found.is_measured


def test_a_measured_model_of_about_the_size_says_more_than_the_memory() -> None:
    small = MeasuredModel("small", 100_000_000, 60.0, 15.0)
    large = MeasuredModel("large", 1_000_000_000, 12.0, 17.0)
    found = forecast_decode(2 * 10**9, replace(MACHINE, measured=(small, large)))
    assert found.tokens_per_second == pytest.approx(6.0)
    assert found.joules_per_token == pytest.approx(17 / 6)
    assert found.like == "large"
    assert found.speed_source == "other model"


def test_nothing_is_guessed_for_a_gpu_without_a_reading() -> None:
    assert forecast_decode(10**9, MACHINE, on_gpu=True) == DecodeForecast()
    on_cpu = MeasuredModel("a", 10**9, 12.0, 17.0)
    assert forecast_decode(10**9, replace(MACHINE, measured=(on_cpu,)), on_gpu=True) == (
        DecodeForecast()
    )
    on_gpu = MeasuredModel("b", 10**9, 120.0, 240.0, on_gpu=True)
    found = forecast_decode(2 * 10**9, replace(MACHINE, measured=(on_gpu,)), on_gpu=True)
    assert found.tokens_per_second == pytest.approx(60.0)
    assert found.joules_per_token == pytest.approx(4.0)


def test_what_is_unknown_stays_unknown() -> None:
    assert forecast_decode(None, MACHINE) == DecodeForecast()
    assert forecast_decode(10**9, MachineFacts()) == DecodeForecast()
    no_limit = forecast_decode(10**9, MachineFacts(memory_bytes_per_second=1e10))
    assert no_limit.tokens_per_second == pytest.approx(10.0)
    assert no_limit.joules_per_token is None


@given(st.integers(1, 10**12), st.floats(1e6, 1e13), st.floats(0.1, 1e5))
def test_joules_are_watts_over_tokens_per_second(size: int, speed: float, watts: float) -> None:
    found = forecast_decode(size, MachineFacts(speed, watts))
    assert found.tokens_per_second is not None
    assert found.joules_per_token is not None
    assert found.joules_per_token * found.tokens_per_second == pytest.approx(watts)
    assert found.tokens_per_second * size == pytest.approx(speed)
