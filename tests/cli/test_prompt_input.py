"""The question of ``etui ask``: the argument, and standard input behind it."""

from __future__ import annotations

import io

import pytest

from etui.cli import ask as question
from etui.cli.ask import read_question
from etui.errors import UsageError


def read(prompt, data=None, *, is_terminal=False):
    stdin = None if data is None else io.BytesIO(data)
    return read_question(prompt, stdin, is_terminal=is_terminal)


def test_the_prompt_alone():
    assert read("Why?", b"") == "Why?"
    assert read("Why?") == "Why?"


def test_standard_input_is_appended():
    assert read("Explain:", b"E = mc2\n") == "Explain:\n\nE = mc2"


def test_standard_input_alone():
    assert read(None, "Wie heißt das?".encode()) == "Wie heißt das?"


def test_a_terminal_is_not_read():
    assert read("Why?", b"never read", is_terminal=True) == "Why?"


def test_a_byte_order_mark_is_no_part_of_the_question():
    assert read(None, b"\xef\xbb\xbfWhy?") == "Why?"


@pytest.mark.parametrize("prompt", [None, "", "  \n\t "])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(UsageError, match="empty") as caught:
        read(prompt, b" \n")
    assert "etui ask" in caught.value.fix


def test_binary_input_says_where():
    with pytest.raises(UsageError, match="byte 0xff at position 3"):
        read("What is it?", b"abc\xff\xfe")


def test_a_nul_byte_is_binary_too():
    with pytest.raises(UsageError, match="NUL byte at position 1"):
        read(None, b"a\0b")


def test_endless_input_is_cut_off(monkeypatch):
    monkeypatch.setattr(question, "MAX_INPUT_BYTES", 1_000_000)
    with pytest.raises(UsageError, match="longer than 1 MB"):
        read(None, b"x" * 1_000_001)
