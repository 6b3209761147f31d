"""Difficulties from the answers of models: what they average, and which answers do not belong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.difficulty import (
    DifficultySource,
    ModelOutcomes,
    average_outcomes,
    build_difficulty,
    collect_models,
    parse_difficulty,
)
from etui.errors import UsageError
from tests.bench import synthetic


def model(name, outcomes, sha256=None, data=None, source="table t.csv") -> ModelOutcomes:
    return ModelOutcomes(DifficultySource(name, sha256, source), outcomes, data)


@given(st.integers(0, 30), st.integers(1, 6))
def test_difficulties_are_shares_and_their_mean_is_the_models(seed, models):
    generator = np.random.default_rng(seed)
    outcomes = (generator.random((120, models)) < generator.random(models)).astype(float)
    strata = np.arange(120) % 7
    found = average_outcomes(outcomes, strata)
    assert ((found >= 0) & (found <= 1)).all()
    if (found > 0).all() and (found < 1).all():
        assert found.mean() == pytest.approx(outcomes.mean())


def test_few_models_are_shrunk_towards_the_subject():
    outcomes = np.array([[1.0], [0.0], [1.0], [1.0], [0.0], [0.0]])
    found = average_outcomes(outcomes, np.array([0, 0, 0, 1, 1, 1]))
    # grand mean 1/2; the subjects' means are 2/3 and 1/3; one answer counts a third
    assert found == pytest.approx([7 / 9, 4 / 9, 7 / 9, 5 / 9, 2 / 9, 2 / 9])


def test_many_models_with_a_common_difficulty_are_hardly_shrunk():
    generator = np.random.default_rng(0)
    easy = generator.uniform(0.1, 0.9, 4000)
    outcomes = (generator.random((4000, 30)) < easy[:, None]).astype(float)
    found = average_outcomes(outcomes, np.zeros(4000, int))
    assert np.corrcoef(found, easy)[0, 1] > 0.9
    error = ((found - easy) ** 2).mean()
    assert error < ((outcomes.mean(axis=1) - easy) ** 2).mean()


def test_a_strong_model_that_answered_half_does_not_make_that_half_easy():
    generator = np.random.default_rng(1)
    weak = (generator.random(2000) < 0.3).astype(float)
    strong = np.where(np.arange(2000) % 2, np.nan, (generator.random(2000) < 0.9).astype(float))
    found = average_outcomes(np.column_stack([weak, strong]), np.zeros(2000, int))
    assert found[::2].mean() == pytest.approx(found[1::2].mean(), abs=0.03)


def test_a_question_without_answers_has_the_mean_of_its_subject():
    outcomes = np.array([[1.0], [1.0], [np.nan], [0.0], [np.nan]])
    found = average_outcomes(outcomes, np.array([0, 0, 0, 1, 2]))
    assert found[2] == pytest.approx(found[0])
    assert found[4] == pytest.approx(2 / 3)


def test_runs_and_tables_make_one_table():
    run = synthetic.config(per_subject=2)
    rows = synthetic.samples(run)
    first, second = collect_models(run, rows, "run one")
    assert (first.source.name, second.source.name) == ("small", "large")
    assert first.source.sha256 == synthetic.MODEL.sha256
    key = next(iter(first.outcomes))
    # three arms of the small model are one model
    assert first.outcomes[key] in {0, 1 / 3, 2 / 3, 1}
    text = build_difficulty([first, second, model("other", {key: 1.0})])
    table = parse_difficulty(text, "t.csv")
    assert table.data_sha256 == run.data_sha256
    assert [source.name for source in table.sources] == ["small", "large", "other"]
    assert table.models[key] == 3
    assert len(table.values) == len(first.outcomes)


def test_two_runs_of_one_model_are_one_model():
    again = [model("m", {("a", 0): outcome}, "ab" * 32) for outcome in (1.0, 0.0)]
    table = parse_difficulty(build_difficulty([*again, model("n", {("a", 0): 1.0})]), "t.csv")
    assert table.models == {("a", 0): 2}


def test_runs_of_other_data_are_refused_by_name():
    run = synthetic.config(per_subject=1)
    rows = synthetic.samples(run)
    other = replace(run, data_sha256="99" * 32)
    models = [*collect_models(run, rows, "run one"), *collect_models(other, rows, "run two")]
    with pytest.raises(UsageError) as caught:
        build_difficulty(models)
    assert "run two and run one asked different data" in caught.value.what
    assert "999999999999" in caught.value.what
