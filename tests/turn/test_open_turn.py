"""What is known of a turn while it runs: the row that it has if its process is killed then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from etui.chat import Query
from etui.errors import ModelUnavailable
from etui.events import Answer, Prefilled, Thought
from etui.turn.events import Decided
from etui.turn.interfaces import Machine, Origin
from etui.turn.record import INTERRUPTED, TurnRecord
from etui.turn.run import Turn
from tests.turn.play import Told, serve_one_model
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
)


class Opened:
    """Keeps how a turn begins, and how to read it."""

    def __init__(self) -> None:
        self.begun: list[TurnRecord] = []
        self.read: Callable[[], TurnRecord] = lambda: self.begun[-1]
        self.forgotten: list[str] = []

    def begin(self, record: TurnRecord, read: Callable[[], TurnRecord]) -> None:
        self.begun.append(record)
        self.read = read

    def forget(self, turn_id: str) -> None:
        self.forgotten.append(turn_id)


def make_turn(opened: Opened, meter: Meter10W | None = None, **options) -> Turn:
    machine = Machine(
        options.get("resolve") or serve_one_model(SPEC, Path("m.gguf")),
        lambda: Told(Scripted([*EVENTS, finished()])),
        meter or Meter10W(),
        Saved().save,
        {"threads": 2},
        lambda: 16 * S,
        opened,
    )
    query = Query("2+2?", system="Count.", chat_id="chat", parent_id="before")
    origin = Origin("id", settings={"prompt": "sums"}, is_logged=options.get("logged", True))
    return Turn(query, DECISION, machine, origin=origin)


def test_it_is_known_before_anything_is_spent():
    opened = Opened()
    events = make_turn(opened).run()
    assert isinstance(next(events), Decided)
    (record,) = opened.begun
    assert (record.turn_id, record.status) == ("id", INTERRUPTED)
    assert (record.query, record.system, record.chat_id) == ("2+2?", "Count.", "chat")
    assert (record.model, record.arm, record.policy) == ("m", "quick", "frugal")
    assert record.settings == {"threads": 2, "prompt": "sums"}
    assert record.energy.joules is None
    assert record.energy.flags == ()


@pytest.mark.parametrize("measured", [True, False])
def test_what_it_has_so_far_is_a_lower_bound(measured):
    opened = Opened()
    events = make_turn(opened, Meter10W(measured)).run()
    joules = {}
    for event in events:
        joules[type(event)] = opened.read().energy.joules
        if isinstance(event, Answer):
            record = opened.read()
            assert (record.answer, record.thinking) == ("Four.", "Two and two.")
            assert (record.tokens.prompt, record.tokens.output) == (20, 8)
            assert (record.seconds.prefill, record.seconds.decode) == (1, 5)
            assert record.energy.flags == (("lower-bound",) if measured else ())
            assert record.energy.kind == ("counter" if measured else None)
        if isinstance(event, Thought):
            opened.read()
    # From 10 s on, after the load, up to now, 16 s; then what the record has.
    assert joules[Decided] is None
    assert joules[Prefilled] == (pytest.approx(60) if measured else None)
    assert opened.read().energy.joules == (pytest.approx(50) if measured else None)


def test_the_joules_of_a_load_are_not_its_own():
    opened = Opened()
    for event in make_turn(opened).run():
        if event is LOADED:
            assert opened.read().energy.joules == pytest.approx(60)  # of 7 to 16 s, without 3 s


def test_a_turn_that_never_began_is_forgotten():
    def resolve(arm):
        raise ModelUnavailable("no such file", "pull it")

    opened = Opened()
    with pytest.raises(ModelUnavailable):
        list(make_turn(opened, resolve=resolve).run())
    assert opened.forgotten == ["id"]


def test_a_turn_of_which_nothing_is_kept_is_not_noted():
    opened = Opened()
    list(make_turn(opened, logged=False).run())
    assert opened.begun == []
