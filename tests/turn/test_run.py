"""run_turn: whatever way an answer ends, its interval is closed and the turn saved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from etui.chat import Message, Query
from etui.energy.types import Energy
from etui.errors import EngineFailed
from etui.events import (
    Answer,
    Batch,
    PictureEncoded,
    Prefilled,
    Prefilling,
    Probe,
    ThreadsChanged,
    Unloaded,
    Verified,
    Vote,
)
from etui.log.records import build_row, parse_turn
from etui.log.text import format_turn
from etui.models.spec import OwnSettings
from etui.routing.decision import TurnBudget
from etui.text import SEPARATOR
from etui.turn.events import Decided, TurnFinished
from etui.turn.record import OWN_SYSTEM, LoopRecord
from etui.turn.text import drafts_text, energy_line, price_facts, shared_text
from tests.fixtures.turns import TURN
from tests.turn.scripted import (
    DECISION,
    EVENTS,
    LOADED,
    SPEC,
    Meter10W,
    S,
    Saved,
    Scripted,
    finished,
    turn,
)
from tests.turn.stage import LARGE, QUICK, Known, Part, Stage, decided, play


def record_of(events, failure=None, *, raises=None, **options):
    """Play a script whole and return its record; it ends with an error if one is expected."""
    saved = Saved()
    running = turn(Scripted(events, failure), saved=saved, **options)
    if raises is None:
        list(running)
    else:
        with pytest.raises(raises):
            list(running)
    (record,) = saved.turns
    return record


WHOLE = [*EVENTS, finished()]
GONE = Unloaded("big", "cd" * 32, 4 * S, 6 * S, "room", 5_000_000_000)


def test_an_unload_is_a_row_of_its_own_and_outside_the_turn():
    saved, without = Saved(), Saved()
    list(turn(Scripted([GONE, *EVENTS, finished()]), saved=saved))
    list(turn(Scripted(WHOLE), saved=without))
    (unload,) = saved.unloads
    assert (unload.model, unload.model_sha256, unload.reason) == ("big", "cd" * 32, "room")
    assert (unload.turn_id, unload.seconds) == (saved.turns[0].turn_id, 2)
    assert unload.joules == pytest.approx(20)
    assert unload.freed_bytes == 5_000_000_000
    assert saved.turns[0].energy == without.turns[0].energy
    assert saved.turns[0].seconds == without.turns[0].seconds
    assert len(saved.loads) == 1
    assert without.unloads == []


def test_pictures_are_a_phase_of_their_own_and_the_phases_are_the_turn():
    seen = [
        PictureEncoded(int(10.2 * S), int(10.4 * S), 64),
        PictureEncoded(int(10.4 * S), int(10.5 * S), 64),
    ]
    record = record_of([LOADED, *seen, *WHOLE[1:]])
    without = record_of(WHOLE)
    phases = record.energy.phases
    assert record.pictures.tokens == 128
    assert record.pictures.seconds == pytest.approx(0.3)
    assert record.pictures.joules == phases["image"] == pytest.approx(3)
    assert record.pictures.uncertainty > 0
    assert phases["prefill"] == pytest.approx(7)
    assert record.energy.joules == without.energy.joules
    total = phases["prefill"] + phases["image"] + phases["decode"]
    assert total == pytest.approx(record.energy.joules, abs=1e-9)
    assert record.seconds.total == without.seconds.total
    assert record.seconds.prefill == pytest.approx(without.seconds.prefill - 0.3)
    assert record.to_json()["pictures"]["joules"] == pytest.approx(3)
    assert "pictures" in str(format_turn(record, []))
    assert without.pictures is None
    assert "image" not in without.energy.phases
    assert parse_turn(build_row(record)).pictures == record.pictures
    assert parse_turn(build_row(record)).energy.phases == phases
    unknown = record_of([LOADED, *seen, *WHOLE[1:]], meter=Meter10W(joules_known=False))
    assert unknown.pictures.joules is None


def test_the_reason_why_drafts_were_stopped_is_kept_and_said():
    first = Verified(12 * S, 13 * S, 12 * S, "lookup", 3, 2, 0)
    why = "drafts by lookup cost the time of 22 tokens and saved that of 0"
    last = replace(first, start_ns=first.end_ns, end_ns=first.end_ns + S, stopped=why)
    record = record_of([*EVENTS, first, last, finished()])
    assert f"; stopped: {why}" in energy_line(record)
    assert any(line.endswith(why) for line in format_turn(record, []))
    assert drafts_text(record).endswith(f"stopped: {why}")
    kept = record_of([*EVENTS, first, finished()])
    assert "stopped" not in energy_line(kept)
    assert "drafts_stopped" not in kept.settings


def test_a_load_that_fails_leaves_the_unload_in_the_log():
    saved = Saved()
    with pytest.raises(EngineFailed):
        list(turn(Scripted([GONE], EngineFailed("out of memory")), saved=saved))
    assert [unload.model for unload in saved.unloads] == ["big"]
    assert saved.loads == []
    (failed,) = saved.turns
    assert failed.status == "error"
    assert failed.energy.start_ns == GONE.end_ns


FEWER = [
    ThreadsChanged(5 * S, 4, 4, "4.0 cores are free"),
    ThreadsChanged(int(11.5 * S), 3, 4, "4 threads got 3.5 cores"),
]


@pytest.mark.parametrize(
    ("changes", "settings", "threads"),
    [
        (FEWER, None, (3, 4)),
        ([], {"threads": 2, "prefill_limit": 6}, (2, 6)),
        ([], {"threads": 6}, (6, 6)),
    ],
)
def test_thread_counts_and_their_changes_are_settings_of_the_turn(changes, settings, threads):
    found = record_of([EVENTS[0], *changes, *EVENTS[1:], finished()], settings=settings).settings
    assert (found["decode_threads"], found["prefill_threads"]) == threads
    told = found["thread_changes"]
    assert [change["why"] for change in told] == [change.why for change in changes]
    assert [change["decode_threads"] for change in told] == [4, 3][: len(changes)]
    seconds = [change["seconds"] for change in told]
    assert seconds == sorted(seconds)
    assert all(each >= 0 for each in seconds)


LOOP = {
    "answer": "Paris.",
    "ended": "repeats",
    "raw_answer": "Paris. Paris. Paris.",
    "saved_tokens": 100,
}


def test_a_repetition_is_recorded_with_an_estimate_of_what_it_saved():
    record = record_of([*EVENTS, finished(**LOOP)])
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
    record = record_of([*EVENTS, finished(**LOOP)], meter=Meter10W(False))
    assert record.loop is not None
    assert record.loop.saved_joules is None
    assert "repeats itself (saved up to 100 tokens)" in energy_line(record)
    record = record_of(WHOLE)
    assert (record.ended, record.loop, record.to_json()["loop"]) == ("", None, None)


def stage(**changes) -> Stage:
    part = Part("Mars.", 0.5, prefill=1.0, decode=8.0, tokens=8)
    return Stage({"quick": replace(part, **changes), "large": Part("Venus.", 0.9)})


SPENT = "the turn's budget of "
WITHIN = TurnBudget(joules=1000.0, tokens=1000, seconds=1000.0)


@pytest.mark.parametrize(
    ("arms", "budget", "part", "tokens", "ended"),
    [
        ((QUICK,), TurnBudget(tokens=3), {}, 3, SPENT + "3 tokens ended the answer after 3 tokens"),
        ((QUICK,), TurnBudget(seconds=3.0), {}, 2, SPENT + "3.00 s ended the answer after 2"),
        ((QUICK,), TurnBudget(joules=40.0), {}, 3, SPENT + "40.0 J ended the answer after 3"),
        ((replace(QUICK, max_joules=40.0),), None, {}, 3,
         "the energy budget of 40.0 J of arm quick ended"),
        ((QUICK, LARGE), TurnBudget(tokens=10), {}, 10, SPENT),  # of all hops
        ((QUICK,), TurnBudget(seconds=30.0), {"load": 60.0}, 8, None),  # without the load
        ((QUICK,), WITHIN, {}, 8, None),
    ],
)  # fmt: skip
def test_a_spent_budget_hurries_the_answer_and_is_named(arms, budget, part, tokens, ended):
    told = stage(**part)
    record = play(told, decided(*arms, budget=budget), predictor=Known()).record
    assert (record.status, told.hurried) == (("complete", 0) if ended is None else ("budget", 1))
    assert record.tokens.output == tokens
    assert ended is None or record.settings["ended"].startswith(ended)


@pytest.mark.parametrize(("own", "asked"), [(None, 500.0), (900.0, 500.0), (60.0, 60.0)])
def test_an_arm_plans_with_what_the_turn_has_left(own, asked):
    told = stage()
    play(told, decided(replace(QUICK, max_joules=own), budget=TurnBudget(joules=500.0)))
    assert told.requests[0].arm.max_joules == asked
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


def test_phases_sum_to_the_turn_and_the_load_lies_outside():
    saved, meter = Saved(), Meter10W()
    events = list(turn(Scripted(WHOLE), meter, saved))
    assert events == [Decided(DECISION), *WHOLE, TurnFinished(saved.turns[0])]
    energy, seconds = saved.turns[0].energy, saved.turns[0].seconds
    assert energy.joules == pytest.approx(50)
    assert energy.phases == pytest.approx({"load": 30, "prefill": 10, "decode": 40})
    assert energy.thinking_joules == pytest.approx(20)
    assert energy.net_joules == pytest.approx(50 - 4 * 5)
    assert energy.joules_per_token == pytest.approx(50 / 8)
    assert (energy.start_ns, energy.end_ns) == (10 * S, 15 * S)
    assert (seconds.load, seconds.total, seconds.ttft) == (3, 5, 1)
    assert meter.settled == [15 * S]
    (load,) = saved.loads
    assert (load.model, load.turn_id, load.seconds) == ("m", saved.turns[0].turn_id, 3)
    assert load.joules == pytest.approx(30)


def test_unmeasured_is_none_and_without_a_load_zero():
    batch, vote = Batch(11 * S, 12 * S, ((0, 1),)), Vote(12 * S, 0, "4", "", 1, 1.0)
    record = record_of([*EVENTS, batch, vote, finished()], meter=Meter10W(joules_known=False))
    energy = record.energy
    assert (energy.joules, energy.joules_per_token, energy.thinking_joules) == (None, None, None)
    assert set(energy.phases.values()) == {None}
    assert energy.unmeasured == ("package:0",)
    assert record.votes[0].joules is None
    assert record_of(WHOLE[1:]).energy.phases["load"] == 0.0  # the model was in memory


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
    ("own_joules", "said", "listed"),
    [
        (
            12.0,
            "counts other programs on the GPU (etui's own 12.0 J)",
            "12.0 J, the rest is idle power and other programs on the GPU",
        ),
        (
            None,
            "counts other programs on the GPU",
            "not known: other programs on the GPU are in it",
        ),
    ],
)
def test_a_shared_gpu_is_told_and_its_gross_joules_stay(own_joules, said, listed):
    own = record_of(WHOLE)
    told = own.to_json()["energy"]
    assert (told["shared"], told["own_joules"]) == (False, None)
    assert "other programs on" not in energy_line(own) + "\n".join(format_turn(own, []))
    record = record_of(WHOLE, meter=SharedGpu(own_joules))
    told = record.to_json()["energy"]
    assert (told["shared"], told["own_joules"], told["joules"]) == (True, own_joules, 50)
    assert said in energy_line(record).split(SEPARATOR)
    shown = " ".join(" ".join(format_turn(record, [])).split())
    assert f"etui's part {listed}" in shown


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
        ({}, {}, "≈42 J ±9 · 30 tok/s · 2.10 s · 64 tok"),
        ({}, {"uncertainty": 0.2}, "≈42 J · 30 tok/s · 2.10 s · 64 tok"),
        ({}, {"kind": "counter", "uncertainty": 0.41}, "42.1 J ±0.4 · 30 tok/s · 2.10 s · 64 tok"),
        ({"status": "truncated"}, {},
         "≈42 J ±9 · ■ stopped at 64 tokens · 30 tok/s · 2.10 s · 64 tok"),
        ({"status": "stopped"}, {}, "≈42 J ±9 · ■ stopped · 30 tok/s · 2.10 s · 64 tok"),
        ({"ended": "repeats"}, {},
         "≈42 J ±9 · ■ ended: it repeats itself · 30 tok/s · 2.10 s · 64 tok"),
        ({"answer": " "}, {}, "≈42 J ±9 · ■ empty answer · 30 tok/s · 2.10 s · 64 tok"),
        ({"predicted_joules": 3.9, "why": "tiny answers instead"}, {"shared": True},
         "≈42 J ±9 · 30 tok/s · 2.10 s · 64 tok"),
        ({}, {"joules": None, "joules_per_token": None},
         "energy unmeasured · 30 tok/s · 2.10 s · 64 tok"),
    ],
)  # fmt: skip
def test_the_facts_at_a_glance_are_few_and_the_same_for_every_answer(changes, energy, shown):
    estimate = {
        "kind": "estimate", "joules": 42.1, "joules_per_token": 0.658, "uncertainty": 9.3,
        "channels": {"estimate:cpu": 42.1}, "shared": False, "own_joules": None,
    }  # fmt: skip
    record = replace(
        TURN,
        energy=replace(TURN.energy, **estimate | energy),
        tokens=replace(TURN.tokens, output=64),
        seconds=replace(TURN.seconds, decode=62 / 30, total=2.1),
        **{"answer": "Paris", "status": "complete", "predicted_joules": None} | changes,
    )
    assert SEPARATOR.join(price_facts(record)) == shown


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
    saved, answerer = Saved(), Scripted(WHOLE)
    running = turn(answerer, saved=saved)
    for event in running:
        if isinstance(event, Answer):
            break
    running.close()
    (record,) = saved.turns
    assert answerer.cancelled == 1
    assert (record.status, record.answer) == ("stopped", "Four.")


@pytest.mark.parametrize(
    ("failure", "raised", "status", "error"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "stopped", None),
        (SystemExit(1), SystemExit, "stopped", None),
        (ZeroDivisionError("by zero"), ZeroDivisionError, "error", "ZeroDivisionError: by zero"),
        (None, EngineFailed, "error", "the engine ended the answer without a final event"),
    ],
)
def test_what_ends_inside_the_engine_is_logged(failure, raised, status, error):
    record = record_of(EVENTS, failure, raises=raised)
    assert (record.status, record.error) == (status, error)


def test_votes_share_each_batch_by_their_tokens():
    batches = [
        Batch(11 * S, 12 * S, ((0, 1), (1, 1))),
        Batch(12 * S, 13 * S, ((0, 1), (1, 3))),
        Batch(13 * S, 15 * S, ((1, 1),)),
    ]
    votes = [Vote(15 * S, index, "4", "", 2, 1.0) for index in (0, 1)]
    record = record_of([*EVENTS[:2], *batches, *votes, finished()])
    assert [vote.joules for vote in record.votes] == pytest.approx([5 + 2.5, 5 + 7.5 + 20])
    assert sum(vote.joules for vote in record.votes) == pytest.approx(
        record.energy.phases["decode"]
    )


def test_looks_into_a_thought_are_kept():
    look = Probe(12 * S, 48, (("A", 0.9), ("B", 0.1)), 7)
    record = record_of([*EVENTS[:3], look, *EVENTS[3:], finished()])
    (probe,) = record.to_json()["probes"]
    assert probe == {"thinking_tokens": 48, "probabilities": {"A": 0.9, "B": 0.1}, "tokens": 7}


def test_the_request_holds_the_whole_conversation():
    answerer = Scripted([finished()])
    history = (Message("user", "Hi"), Message("assistant", "Hello"))
    list(turn(answerer, query=Query("2+2?", "Be brief.", history, "chat-1")))
    roles = [message.role for message in answerer.request.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert answerer.request.chat_id == "chat-1"


@pytest.mark.parametrize(("takes", "asked", "used"), [
    (True, None, "Be a pirate."), (False, None, None), (False, "Be brief.", "Be brief."),
])  # fmt: skip
def test_the_system_prompt_of_the_model_is_used_where_there_is_none(takes, asked, used):
    answerer, saved = Scripted([finished()]), Saved()
    spec = replace(SPEC, own=OwnSettings("Be a pirate."))
    query = Query("2+2?", asked, takes_own_system=takes)
    list(turn(answerer, query=query, spec=spec, saved=saved))
    texts = [each.content for each in answerer.request.messages if each.role == "system"]
    assert texts == [used] * (used is not None)
    assert saved.turns[0].system == used
    assert (OWN_SYSTEM in saved.turns[0].settings) == takes


def test_the_json_document_has_every_part_of_the_contract():
    record = record_of(WHOLE)
    document = record.to_json()
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

    def mark(self, t_ns: int, phase: str = "") -> None:
        self.marks.append(t_ns)


def test_the_meter_is_given_the_times_at_which_the_power_steps():
    meter = MarkedMeter()
    list(turn(Scripted(WHOLE), meter))
    start_ns = 16 * S  # the clock of the test: when the engine is asked
    assert meter.marks == [start_ns, LOADED.start_ns, LOADED.end_ns, 11 * S, 15 * S]
    record_of(EVENTS, EngineFailed("gone"), raises=EngineFailed, meter=meter)
    assert meter.marks[-1] == 16 * S  # the end of an answer that broke off
