"""run_turn: whatever way an answer ends, its interval is closed and the turn saved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from etui.chat import Message, Query
from etui.energy.types import Energy
from etui.errors import EngineFailed
from etui.events import Answer, Batch, Prefilled, Prefilling, Probe, ThreadsChanged, Unloaded, Vote
from etui.log.text import format_turn
from etui.routing.decision import TurnBudget
from etui.text import SEPARATOR
from etui.turn.events import Decided, TurnFinished
from etui.turn.record import LoopRecord
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
from tests.turn.stage import LARGE, QUICK, Known, Part, Stage, decided, play

GONE = Unloaded("big", "cd" * 32, 4 * S, 6 * S, "room", 5_000_000_000)


def test_an_unload_is_a_row_of_its_own_and_outside_the_turn():
    saved, without = Saved(), Saved()
    list(turn(Scripted([GONE, *EVENTS, finished()]), saved=saved))
    list(turn(Scripted([*EVENTS, finished()]), saved=without))
    (unload,) = saved.unloads
    assert (unload.model, unload.model_sha256, unload.reason) == ("big", "cd" * 32, "room")
    assert (unload.turn_id, unload.seconds) == (saved.turns[0].turn_id, 2)
    assert unload.joules == pytest.approx(20)
    assert unload.freed_bytes == 5_000_000_000
    assert saved.turns[0].energy == without.turns[0].energy
    assert saved.turns[0].seconds == without.turns[0].seconds
    assert len(saved.loads) == 1
    assert without.unloads == []


def test_a_load_that_fails_leaves_the_unload_in_the_log():
    saved = Saved()
    with pytest.raises(EngineFailed):
        list(turn(Scripted([GONE], EngineFailed("out of memory")), saved=saved))
    assert [unload.model for unload in saved.unloads] == ["big"]
    assert saved.loads == []
    (failed,) = saved.turns
    assert failed.status == "error"
    assert failed.energy.start_ns == GONE.end_ns


def test_changes_of_the_thread_counts_are_settings_of_the_turn():
    saved = Saved()
    changes = [
        ThreadsChanged(5 * S, 4, 4, "4.0 cores are free"),
        ThreadsChanged(int(11.5 * S), 3, 4, "4 threads got 3.5 cores"),
    ]
    list(turn(Scripted([*EVENTS[:1], *changes, *EVENTS[1:], finished()]), saved=saved))
    settings = saved.turns[0].settings
    assert (settings["decode_threads"], settings["prefill_threads"]) == (3, 4)
    first, second = settings["thread_changes"]
    assert first["seconds"] <= second["seconds"]
    assert first["seconds"] >= 0
    assert second["why"] == "4 threads got 3.5 cores"
    assert (second["decode_threads"], second["prefill_threads"]) == (3, 4)


def test_without_a_change_a_model_with_two_limits_has_both():
    saved = Saved()
    settings = {"threads": 2, "prefill_limit": 6}
    list(turn(Scripted([*EVENTS, finished()]), saved=saved, settings=settings))
    found = saved.turns[0].settings
    assert (found["decode_threads"], found["prefill_threads"]) == (2, 6)


def test_without_a_change_the_threads_are_those_of_the_settings():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), saved=saved, settings={"threads": 6}))
    settings = saved.turns[0].settings
    assert (settings["decode_threads"], settings["prefill_threads"]) == (6, 6)
    assert settings["thread_changes"] == []


LOOP = {
    "answer": "Paris.",
    "ended": "repeats",
    "raw_answer": "Paris. Paris. Paris.",
    "saved_tokens": 100,
}


def test_a_repetition_is_recorded_with_an_estimate_of_what_it_saved():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished(**LOOP)]), saved=saved))
    (record,) = saved.turns
    per_token = record.energy.phases["decode"] / record.tokens.output
    assert (record.status, record.ended, record.answer) == ("complete", "repeats", "Paris.")
    assert record.loop == LoopRecord(
        raw_answer="Paris. Paris. Paris.",
        raw_thinking="",
        saved_tokens=100,
        saved_joules=pytest.approx(100 * per_token),
    )
    document = record.to_json()
    assert document["ended"] == "repeats"
    assert document["loop"]["raw_answer"] == "Paris. Paris. Paris."
    assert energy_line(record).startswith("■ ended: the answer repeats itself (saved up to ≈")
    assert " J) · " in energy_line(record)


def test_without_a_meter_a_repetition_saves_tokens():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished(**LOOP)]), saved=saved, meter=Meter10W(False)))
    (record,) = saved.turns
    assert record.loop is not None
    assert record.loop.saved_joules is None
    assert "repeats itself (saved up to 100 tokens)" in energy_line(record)


def test_a_turn_without_a_repetition_has_none():
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), saved=saved))
    assert (saved.turns[0].ended, saved.turns[0].loop) == ("", None)
    assert saved.turns[0].to_json()["loop"] is None


def stage(**changes) -> Stage:
    part = Part("Mars.", 0.5, prefill=1.0, decode=8.0, tokens=8)
    return Stage({"quick": replace(part, **changes), "large": Part("Venus.", 0.9)})


@pytest.mark.parametrize(
    ("budget", "after", "named"),
    [
        (TurnBudget(tokens=3), 3, "the turn's budget of 3 tokens"),
        (TurnBudget(seconds=3.0), 2, "the turn's budget of 3.00 s"),
        (TurnBudget(joules=40.0), 3, "the turn's budget of 40.0 J"),
    ],
)
def test_a_spent_budget_hurries_the_answer_and_is_named(budget, after, named):
    told = stage()
    record = play(told, decided(QUICK, budget=budget)).record
    assert record.status == "budget"
    assert told.hurried == 1
    assert record.tokens.output == after
    assert record.settings["ended"] == f"{named} ended the answer after {after} tokens"


def test_the_limit_of_an_arm_is_named_as_its_own():
    told = stage()
    record = play(told, decided(replace(QUICK, max_joules=40.0))).record
    assert record.settings["ended"].startswith("the energy budget of 40.0 J of arm quick ended")


@pytest.mark.parametrize(("own", "asked"), [(None, 500.0), (900.0, 500.0), (60.0, 60.0)])
def test_an_arm_plans_with_what_the_turn_has_left(own, asked):
    told = stage()
    play(told, decided(replace(QUICK, max_joules=own), budget=TurnBudget(joules=500.0)))
    assert told.requests[0].arm.max_joules == asked


def test_a_later_hop_has_what_the_first_left():
    told = stage()
    play(told, decided(QUICK, LARGE, budget=TurnBudget(joules=500.0)))
    assert told.requests[1].arm.max_joules == pytest.approx(500.0 - 90.0)


@pytest.mark.parametrize(
    "budget", [TurnBudget(tokens=8), TurnBudget(seconds=9.0), TurnBudget(joules=90.0)]
)
def test_no_hop_begins_once_the_budget_is_spent(budget):
    told = stage()
    record = play(told, decided(QUICK, LARGE, budget=budget)).record
    assert len(record.hops) == 1
    assert record.answer == "Mars."
    assert "no further arm: the turn's budget of" in record.why


def test_tokens_of_all_hops_count():
    told = stage()
    record = play(told, decided(QUICK, LARGE, budget=TurnBudget(tokens=10))).record
    assert (len(record.hops), record.tokens.output) == (2, 10)
    assert told.hurried == 1
    assert record.status == "budget"


def test_a_load_takes_no_seconds_of_the_budget():
    told = stage(load=60.0)
    record = play(told, decided(QUICK, budget=TurnBudget(seconds=30.0))).record
    assert (record.status, told.hurried) == ("complete", 0)


def test_a_turn_within_its_budget_is_left_alone():
    told = stage()
    budget = TurnBudget(joules=1000.0, tokens=1000, seconds=1000.0)
    record = play(told, decided(QUICK, budget=budget), predictor=Known()).record
    assert (record.status, told.hurried) == ("complete", 0)


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
