"""Bench runs as a table, and the log again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from etui.arm import Arm
from etui.bench.folder import RunFolder
from etui.bench.graded_runs import read_runs
from etui.errors import EtuiError, UsageError
from etui.learning.log_replay import arm_from_turn, build_turns_document, replay_turns
from etui.routing.decision import Agreement, Cascade, Decision, PredictedAccuracy, PredictedJoules
from tests.bench import synthetic


def write(folder, run, seed=0, **options):
    made = RunFolder.start(folder, run)
    made.add_samples(list(synthetic.samples(run, seed, **options)))
    made.close()
    return folder


def test_runs_of_several_arms_are_one_table(tmp_path, config):
    both = write(tmp_path / "a", synthetic.config(("direct", "think"), per_subject=2))
    large = write(tmp_path / "b", synthetic.config(("large",), per_subject=2), seed=5)
    found = read_runs([both, large], config)
    assert found.graded.arms == ("direct", "think", "large")
    assert found.graded.joules.shape == (2 * 57, 3)
    assert found.graded.facts["large"].model == "large"
    assert (found.kinds, found.repeats) == (("counter",), None)
    assert any("texts of the questions were not found" in note for note in found.notes)


def test_a_second_run_of_the_same_arms_is_a_repeat(tmp_path, config):
    run = synthetic.config(("direct", "large"), per_subject=2)
    first = write(tmp_path / "a", run)
    second = write(tmp_path / "b", replace(run, run_id="again"), seed=7)
    found = read_runs([first, second], config)
    assert found.repeats is not None
    assert found.repeats.subjects == found.graded.subjects
    assert (found.repeats.correct != found.graded.correct).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"large": {"model": "large"}}, "data_sha256": "0"}, "other questions"),
        ({"arms": {"direct": {"model": "large"}}}, "arm direct is small in one run and large"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, config, changes, said):
    run = synthetic.config(("direct",), per_subject=1)
    folders = [write(tmp_path / "a", run), write(tmp_path / "b", replace(run, **changes))]
    with pytest.raises(UsageError, match=said):
        read_runs(folders, config)


def test_numbers_are_of_the_same_question(tmp_path, config):
    run = synthetic.config(("direct", "large"), per_subject=2)
    found = read_runs([write(tmp_path / "a", run)], config).graded
    samples = {(s.arm, s.subject, s.row): s for s in synthetic.samples(run)}
    for at, key in enumerate(zip(found.subjects, found.rows, strict=True)):
        first, second = pair = [samples[(arm, *key)] for arm in found.arms]
        # Answers are numbers that are equal where the answers are, and -1 without one.
        assert (found.answers[at, 0] == found.answers[at, 1]) == (first.choice == second.choice)
        assert (found.answers[at, 0] >= 0) == (first.choice is not None)
        assert found.correct[at].tolist() == [each.correct for each in pair]
        assert found.joules[at].tolist() == [each.joules for each in pair]
        margins = np.array([each.margin for each in pair], dtype=float)
        seen = np.full(2, np.nan) if found.margin is None else found.margin[at]
        assert np.array_equal(seen, margins, equal_nan=True)
    write(tmp_path / "b", run, kind=None)
    assert read_runs([tmp_path / "b"], config).graded.joules is None


def turn(number, query, arm="quick", joules=5.0, answer="yes", chat="c", hops=()):
    return SimpleNamespace(
        turn_id=f"t{number}",
        chat_id=chat,
        parent_id=f"t{number - 1}",
        query=query,
        system=None,
        answer=answer,
        arm=arm,
        model="small",
        reasoning="direct",
        settings={},
        first_hop=hops[0] if hops else None,
        joules=joules,
        kind="counter" if joules else None,
    )


class Known:
    """Joules and accuracies by the name of the arm."""

    def joules(self, arm, query):
        per = {"quick": 2.0, "think": 30.0}.get(arm.name)
        return None if per is None else PredictedJoules(100.0, 1.0, per)

    def accuracy(self, arm, query, confidence):
        p = {"quick": 0.5, "think": 0.9}[arm.name]
        return PredictedAccuracy(p, p - 0.1, confidence, 100, "fitted")


def test_the_log_again():
    seen = []

    def decide(query):
        seen.append(query)
        if "17" in query.text:
            return Decision(Arm("think", "small", "cot"), "p", "r", "numbers")
        if "?" not in query.text:
            raise EtuiError("no arm for this", "")
        return Decision(Arm("quick", "small"), "p", "r", "rest")

    turns = [turn(1, "What is 17*23?"), turn(2, "Capital?"), turn(3, "Hi", joules=None)]
    replayed = replay_turns(turns, decide, Known())
    document = build_turns_document("p", replayed)
    assert (document["n"], document["moved"], document["undecided"]) == (3, 1, 1)
    assert document["moves"] == [{"from": "quick on small", "to": "think on small", "n": 1}]
    joules = document["joules"]
    assert joules["measured"] == 10.0
    # The third has no arm now, so it is on neither side; loads are left out.
    assert (joules["predicted_before"], joules["predicted_after"]) == (6.0, 34.0)
    accuracy = document["accuracy"]
    assert accuracy["predicted_before"] == 0.5
    assert accuracy["predicted_after"] == pytest.approx(0.7)
    assert [message.content for message in seen[1].history] == ["What is 17*23?", "yes"]


def test_a_cascade_that_would_begin_as_it_began_moves_nothing():
    arms = (Arm("quick", "small"), Arm("think", "small", "cot"))

    def decide(query):
        return Decision(arms[0], "p", "r", "why", cascade=Cascade(arms, 0.75, 2, None))

    hops = tuple((arm.name, arm.model) for arm in arms)
    turns = [turn(1, "up?", arm="think", hops=hops), turn(2, "direct?", arm="think")]
    went_up, did_not = replay_turns(turns, decide, Known())
    assert (went_up.moves, went_up.predicted_after) == (False, 31.0)
    assert (did_not.moves, did_not.predicted_after) == (True, 3.0)


def test_a_turn_that_stays_is_predicted_with_the_budget_it_had():
    class ByBudget(Known):
        def joules(self, arm, query):
            return PredictedJoules(0.0, 0.0, float(arm.max_tokens))

    short = turn(1, "Capital?")
    short.settings = {"max_tokens": 12}
    decision = Decision(Arm("quick", "small", max_tokens=512), "p", "r", "rest")
    (again,) = replay_turns([short], lambda query: decision, ByBudget())
    assert not again.moves
    assert again.predicted_before == again.predicted_after == 12.0


def test_the_arm_from_turn_a_turn_keeps_its_budget():
    logged = turn(1, "q")
    logged.reasoning, logged.settings = "cot", {"think_tokens": 64, "max_tokens": 32, "votes": 0}
    assert arm_from_turn(logged) == Arm("quick", "small", "cot", think_tokens=64, max_tokens=32)
    logged.settings["speculate"] = "lookup"
    assert arm_from_turn(logged).speculate == "lookup"


def test_arms_that_have_to_agree_are_predicted_together():
    quick, think = Arm("quick", "small"), Arm("think", "small", "cot")
    cascade = Cascade(
        (quick, think, Arm("large", "big")), 0.7, 3, None, (Agreement(("quick", "think"), 0.7),)
    )
    decision = Decision(quick, "p", "r", "both", cascade=cascade)
    (one,) = replay_turns([turn(1, "Capital?", arm="think")], lambda query: decision, Known())
    assert one.predicted_after == 34.0
    (same,) = replay_turns([turn(1, "Capital?", arm="quick")], lambda query: decision, Known())
    assert (same.predicted_before, same.predicted_after) == (3.0, 34.0)
    begun = turn(1, "Capital?", arm="think", hops=[("quick", "small"), ("think", "small")])
    (again,) = replay_turns([begun], lambda query: decision, Known())
    assert again.predicted_after == again.predicted_before == 31.0
