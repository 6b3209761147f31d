"""What a question would cost, before it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.chat import Query
from etui.config.config import Config
from etui.engine.token_counter import TokenCounter
from etui.models import gguf
from etui.models.gguf import Gguf
from etui.models.spec import STARTER
from etui.routing.decision import PredictedJoules
from etui.routing.text_measures import estimate_tokens
from etui.runtime.decide import Choice, choose
from etui.runtime.forecast import (
    Forecast,
    TokenCount,
    forecast_choice,
    list_arms,
)
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import open_runtime

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
    assert found.arms[0].predicted is None, (
        "nothing is known on a fresh machine, and nothing invented"
    )


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
    assert [(arm.arm, arm.predicted.total) for arm in found.arms] == [
        ("quick", 6.0),
        ("think", 41.0),
    ]
    assert found.arms[0].predicted.source == "operating curve"


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
