"""How often the running answer is drawn."""

from __future__ import annotations

import pytest

from etui.tui.pacing import (
    BUSY_MIDDLE_COLLECTIONS_DUE,
    MIDDLE_COLLECTIONS_DUE,
    MOST_MIDDLE_COLLECTIONS,
    TYPING_FENCE_FLUSH_NS,
    TYPING_FLUSH_NS,
    TYPING_SECONDS,
    USUAL,
    Drawing,
    Pace,
    drawing_share,
)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def make_drawing() -> tuple[Drawing, Clock, Clock]:
    clock, thread_clock = Clock(), Clock()
    drawing = Drawing(clock, thread_clock)
    drawing.look(busy=False)
    return drawing, clock, thread_clock


def spend(drawing: Drawing, clock: Clock, thread_clock: Clock, share: float) -> None:
    clock.seconds += 1.0
    thread_clock.seconds += share
    drawing.look(busy=True)


def test_an_answer_is_drawn_as_usual_at_first() -> None:
    drawing, _, _ = make_drawing()
    assert drawing.pace() == USUAL


def test_answers_wait_while_someone_types() -> None:
    drawing, clock, _ = make_drawing()
    drawing.key_typed()
    assert drawing.pace().flush_ns == TYPING_FLUSH_NS
    assert drawing.pace().fence_flush_ns == TYPING_FENCE_FLUSH_NS
    clock.seconds += 1.0
    assert drawing.pace() == USUAL


def test_drawing_takes_less_where_every_core_decodes() -> None:
    drawing, *clocks = make_drawing()
    drawing.decode_with(threads=2, cores=4)
    spend(drawing, *clocks, share=0.1)
    assert drawing.pace() == USUAL
    drawing.decode_with(threads=2, cores=2)
    spend(drawing, *clocks, share=0.03)
    assert drawing.pace().flush_ns == pytest.approx(2 * USUAL.flush_ns)
    assert drawing_share(4, 4) < drawing_share(4, 8)


def test_the_pace_is_the_usual_one_again_after_the_answer() -> None:
    drawing, *clocks = make_drawing()
    spend(drawing, *clocks, share=0.9)
    assert drawing.pace().flush_ns == 4 * USUAL.flush_ns
    drawing.look(busy=False)
    assert drawing.pace() == USUAL


def test_quiet_mode_is_no_faster_for_typing() -> None:
    drawing, _, _ = make_drawing()
    drawing.usual = Pace(1.0, 2 * TYPING_FLUSH_NS, 2 * TYPING_FENCE_FLUSH_NS)
    drawing.key_typed()
    assert drawing.pace() == drawing.usual


def test_unused_objects_are_looked_for_between_keys() -> None:
    drawing, clock, _ = make_drawing()
    assert not drawing.may_collect(MIDDLE_COLLECTIONS_DUE - 1, busy=False)
    assert drawing.may_collect(MIDDLE_COLLECTIONS_DUE, busy=False)
    drawing.key_typed()
    assert not drawing.may_collect(MOST_MIDDLE_COLLECTIONS - 1, busy=False)
    clock.seconds += TYPING_SECONDS
    assert drawing.may_collect(MIDDLE_COLLECTIONS_DUE, busy=False)


def test_unused_objects_wait_for_the_end_of_a_running_answer() -> None:
    drawing, _, _ = make_drawing()
    assert not drawing.may_collect(MIDDLE_COLLECTIONS_DUE, busy=True)
    assert drawing.may_collect(BUSY_MIDDLE_COLLECTIONS_DUE, busy=True)
    assert BUSY_MIDDLE_COLLECTIONS_DUE < MOST_MIDDLE_COLLECTIONS  # before Python does it by itself
