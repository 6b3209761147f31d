"""Accuracy of settings: which are asked, resumed, compared on the same questions, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.datasets.suites import load_suite
from etui.engine.context import ContextOptions
from etui.engine.residency import Residency, finish_load
from etui.measure.run import StopRequested
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.stats.tests import mcnemar, wilson
from etui.sweep._accuracy import (
    analyse_measured,
    choose_answering,
    draw_questions,
    group_by_numbers,
    list_asked,
    measure_answers,
)
from etui.sweep.analysis import analyse, compare_accuracies
from etui.sweep.blocks import SettingAnswer, SettingFailed
from etui.sweep.config import AXES, Goal, Setting, SweepDesign
from etui.sweep.result import SettingResult, SweepResult
from tests.bench.fake_engine import FakeSession
from tests.sweep.fakes import make_answer
from tests.sweep.measured import Measured, grid, list_remaining, setting
from tests.sweep.values import CONFIG

SAME_NUMBERS = {"threads", "decode_threads", "prefill_threads", "speculate", "draft_tokens",
                "power_limit"}  # fmt: skip


@pytest.fixture
def questions(config: Config):
    return draw_questions(load_suite("sample", "test", None, config), seed=4, limit=12)


class Loads:
    """Loads a fake model for each setting, and keeps which were loaded."""

    def __init__(self, failing: str = "") -> None:
        self.keys: list[str] = []
        self.sessions: list[FakeSession] = []
        self.failing = failing

    def __call__(self, one: Setting) -> FakeSession:
        if one.key == self.failing:
            raise SettingFailed("out of memory")
        self.keys.append(one.key)
        session = FakeSession(ContextOptions(8192, 1, sequences=4, batch_tokens=512))
        self.sessions.append(session)
        return session


@pytest.mark.parametrize("axis", AXES)
def test_only_axes_that_change_numbers_are_measured_apart(axis):
    pair = (setting(**{axis: 1}), setting(**{axis: 2}))
    measured = group_by_numbers(pair)
    same = axis in SAME_NUMBERS
    assert measured == {f"{axis}=1": f"{axis}=1", f"{axis}=2": f"{axis}={1 if same else 2}"}


def test_the_first_setting_of_each_kind_is_measured():
    settings_ = grid(threads=(2, 1), kv_type=("f16", "q8_0"))
    assert group_by_numbers(settings_) == {
        "threads=2 kv_type=f16": "threads=2 kv_type=f16",
        "threads=2 kv_type=q8_0": "threads=2 kv_type=q8_0",
        "threads=1 kv_type=f16": "threads=2 kv_type=f16",
        "threads=1 kv_type=q8_0": "threads=2 kv_type=q8_0",
    }


def test_questions_are_drawn_by_seed(config, questions):
    suite = load_suite("sample", "test", None, config)
    assert questions.count == 12
    assert draw_questions(suite, 4, 12) == questions
    assert draw_questions(suite, 5, 12) != questions
    assert draw_questions(suite, 4).count == sum(suite.sizes.values())
    assert list(questions.numbers.values()) == list(range(12))
    assert all(len(one.examples) <= 5 for one in questions.subjects)


def test_each_kind_of_numbers_answers_every_question_once(questions):
    settings_ = grid(threads=(2, 1), kv_type=("f16", "q8_0"))
    load = Loads()
    answers = list(measure_answers(load, settings_, questions))
    assert load.keys == ["threads=2 kv_type=f16", "threads=2 kv_type=q8_0"]
    assert len(answers) == len(set(answers)) == 24
    asked = {(q.subject, q.row): q for one in questions.subjects for q in one.questions}
    for answer in answers:
        question = asked[answer.subject, answer.row]
        assert answer.choice in "ABCD"
        assert answer.correct == (answer.choice == question.answer)
        assert questions.numbers[answer.subject, answer.row] == answer.number
    assert all(not session.live for session in load.sessions)


@pytest.mark.parametrize("stop", [0, 1, 7, 12, 13, 23, 24])
def test_a_resume_answers_what_is_missing_alike(questions, stop):
    settings_ = grid(kv_type=("f16", "q8_0"))
    whole = list(measure_answers(Loads(), settings_, questions))
    done = {(answer.setting, answer.number) for answer in whole[:stop]}
    load = Loads()
    assert list(measure_answers(load, settings_, questions, done)) == whole[stop:]
    assert len(load.keys) == (2 if stop < 12 else 1 if stop < 24 else 0)


def test_a_setting_that_cannot_run_is_passed_over(questions):
    settings_ = grid(kv_type=("f16", "q8_0", "q4_0"))
    answers = list(measure_answers(Loads(failing="kv_type=q8_0"), settings_, questions))
    assert {answer.setting for answer in answers} == {"kv_type=f16", "kv_type=q4_0"}


def test_a_stop_loses_the_running_question_only(questions):
    load = Loads()
    found: list[SettingAnswer] = []
    answers = measure_answers(
        load, grid(kv_type=("f16",)), questions, cancelled=lambda: len(found) == 5
    )
    with pytest.raises(StopRequested):
        found.extend(answers)
    assert len(found) == 5
    assert not load.sessions[0].live


@pytest.mark.slow  # test_workbench.py has a model of 2 MB
def test_the_starter_answers_each_kind_of_numbers(config: Config, starter_model: Path) -> None:
    """Eight questions of the sample with two KV types; only those are loaded."""
    few = draw_questions(load_suite("sample", "test", None, config), seed=0, limit=8)
    config = replace(config, models_dir=starter_model.parent, threads=1, context_tokens=2048)
    spec = load_catalogue(config).models[STARTER]
    loaded: list[str] = []

    def session_for(one: Setting):
        loaded.append(one.key)
        for name in residency.resident:
            list(residency.unload(name))
        return finish_load(
            residency.session(replace(spec, kv_type=one.get("kv_type")), starter_model)
        )[0]

    settings_ = grid(kv_type=("f16", "q8_0"), power_limit=(100, 200))
    residency = Residency(config)
    try:
        answers = list(measure_answers(session_for, settings_, few))
        half = {(answer.setting, answer.number) for answer in answers[:4]}
        again = list(measure_answers(session_for, settings_[:1], few, half))
    finally:
        residency.close()
    keys = ["kv_type=f16 power_limit=100", "kv_type=q8_0 power_limit=100"]
    assert loaded == [*keys, keys[0]]
    assert [(answer.setting, answer.number) for answer in answers] == [
        (key, number) for key in keys for number in range(8)
    ]
    # The groups of a resumed run are the same, so its answers are.
    assert again == answers[4:8]
    assert {answer.choice for answer in answers} <= set("ABCD")


KEYS = ["a", "b", "c", "d"]


def draw(seed: int, share: float, count: int = 200) -> list[bool]:
    return list(np.random.default_rng(seed).random(count) < share)


def test_shares_have_wilsons_interval_and_the_baseline_no_difference():
    found = compare_accuracies(["a"], {"a": [True, False, True, True]}, {}, seed=0)
    assert found["a"].share == wilson(3, 4)
    assert (found["a"].correct, found["a"].questions) == (3, 4)
    assert (found["a"].difference_points, found["a"].p) == (None, None)


def test_a_difference_is_that_of_the_same_questions():
    base = draw(1, 0.6)
    other = [right and at % 5 > 0 for at, right in enumerate(base)]
    found = compare_accuracies(["a", "b"], {"a": base, "b": other}, {}, seed=0)["b"]
    lost = sum(base) - sum(other)
    assert found.difference_points.value == pytest.approx(-100 * lost / 200)
    assert found.difference_points.low < found.difference_points.value < 0
    assert found.difference_points.high < 0
    assert found.p == pytest.approx(mcnemar(lost, 0))


def test_settings_with_the_same_numbers_share_answers_and_one_test():
    answers = {"a": draw(1, 0.6), "c": draw(2, 0.5)}
    measured_as = {"b": "a", "d": "c"}
    found = compare_accuracies(KEYS, answers, measured_as, seed=0)
    assert [found[key].measured_as for key in KEYS] == ["a", "a", "c", "c"]
    same = found["b"].difference_points
    assert (same.value, same.low, same.high, found["b"].p) == (0.0, 0.0, 0.0, 1.0)
    assert found["c"].difference_points == found["d"].difference_points
    only_c = sum(c and not a for a, c in zip(answers["a"], answers["c"], strict=True))
    only_a = sum(a and not c for a, c in zip(answers["a"], answers["c"], strict=True))
    # One comparison, though two settings have its answers.
    assert found["c"].p == found["d"].p == pytest.approx(mcnemar(only_c, only_a))


def test_equal_answers_leave_what_wilson_has_not_excluded():
    base = draw(3, 0.5, 50)
    one = compare_accuracies(["a", "b"], {"a": base, "b": list(base)}, {}, seed=0)["b"]
    assert one.difference_points.value == 0
    unseen = 100 * wilson(0, 50).high
    assert (one.difference_points.low, one.difference_points.high) == (-unseen, unseen)
    assert one.p == 1.0


def test_settings_without_answers_are_left_out_and_no_baseline_has_no_difference():
    found = compare_accuracies(KEYS, {"b": [True, False], "c": []}, {}, seed=0)
    assert list(found) == ["b"]
    assert (found["b"].difference_points, found["b"].p) == (None, None)
    assert compare_accuracies(KEYS, {}, {}, seed=0) == {}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_swapping_the_baseline_flips_the_sign(pairs):
    one, other = ([pair[at] for pair in pairs] for at in (0, 1))
    there = compare_accuracies(["a", "b"], {"a": one, "b": other}, {}, seed=0)["b"]
    back = compare_accuracies(["a", "b"], {"a": other, "b": one}, {}, seed=0)["b"]
    assert back.difference_points.value == pytest.approx(-there.difference_points.value)
    assert back.p == pytest.approx(there.p)
    assert there.difference_points.low <= there.difference_points.value
    assert there.difference_points.value <= there.difference_points.high


def test_intervals_of_differences_hold():
    """Two models with 60 % and 55 %, whose errors are correlated as those of two quantisations."""
    random, held = np.random.default_rng(0), 0
    sweeps = 200
    for _ in range(sweeps):
        hard = random.random(150)
        base = list(hard + 0.1 * random.normal(size=150) < 0.60)
        other = list(hard + 0.1 * random.normal(size=150) < 0.55)
        points = compare_accuracies(["a", "b"], {"a": base, "b": other}, {}, 0)[
            "b"
        ].difference_points
        held += points.low <= -5 <= points.high
    assert held / sweeps >= 0.93


def test_accuracy_reaches_the_result_its_frontier_and_its_notes():
    design = SweepDesign(grid(threads=(1, 2), kv_type=("f16", "q4_0")), halving=False)

    def cost(one, plan):
        return 10.0 / one.get("threads") - (one.get("kv_type") == "q4_0"), 1.0

    base = draw(1, 0.6)
    worse = [right and at % 3 > 0 for at, right in enumerate(base)]
    answers = {"threads=1 kv_type=f16": base, "threads=1 kv_type=q4_0": worse}
    measured_as = {
        "threads=2 kv_type=f16": "threads=1 kv_type=f16",
        "threads=2 kv_type=q4_0": "threads=1 kv_type=q4_0",
    }
    blocks = Measured(cost, noise=0.002).blocks(design)
    result = analyse(design, blocks, answers, measured_as)
    rows = {one.setting: one for one in result.settings}
    assert rows["threads=2 kv_type=q4_0"].accuracy.measured_as == "threads=1 kv_type=q4_0"
    assert rows["threads=2 kv_type=q4_0"].accuracy.p < 0.05
    assert any(
        note.startswith("threads=2 kv_type=q4_0 answers fewer questions right: ")
        for note in result.notes
    )
    assert (
        "accuracy of threads=2 kv_type=f16 is that of threads=1 kv_type=f16, which computes the "
        "same numbers"
    ) in result.notes
    # The fewest joules with fewer right answers, and the fewest joules without.
    frontier = {one.setting for one in result.settings if one.is_on_frontier}
    assert {"threads=2 kv_type=q4_0", "threads=2 kv_type=f16"} <= frontier


MODELS = grid(model=("small", "large"), threads=(1, 2, 3))
MODEL_JOULES: Mapping[tuple[object, object], float] = {
    ("small", 1): 10.0,
    ("small", 2): 8.0,
    ("small", 3): 9.0,
    ("large", 1): 30.0,
    ("large", 2): 24.0,
    ("large", 3): 27.0,
}
"""The goal drops every setting of the large model."""
QUESTIONS = 40


def cost(one: Setting, plan: object) -> tuple[float, float]:
    joules = MODEL_JOULES[one.get("model"), one.get("threads")]
    return joules, joules / 4


DESIGN = SweepDesign(MODELS, seed=1)
SWEEP = replace(CONFIG, design=DESIGN, suite="sample", questions=QUESTIONS)
BLOCKS = Measured(cost, noise=0.003).blocks(DESIGN)


def find_setting(result: SweepResult, key: str) -> SettingResult:
    return next(one for one in result.settings if one.setting == key)


def answer_all(settings: Sequence[Setting]) -> list[SettingAnswer]:
    """The large model answer_all all questions right, the small one every second."""
    return [
        make_answer(one, number, correct=one.get("model") == "large" or number % 2 == 0)
        for one in settings
        for number in range(QUESTIONS)
    ]


def test_a_model_that_the_goal_drops_is_asked_and_joins_the_frontier() -> None:
    assert {one.get("model") for one in list_remaining(DESIGN, BLOCKS)} == {"small"}
    asked = list_asked(DESIGN, BLOCKS)
    assert [one.key for one in asked] == ["model=small threads=1", "model=large threads=2"]
    result = analyse_measured(SWEEP, BLOCKS, answer_all(asked))
    assert result.is_complete
    for threads in (1, 2, 3):
        for model, share in (("small", 0.5), ("large", 1.0)):
            accuracy = find_setting(result, f"model={model} threads={threads}").accuracy
            assert accuracy is not None
            assert accuracy.share.value == share
            assert accuracy.measured_as in [one.key for one in asked]
    frontier = [one.setting for one in result.settings if one.is_on_frontier]
    assert frontier == ["model=small threads=2", "model=large threads=2"]
    large = find_setting(result, "model=large threads=2")
    assert (large.stage, large.dropped_after is not None) == ("race", True)
    (note,) = [text for text in result.notes if "on the frontier" in text]
    assert note.startswith("model=large threads=2 ")
    assert "those of the race" in note
    assert result.best == "model=small threads=2"


def test_a_dropped_model_that_is_no_better_stays_off_the_frontier() -> None:
    same = [
        make_answer(one, number, correct=number % 2 == 0)
        for one in list_asked(DESIGN, BLOCKS)
        for number in range(QUESTIONS)
    ]
    result = analyse_measured(SWEEP, BLOCKS, same)
    assert [one.setting for one in result.settings if one.is_on_frontier] == [
        "model=small threads=2"
    ]
    assert not any("on the frontier as" in text for text in result.notes)


def test_a_sweep_is_incomplete_until_every_kind_is_asked() -> None:
    asked = list_asked(DESIGN, BLOCKS)
    assert not analyse_measured(SWEEP, BLOCKS, answer_all(asked[:1])).is_complete
    assert not analyse_measured(SWEEP, BLOCKS, ()).is_complete


def test_what_cannot_run_is_not_asked() -> None:
    failing = {"model=large threads=2": "out of memory"}
    blocks = Measured(cost, noise=0.003, failing=failing).blocks(DESIGN)
    assert list_asked(DESIGN, blocks)[1].key == "model=large threads=3"
    assert "model=large threads=2" not in choose_answering(DESIGN, blocks)
    every = {f"model=large threads={n}": "out of memory" for n in (1, 2, 3)}
    blocks = Measured(cost, noise=0.003, failing=every).blocks(DESIGN)
    assert [one.key for one in list_asked(DESIGN, blocks)] == ["model=small threads=1"]


def test_a_setting_that_has_answered_already_stays_the_one_of_its_kind() -> None:
    asked = list_asked(DESIGN, BLOCKS, ("model=small threads=3", "model=large threads=3"))
    assert [one.key for one in asked] == ["model=small threads=1", "model=large threads=3"]


def test_the_best_of_a_kind_is_that_of_the_goal() -> None:
    def fast(one: Setting, plan: object) -> tuple[float, float]:
        return cost(one, plan)[0], {1: 1.0, 2: 2.0, 3: 3.0}[int(one.get("threads") or 0)]

    design = SweepDesign(MODELS, Goal("joules", 10.0), seed=1)
    blocks = Measured(fast, noise=0.003).blocks(design)
    assert list_asked(design, blocks)[1].key == "model=large threads=1"
