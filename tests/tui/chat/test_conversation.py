"""Which turns of a chat count, which are on the screen, and what a next arm is: pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Message
from etui.log.records import ChatRecord
from etui.runtime.routes import Route, choose_rung, estimate_turn_work, estimate_work
from etui.tui.chat._chat_list import build_file_name
from etui.tui.chat._conversation import (
    Asking,
    Conversation,
    new_chat,
)
from etui.tui.chat._transcript import (
    MOST_TURNS,
    MOST_TURNS_READING,
    PAGE_TURNS,
    TurnWindow,
    latest_window,
)
from etui.tui.chat.progress import compare_costs
from etui.turn.record import HopRecord, Tokens, TurnRecord
from tests.tui.fakes import MODEL, turn_record


def chain(*records: TurnRecord) -> tuple[TurnRecord, ...]:
    """Turns of one branch: each follows the one before it."""
    parents = [None, *(record.turn_id for record in records)]
    return tuple(replace(r, parent_id=p) for r, p in zip(records, parents, strict=False))


def beside(number: int, other: TurnRecord, **changes: object) -> TurnRecord:
    """A turn at the place of another."""
    return turn_record(number, parent_id=other.parent_id, **changes)


def numbers(records: tuple[TurnRecord, ...]) -> list[int]:
    return [int(record.turn_id.rsplit("-", 1)[1]) for record in records]


@pytest.fixture
def forked() -> Conversation:
    """Turns 0, 1, 2 in a line; 3 at the place of 1, and 4 after it."""
    first = chain(turn_record(0), turn_record(1), turn_record(2))
    third = beside(3, first[1])
    fourth = turn_record(4, parent_id=third.turn_id)
    return replace(new_chat("Be brief."), records=(*first, third, fourth))


def test_a_turn_takes_the_place_of_another_and_of_all_after_it(forked: Conversation) -> None:
    assert numbers(forked.current) == [0, 3, 4]
    assert forked.replaced() == {"turn-of-log-1", "turn-of-log-2"}
    assert forked.places() == {"turn-of-log-1": (1, 2), "turn-of-log-3": (2, 2)}


def test_one_goes_back_to_a_branch_and_forth_again(forked: Conversation) -> None:
    assert forked.beside("turn-of-log-3", 1) is None
    earlier = forked.beside("turn-of-log-3", -1)
    assert earlier == "turn-of-log-1"
    back = forked.switched(earlier)
    assert numbers(back.current) == [0, 1, 2]
    assert back.chat.head == "turn-of-log-1"
    assert back.query(Asking("And?")).parent_id == "turn-of-log-2"
    forth = back.switched("turn-of-log-3")
    assert (forth.chat.head, numbers(forth.current)) == (None, [0, 3, 4])


def test_an_answer_on_an_older_branch_makes_it_the_current_one(forked: Conversation) -> None:
    back = forked.switched("turn-of-log-1")
    query = back.query(Asking("And?"))
    longer = back.with_record(turn_record(5, parent_id=query.parent_id))
    assert longer.chat.head is None
    assert numbers(longer.current) == [0, 1, 2, 5]


def test_a_turn_without_an_answer_replaces_nothing() -> None:
    records = chain(turn_record(0), turn_record(1))
    failed = beside(2, records[1], answer="", status="stopped")
    chat = replace(new_chat(), records=records).with_record(failed)
    assert numbers(chat.current) == [0, 1]
    assert chat.query(Asking("?")).parent_id == "turn-of-log-1"


def test_the_context_is_that_of_the_last_answer_and_of_the_arm_that_gave_it() -> None:
    first = turn_record(0, tokens=Tokens(300, 0, 300, 4, 14))
    failed = turn_record(1, answer="", status="error", tokens=Tokens(0, 0, 0, 0, 0))
    chat = replace(new_chat(), records=chain(first, failed))
    assert chat.context_tokens == 310
    assert replace(chat, records=(failed,)).context_tokens is None
    quick, large = (
        HopRecord(arm, MODEL, None, "direct", "Paris.", "complete", None, None, None, taken, taken,
                  Tokens(prompt, 0, prompt, 0, 7), 1.0, None, 0.0, 0.1, "")
        for arm, prompt, taken in (("quick", 90, False), ("large", 150, True))
    )  # fmt: skip
    assert replace(chat, records=(replace(first, hops=(quick, large)),)).context_tokens == 157


def test_a_continued_answer_takes_the_place_of_its_beginning(forked: Conversation) -> None:
    query = forked.query(Asking("Question 4?", continues="turn-of-log-4"))
    assert query.parent_id == "turn-of-log-3"
    assert query.options.continues == "turn-of-log-4"
    assert query.messages()[-2:] == (
        Message("user", "Question 4?"),
        Message("assistant", "Answer 4."),
    )
    longer = forked.with_record(turn_record(5, parent_id=query.parent_id))
    assert numbers(longer.current) == [0, 3, 5]


def test_a_question_knows_what_was_said_before_the_turn_it_replaces() -> None:
    records = chain(turn_record(0), turn_record(1), turn_record(2))
    chat = replace(new_chat("Be brief."), records=records)
    query = chat.query(Asking("Question one, again?", replaces="turn-of-log-1"))
    assert query.history == (Message("user", "Question 0?"), Message("assistant", "Answer 0."))
    assert query.system == "Be brief."
    assert query.chat_id == chat.chat.chat_id
    assert query.parent_id == "turn-of-log-0"


def test_an_unanswered_question_is_no_part_of_the_history() -> None:
    chat = replace(new_chat(), records=chain(turn_record(0, answer=" "), turn_record(1)))
    assert [m.content for m in chat.query(Asking("?")).history] == ["Question 1?", "Answer 1."]


def test_a_chat_goes_by_its_name_or_by_its_first_question() -> None:
    chat = Conversation(ChatRecord("c", "2026-01-01T00:00:00Z", ""), (turn_record(0),))
    assert chat.name == "Question 0?"
    assert replace(chat, chat=chat.named).chat.name == "Question 0?"
    assert new_chat().name == ""


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
    (Route("balanced", arm="quick"), 100.0),
    (Route("balanced", arm="think"), 300.0),
    (Route("balanced", arm="large"), 200.0),
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


def test_the_cost_of_the_answer_before_is_one_fact() -> None:
    before = turn_record(0)
    energy = replace(before.energy, joules=25.0)
    after = turn_record(1, arm="think", energy=energy)
    assert compare_costs(before, after) == "2.0× the 12.5 J before"


def test_an_unmeasured_cost_is_not_compared() -> None:
    before = turn_record(0)
    after = turn_record(1, energy=replace(before.energy, joules=None, kind=None))
    assert compare_costs(before, after) == "12.5 J before"
    assert compare_costs(after, before) == "unmeasured before"
