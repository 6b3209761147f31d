"""Which turns of a chat count, which are on the screen, and what a next arm is: pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Message
from etui.log.records import ChatRecord
from etui.runtime.rerun import Rung, choose_rung, estimate_turn_work, estimate_work
from etui.runtime.route import Route
from etui.tui.chat.conversation import (
    Asking,
    Conversation,
    current_turns,
    name_from_question,
    new_chat,
)
from etui.tui.chat.export import build_file_name
from etui.tui.chat.side_by_side import compare_costs
from etui.tui.chat.transcript import (
    MOST_TURNS,
    MOST_TURNS_READING,
    PAGE_TURNS,
    TurnWindow,
    latest_window,
)
from etui.turn.record import REPLACES, TurnRecord
from tests.tui.fakes import turn_record


def replacing(number: int, replaced: int, **changes: object) -> TurnRecord:
    settings = {REPLACES: f"turn-of-log-{replaced}"}
    return turn_record(number, settings=settings, **changes)


def numbers(records: tuple[TurnRecord, ...]) -> list[int]:
    return [int(record.turn_id.rsplit("-", 1)[1]) for record in records]


def test_a_turn_takes_the_place_of_another_and_of_all_after_it() -> None:
    records = [turn_record(0), turn_record(1), turn_record(2), replacing(3, 1), turn_record(4)]
    assert numbers(current_turns(records)) == [0, 3, 4]


def test_a_turn_without_an_answer_replaces_nothing() -> None:
    records = [turn_record(0), turn_record(1), replacing(2, 1, answer="", status="stopped")]
    assert numbers(current_turns(records)) == [0, 1, 2]


def test_what_replaces_a_turn_that_is_gone_is_simply_the_next() -> None:
    records = [turn_record(0), replacing(1, 0), replacing(2, 0)]
    assert numbers(current_turns(records)) == [1, 2]


@given(st.lists(st.none() | st.integers(0, 12), max_size=12))
def test_the_last_turn_always_counts_and_the_order_is_kept(replaced: list[int | None]) -> None:
    records = [turn_record(n) if of is None else replacing(n, of) for n, of in enumerate(replaced)]
    kept = numbers(current_turns(records))
    assert kept == sorted(kept)
    assert not records or kept[-1] == len(records) - 1


def test_a_question_knows_what_was_said_before_the_turn_it_replaces() -> None:
    chat = replace(new_chat("Be brief."), records=(turn_record(0), turn_record(1), turn_record(2)))
    query = chat.query(Asking("Question one, again?", replaces="turn-of-log-1"))
    assert query.history == (Message("user", "Question 0?"), Message("assistant", "Answer 0."))
    assert query.system == "Be brief."
    assert query.chat_id == chat.chat.chat_id


def test_an_unanswered_question_is_no_part_of_the_history() -> None:
    chat = replace(new_chat(), records=(turn_record(0, answer=" "), turn_record(1)))
    assert [m.content for m in chat.query(Asking("?")).history] == ["Question 1?", "Answer 1."]


def test_a_chat_goes_by_its_name_or_by_its_first_question() -> None:
    chat = Conversation(ChatRecord("c", "2026-01-01T00:00:00Z", ""), (turn_record(0),))
    assert chat.name == "Question 0?"
    assert replace(chat, chat=chat.named).chat.name == "Question 0?"
    assert new_chat().name == ""


@given(st.text(max_size=300))
def test_a_name_is_one_short_line(question: str) -> None:
    name = name_from_question(question)
    assert len(name) <= 60
    assert "\n" not in name


@given(st.text(max_size=300), st.text("0123456789abcdef", min_size=12, max_size=12))
def test_a_chat_is_exported_under_its_title(name: str, chat_id: str) -> None:
    file_name = build_file_name(ChatRecord(chat_id, "2026-01-01T00:00:00Z", name))
    assert len(file_name.encode()) <= 143
    assert file_name.endswith(f"-{chat_id[:6]}")
    assert all(char == "-" or char.isalnum() for char in file_name)


def test_a_title_is_readable_in_a_file_name() -> None:
    chat = ChatRecord("ab12cd34ef56", "2026-01-01T00:00:00Z", "../What is *Zig*? Über C_1")
    assert build_file_name(chat) == "what-is-zig-über-c-1-ab12cd"


@given(st.integers(0, 500), st.lists(st.booleans(), max_size=60))
def test_the_window_stays_within_the_chat_and_never_grows_too_large(
    total: int, ups: list[bool]
) -> None:
    window = latest_window(total)
    for up in ups:
        window = window.earlier() if up else window.later(total)
        assert 0 <= window.first <= window.end <= total
        assert window.end - window.first <= MOST_TURNS_READING


def test_a_reader_comes_to_the_first_turn_and_back_to_the_last() -> None:
    window = latest_window(500)
    assert window == TurnWindow(500 - MOST_TURNS, 500)
    for _ in range(500 // PAGE_TURNS):
        window = window.earlier()
    assert window.first == 0
    for _ in range(500 // PAGE_TURNS):
        window = window.later(500)
    assert window.end == 500


RUNGS = [
    Rung(Route("balanced", arm="quick"), 100.0),
    Rung(Route("balanced", arm="think"), 300.0),
    Rung(Route("balanced", arm="large"), 200.0),
]


@pytest.mark.parametrize(
    ("work", "direction", "arm"),
    [(100, "larger", "large"), (200, "larger", "think"), (300, "larger", None),
     (300, "smaller", "large"), (150, "smaller", "quick"), (100, "smaller", None)],
)  # fmt: skip
def test_the_next_arm_is_the_nearest_in_work(work: float, direction: str, arm: str | None) -> None:
    route = choose_rung(RUNGS, work, direction)  # type: ignore[arg-type]
    assert (route.arm if route else None) == arm


def test_thought_and_votes_are_more_work_and_reading_letters_the_least() -> None:
    arms = [
        Arm("choose", "m", readout="choices"),
        Arm("quick", "m"),
        Arm("think", "m", "cot", think_tokens=128),
        Arm("vote", "m", "vote", think_tokens=128, votes=5),
    ]
    works = [estimate_work(arm, 1000) for arm in arms]
    assert works == sorted(works)
    assert len(set(works)) == 4


@pytest.mark.parametrize("reasoning", ["direct", "cot", "vote"])
def test_the_work_of_a_logged_turn_is_that_of_its_arm(reasoning: str) -> None:
    arm = Arm("a", "m", reasoning, think_tokens=96, votes=3)  # type: ignore[arg-type]
    settings = {"think_tokens": 96 if reasoning != "direct" else 0, "votes": 3}
    record = turn_record(0, reasoning=reasoning, settings=settings)
    assert estimate_turn_work(record, 7) == estimate_work(arm, 7)


def test_two_costs_stand_below_each_other() -> None:
    before = turn_record(0)
    energy = replace(before.energy, joules=25.0)
    after = turn_record(1, arm="think", energy=energy)
    assert compare_costs(before, after) == (
        "before  quick › smollm2-135m  12.5 J (counter)  25 tokens  0.50 s\n"
        "now     think › smollm2-135m  25.0 J (counter)  25 tokens  0.50 s\n"
        "2.0 times as many joules as before"
    )


def test_an_unmeasured_cost_is_not_compared() -> None:
    before = turn_record(0)
    after = turn_record(1, energy=replace(before.energy, joules=None, kind=None))
    text = compare_costs(before, after)
    assert "unmeasured" in text
    assert "times" not in text
