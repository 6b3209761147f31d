"""What cannot stop at a precision, and difficulties that do not belong."""

from __future__ import annotations

import pytest

from etui.bench.config import BenchPart, BenchPrecision
from etui.bench.difficulty import DifficultySource, format_difficulty
from etui.bench.plan import (
    add_precision,
    check_sources,
    restore_difficulty,
)
from etui.errors import InvalidFile, UsageError
from tests.bench.test_schedule import make_config, make_plan, suite


def write_table(path, data=None, sources=(), keys=(("law", 0), ("law", 1))):
    text = format_difficulty(dict.fromkeys(keys, 0.5), dict.fromkeys(keys, 1), data, tuple(sources))
    path.write_text(text)
    return path


@pytest.fixture
def plan():
    return make_plan("weak", points=3).change(precision=None, order="subjects")


def test_a_plan_asks_in_balanced_order(plan):
    made = add_precision(plan, 2.5)
    assert made.config.order == "balanced"
    assert made.config.precision == BenchPrecision(2.5, "accuracy")
    assert made.config.block is None


def test_a_precision_is_in_the_configuration_and_its_hash(plan):
    made = add_precision(plan, 2.5)
    one, two = (make_config(made.change(precision=p)) for p in (None, made.config.precision))
    assert one.sha256 != two.sha256
    assert "precision" not in one.to_json()
    assert two.to_json()["precision"] == {
        "points": 2.5,
        "of": "accuracy",
        "difficulty_sha256": None,
    }


@pytest.mark.parametrize(
    ("changes", "of", "said"),
    [
        ({"per_subject": 5}, None, "--per-subject"),
        ({"part": BenchPart(0, 2)}, None, "--part"),
        ({}, "difference", "needs at least two systems"),
    ],
)
def test_what_makes_no_sense_is_refused(plan, changes, of, said):
    with pytest.raises(UsageError) as caught:
        add_precision(plan.change(**changes), 3, of)
    assert said in caught.value.what


def test_difficulties_of_other_data_are_refused_by_hash(plan, tmp_path):
    path = write_table(tmp_path / "d.csv", data="cd" * 32)
    with pytest.raises(UsageError) as caught:
        add_precision(plan, 3, None, path)
    assert "cdcdcdcdcdcd" in caught.value.what
    assert suite().sha256[:12] in caught.value.what
    path = write_table(tmp_path / "d.csv", keys=(("other", 0),))
    with pytest.raises(UsageError, match="none of the questions"):
        add_precision(plan, 3, None, path)


def test_questions_without_a_difficulty_are_mentioned(plan, tmp_path):
    said: list[str] = []
    path = write_table(tmp_path / "d.csv", data=suite().sha256)
    add_precision(plan, 3, None, path, said.append)
    assert "the difficulty of 2 of 1,503 questions" in said[0]


def test_a_model_is_not_its_own_covariate(plan, tmp_path):
    sources = [
        DifficultySource("small", "ab" * 32, "run one"),
        DifficultySource("big", None, "table t.csv"),
    ]
    path = write_table(tmp_path / "d.csv", sources=sources)
    made = add_precision(plan, 3, None, path)
    check_sources(made, {"other": "ef" * 32, "unknown": None})
    with pytest.raises(UsageError) as caught:
        check_sources(made, {"renamed": "ab" * 32})
    assert "answers of renamed itself (run one)" in caught.value.what
    said: list[str] = []
    check_sources(made, {"big": "ef" * 32}, said.append)
    assert "a model called big (table t.csv)" in said[0]


def test_the_copy_of_a_resumed_run_is_the_table_it_was_started_with(plan, tmp_path):
    path = write_table(tmp_path / "d.csv")
    made = add_precision(plan, 3, None, path)
    run = make_config(made)
    assert restore_difficulty(plan, run, path).difficulty == made.difficulty
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(InvalidFile, match="differs from the one"):
        restore_difficulty(plan, run, path)
    with pytest.raises(InvalidFile, match="is missing"):
        restore_difficulty(plan, run, tmp_path / "none.csv")
    plain = make_config(made.change(precision=None))
    assert restore_difficulty(plan, plain, tmp_path / "none.csv") == plan
