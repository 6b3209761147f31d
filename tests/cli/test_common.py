"""JSON on standard output, and output files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etui.cli.common import format_json, write_output
from etui.errors import EtuiError
from etui.text import escape_json

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


def test_an_output_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.txt"
    write_output(path, "one\n", "choose another", make_folder=True)
    assert path.read_text() == "one\n"
    with pytest.raises(UnicodeEncodeError):
        write_output(path, "\ud800", "choose another")
    write_output(path, "\ud800", "choose another", errors="replace")
    assert path.read_text() == "?"
    with pytest.raises(EtuiError, match=r"cannot write .*no/out") as refused:
        write_output(tmp_path / "no" / "out", "one", "choose another")
    assert refused.value.fix == "choose another"
