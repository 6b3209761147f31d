"""Models that give way to a turn: rows of their own, outside its joules whatever way it ends."""

from __future__ import annotations

import pytest

from etui.errors import EngineFailed
from etui.events import ThreadsChanged, Unloaded
from etui.turn.record import LoopRecord
from etui.turn.text import energy_line
from tests.turn.scripted import EVENTS, Meter10W, S, Saved, Scripted, finished, turn

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
