"""The table of difficulties: back as written, and every fault with its line."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.difficulty import (
    DifficultySource,
    format_difficulty,
    parse_difficulty,
    read_difficulty,
)
from etui.errors import InvalidFile

KEYS = st.tuples(st.text("abc_,\"' ", min_size=1).map(lambda s: f"s{s}x"), st.integers(0, 9999))


@given(
    st.dictionaries(KEYS, st.tuples(st.integers(0, 10_000), st.integers(0, 50)), min_size=1),
    st.lists(st.text(max_size=8), max_size=2),
)
def test_a_table_comes_back(rows, names):
    values = {key: share / 10_000 for key, (share, _) in rows.items()}
    models = {key: count for key, (_, count) in rows.items()}
    sources = tuple(DifficultySource(name, None, "table t.csv") for name in names)
    text = format_difficulty(values, models, "ab" * 32, sources)
    table = parse_difficulty(text, "t.csv")
    assert (table.values, table.models, table.data_sha256) == (values, models, "ab" * 32)
    assert table.sources == sources


@given(st.text(max_size=80))
def test_any_text_is_a_table_or_an_invalid_file(text):
    for candidate in (text, "subject,row,difficulty,models\n" + text):
        with suppress(InvalidFile):
            assert parse_difficulty(candidate, "t.csv").values


def test_a_table_without_comments_and_models_is_one():
    table = parse_difficulty("subject,row,difficulty\na,0,0.5\n\na,1,1\n", "t.csv")
    assert table.values == {("a", 0): 0.5, ("a", 1): 1.0}
    assert table.models == {("a", 0): 0, ("a", 1): 0}
    assert (table.data_sha256, table.sources) == (None, ())


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "the first line is not subject,row,difficulty"),
        ("a,b,c\n", 1, "the first line is not subject,row,difficulty"),
        ("subject,row,difficulty\n", 1, "has no difficulties"),
        ("# x\nsubject,row,difficulty\na,0,0.5,3\n", 3, "has 4 columns, the first line has 3"),
        ("subject,row,difficulty\na,0,1.5\n", 2, "difficulty is '1.5', not a share"),
        ("subject,row,difficulty\na,0,nan\n", 2, "difficulty is 'nan', not a share"),
        ("subject,row,difficulty\na,0,hard\n", 2, "difficulty is 'hard', not a share"),
        ("subject,row,difficulty\na,-1,0.5\n", 2, "row is '-1'"),
        ("subject,row,difficulty\n ,1,0.5\n", 2, "subject is empty"),
        ("subject,row,difficulty\na,1,0.5\na,1,0.5\n", 3, "a row 1 is there twice"),
        ("subject,row,difficulty,models\na,1,0.5,x\n", 2, "models is 'x'"),
        ('subject,row,difficulty\na,1,"0.5\n', 2, "not valid CSV"),
        ("# model: {}\nsubject,row,difficulty\na,1,0.5\n", 1, "does not name a model"),
    ],
)
def test_a_fault_is_named_with_its_line(text, line, said):
    with pytest.raises(InvalidFile) as caught:
        parse_difficulty(text, "t.csv")
    assert f"t.csv:{line}:" in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_difficulty(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidFile, match="is not UTF-8"):
        read_difficulty(tmp_path / "bytes.csv")
