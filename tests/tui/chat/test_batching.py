"""Tokens are gathered, nothing is lost, and an open fence slows the redrawing down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import EngineFailed
from etui.events import Answer, Event, Prefilled, Probe, Thought, Verified
from etui.text import FenceTracker
from etui.tui.chat._batches import ShortFences, TextBatch, batch_events
from etui.tui.pacing import SPARE_CORE_SHARE, USUAL, next_easing

MS = 1_000_000
PREFILLED = Prefilled(0, 1, 10, 0, 10)


class Clock:
    """Moves on by a fixed step with every event."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * MS

    def __call__(self) -> int:
        return self.now_ns

    def pace(self, events: list[Event], step_ms: int) -> Iterator[Event]:
        for event in events:
            self.now_ns += step_ms * MS
            yield event


def answers(*pieces: str) -> list[Event]:
    return [Answer(0, piece, 1) for piece in pieces]


def batches(events: list[Event], step_ms: int) -> list[TextBatch]:
    clock = Clock()
    facts = batch_events(clock.pace(events, step_ms), clock)
    return [fact for fact in facts if isinstance(fact, TextBatch)]


def test_200_tokens_a_second_make_ten_batches_a_second() -> None:
    made = batches(answers(*["word "] * 400), step_ms=5)
    assert 19 <= len(made) <= 22
    assert sum(batch.answer_tokens for batch in made) == 400


def test_verified_drafts_do_not_make_more_batches() -> None:
    verified = Verified(0, 1, 0, "lookup", 3, 2, 1)
    events = [event for word in answers(*["word "] * 400) for event in (word, verified)]
    made = batches(events, step_ms=5)
    assert 38 <= len(made) <= 44
    assert sum(batch.answer_tokens for batch in made) == 400


def test_an_open_fence_makes_four_batches_a_second() -> None:
    made = batches(answers("```python\n", *["x = 1\n"] * 400), step_ms=5)
    assert 8 <= len(made) <= 11


def test_a_token_after_a_pause_is_shown_at_once() -> None:
    assert [batch.answer for batch in batches(answers("a", "b", "c"), step_ms=150)] == list("abc")


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=5)), max_size=30), st.integers(1, 200))
def test_nothing_is_lost_and_the_order_is_kept(
    pieces: list[tuple[bool, str]], step_ms: int
) -> None:
    events: list[Event] = [(Thought if thought else Answer)(0, text, 1) for thought, text in pieces]
    made = batches(events, step_ms)
    for kind, wanted in (("thinking", True), ("answer", False)):
        joined = "".join(getattr(batch, kind) for batch in made)
        assert joined == "".join(text for thought, text in pieces if thought is wanted)
    tokens = sum(batch.thinking_tokens + batch.answer_tokens for batch in made)
    assert tokens == len(pieces)


def test_other_events_come_after_the_text_before_them() -> None:
    clock = Clock()
    events = [*answers("a", "b"), PREFILLED, Probe(0, 1, ()), *answers("c")]
    facts = list(batch_events(clock.pace(events, 1), clock))
    assert [type(fact).__name__ for fact in facts] == [
        "TextBatch",
        "TextBatch",
        "Prefilled",
        "TextBatch",
    ]


def test_an_error_comes_after_the_tail() -> None:
    def failing() -> Iterator[Event]:
        yield from answers("first ", "tail")
        raise EngineFailed("died")

    collected: list[str] = []

    def collect() -> None:
        for fact in batch_events(failing()):
            assert isinstance(fact, TextBatch)
            collected.append(fact.answer)

    with pytest.raises(EngineFailed):
        collect()
    assert "".join(collected) == "first tail"


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("", False),
        ("plain `code` here", False),
        ("```python\nx", True),
        ("```python\nx\n```", False),
        ("```python\nx\n```\nmore", False),
        ("~~~\n```\n", True),
        ("````\n```\n", True),
        ("    ```\n", False),
        ("a\n   ```\n", True),
        ("```\n``` not a close\n", True),
    ],
)
def test_the_tracker_knows_an_open_fence(text: str, inside: bool) -> None:
    whole = FenceTracker()
    whole.feed(text)
    assert whole.inside is inside
    pieces = FenceTracker()
    for character in text:
        pieces.feed(character)
    assert pieces.inside is inside


LINES = st.sampled_from(
    ["x = 1", "", "```", "```python", "~~~", "  ```", "text `a`", "````", "    ```"]
)


@given(st.lists(LINES, max_size=60), st.integers(1, 7))
def test_a_long_fence_comes_in_short_ones_and_nothing_else_changes(
    lines: list[str], size: int
) -> None:
    text = "\n".join(lines)
    whole = ShortFences(4).feed(text)
    fences = ShortFences(4)
    assert "".join(fences.feed(text[i : i + size]) for i in range(0, len(text), size)) == whole
    kept = iter(whole.split("\n"))
    assert all(line in kept for line in lines), "every line is there, in its order"
    tracker, run = FenceTracker(), 0
    for line in whole.split("\n")[:-1]:
        before = tracker.marker
        tracker.feed(f"{line}\n")
        run = run + 1 if before and tracker.marker else 0
        assert run <= 4


def test_a_fence_is_closed_and_opened_as_it_was() -> None:
    fences = ShortFences(2)
    assert fences.feed("  ```python\na\nb\nc\n  ```\n") == (
        "  ```python\na\nb\n  ```\n  ```python +\nc\n  ```\n"
    )


@given(st.floats(1, 4), st.floats(0, 2))
def test_a_busy_screen_is_drawn_less_often_and_an_idle_one_as_usual(
    factor: float, share: float
) -> None:
    eased = next_easing(factor, share, SPARE_CORE_SHARE)
    assert 1 <= eased <= 4
    assert (eased >= factor) is (share >= SPARE_CORE_SHARE or eased == factor)
    assert USUAL.eased(eased).fence_flush_ns >= USUAL.fence_flush_ns
    assert USUAL.eased(1.0) == USUAL
