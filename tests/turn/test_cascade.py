"""A cascade: who is asked next, whose answer stands, and that every hop is paid for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.errors import EngineFailed, ModelUnavailable
from etui.events import Answer
from etui.log.text import format_turn
from etui.turn.events import HopEnded, HopStarted, TurnFinished
from etui.turn.text import energy_line
from tests.turn.scripted import Meter10W, Saved
from tests.turn.stage import LARGE, QUICK, THINK, Known, Part, Stage, decided, play

CASCADE = decided(QUICK, LARGE)


def two(first: float | None = 0.5, second: float | None = 0.9, **large) -> Stage:
    return Stage(
        {
            "quick": Part("Venus.", first),
            "large": Part("Mars.", second, **{"load": 3.0, "decode": 4.0, **large}),
        }
    )


def test_a_sure_answer_ends_the_cascade_at_its_first_hop():
    played = play(two(first=0.8), CASCADE)
    record = played.record
    assert (record.answer, record.arm, len(record.hops)) == ("Venus.", "quick", 1)
    (ended,) = played.of(HopEnded)
    assert (ended.accepted, ended.taken, ended.confidence) == (True, True, 0.8)
    assert ended.why == "80 % confident (uncalibrated), 75 % required"
    assert record.why == "rule: because; quick 80 % confident (uncalibrated), 75 % required"
    assert "hops" not in energy_line(record)


def test_an_unsure_answer_is_replaced_and_both_hops_are_paid_for():
    stage = two()
    played = play(stage, CASCADE)
    record = played.record
    assert (record.answer, record.arm, record.model) == ("Mars.", "large", "big")
    assert record.model_sha256 == "big" * 8
    # 1 + 2 s of quick, half a second between, 3 s of load left out, 1 + 4 s of large: at 10 W.
    assert record.energy.joules == pytest.approx(10 * (3 + 0.5 + 5))
    assert record.energy.phases == pytest.approx({"load": 30, "prefill": 25, "decode": 60})
    assert record.energy.net_joules == pytest.approx(85 - 4 * 8.5)
    assert record.energy.mean_watts == pytest.approx(10)
    assert record.energy.channels == {"gpu:0": pytest.approx(85)}
    assert record.energy.coverage == pytest.approx(1.0)
    assert record.seconds.total == pytest.approx(8.5)
    assert record.seconds.load == 3
    assert record.seconds.ttft == pytest.approx(3 + 0.5 + 1)
    assert (record.tokens.prompt, record.tokens.output) == (40, 8)
    assert [load.joules for load in played.saved.loads] == [pytest.approx(30)]
    assert played.saved.loads[0].model_sha256 == "big" * 8


def test_hops_of_the_record_sum_to_the_turn_and_go_to_json():
    record = play(two(), CASCADE, predictor=Known({"quick": 20.0, "large": 40.0})).record
    first, second = record.to_json()["hops"]
    assert first["joules"] + second["joules"] == pytest.approx(record.energy.joules)
    assert first["seconds"] + second["seconds"] == pytest.approx(record.seconds.total)
    assert (first["load_joules"], second["load_joules"]) == (0.0, pytest.approx(30))
    assert (first["answer"], second["answer"]) == ("Venus.", "Mars.")
    assert (first["accepted"], first["taken"]) == (False, False)
    assert (second["probability"], second["confidence"]) == (0.45, 0.9)
    assert first["tokens"]["output"] == 4
    assert first["why"] == "25 % sure, 75 % required, continuing with large"
    assert record.predicted_joules == 60.0
    assert "2 hops: quick 30.0 J, large 55.0 J" in energy_line(record)
    shown = "\n".join(format_turn(record, []))
    assert "quick (direct) on small; 25 % sure" in shown
    assert "✓ large (direct) on big" in shown


def test_an_estimated_hop_beside_an_unmeasured_one_is_called_an_estimate():
    record = play(two(), CASCADE, predictor=Known({"quick": 20.0, "large": 40.0})).record
    first, second = record.hops
    assert (first.kind, second.kind) == ("counter", "counter")
    hops = (replace(first, joules=None, kind=None), replace(second, kind="estimate"))
    record = replace(record, hops=hops, energy=replace(record.energy, joules=None, kind=None))
    assert "2 hops: quick unmeasured, large ≈55 J" in energy_line(record)
    assert "≈55 J" in "\n".join(format_turn(record, []))


def test_events_tell_which_text_belongs_to_which_hop():
    events = play(two(), CASCADE).events
    marks = [e for e in events if isinstance(e, HopStarted | HopEnded | TurnFinished)]
    assert [type(mark).__name__ for mark in marks] == [
        *("HopStarted", "HopEnded", "HopStarted", "HopEnded", "TurnFinished")
    ]
    first, second = [m for m in marks if isinstance(m, HopStarted)]
    assert (first.number, first.arm, second.number, second.model) == (1, "quick", 2, "big")
    assert second.why == "quick was 50 % confident (uncalibrated)"
    ended = [m for m in marks if isinstance(m, HopEnded)]
    assert [(e.accepted, e.taken) for e in ended] == [(False, False), (True, True)]
    assert ended[0].joules == pytest.approx(30)


def test_where_none_is_sure_the_likeliest_answer_stands():
    played = play(two(first=0.6, second=0.4), CASCADE, predictor=Known())
    assert played.record.answer == "Venus."
    assert played.record.arm == "quick"
    assert [hop.taken for hop in played.record.hops] == [True, False]
    assert "the answer of quick is used" in played.record.why
    assert played.of(HopEnded)[-1].taken is False


def test_a_probability_of_nothing_is_a_probability():
    record = play(two(first=0.2, second=0.0), CASCADE, predictor=Known()).record
    assert (record.answer, record.hops[1].probability) == ("Venus.", 0.0)


def test_raw_confidences_are_not_compared_and_the_later_answer_stands():
    record = play(two(first=0.6, second=0.4), CASCADE).record
    assert (record.answer, record.hops[1].accepted) == ("Mars.", False)


def test_no_more_hops_than_allowed():
    record = play(two(), decided(QUICK, LARGE, THINK, max_hops=1)).record
    assert record.answer == "Venus."
    assert "large skipped: the cascade is limited to 1 hop" in record.why


@pytest.mark.parametrize(
    ("limit", "predicted", "hops"),
    [(100.0, 60.0, 2), (80.0, 60.0, 1), (30.0, None, 1), (31.0, None, 2)],
)
def test_no_hop_begins_past_the_joules_of_the_cascade(limit, predicted, hops):
    predictor = Known({"large": predicted} if predicted else {})
    record = play(two(), decided(QUICK, LARGE, max_joules=limit), predictor=predictor).record
    assert len(record.hops) == hops
    if hops == 1:
        assert record.answer == "Venus."
        assert "large skipped" in record.why


def test_the_load_of_the_next_model_is_part_of_its_price():
    decision = decided(QUICK, LARGE, max_joules=100)
    record = play(two(), decision, predictor=Known({"large": 60.0}, load=20.0)).record
    assert len(record.hops) == 1
    assert "it would cost ≈80 J, but only 70" in record.why


def test_a_later_hop_that_crashes_leaves_the_answer_there_was():
    stage = two(failure=EngineFailed("the engine died", "ask again"), fails_at="decode")
    played = play(stage, CASCADE)
    record = played.record
    assert played.error is None
    assert (record.status, record.answer, record.arm) == ("complete", "Venus.", "quick")
    # 3 s of quick, half a second between, 1 s of prefill and the one token that came.
    assert record.energy.joules == pytest.approx(10 * (3 + 0.5 + 1 + 1))
    assert (record.hops[1].status, record.hops[1].joules) == ("error", pytest.approx(25))
    assert "large failed: the engine died; the answer of quick is used" in record.why


def test_a_first_hop_that_crashes_is_followed_by_the_next():
    stage = two()
    stage.parts["quick"] = Part(failure=EngineFailed("gone"), fails_at="decode")
    record = play(stage, CASCADE).record
    assert (record.answer, [hop.status for hop in record.hops]) == ("Mars.", ["error", "complete"])


def test_where_every_hop_fails_the_turn_fails_and_is_saved():
    stage = two(failure=EngineFailed("gone too"), fails_at="decode")
    stage.parts["quick"] = Part(failure=EngineFailed("gone"), fails_at="decode")
    played = play(stage, CASCADE)
    assert (played.record.status, played.record.error) == ("error", "gone too")
    assert str(played.error) == "gone too"
    assert len(played.record.hops) == 2


def test_a_model_that_is_not_there_is_passed_over():
    stage = two()
    stage.missing["small"] = ModelUnavailable("small is not on this machine", "pull it")
    record = play(stage, decided(QUICK, THINK, LARGE)).record
    assert [hop.arm for hop in record.hops] == ["quick", "large"]  # think is of the same model
    assert record.answer == "Mars."


def test_stopped_in_the_second_hop_keeps_its_text():
    stage = two(status="stopped", why="stopped while answering")
    record = play(stage, CASCADE).record
    assert (record.status, record.answer, record.arm) == ("stopped", "Mars.", "large")
    assert record.hops[0].answer == "Venus."


def test_stopped_before_the_second_hop_said_anything_keeps_the_first():
    stage = two(status="stopped")
    stage.parts["large"].answer = ""
    record = play(stage, CASCADE).record
    assert (record.status, record.answer, record.arm) == ("stopped", "Venus.", "quick")


def test_a_stop_between_two_hops_asks_no_further_arm():
    stage, stopped = two(), []
    played = play(
        stage,
        CASCADE,
        cancelled=lambda: bool(stopped),
        seen=lambda event: stopped.append(1) if isinstance(event, Answer) else None,
    )
    assert len(stage.requests) == 1
    assert stage.cancelled == 1
    assert (played.record.status, played.record.answer) == ("stopped", "Venus.")


@pytest.mark.parametrize(
    ("left", "status", "error"),
    [
        (KeyboardInterrupt(), "stopped", None),
        (ZeroDivisionError("by zero"), "error", "ZeroDivisionError: by zero"),
    ],
)
def test_leaving_in_the_second_hop_saves_both(left, status, error):
    saved = Saved()
    with pytest.raises(type(left)):
        play(two(failure=left, fails_at="decode"), CASCADE, saved=saved)
    (record,) = saved.turns
    assert (record.status, record.error) == (status, error)
    assert [hop.answer for hop in record.hops] == ["Venus.", ""]
    assert record.energy.joules == pytest.approx(10 * (3 + 0.5 + 1 + 1))
    assert record.answer == "Venus."


def test_an_answer_that_was_cut_off_is_not_taken_for_sure():
    stage = two(first=0.99)
    stage.parts["quick"].status = "truncated"
    assert play(stage, CASCADE).record.answer == "Mars."


def test_unmeasured_hops_have_no_joules_and_forbid_nothing():
    decision = decided(QUICK, LARGE, max_joules=1)
    played = play(two(), decision, meter=Meter10W(joules_known=False))
    record = played.record
    assert len(record.hops) == 2
    assert record.energy.joules is None
    assert [hop.joules for hop in record.hops] == [None, None]
    assert set(record.energy.phases.values()) == {None}


def test_an_unload_between_hops_is_outside_the_joules():
    stage = two(unload=2.0)
    record = play(stage, CASCADE).record
    assert record.energy.joules == pytest.approx(85)
    assert record.seconds.total == pytest.approx(8.5)
