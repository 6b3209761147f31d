"""Bodies are parsed strictly, and whatever is sent ends in an object or in status 400."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etui.server.errors import ApiError
from etui.server.validation import MOST_DEPTH, MOST_VALUES, parse_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES))
def test_what_is_valid_is_read_as_it_is(document: dict) -> None:
    assert parse_object(json.dumps(document).encode()) == document
    assert parse_object(json.dumps(document, ensure_ascii=False).encode()) == document


@given(st.binary() | st.text().map(str.encode) | VALUES.map(lambda v: json.dumps(v).encode()))
@example(b'{"a":1e400}')
@example(b'{"a":"\\ud800"}')
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
def test_anything_else_is_refused(body: bytes) -> None:
    try:
        parsed = parse_object(body)
    except ApiError as error:
        refusal = (error.status, error.message.isprintable())
    else:
        refusal = (400, isinstance(parsed, dict))
    assert refusal == (400, True)


@pytest.mark.parametrize(("depth", "accepted"), [(MOST_DEPTH, True), (MOST_DEPTH + 1, False)])
def test_the_depth_is_limited(depth: int, accepted: bool) -> None:
    body = b'{"a":' * depth + b"1" + b"}" * depth
    if accepted:
        parse_object(body)
    else:
        with pytest.raises(ApiError, match="nested"):
            parse_object(body)


def test_marks_within_texts_are_no_values() -> None:
    text = '[{,\\"\\\\' * MOST_VALUES
    assert parse_object(json.dumps({"text": text}).encode()) == {"text": text}


def test_values_are_bounded() -> None:
    parse_object(json.dumps({"prompt": [1] * (MOST_VALUES - 2)}).encode())
    with pytest.raises(ApiError, match="values"):
        parse_object(json.dumps({"prompt": [1] * MOST_VALUES}).encode())


def test_very_many_texts_are_counted_within_little_memory() -> None:
    body = b'{"a":[' + b'"",' * 1_000_000 + b'""]}'
    tracemalloc.start()
    try:
        with pytest.raises(ApiError, match="values"):
            parse_object(body)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(body)
    finally:
        tracemalloc.stop()
