"""Bytes become lines and events, however they are cut; what breaks a bound is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.remote.client import EventReader, LineReader, StreamFault, parse_document

TEXTS = st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20))


def read_all(reader: LineReader, chunks: list[bytes]) -> list[str]:
    return [*(line for chunk in chunks for line in reader.push(chunk)), *reader.finish()]


@given(TEXTS, st.sampled_from(["\n", "\r\n"]), st.data())
def test_lines_do_not_depend_on_how_the_bytes_are_cut(
    texts: list[str], end: str, data: st.DataObject
) -> None:
    raw = "".join(text + end for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    bounds = [0, *cuts, len(raw)]
    chunks = [raw[a:b] for a, b in itertools.pairwise(bounds)]
    assert read_all(LineReader(), chunks) == texts


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_are_lines_or_a_fault(chunks: list[bytes]) -> None:
    reader = LineReader(most_line_bytes=64, most_body_bytes=512)
    try:
        lines = read_all(reader, chunks)
    except StreamFault:
        return
    assert all(len(line.encode()) <= 64 for line in lines)
    assert sum(len(chunk) for chunk in chunks) <= 512


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 6] * 2, [b"a\n" + b"x" * 11 + b"\n"]])
def test_a_line_over_its_bound_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(StreamFault, match="longer than 10 bytes"):
        read_all(LineReader(most_line_bytes=10), chunks)


def test_a_stream_over_its_bound_is_refused() -> None:
    with pytest.raises(StreamFault, match="longer than 8 bytes"):
        read_all(LineReader(most_body_bytes=8), [b"abc\n"] * 3)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(StreamFault, match="UTF-8"):
        LineReader().push(b"\xff\xfe\n")


def test_events_have_data_and_nothing_else() -> None:
    reader = EventReader()
    given_lines = [": ping", "", "event: x", "data: a", "data:b", "id: 1", "", "", "data: c", ""]
    assert [data for line in given_lines if (data := reader.push(line)) is not None] == [
        "a\nb",
        "c",
    ]


@pytest.mark.parametrize("text", ["", "[]", "1", "null", '"x"', "{", "{'a': 1}", "[" * 100_000])
def test_only_a_json_object_is_a_document(text: str) -> None:
    with pytest.raises(StreamFault):
        parse_document(text)
