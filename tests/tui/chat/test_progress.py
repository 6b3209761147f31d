"""How far a turn is, and the words for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.energy.types import Energy, Kind
from etui.events import Loaded, Prefilled, Prefilling
from etui.routing.decision import Decision
from etui.tui.chat._batches import TextBatch, TurnEnded
from etui.tui.chat.progress import TurnProgress, advance, progress_line
from etui.tui.power.feed import Stage
from etui.tui.widgets.lines import break_between, count_rows
from etui.turn.events import Decided

SECOND = 1_000_000_000
DECIDED = Decided(Decision(Arm("quick", "smollm2-135m"), "balanced", "everything-else", ""))


def after(*facts: object, residents: str = "") -> TurnProgress:
    progress = TurnProgress(Stage.ROUTING, 1 * SECOND)
    for second, fact in enumerate(facts, 2):
        progress = advance(progress, fact, second * SECOND, residents.split())  # type: ignore[arg-type]
    return progress


def test_a_model_that_is_not_resident_is_loaded_first_and_charged_to_nobody() -> None:
    loading = after(DECIDED)
    assert loading.stage is Stage.LOADING
    assert loading.energy_start_ns is None
    assert progress_line(loading, 3 * SECOND, None) == "loading smollm2-135m … 1.00 s"
    loaded = Loaded("smollm2-135m", 2 * SECOND, 5 * SECOND, 0, 98_000_000)
    assert after(DECIDED, loaded).energy_start_ns == 5 * SECOND


def test_a_resident_model_reads_the_prompt_at_once() -> None:
    progress = after(DECIDED, residents="smollm2-135m")
    assert progress.stage is Stage.PREFILL
    assert progress.energy_start_ns == 2 * SECOND
    assert progress_line(progress, 3 * SECOND, None) == "reading the prompt …"


def test_a_long_prompt_shows_how_far_it_was_read() -> None:
    progress = after(DECIDED, Prefilling(2 * SECOND, 512, 2048))
    line = progress_line(progress, 3 * SECOND, None)
    assert line == "reading the prompt … 512 of 2,048 tokens"


SPENT = Energy(0, SECOND, 4.2, 0.5, Kind.ESTIMATE, 1.0)


def test_thought_and_answer_are_counted_apart_and_together() -> None:
    thought, answer = TextBatch("hm", "", 5, 0), TextBatch("", "Paris", 0, 2)
    prefilled = Prefilled(2 * SECOND, 3 * SECOND, 10, 0, 10)
    thinking = after(DECIDED, prefilled, thought)
    assert progress_line(thinking, 5 * SECOND, SPENT) == "thinking … 5 tok · ≈4.2 J · 0.84 J/tok"
    answering = after(DECIDED, prefilled, thought, answer)
    assert progress_line(answering, 6 * SECOND, None) == "answering … 7 tok"
    assert after(DECIDED, prefilled, answer, TurnEnded()).stage is Stage.DONE


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (99, ["12 tokens · 4.2 ± 0.5 J · 50 W"]),
        (24, ["12 tokens · 4.2 ± 0.5 J", "50 W"]),
        (12, ["12 tokens", "4.2 ± 0.5 J", "50 W"]),
        (3, ["12 tokens", "4.2 ± 0.5 J", "50 W"]),
    ],
)
def test_facts_break_only_between_each_other(width: int, lines: list[str]) -> None:
    assert break_between("12 tokens · 4.2 ± 0.5 J · 50 W", width).split("\n") == lines


@given(
    st.lists(st.text("ab ±", min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 30)
)
def test_no_fact_is_lost(facts: list[str], width: int) -> None:
    text = " · ".join(facts)
    assert break_between(text, width).replace("\n", " · ") == text


@pytest.mark.parametrize(
    ("text", "width", "rows"), [("", 5, 1), ("abcde", 5, 1), ("abcdef", 5, 2), ("a\nb", 5, 2)]
)
def test_the_rows_of_a_text_are_counted_at_its_width(text: str, width: int, rows: int) -> None:
    assert count_rows(text, width) == rows
