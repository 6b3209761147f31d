"""The indent of a new line, the suggestion of a fault, the next fault, and what is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import Problem
from etui.tui.policies._editor import find_fix, find_matches, indent_after, next_fault


@pytest.mark.parametrize(
    ("before", "spaces"),
    [
        ("arms:", 2),
        ("arms:   # ways to answer", 2),
        ("  quick:", 4),
        ("    model: small", 4),
        ("  - name: x", 4),
        ("  - cascade:", 6),
        ("  -", 2),
        ("text: |", 2),
        ("text: >-", 2),
        ("  small: [qwen3-0.6b, llama-3.2-1b,", 10),
        ("  quick: {model: small, stop: {rule: all},", 10),
        ("  quick: {model: small}", 2),
        ("# a comment:", 0),
        ("  regex: 'a[b:'", 2),
        ("    ", 4),
        ("", 0),
    ],
)
def test_a_new_line_begins_where_the_next_thing_belongs(before: str, spaces: int) -> None:
    assert indent_after(before) == spaces


@given(st.text(alphabet=" -:{}[]'\"#|>ab\t\\", max_size=60))
def test_the_indent_is_within_the_line_or_one_level_deeper(before: str) -> None:
    assert 0 <= indent_after(before) <= len(before) + 2


def problem(line: int, column: int, message: str) -> Problem:
    return Problem("f", line, column, message)


@pytest.mark.parametrize(
    ("line", "column", "message", "after"),
    [
        ("  a: {reasoning: driect}", 18,
         "reasoning: 'driect' is not one of direct, cot, vote, did you mean 'direct'?",
         "  a: {reasoning: direct}"),
        ("    use: quik", 10, "unknown arm 'quik', did you mean 'quick'?", "    use: quick"),
        ("    usse: quick", 5, "unknown key 'usse', did you mean 'use'?", "    use: quick"),
        ('    when: "lnog"', 11, "unknown signal 'lnog', did you mean 'long' or 'lone'?",
         '    when: "long"'),
    ],
)  # fmt: skip
def test_a_suggestion_replaces_the_word_at_its_place(
    line: str, column: int, message: str, after: str
) -> None:
    text = f"arms:\n{line}\n"
    fix = find_fix(text, problem(2, column, message))
    assert fix is not None
    assert line[: fix.start] + fix.text + line[fix.end :] == after


def test_a_fault_without_a_suggestion_or_with_a_changed_line_has_no_fix() -> None:
    assert find_fix("a: b", problem(1, 1, "missing key 'model'")) is None
    assert find_fix("a: b", problem(9, 1, "unknown arm 'b', did you mean 'c'?")) is None
    assert find_fix("a: changed", problem(1, 4, "unknown arm 'b', did you mean 'c'?")) is None


def test_the_next_fault_is_the_one_after_the_cursor_and_then_the_first() -> None:
    one, two, whole = problem(2, 5, "one"), problem(7, 1, "two"), problem(0, 0, "whole file")
    faults = (two, whole, one)
    assert next_fault(faults, 1, 1) == one
    assert next_fault(faults, 2, 4) == one
    assert next_fault(faults, 2, 5) == two
    assert next_fault(faults, 7, 1) == one
    assert next_fault((whole,), 1, 1) is None


def test_matches_are_found_whatever_their_case() -> None:
    assert find_matches("Arms:\n  arm: ARM.\n", "arm") == [(0, 0), (1, 2), (1, 7)]
    assert find_matches("a.b", ".") == [(0, 1)]
    assert find_matches("anything", "") == []
