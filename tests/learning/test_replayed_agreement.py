"""A policy with `agree` over tables of answers: who answers, what it costs, what is not known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etui.learning.confidence import find_agreed
from etui.learning.graded import Graded
from etui.learning.policy_replay import replay_policy
from etui.learning.predictor import AccuracyPredictor
from etui.routing.library import check_text
from etui.routing.question_text import QuestionText
from etui.yaml.named_files import NamedFile
from tests.learning.test_commands import call, run

TEXT = """
version: 1
description: d
models: {small: [smollm2-135m], middle: [qwen2.5-coder-0.5b], large: [qwen2.5-coder-1.5b]}
arms:
  small: {model: small}
  middle: {model: middle}
  large: {model: large}
rules:
  - name: agree
    cascade: {arms: [{agree: [small, middle], accept: ACCEPT}, large], accept_at: 0.7}
"""
COST = (1.0, 3.0, 8.0)


def policy(accept: float = 0.6, max_joules: int | None = None):
    models = ("smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
    text = TEXT.replace("ACCEPT", str(accept))
    if max_joules is not None:
        text = text.replace("accept_at: 0.7", f"accept_at: 0.7, max_joules: {max_joules}")
    found = check_text(text, NamedFile("p", Path("p.yaml"), "file"), models)
    assert found.policy is not None, found.errors
    return found.policy


def table(count: int = 200, seed: int = 3) -> Graded:
    """Two small arms that are more often right where they agree, and a large one."""
    draw = np.random.default_rng(seed)
    easy = draw.uniform(size=count) < 0.5
    chance = np.stack([np.where(easy, 0.8, 0.3), np.where(easy, 0.85, 0.35), np.full(count, 0.9)])
    right = draw.uniform(size=(count, 3)) < chance.T
    wrong = draw.integers(1, 4, size=(count, 3))
    answers = np.where(right, 0, wrong)
    answers[:5, 0] = -1  # a few have no letter
    return Graded(
        ("small", "middle", "large"),
        ("s",) * count,
        tuple(range(count)),
        tuple(QuestionText(f"Question {at}?", ("w", "x", "y", "z")) for at in range(count)),
        answers == 0,
        joules=np.tile(COST, (count, 1)),
        confidence=draw.uniform(0.3, 0.6, (count, 3)),
        answers=answers.astype(np.int64),
    )


def test_agreed_answers_are_taken_and_every_arm_that_answered_is_charged():
    graded = table()
    routed = replay_policy(policy(), graded, graded.joules, label="J")
    agree = find_agreed(graded, ("small", "middle")).agree
    silent = graded.answers[:, 0] < 0  # without a letter there is nothing to agree with
    assert (routed.chosen == np.where(agree, 1, 2)).all()
    assert (routed.cost == np.where(agree, 4.0, np.where(silent, 9.0, 12.0))).all()
    assert (routed.hops == np.where(agree, 2, np.where(silent, 2, 3))).all()
    # Accuracy of the small arms where they agree, and of the large one elsewhere.
    assert routed.correct.mean() == pytest.approx(
        (graded.correct[agree, 1].sum() + graded.correct[~agree, 2].sum()) / len(graded)
    )


def test_an_acceptance_that_agreed_answers_do_not_reach_asks_the_large_arm_alone():
    graded = table()
    routed = replay_policy(policy(0.99), graded, graded.joules, label="J")
    assert set(routed.cost.tolist()) == {8.0}
    # With a limit that may forbid the large arm, the others are asked as well.
    limited = replay_policy(policy(0.99, 50), graded, graded.joules, label="J")
    assert set(limited.cost.tolist()) == {9.0, 12.0}
    assert (limited.chosen == routed.chosen).all()


def test_of_right_and_wrong_alone_agreement_is_bounded_and_the_report_says_so():
    graded = replace(table(), answers=None)
    routed = replay_policy(policy(0.4), graded, graded.joules, label="J")
    both_wrong = int((~graded.correct[:, :2]).all(axis=1).sum())
    full = replay_policy(policy(0.4), table(), graded.joules, label="J")
    assert routed.correct.mean() <= full.correct.mean()
    assert routed.cost.mean() <= full.cost.mean()
    assert f"on {both_wrong} questions all arms of `agree` are wrong" in routed.notes[0]
    strict = replay_policy(policy(0.75), graded, graded.joules, label="J")
    assert set(strict.chosen.tolist()) == {2}
    assert "only show the least that it can be right" in strict.notes[0]


def test_without_confidence_a_step_is_still_walked():
    graded = replace(table(), confidence=None)
    routed = replay_policy(policy(), graded, graded.joules, label="J")
    assert set(routed.chosen.tolist()) == {1, 2}
    assert "an arm that answers alone is never sure enough" in routed.notes[0]


def test_an_answer_without_a_letter_is_not_accepted_where_a_turn_would_not():
    text = TEXT.replace("{agree: [small, middle], accept: ACCEPT}", "small").replace("0.7", "0.2")
    again = text + "fallbacks: {no_answer: ask_constrained}\n"
    graded = table()
    notes = {}
    for name, written in (("keep", text), ("again", again)):
        models = ("smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
        found = check_text(written, NamedFile(name, Path("p.yaml"), "file"), models).policy
        assert found is not None
        routed = replay_policy(found, graded, graded.joules, label="J", heads=NO_HEADS)
        notes[name] = routed.notes
        # All confidences exceed 20 %; only the five answers without a letter are left.
        assert int((routed.chosen == 2).sum()) == (0 if name == "keep" else 5)
    assert notes["keep"] == ()
    assert notes["again"] == (
        "5 answers have no letter: a turn asks for it once more (no_answer: ask_constrained), "
        "which is not in the cost",
    )


class _NoHeads(AccuracyPredictor):
    def __init__(self) -> None:
        pass

    def accuracy(self, *_):
        return None

    calibrated = agreement = accuracy


NO_HEADS = _NoHeads()


def write(folder: Path) -> Path:
    path = folder / "outcomes.csv"
    lines = ["subject,row,small,middle,large"]
    lines += [
        f"s,{at},{','.join(str(int(v)) for v in row)}" for at, row in enumerate(table().correct)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fit_says_what_agreement_is_worth_and_what_is_not_known(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(TEXT.replace("ACCEPT", "0.6"))
    result = run("fit", file, "--outcomes", write(tmp_path), "--json")
    document = json.loads(result.stdout)
    (found,) = document["agreements"]
    assert (found["arms"], found["known"], found["curve"]) == (["small", "middle"], False, None)
    assert 0.3 < found["agreed"]["p"] < found["agreed"]["high"]
    assert any(
        "whether two wrong answers are the same is not known" in n for n in document["notes"]
    )
    assert any("60 % required, so never accepted" in note for note in document["notes"])
    file.write_text(TEXT.replace("ACCEPT", "0.2"))
    shown = call("fit", file, "--outcomes", write(tmp_path))
    assert "never accepted" not in shown.output
    assert "small and middle  200        unknown" in shown.output
    assert "at least" in shown.output


def test_stated_costs_say_what_they_may_leave_out(tmp_path):
    costs = ("--costs", "small=1,middle=3,large=8")
    document = json.loads(run("replay", "--outcomes", write(tmp_path), *costs, "--json").stdout)
    assert any("the votes and probes of an arm" in note for note in document["notes"])
