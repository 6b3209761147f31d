"""Questions from Parquet, as the hub publishes them; without pyarrow it is said what to install."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from etui.datasets._records import read_parquet_questions, require_pyarrow
from etui.datasets.questions import Question
from etui.errors import EtuiError, InvalidFile


def parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as files

    out = io.BytesIO()
    files.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def test_rows_of_the_hubs_arc():
    choices = {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}
    raw = parquet([{"id": "q1", "question": "Which?", "choices": choices, "answerKey": "2"}])
    (found,) = read_parquet_questions(raw, "arc.parquet", "arc-challenge")
    assert found == Question("arc-challenge", 0, "Which?", ("x", "y", "z"), "B", id="q1")


def test_rows_of_mmlu_pro_and_numbers():
    row = {"question_id": 7, "question": "Which?", "options": ["x", "y"], "answer": "B"}
    (found,) = read_parquet_questions(
        parquet([{**row, "answer_index": 1, "category": "law", "cot_content": ""}]), "p", "own"
    )
    assert (found.subject, found.id, found.answer) == ("law", "7", "B")
    (found,) = read_parquet_questions(parquet([{"question": "How many?", "answer": 7}]), "p", "own")
    assert found.answer == "7"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "Which?", "options": ["x"], "answer": "A"}, "p.parquet:1:1: has 1 option"),
        ({"question": "How many?", "answer": float("nan")}, "its answer is not a number: 'nan'"),
        ({"question": "How many?", "answer": b"7"}, "its answer is not a number"),
    ],
)
def test_a_row_that_is_not_a_question_is_reported(row, what):
    with pytest.raises(InvalidFile) as caught:
        read_parquet_questions(parquet([row]), "p.parquet", "own")
    assert what in caught.value.what


@pytest.mark.parametrize("cut", [slice(0), slice(40), slice(4, None), slice(-20)])
def test_a_damaged_file_is_reported(cut):
    raw = parquet([{"question": "How many?", "answer": n} for n in range(50)])
    with pytest.raises(InvalidFile, match="not a valid Parquet file"):
        read_parquet_questions(raw[cut], "p.parquet", "own")


def test_a_file_that_unpacks_to_too_much_is_refused(monkeypatch):
    raw = parquet([{"question": "How many?", "answer": 1}] * 30)
    monkeypatch.setattr("etui.datasets._records._MOST_ROWS", 20)
    with pytest.raises(InvalidFile, match="too large: 30 rows"):
        read_parquet_questions(raw, "p.parquet", "own")


def test_without_pyarrow_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(EtuiError) as caught:
        require_pyarrow("MMLU-Pro")
    assert "etui[suites]" in caught.value.fix
    assert "--data" in caught.value.fix
