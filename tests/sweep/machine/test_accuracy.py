"""Questions answered by setting: which ones, resumed, and with a real model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from etui.bench.setup import finish_load
from etui.config.config import Config
from etui.datasets.suites import load_suite
from etui.engine.context import ContextOptions
from etui.engine.residency import Residency
from etui.measure.run import StopRequested
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.sweep._accuracy import draw_questions, group_by_numbers, measure_answers
from etui.sweep.blocks import SettingAnswer, SettingFailed
from etui.sweep.config import AXES, Setting
from tests.bench.fake_engine import FakeSession
from tests.sweep.measured import grid, setting

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
