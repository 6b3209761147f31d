"""run_turn: whatever way an answer ends, its interval is closed and the turn saved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from etui.chat import Message, Query
from etui.energy.types import Energy
from etui.errors import EngineFailed
from etui.events import Answer, Batch, Prefilled, Prefilling, Probe, Vote
from etui.log.text import format_turn
from etui.text import SEPARATOR
from etui.turn.events import Decided, TurnFinished
from etui.turn.text import energy_line, price_line, shared_text
from tests.fixtures.turns import TURN
from tests.turn.scripted import (
    DECISION,
    EVENTS,
    LOADED,
    Meter10W,
    S,
    Saved,
    Scripted,
    finished,
    turn,
)


def test_events_pass_through_between_the_decision_and_the_record():
    saved = Saved()
    events = list(turn(Scripted([*EVENTS, finished()]), saved=saved))
    assert events[0] == Decided(DECISION)
    assert events[1:-1] == [*EVENTS, finished()]
    assert events[-1] == TurnFinished(saved.turns[0])


def test_phases_sum_to_the_turn_and_the_load_lies_outside():
    saved, meter = Saved(), Meter10W()
    list(turn(Scripted([*EVENTS, finished()]), meter, saved))
    energy, seconds = saved.turns[0].energy, saved.turns[0].seconds
    assert energy.joules == pytest.approx(50)
    assert energy.phases == pytest.approx({"load": 30, "prefill": 10, "decode": 40})
    assert energy.thinking_joules == pytest.approx(20)
    assert energy.net_joules == pytest.approx(50 - 4 * 5)
    assert energy.joules_per_token == pytest.approx(50 / 8)
    assert (energy.start_ns, energy.end_ns) == (10 * S, 15 * S)
    assert (seconds.load, seconds.total, seconds.ttft) == (3, 5, 1)
    assert meter.settled == [15 * S]


def test_a_load_is_a_row_of_its_own():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), saved=saved))
    (load,) = saved.loads
    assert (load.model, load.turn_id, load.seconds) == ("m", saved.turns[0].turn_id, 3)
    assert load.joules == pytest.approx(30)


def test_a_resident_model_loads_nothing():
    saved = Saved()
    list(turn(Scripted([*EVENTS[1:], finished()]), saved=saved))
    assert saved.loads == []
    assert saved.turns[0].energy.phases["load"] == 0.0


def test_unmeasured_is_none_and_never_zero():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), Meter10W(joules_known=False), saved))
    energy = saved.turns[0].energy
    assert energy.joules is None
    assert energy.joules_per_token is None
    assert energy.thinking_joules is None
    assert set(energy.phases.values()) == {None}
    assert energy.unmeasured == ("package:0",)


@dataclass
class SharedGpu(Meter10W):
    """Others used the GPU, too, and the driver may not tell processes apart."""

    own_joules: float | None

    def settle(self, end_ns: int) -> None:
        pass

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        whole = Meter10W().energy(start_ns, end_ns)
        return replace(whole, flags=("coarse", "shared"), own_joules=self.own_joules)


@pytest.mark.parametrize(
    ("own_joules", "said"),
    [
        (12.0, "counts other programs on the GPU (etui's own 12.0 J)"),
        (None, "counts other programs on the GPU"),
    ],
)
def test_a_shared_gpu_is_told_and_its_gross_joules_stay(own_joules, said):
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), SharedGpu(own_joules), saved))
    (record,) = saved.turns
    told = record.to_json()["energy"]
    assert (told["shared"], told["own_joules"], told["joules"]) == (True, own_joules, 50)
    assert said in energy_line(record).split(SEPARATOR)
    assert f"shared {said}" in [" ".join(line.split()) for line in format_turn(record, [])]


@pytest.mark.parametrize(
    ("channels", "named"),
    [
        ({"estimate:cpu": 5.0}, "CPU"),
        ({"desk/estimate:cpu": 5.0}, "CPU"),
        ({"desk/gpu:GPU-1": 5.0}, "GPU"),
        ({"desk/gpu:GPU-1": 5.0, "estimate:cpu": 5.0}, "GPU or CPU"),
    ],
)
def test_what_is_shared_is_named_on_another_machine_too(channels, named):
    energy = replace(TURN.energy, channels=channels, own_joules=None)
    assert shared_text(energy) == f"counts other programs on the {named}"


@pytest.mark.parametrize(
    ("changes", "energy", "shown"),
    [
        ({}, {}, "≈42 J · 0.66 J/tok · 64 tok · 30.0 tok/s"),
        ({"status": "truncated"}, {}, "≈42 J · 0.66 J/tok · 64 tok · 30.0 tok/s · "
                                      "■ stopped at 64 tokens · m = continue"),
        ({"predicted_joules": 3.9}, {}, "≈42 J · 0.66 J/tok · 64 tok · 30.0 tok/s · "
                                        "10.8× the forecast (3.90 J)"),
        ({"predicted_joules": 3.9, "settings": {"continues": "turn-1"}}, {},
         "≈42 J · 0.66 J/tok · 64 tok · 30.0 tok/s"),
        ({"predicted_joules": 390.0, "status": "stopped"}, {},
         "≈42 J · 0.66 J/tok · 64 tok · 30.0 tok/s · ■ stopped · m = continue"),
        ({"predicted_joules": 40.0}, {}, "≈42 J · 0.66 J/tok · 64 tok · 30.0 tok/s"),
        ({}, {"shared": True, "own_joules": 9.87}, "≈42 J · 0.66 J/tok · 64 tok · 30.0 tok/s · "
         "counts other programs on the CPU (etui's own ≈9.9 J)"),
        ({}, {"joules": None, "joules_per_token": None},
         "energy unmeasured · 64 tok · 30.0 tok/s"),
    ],
)  # fmt: skip
def test_the_price_is_one_line_and_notes_follow_only_where_they_matter(changes, energy, shown):
    estimate = {
        "kind": "estimate", "joules": 42.1, "joules_per_token": 0.658,
        "channels": {"estimate:cpu": 42.1}, "shared": False, "own_joules": None,
    }  # fmt: skip
    record = replace(
        TURN,
        energy=replace(TURN.energy, **estimate | energy),
        tokens=replace(TURN.tokens, output=64),
        seconds=replace(TURN.seconds, decode=64 / 30),
        **{"answer": "Paris", "status": "complete", "predicted_joules": None} | changes,
    )
    assert price_line(record) == shown


def test_a_gpu_of_ones_own_is_not_called_shared():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), saved=saved))
    (record,) = saved.turns
    told = record.to_json()["energy"]
    assert (told["shared"], told["own_joules"]) == (False, None)
    assert "shared" not in energy_line(record)
    assert "shared" not in "\n".join(format_turn(record, []))


def test_a_crash_keeps_the_text_and_the_joules_and_is_told():
    saved = Saved()
    events: list = []
    failure = EngineFailed("the engine died", "ask again")
    with pytest.raises(EngineFailed, match="the engine died"):
        events.extend(turn(Scripted(EVENTS, failure), saved=saved))
    (record,) = saved.turns
    assert isinstance(events[-1], TurnFinished)
    assert (record.status, record.error) == ("error", "the engine died")
    assert (record.answer, record.thinking) == ("Four.", "Two and two.")
    assert record.tokens.output == 8
    assert record.energy.joules == pytest.approx(60)  # to the moment it fell silent
    assert record.energy.phases["prefill"] + record.energy.phases["decode"] == pytest.approx(60)


def test_a_failure_in_mid_prefill_counts_what_was_computed():
    saved = Saved()
    partial = [LOADED, Prefilling(12 * S, 512, 2000)]
    with pytest.raises(EngineFailed):
        list(turn(Scripted(partial, EngineFailed("gone")), saved=saved))
    tokens = saved.turns[0].tokens
    assert (tokens.prompt, tokens.cached, tokens.computed, tokens.output) == (2000, 0, 512, 0)
    assert saved.turns[0].seconds.ttft is None


def test_a_reader_who_leaves_stops_the_engine_and_is_logged():
    saved, answerer = Saved(), Scripted([*EVENTS, finished()])
    running = turn(answerer, saved=saved)
    for event in running:
        if isinstance(event, Answer):
            break
    running.close()
    (record,) = saved.turns
    assert answerer.cancelled == 1
    assert (record.status, record.answer) == ("stopped", "Four.")


@pytest.mark.parametrize("left", [KeyboardInterrupt(), SystemExit(1)])
def test_ctrl_c_inside_the_engine_is_logged_as_stopped(left):
    saved = Saved()
    with pytest.raises(type(left)):
        list(turn(Scripted(EVENTS, left), saved=saved))
    assert saved.turns[0].status == "stopped"
    assert saved.turns[0].error is None


def test_a_fault_is_logged_with_its_name():
    saved = Saved()
    with pytest.raises(ZeroDivisionError):
        list(turn(Scripted(EVENTS, ZeroDivisionError("by zero")), saved=saved))
    assert saved.turns[0].error == "ZeroDivisionError: by zero"


def test_an_engine_that_falls_silent_is_an_error():
    saved = Saved()
    with pytest.raises(EngineFailed, match="without a final event"):
        list(turn(Scripted(EVENTS), saved=saved))
    assert saved.turns[0].status == "error"
    assert "without a final event" in saved.turns[0].error


def test_votes_share_each_batch_by_their_tokens():
    saved = Saved()
    batches = [
        Batch(11 * S, 12 * S, ((0, 1), (1, 1))),
        Batch(12 * S, 13 * S, ((0, 1), (1, 3))),
        Batch(13 * S, 15 * S, ((1, 1),)),
    ]
    votes = [Vote(15 * S, index, "4", "", 2, 1.0) for index in (0, 1)]
    list(turn(Scripted([*EVENTS[:2], *batches, *votes, finished()]), saved=saved))
    record = saved.turns[0]
    assert [vote.joules for vote in record.votes] == pytest.approx([5 + 2.5, 5 + 7.5 + 20])
    assert sum(vote.joules for vote in record.votes) == pytest.approx(
        record.energy.phases["decode"]
    )


def test_votes_of_an_unmeasured_turn_have_no_joules():
    saved = Saved()
    batch = Batch(11 * S, 12 * S, ((0, 1),))
    vote = Vote(12 * S, 0, "4", "", 1, 1.0)
    list(turn(Scripted([batch, vote, finished()]), Meter10W(joules_known=False), saved))
    assert saved.turns[0].votes[0].joules is None


def test_looks_into_a_thought_are_kept():
    saved = Saved()
    look = Probe(12 * S, 48, (("A", 0.9), ("B", 0.1)), 7)
    list(turn(Scripted([*EVENTS[:3], look, *EVENTS[3:], finished()]), saved=saved))
    (probe,) = saved.turns[0].to_json()["probes"]
    assert probe == {"thinking_tokens": 48, "probabilities": {"A": 0.9, "B": 0.1}, "tokens": 7}


@pytest.mark.parametrize(("limit", "hurried"), [(50, 1), (70, 0), (None, 0)])
def test_an_answer_that_has_spent_its_joules_is_hurried_once(limit, hurried):
    decision = replace(DECISION, arm=replace(DECISION.arm, max_joules=limit))
    answerer = Scripted([*EVENTS, finished()])
    list(turn(answerer, decision=decision))  # 60 J by the clock
    assert answerer.hurried == hurried


def test_the_request_holds_the_whole_conversation():
    answerer = Scripted([finished()])
    history = (Message("user", "Hi"), Message("assistant", "Hello"))
    list(turn(answerer, query=Query("2+2?", "Be brief.", history, "chat-1")))
    roles = [message.role for message in answerer.request.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert answerer.request.chat_id == "chat-1"


def test_the_json_document_has_every_part_of_the_contract():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), saved=saved))
    document = saved.turns[0].to_json()
    assert set(document) >= {
        *("turn_id", "answer", "thinking", "status", "model", "model_sha256", "arm"),
        *("reasoning", "policy", "rule", "why", "tokens", "votes", "confidence"),
        *("seconds", "energy", "predicted"),
    }
    assert set(document["tokens"]) == {"prompt", "cached", "computed", "thinking", "output"}
    assert set(document["seconds"]) == {"load", "prefill", "decode", "total", "ttft"}
    assert set(document["energy"]) >= {
        *("joules", "uncertainty", "net_joules", "idle_watts", "kind", "coverage"),
        *("mean_watts", "peak_watts", "joules_per_token", "phases", "channels"),
        *("unmeasured", "shared", "own_joules", "start_ns", "end_ns"),
    }
    assert set(document["energy"]["phases"]) == {"load", "prefill", "decode"}
    assert set(document["predicted"]) == {"joules", "accuracy"}


def test_every_vote_goes_into_the_log_and_their_tokens_count_in_a_crash():
    saved = Saved()
    votes = [
        Vote(13 * S, 0, "B.", "", 4, 1.0, choice="B"),
        Vote(14 * S, 1, "Hm", "", 3, 0.0, status="abandoned"),
    ]
    events = [LOADED, Prefilled(10 * S, 11 * S, 20, 5, 15), Answer(12 * S, "", 7), *votes]
    with pytest.raises(EngineFailed):
        list(turn(Scripted(events, EngineFailed("gone")), saved=saved))
    (record,) = saved.turns
    assert [(v.index, v.choice, v.status) for v in record.votes] == [
        (0, "B", "answered"),
        (1, None, "abandoned"),
    ]
    assert record.tokens.output == 7
    assert record.to_json()["votes"][0]["choice"] == "B"


class MarkedMeter(Meter10W):
    """Remembers the marks it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[int] = []

    def mark(self, t_ns: int) -> None:
        self.marks.append(t_ns)


def test_the_meter_is_given_the_times_at_which_the_power_steps():
    meter = MarkedMeter()
    list(turn(Scripted([*EVENTS, finished()]), meter))
    start_ns = 16 * S  # the clock of the test: when the engine is asked
    assert meter.marks == [start_ns, LOADED.start_ns, LOADED.end_ns, 11 * S, 15 * S]


def test_an_answer_that_breaks_off_marks_its_end():
    meter = MarkedMeter()
    with pytest.raises(EngineFailed):
        list(turn(Scripted(EVENTS, EngineFailed("gone")), meter))
    assert meter.marks[-1] == 16 * S
