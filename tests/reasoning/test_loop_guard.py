"""The loop guard on its own: what it ends, what it leaves alone, and what it keeps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loops import (
    RealLoop,
    Reasoned,
    end_loop,
    end_reasoned,
    guard_text,
    in_time,
    label,
    read_real,
    read_reasoned,
    split_words,
)
from etui.arm import Arm
from etui.reasoning.loop_guard import LoopGuard, asked_rounds, build_guard, keep_first_round

TUNED, HELD_OUT = read_real("real"), read_real("real_held_out")
REAL = [*TUNED, *HELD_OUT]
REASONED = [*read_reasoned("reasoned"), *read_reasoned("reasoned_held_out")]


def guarded(text: str, question: str = "Why?"):
    """Return the text up to where the guard ended it (None if it did not), and the kept text."""
    tokens = split_words(text)
    count, found = guard_text(tokens, question)
    if found is None:
        return None, text
    kept = b"".join(piece for _, piece in tokens[: found.kept_tokens]).decode()
    return b"".join(piece for _, piece in tokens[:count]).decode(), keep_first_round(kept)


def test_the_corpus_has_its_sizes():
    assert len(REAL) >= 20
    assert len(REASONED) >= 40
    assert len({loop.model for loop in REAL}) >= 3


def test_real_loops_end_within_three_rounds():
    late = [loop.name for loop in TUNED if not in_time(end_loop(loop))]
    assert len(late) <= 0.05 * len(TUNED), late


def test_loops_on_which_nothing_was_set_end_within_four_rounds():
    assert all((end_loop(loop).rounds or 9) <= 4 for loop in HELD_OUT)


@pytest.mark.parametrize("loop", REAL, ids=lambda loop: loop.name)
def test_every_real_loop_ends_within_five_rounds(loop: RealLoop):
    rounds = end_loop(loop).rounds
    assert rounds is not None
    assert rounds <= 5


@pytest.mark.parametrize("loop", REAL, ids=lambda loop: loop.name)
def test_the_labels_of_the_corpus_are_those_of_a_search_over_all_periods(loop: RealLoop):
    assert label([token for token, _ in loop.tokens]) == (loop.start, loop.period)


@pytest.mark.parametrize("text", REASONED, ids=lambda text: text.name)
def test_a_text_that_repeats_with_reason_is_left_alone(text: Reasoned):
    assert end_reasoned(text, split_words).at is None


def test_the_readmes_question():
    ended, kept = guarded("L'Étoile" + ", la femme au martyre" * 40)
    assert ended is not None
    assert len(ended) < 200
    assert kept == "L'Étoile, la femme au martyre"


def test_the_first_round_is_kept_to_the_end_of_its_sentence():
    _, kept = guarded("Rome is old. " + "You can help me plan a trip to Rome. Shall we? " * 9)
    assert kept == "Rome is old. You can help me plan a trip to Rome. Shall we?"


def test_a_list_of_one_sentence_is_a_loop_and_a_list_of_several_is_none():
    same = "\n".join(f"{n}. The moon is the only planet with a magnetic field." for n in range(40))
    ended, kept = guarded(same)
    assert ended is not None
    assert kept == "0. The moon is the only planet with a magnetic field."
    beasts = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koala"]
    several = "\n".join(f"{n}. The {beast} is a kind of animal." for n, beast in enumerate(beasts))
    assert guarded(several)[0] is None


def test_a_loop_in_which_one_word_changes_is_found():
    text = " ".join(
        f"It is the {word} city in the world, and it is known for its food, its music and its art."
        for word in ("best", "best", "most", "best", "most", "most", "best", "most", "best")
    )
    ended, _ = guarded(text)
    assert ended is not None


def test_a_number_that_counts_is_progress():
    text = " ".join(f"I have {n} bottles of milk on my wall." for n in range(60))
    assert guarded(text)[0] is None


@pytest.mark.parametrize(
    ("question", "rounds"),
    [
        ("Why is the sky blue?", 1),
        ("How many times a day do dogs eat?", 1),
        ("What is 3 times 4?", 1),
        ("Write hello 50 times.", 50),
        ("Say it twice.", 2),
        ("Say it ten times", 10),
        ("Schreibe es 20 mal.", 20),
        ("Repeat the word hello.", math.inf),
        ("Say it over and over", math.inf),
    ],
)
def test_what_a_question_asks_for(question, rounds):
    assert asked_rounds(question) == rounds


def test_what_was_asked_for_is_given_and_no_more():
    text = "I must not talk in class.\n" * 100
    ended, _ = guarded(text, "Write it 30 times.")
    assert ended is not None
    assert 30 <= ended.count("\n") <= 34
    assert guarded(text, "Repeat it.")[0] is None


def test_only_an_arm_with_a_guard_has_one():
    assert build_guard(Arm("a", "m", loop_guard=True), "Why?") is not None
    assert build_guard(Arm("a", "m", loop_guard=False), "Why?") is None
    assert build_guard(Arm("a", "m"), "Why?") is None


def test_bytes_of_split_characters_are_words():
    text = "Привет, как дела? " * 60
    pieces = [(byte, bytes([byte])) for byte in text.encode()]
    count, _ = guard_text(pieces, "Why?")
    assert count is not None
    assert count < len(pieces) / 4


@given(st.lists(st.integers(0, 3), max_size=300), st.integers(1, 40))
def test_a_period_is_found_whatever_comes_before_it(before, period):
    unit = [(100 + n, f" w{chr(97 + n % 26)}{chr(97 + n // 26)}".encode()) for n in range(period)]
    tokens = [(n, f" {'abcd'[n]}x".encode()) for n in before] + unit * (400 // period + 2)
    count, found = guard_text(tokens, "Why?")
    assert count is not None
    assert found is not None
    if count > len(before):
        assert count <= len(before) + max(45, 3 * period + 8)
    assert 0 < found.kept_tokens <= count


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=6)), max_size=400))
def test_any_tokens_are_taken(tokens):
    guard = LoopGuard()
    for token, piece in tokens:
        if guard.take(token, piece) is not None:
            break
    if guard.found is not None:
        assert 0 < guard.found.kept_tokens <= len(tokens)
        assert guard.found.period_tokens > 0


def test_a_period_beyond_the_longest_is_not_looked_for():
    def rounds_of(period: int) -> LoopGuard:
        guard = LoopGuard()
        for n in range(4 * period):
            guard.take(n * 7 % period, f" w{n * 7 % period}x".encode())
        return guard

    assert rounds_of(997).found is None
    assert rounds_of(499).found is not None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One.\n2.", "One."),
        ("One.\n- ", "One."),
        ("One.\n\n### ", "One."),
        ("One, two", "One, two"),
        ("1.", "1."),
    ],
)
def test_a_dangling_list_mark_is_cut(text, kept):
    assert keep_first_round(text) == kept
