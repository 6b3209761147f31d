"""What a token of a model costs here, predicted before it was ever loaded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.curves.operating_curve import Conditions, PhaseCurve, Speed
from etui.curves.prediction import (
    CONTEXT_TOKENS,
    DecodeForecast,
    MachineFacts,
    MeasuredModel,
    ModelWork,
    forecast_decode,
    joules_text,
    measured_from,
    speed_text,
    work_of_entry,
    work_of_header,
)
from etui.models.cache_size import CacheSize
from etui.models.gguf import check_usable
from etui.models.spec import ModelSpec
from tests.log.test_curve_rows import CURVE

MACHINE = MachineFacts(memory_bytes_per_second=20e9, limit_watts=18.0)

PAST = Speed(decode_tokens_per_second=10.0, decode_watts=5.0)


STEEP = replace(
    CURVE, decode=PhaseCurve(0.0, 0.25, bend=0.001), speed=Speed(decode_tokens_per_second=33.0)
)
HALF = MeasuredModel("half", ModelWork(500_000_000), 12.5**2 / 12 * 1.45 / 0.825, 15.0)
LARGE = MeasuredModel("large", ModelWork(1_000_000_000, 10**9), 12.0, 17.0)
ON_GPU = MeasuredModel("b", ModelWork(10**9), 120.0, 240.0, on_gpu=True)
NOTHING = (None, None, "", "")


@pytest.mark.parametrize(
    ("size", "facts", "given", "expected"),
    [
        # A curve comes before the log, and the log before an estimate.
        (10**9, MACHINE, {"curve": STEEP, "past": PAST},
         (33.0, 0.25 + 0.001 * CONTEXT_TOKENS, "curve", "curve")),
        (10**9, MACHINE, {"past": PAST}, (10.0, 0.5, "log", "log")),
        (10**9, MACHINE, {"past": Speed(decode_tokens_per_second=10.0)},
         (10.0, 1.8, "log", "power range")),
        # Without any answer it follows from the memory and the power range,
        (2 * 10**9, MACHINE, {}, (20 / 2.7, 18 * 2.7 / 20, "memory", "power range")),
        (10**9, MachineFacts(memory_bytes_per_second=1e10), {}, (10 / 1.45, None, "memory", "")),
        # but measured models say more: by their bytes, or scaled where there is only one.
        (2 * 10**9, replace(MACHINE, measured=(LARGE,)), {},
         (12 * 1.45 / 2.7, 17 / 12 * 2.7 / 1.45, "other model", "other model")),
        (2 * 10**9, replace(MACHINE, measured=(HALF, LARGE)), {},
         (12.5 * 1.45 / 2.7, 17 / 12.5 * 2.7 / 1.45, "other models", "other model")),
        # Nothing is guessed for a GPU without a reading.
        (10**9, MACHINE, {"on_gpu": True}, NOTHING),
        (10**9, replace(MACHINE, measured=(LARGE,)), {"on_gpu": True}, NOTHING),
        (2 * 10**9, replace(MACHINE, measured=(ON_GPU,)), {"on_gpu": True},
         (120 * 1.45 / 2.7, 2 * 2.7 / 1.45, "other model", "other model")),
        (None, MACHINE, {}, NOTHING),
        (10**9, MachineFacts(), {}, NOTHING),
    ],
)  # fmt: skip
def test_the_best_known_source_says_how_fast_a_model_decodes(size, facts, given, expected) -> None:
    given = {"curve": None, "past": None} | given
    found = forecast_decode(
        size and ModelWork(size), facts, given.pop("curve"), given.pop("past"), **given
    )
    speed, joules, *sources = expected
    assert found.tokens_per_second == (speed and pytest.approx(speed))
    assert found.joules_per_token == (joules and pytest.approx(joules))
    assert [found.speed_source, found.joules_source] == sources


@given(st.integers(1, 10**12), st.floats(1e6, 1e13), st.floats(0.1, 1e5))
def test_joules_are_watts_over_tokens_per_second(size: int, speed: float, watts: float) -> None:
    found = forecast_decode(ModelWork(size), MachineFacts(speed, watts))
    assert found.tokens_per_second is not None
    assert found.joules_per_token is not None
    assert found.joules_per_token * found.tokens_per_second == pytest.approx(watts)
    assert found.tokens_per_second * (size / 0.8 + 2e8) == pytest.approx(speed)


def on_line(name: str, read_bytes: int) -> MeasuredModel:
    """A model whose bytes a memory of 25 GB/s brings, beside the time of 200 MB."""
    seconds = (read_bytes / 0.8 + 2e8) / 25e9
    work = ModelWork(read_bytes, read_bytes)
    return MeasuredModel(name, work, 1 / seconds, 16.0, prefill_tokens_per_second=2e11 / read_bytes)


THREE = tuple(on_line(str(size), size * 10**8) for size in (1, 5, 11))


def test_several_measured_models_give_the_seconds_of_a_token_and_of_a_byte() -> None:
    machine = MachineFacts(measured=THREE)
    found = forecast_decode(ModelWork(2 * 10**9, 2 * 10**9), machine)
    assert found.speed_source == "other models"
    assert found.tokens_per_second == pytest.approx(25e9 / 2.7e9)
    assert found.speed_share == pytest.approx(0.25 + 0.1 * math.log2(20 / 11))
    between = forecast_decode(ModelWork(10**9), machine)
    assert between.speed_share == 0.25
    assert found.joules_per_token == pytest.approx(16 * 2.7 / 25)
    assert found.prefill_tokens_per_second == pytest.approx(100.0)
    assert speed_text(found, machine, on_gpu=False) == (
        "≈9.3 tok/s ± 34 %: by the bytes of 3 models measured here"
    )
    assert joules_text(found, machine) == "≈1.7 J per decoded token ± 37 %: with the watts of 11"


def test_models_that_differ_in_more_than_their_bytes_widen_the_uncertainty() -> None:
    odd = replace(THREE[1], tokens_per_second=THREE[1].tokens_per_second / 2)
    machine = MachineFacts(measured=(THREE[0], odd, THREE[2]))
    found = forecast_decode(ModelWork(10**9), machine)
    assert (found.speed_source, found.like) == ("other model", "11")
    assert found.speed_share is not None
    assert found.speed_share > 0.3


@given(
    st.lists(
        st.builds(
            MeasuredModel,
            st.text("ab", max_size=2),
            st.builds(ModelWork, st.integers(10**7, 10**11)),
            st.floats(0.1, 1e4),
        ),
        max_size=4,
    ),
    st.integers(10**7, 10**11),
)
def test_any_measured_models_give_a_positive_speed(
    measured: list[MeasuredModel], size: int
) -> None:
    found = forecast_decode(ModelWork(size), MachineFacts(measured=tuple(measured)))
    if not measured:
        assert found == DecodeForecast()
        return
    assert found.tokens_per_second is not None
    assert found.tokens_per_second > 0
    assert found.speed_share is not None
    assert found.speed_share > 0.2


def test_a_deeper_context_is_read_as_well_but_a_window_is_not_passed() -> None:
    size = CacheSize(token_bytes=100, window_bytes=10, window_tokens=512, state_bytes=7)
    assert size.read_bytes(0) == 7
    assert size.read_bytes(4096) == 100 * 4096 + 10 * 512 + 7
    spec = ModelSpec("m", "m", (), kv_bytes_per_token=1000)
    assert work_of_entry(spec, None) is None
    assert work_of_entry(spec, 10**6, 10) == ModelWork(10**6 + 10_000)


@pytest.mark.parametrize(
    ("size", "share", "parameters"),
    [
        ("35B parameters, 3B active, UD-Q4_K_M, 22.1 GB", 3 / 35, 3 * 10**9),
        ("21B parameters, 3.6B active, MXFP4, 12.1 GB", 3.6 / 21, 36 * 10**8),
        ("135M parameters, Q4_1, 98 MB", 1.0, 135 * 10**6),
        ("5.1B parameters, 2B effective, Q4_K_M, 3.1 GB", 2 / 5.1, 2 * 10**9),
        ("3B active of something", 1.0, 3 * 10**9),
        ("0B parameters, 0B active", 1.0, 0),
        ("tiny one", 1.0, None),
    ],
)
def test_an_entry_of_a_mixture_reads_what_is_active(
    size: str, share: float, parameters: int | None
) -> None:
    work = work_of_entry(ModelSpec("m", size, ()), 10**10)
    assert work == ModelWork(int(10**10 * share), parameters)


def test_the_header_of_the_starter_gives_its_work(starter_model: Path) -> None:
    gguf = check_usable(starter_model)
    shallow, deep = (work_of_header(gguf, "f16", tokens) for tokens in (0, 1000))
    assert shallow == ModelWork(gguf.active_bytes, gguf.active_parameters)
    assert deep.read_bytes - shallow.read_bytes == 23040 * 1000


def test_only_a_curve_of_this_machine_measures_a_model() -> None:
    work = ModelWork(10**9)
    speed = Speed(200.0, 40.0, 20.0, 16.0)
    curve = replace(CURVE, conditions=Conditions("here", "b", 2), speed=speed, gpu_layers=3)
    found = measured_from("m", work, curve, "here")
    assert found == MeasuredModel("m", work, 40.0, 16.0, True, 200.0)
    assert measured_from("m", work, curve, "there") is None
    assert measured_from("m", None, curve, "here") is None
    assert measured_from("m", work, None, "here") is None
    assert measured_from("m", work, replace(curve, speed=Speed()), "here") is None


def test_the_text_of_an_unknown_speed_says_why() -> None:
    nothing = DecodeForecast()
    busy = MachineFacts(memory_busy=True)
    assert speed_text(nothing, busy, on_gpu=False).endswith(
        "not measured yet (the machine was busy)"
    )
    assert speed_text(nothing, busy, on_gpu=True).endswith("no model was measured on this GPU yet")
    assert joules_text(nothing, busy).startswith("unknown J per decoded token")
