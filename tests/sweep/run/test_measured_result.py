"""Which settings answer the questions of a suite, and what their accuracy puts on the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from etui.sweep._accuracy import analyse_measured, choose_answering, list_asked
from etui.sweep.blocks import SettingAnswer
from etui.sweep.config import Goal, Setting
from etui.sweep.race import SweepDesign
from etui.sweep.result import SettingResult, SweepResult
from tests.sweep.fakes import make_answer
from tests.sweep.measured import Measured, grid, list_remaining
from tests.sweep.values import CONFIG

SETTINGS = grid(model=("small", "large"), threads=(1, 2, 3))
JOULES: Mapping[tuple[object, object], float] = {
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
    joules = JOULES[one.get("model"), one.get("threads")]
    return joules, joules / 4


DESIGN = SweepDesign(SETTINGS, seed=1)
SWEEP = replace(CONFIG, design=DESIGN, suite="sample", questions=QUESTIONS)
BLOCKS = Measured(cost, noise=0.003).blocks(DESIGN)


def find(result: SweepResult, key: str) -> SettingResult:
    return next(one for one in result.settings if one.setting == key)


def answers(settings: Sequence[Setting]) -> list[SettingAnswer]:
    """The large model answers all questions right, the small one every second."""
    return [
        make_answer(one, number, correct=one.get("model") == "large" or number % 2 == 0)
        for one in settings
        for number in range(QUESTIONS)
    ]


def test_a_model_that_the_goal_drops_is_asked_and_joins_the_frontier() -> None:
    assert {one.get("model") for one in list_remaining(DESIGN, BLOCKS)} == {"small"}
    asked = list_asked(DESIGN, BLOCKS)
    assert [one.key for one in asked] == ["model=small threads=1", "model=large threads=2"]
    result = analyse_measured(SWEEP, BLOCKS, answers(asked))
    assert result.is_complete
    for threads in (1, 2, 3):
        for model, share in (("small", 0.5), ("large", 1.0)):
            accuracy = find(result, f"model={model} threads={threads}").accuracy
            assert accuracy is not None
            assert accuracy.share.value == share
            assert accuracy.measured_as in [one.key for one in asked]
    frontier = [one.setting for one in result.settings if one.is_on_frontier]
    assert frontier == ["model=small threads=2", "model=large threads=2"]
    large = find(result, "model=large threads=2")
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
    assert not analyse_measured(SWEEP, BLOCKS, answers(asked[:1])).is_complete
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

    design = SweepDesign(SETTINGS, Goal("joules", 10.0), seed=1)
    blocks = Measured(fast, noise=0.003).blocks(design)
    assert list_asked(design, blocks)[1].key == "model=large threads=1"
