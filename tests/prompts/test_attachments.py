"""Attached texts: read, written into the question, shown short, cut to fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import UsageError
from etui.prompts.attachments import (
    Attachment,
    Part,
    cut,
    fit_attachments,
    fold,
    join,
    list_pictures,
    read_attachment,
    split,
)
from tests.support.tiny_projector import write_png


def by_words(text: str) -> int:
    return len(text.split())


TEXTS = st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)), max_size=300)


@given(TEXTS, TEXTS, st.sampled_from(["a.md", "my notes.txt", "x/y.py"]))
def test_what_was_joined_is_split_again(first: str, second: str, name: str) -> None:
    attached = [Attachment(name, first), Attachment("2", second, pasted=True)]
    text, found = split(join("What is this?", attached))
    assert text == "What is this?"
    assert [(each.name, each.pasted) for each in found] == [(name, False), ("2", True)]
    assert [each.block() for each in found] == [each.block() for each in attached]


def test_a_text_with_fences_of_its_own_is_closed_by_a_longer_one() -> None:
    block = Attachment("a.md", "```py\nx\n```\n````\n").block()
    assert block == "File a.md:\n`````md\n```py\nx\n```\n````\n`````"


def test_a_screen_shows_one_line_for_each() -> None:
    notes = Attachment("notes.md", "one two\n" * 600)
    question = join("Sum up @notes.md", [notes])
    assert fold(question, by_words) == "Sum up @notes.md\n@notes.md ≈1.2k tokens"
    exact = Attachment("notes.md", notes.text, 1234, exact=True)
    assert fold(question, by_words, [exact]) == "Sum up @notes.md\n@notes.md 1.2k tokens"
    paste = Attachment("1", "a\nb\n", 2, pasted=True)
    assert fold(join("x", [paste]), by_words) == "x\npaste 1: 2 lines, ≈2 tokens"


def test_code_without_an_attachment_is_shown_as_it_is() -> None:
    question = "Why?\n```py\nx\n```"
    assert fold(question, by_words) == question


@given(st.text(max_size=300))
def test_a_question_without_attachments_is_never_changed(question: str) -> None:
    assert split(question)[1] or fold(question, by_words) == question


def test_line_ends_and_byte_order_marks_are_gone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    (tmp_path / "b.txt").write_bytes("zwölf".encode("utf-16"))
    assert read_attachment("a.txt", tmp_path).text == "one\ntwo\nthree"
    assert read_attachment("b.txt", tmp_path).text == "zwölf"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "is damaged"),
        (b"\xff\xd8\xff\xe0", "is damaged"),
        (b"\x89PNG in a text", "is a PNG image"),
        (b"RIFF\0\0\0\0WEBPVP8", "is a WebP image"),
        (b"%PDF-1.7", "is a PDF"),
        (b"GGUF\3\0\0\0", "is a model"),
        (b"text\0more", "is binary, not text: a NUL byte at position 4"),
        (b"caf\xe9", "is not UTF-8 text: byte 0xe9 at position 3"),
        (b"\xff\xfea", "is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_refused_with_a_sentence(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UsageError) as refused:
        read_attachment("x", tmp_path)
    assert what in refused.value.what
    assert refused.value.fix


def test_a_picture_is_attached_by_its_mark_and_never_cut(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(write_png(30, 20))
    found = read_attachment("cat.png", tmp_path)
    assert found.picture is not None
    assert found.block() == found.text == found.picture.mark
    assert found.marker() == "@cat.png 30 x 20 pixels"
    assert join("Who is it?", [found]) == f"Who is it?\n\n{found.picture.mark}"
    assert list_pictures([found, Attachment("a", "b")]) == (found.picture,)
    text = Attachment("a.txt", "word " * 50)
    kept = fit_attachments("Who?", [text, found], "head", 40, by_words)
    assert found.picture in list_pictures(kept)


def test_folders_pipes_and_missing_files_are_refused_and_near_names_are_said(
    tmp_path: Path,
) -> None:
    (tmp_path / "notes.md").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a folder"):
        read_attachment(".", tmp_path)
    with pytest.raises(UsageError, match="not a regular file"):
        read_attachment("pipe", tmp_path)
    with pytest.raises(UsageError, match="there is no file notse") as refused:
        read_attachment("notse.md", tmp_path)
    assert "notes.md" in refused.value.fix
    for odd in ("a\0b", "x" * 5000, "~nobody-here/x", "no/such/folder"):
        with pytest.raises(UsageError):
            read_attachment(odd, tmp_path)


def test_a_file_of_more_than_ten_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(10_000_001)
    with pytest.raises(UsageError, match="more than 10,000,000"):
        read_attachment("big", tmp_path)


@given(
    st.lists(st.text("ab \n", max_size=30), max_size=60).map("".join),
    st.sampled_from(["head", "tail", "ends"]),
    st.integers(0, 60),
)
def test_a_part_never_has_more_tokens_than_fit(text: str, part: Part, most: int) -> None:
    kept = cut(text, part, most, by_words)
    assert by_words(kept) <= most
    assert kept in ("", text) or "left out" in kept


def test_each_part_keeps_its_end() -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    head, tail, ends = (cut(text, part, 100, by_words) for part in ("head", "tail", "ends"))
    assert head.startswith("line 0\n")
    assert head.endswith("lines left out …]")
    assert tail.endswith("line 999\n")
    assert ends.startswith("line 0\n")
    assert ends.endswith("line 999\n")
    assert "line 500" not in ends
    assert all(by_words(kept) > 80 for kept in (head, tail, ends)), "little room is wasted"
