"""What a question would cost, before it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Query
from etui.config.config import Config
from etui.curves.operating_curve import PhaseCurve, Speed
from etui.engine.token_counter import TokenCounter
from etui.models import gguf
from etui.models.gguf import Gguf
from etui.models.spec import STARTER
from etui.routing.decision import PredictedJoules
from etui.routing.text_measures import estimate_tokens
from etui.runtime.decide import Choice, choose
from etui.runtime.forecast import (
    CONTEXT_TOKENS,
    Forecast,
    MachineFacts,
    MeasuredModel,
    TokenCount,
    forecast_choice,
    forecast_decode,
    list_arms,
)
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import open_runtime
from tests.log.test_curve_rows import CURVE

MACHINE = MachineFacts(memory_bytes_per_second=20e9, limit_watts=18.0)

PAST = Speed(decode_tokens_per_second=10.0, decode_watts=5.0)


STEEP = replace(
    CURVE, decode=PhaseCurve(0.0, 0.25, bend=0.001), speed=Speed(decode_tokens_per_second=33.0)
)
SMALL = MeasuredModel("small", 100_000_000, 60.0, 15.0)
LARGE = MeasuredModel("large", 1_000_000_000, 12.0, 17.0)
ON_GPU = MeasuredModel("b", 10**9, 120.0, 240.0, on_gpu=True)
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
        (2 * 10**9, MACHINE, {}, (10.0, 1.8, "memory", "power range")),
        (10**9, MachineFacts(memory_bytes_per_second=1e10), {}, (10.0, None, "memory", "")),
        # but a measured model of about the size says more.
        (2 * 10**9, replace(MACHINE, measured=(SMALL, LARGE)), {},
         (6.0, 17 / 6, "other model", "other model")),
        # Nothing is guessed for a GPU without a reading.
        (10**9, MACHINE, {"on_gpu": True}, NOTHING),
        (10**9, replace(MACHINE, measured=(LARGE,)), {"on_gpu": True}, NOTHING),
        (2 * 10**9, replace(MACHINE, measured=(ON_GPU,)), {"on_gpu": True},
         (60.0, 4.0, "other model", "other model")),
        (None, MACHINE, {}, NOTHING),
        (10**9, MachineFacts(), {}, NOTHING),
    ],
)  # fmt: skip
def test_the_best_known_source_says_how_fast_a_model_decodes(size, facts, given, expected) -> None:
    given = {"curve": None, "past": None} | given
    found = forecast_decode(size, facts, given.pop("curve"), given.pop("past"), **given)
    speed, joules, *sources = expected
    assert found.tokens_per_second == (speed and pytest.approx(speed))
    assert found.joules_per_token == (joules and pytest.approx(joules))
    assert [found.speed_source, found.joules_source] == sources
    assert found.like == ("large" if LARGE in facts.measured and not given else found.like)


@given(st.integers(1, 10**12), st.floats(1e6, 1e13), st.floats(0.1, 1e5))
def test_joules_are_watts_over_tokens_per_second(size: int, speed: float, watts: float) -> None:
    found = forecast_decode(size, MachineFacts(speed, watts))
    assert found.tokens_per_second is not None
    assert found.joules_per_token is not None
    assert found.joules_per_token * found.tokens_per_second == pytest.approx(watts)
    assert found.tokens_per_second * size == pytest.approx(speed)


CASCADE = """\
version: 1
description: Two arms of one model.
models: {small: [smollm2-135m]}
arms:
  quick: {model: small, reasoning: direct, max_tokens: 64}
  think: {model: small, reasoning: cot, think_tokens: 64, max_tokens: 64}
rules:
  - name: up
    cascade: {arms: [quick, think], accept_at: 0.9}
"""


@pytest.fixture
def counter() -> Iterator[TokenCounter]:
    with closing(TokenCounter()) as counter:
        yield counter


def forecast(
    config: Config, counter: TokenCounter, query: Query, *parts: str, **overrides: str
) -> Forecast:
    with open_runtime(config) as runtime:
        choice = choose(query, Overrides(**overrides), runtime)  # type: ignore[arg-type]
        return forecast_choice(query, choice, parts or (query.text,), runtime, counter)


def test_tokens_are_counted_by_the_model_and_the_room_leaves_an_answer(
    config: Config, counter: TokenCounter, starter_model: Path
) -> None:
    here = replace(config, models_dir=starter_model.parent)
    found = forecast(here, counter, Query("What is a joule?"), model=STARTER)
    assert found.parts == (TokenCount(6, exact=True),)
    assert found.exact
    assert found.context_tokens is not None
    assert found.room_tokens is not None
    assert found.most_tokens is not None
    assert found.room_tokens < found.most_tokens < found.context_tokens
    assert found.fits
    assert found.arms[0].joules is None, "nothing is known on a fresh machine, and nothing invented"


def test_a_question_longer_than_the_context_does_not_fit(
    config: Config, counter: TokenCounter, starter_model: Path
) -> None:
    here = replace(config, models_dir=starter_model.parent, context_tokens=512)
    found = forecast(here, counter, Query("x"), "x", "word " * 600, model=STARTER)
    assert found.context_tokens == 512
    assert found.tokens > 600
    assert not found.fits


def test_without_a_tokenizer_the_tokens_are_an_estimate_and_say_so(
    config: Config, counter: TokenCounter
) -> None:
    config.models_dir.mkdir(parents=True)
    (config.models_dir / f"{STARTER}.gguf").touch()
    found = forecast(config, counter, Query("What is a joule?"), model=STARTER)
    assert found.parts == (TokenCount(estimate_tokens("What is a joule?"), exact=False),)
    assert not found.exact


def test_every_arm_that_may_answer_is_forecast_with_the_predictor_of_the_decision(
    config: Config, counter: TokenCounter, starter_model: Path, tmp_path: Path
) -> None:
    here = replace(config, models_dir=starter_model.parent)
    policy = tmp_path / "up.yaml"
    policy.write_text(CASCADE)
    query = Query("Why?")
    with open_runtime(here) as runtime:
        choice = choose(query, Overrides(policy=str(policy)), runtime)
        assert [arm.name for arm in list_arms(choice)] == ["quick", "think"]

        class Known:
            def joules(self, arm, asked):  # type: ignore[no-untyped-def]
                assert asked is query
                size = 5.0 if arm.name == "quick" else 40.0
                return PredictedJoules(0.0, 1.0, size, 2.0, source="operating curve")

        known = Choice(choice.decision, Known())  # type: ignore[arg-type]
        found = forecast_choice(query, known, ["Why?"], runtime, counter)
    assert [(arm.arm, arm.joules) for arm in found.arms] == [("quick", 6.0), ("think", 41.0)]
    assert found.arms[0].source == "operating curve"


def test_the_header_of_a_model_is_read_once_and_not_for_each_key(
    config: Config,
    counter: TokenCounter,
    starter_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[Path] = []
    whole = gguf.check_gguf

    def check(path: Path) -> Gguf:
        reads.append(path)
        return whole(path)

    monkeypatch.setattr(gguf, "check_gguf", check)
    here = replace(config, models_dir=starter_model.parent)
    with open_runtime(here) as runtime:
        for text in ("a", "ab", "abc"):
            choice = choose(Query(text), Overrides(model=STARTER), runtime)
            forecast_choice(Query(text), choice, [text], runtime, counter)
    assert len(reads) == 1
