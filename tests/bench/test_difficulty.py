"""Difficulties from the answers of models: what they average, and which answers do not belong."""

from __future__ import annotations

from contextlib import suppress
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
    format_difficulty,
    parse_difficulty,
    read_difficulty,
)
from etui.errors import InvalidFile, UsageError
from tests.bench import synthetic

KEYS = st.tuples(st.text("abc_,\"' ", min_size=1).map(lambda s: f"s{s}x"), st.integers(0, 9999))


@given(
    st.dictionaries(KEYS, st.tuples(st.integers(0, 10_000), st.integers(0, 50)), min_size=1),
    st.lists(st.text(max_size=8), max_size=2),
)
def test_a_table_comes_back(rows, names):
    values = {key: share / 10_000 for key, (share, _) in rows.items()}
    models = {key: count for key, (_, count) in rows.items()}
    sources = tuple(DifficultySource(name, None, "table t.csv") for name in names)
    text = format_difficulty(values, models, "ab" * 32, sources)
    table = parse_difficulty(text, "t.csv")
    assert (table.values, table.models, table.data_sha256) == (values, models, "ab" * 32)
    assert table.sources == sources


@given(st.text(max_size=80))
def test_any_text_is_a_table_or_an_invalid_file(text):
    for candidate in (text, "subject,row,difficulty,models\n" + text):
        with suppress(InvalidFile):
            assert parse_difficulty(candidate, "t.csv").values


def test_a_table_without_comments_and_models_is_one():
    table = parse_difficulty("subject,row,difficulty\na,0,0.5\n\na,1,1\n", "t.csv")
    assert table.values == {("a", 0): 0.5, ("a", 1): 1.0}
    assert table.models == {("a", 0): 0, ("a", 1): 0}
    assert (table.data_sha256, table.sources) == (None, ())


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "the first line is not subject,row,difficulty"),
        ("a,b,c\n", 1, "the first line is not subject,row,difficulty"),
        ("subject,row,difficulty\n", 1, "has no difficulties"),
        ("# x\nsubject,row,difficulty\na,0,0.5,3\n", 3, "has 4 columns, the first line has 3"),
        ("subject,row,difficulty\na,0,1.5\n", 2, "difficulty is '1.5', not a share"),
        ("subject,row,difficulty\na,0,nan\n", 2, "difficulty is 'nan', not a share"),
        ("subject,row,difficulty\na,0,hard\n", 2, "difficulty is 'hard', not a share"),
        ("subject,row,difficulty\na,-1,0.5\n", 2, "row is '-1'"),
        ("subject,row,difficulty\n ,1,0.5\n", 2, "subject is empty"),
        ("subject,row,difficulty\na,1,0.5\na,1,0.5\n", 3, "a row 1 is there twice"),
        ("subject,row,difficulty,models\na,1,0.5,x\n", 2, "models is 'x'"),
        ('subject,row,difficulty\na,1,"0.5\n', 2, "not valid CSV"),
        ("# model: {}\nsubject,row,difficulty\na,1,0.5\n", 1, "does not name a model"),
    ],
)
def test_a_fault_is_named_with_its_line(text, line, said):
    with pytest.raises(InvalidFile) as caught:
        parse_difficulty(text, "t.csv")
    assert f"t.csv:{line}:" in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_difficulty(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidFile, match="is not UTF-8"):
        read_difficulty(tmp_path / "bytes.csv")


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
