"""JSON on standard output."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from etui.cli.common import format_json
from etui.text.sanitize import escape_json

texts = st.text(st.characters(exclude_categories=()))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda parts: st.lists(parts) | st.dictionaries(texts, parts),
)


@given(documents)
@example([1e16, 1e-7, -0.0, 10**30, [], {}, '\x1b\x7f\u2028/\\"ü😀'])
@example({"a": [float("nan"), float("inf"), -float("inf")]})
@example(["\ud800", {"\udfff": {}}])
def test_a_document_has_the_bytes_of_the_standard_library(document: object) -> None:
    expected = escape_json(json.dumps(document, indent=2, ensure_ascii=False))
    assert format_json(document) == expected
