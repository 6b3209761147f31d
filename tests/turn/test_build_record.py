"""Models that give way to a turn: rows of their own, outside its joules whatever way it ends."""

from __future__ import annotations

import pytest

from etui.errors import EngineFailed
from etui.events import Unloaded
from tests.turn.scripted import EVENTS, S, Saved, Scripted, finished, turn

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
