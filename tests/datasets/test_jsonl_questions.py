"""Questions from JSON Lines: every usual form, and what is wrong with a file."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.datasets.questions import ALL_LETTERS, Question
from etui.datasets.records import read_jsonl_questions, read_parquet_questions, require_pyarrow
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
    monkeypatch.setattr("etui.datasets.records._MOST_ROWS", 20)
    with pytest.raises(InvalidFile, match="too large: 30 rows"):
        read_parquet_questions(raw, "p.parquet", "own")


def test_without_pyarrow_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(EtuiError) as caught:
        require_pyarrow("MMLU-Pro")
    assert "etui[suites]" in caught.value.fix
    assert "--data" in caught.value.fix


PLAIN = {"question": "Which?", "choices": ["x", "y", "z"], "answer": "B"}
NUMBER = {"question": "How many?", "answer": 72}
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12
)


def read(*records: Any) -> list[Question]:
    """Read records, or lines as they are."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    return read_jsonl_questions("\n".join(lines).encode(), "own.jsonl", "own")


def arc(labels: list[str], key: str, flat: bool = False) -> dict[str, Any]:
    texts = [f"option {label}" for label in labels]
    if flat:
        return {
            "id": "q1",
            "question": "Which?",
            "choices": {"text": texts, "label": labels},
            "answerKey": key,
        }
    choices = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    return {"id": "q1", "question": {"stem": "Which?", "choices": choices}, "answerKey": key}


@pytest.mark.parametrize("answer", [1, "B", " B "])
def test_a_list_of_choices_with_an_index_or_a_letter(answer):
    (found,) = read({**PLAIN, "answer": answer, "subject": "logic"})
    assert found == Question("logic", 0, "Which?", ("x", "y", "z"), "B")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("labels", "key"), [("ABCDE", "D"), ("1234", "4"), ("123", "2")])
def test_both_forms_of_arc_and_labels_that_are_numbers(labels, key, flat):
    (found,) = read(arc(list(labels), key, flat))
    assert found.answer == ALL_LETTERS[labels.index(key)]
    assert found.choices == tuple(f"option {label}" for label in labels)
    assert (found.id, found.text, found.subject) == ("q1", "Which?", "own")


def test_the_form_of_mmlu_pro():
    (found,) = read(
        {
            "question_id": 70,
            "question": "Which?",
            "options": [f"option {n}" for n in range(10)],
            "answer": "I",
            "answer_index": 8,
            "cot_content": "A: Let's think step by step. The answer is (I).",
            "category": "computer science",
            "src": "made up",
        }
    )
    assert (found.answer, found.id, found.subject) == ("I", "70", "computer science")
    assert found.letters == ALL_LETTERS
    assert found.solution.startswith("A: Let's think")


def test_the_form_of_gsm8k():
    answer = "She buys 2*600=<<2*600=1200>>1200.\nThat is 1,200 in all.\n#### 1,200"
    (found,) = read({"question": "How many?", "answer": answer})
    assert found.answer == "1200"
    assert found.solution == "She buys 2*600=<<2*600=1200>>1200.\nThat is 1,200 in all."
    assert (found.choices, found.letters) == ((), ())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("72", "72"),
        ("-3.50", "-3.50"),
        ("1e3", "1e3"),
        ('"2,500,000"', "2500000"),
        ('" .5"', ".5"),
        ("12345678901234567890123456789", "12345678901234567890123456789"),
        ("0.1000000000000000000001", "0.1000000000000000000001"),
    ],
)
def test_numbers_stay_as_they_are_written(given, kept):
    (found,) = read(f'{{"question": "How many?", "answer": {given}}}')
    assert (found.answer, found.solution) == (kept, "")


def test_empty_lines_and_line_separators_in_texts_do_not_count_as_lines():
    raw = '\ufeff\n{"question": "a\u2028b", "answer": 1}\r\n\r\n{"question": "c", "answer": 2}\n'
    found = read_jsonl_questions(raw.encode(), "own.jsonl", "own")
    assert [(one.row, one.text) for one in found] == [(0, "a\u2028b"), (1, "c")]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({**PLAIN, "choices": list("abcdefghijk")}, "has 11 options; a question has 2 to 10"),
        ({**PLAIN, "choices": ["x"]}, "has 1 option;"),
        ({**PLAIN, "choices": []}, "has 0 options"),
        ({**PLAIN, "choices": ["x", ""]}, "option B is empty"),
        ({**PLAIN, "choices": ["x", None]}, "not all texts"),
        ({**PLAIN, "choices": "xy"}, "its options are not a list"),
        ({**PLAIN, "options": ["x", "y"]}, 'both "choices" and "options"'),
        ({**PLAIN, "answer": "D"}, "the answer 'D' is not one of A, B, C"),
        ({**PLAIN, "answer": "b"}, "the answer 'b' is not one of A, B, C"),
        ({**PLAIN, "answer": "1"}, "the answer '1' is not one of A, B, C"),
        ({**PLAIN, "answer": 3}, "the answer 3 is not an index from 0 to 2"),
        ({**PLAIN, "answer": -1}, "the answer -1 is not an index"),
        ({**PLAIN, "answer": 1.0}, "the answer 1.0 is not an index"),
        ({**PLAIN, "answer": True}, "the answer 'True' is not one of A, B, C"),
        ({**PLAIN, "answer": None}, "has options but no answer"),
        ({**PLAIN, "answer_index": 0}, "the answer 'B' and the index 0 do not agree"),
        ({**PLAIN, "answer_index": "B"}, "\"answer_index\" 'B' is not a number"),
        (arc(list("ABCD"), "E"), "the answer 'E' is not one of A, B, C, D"),
        (arc(list("1234"), "A", flat=True), "the answer 'A' is not one of 1, 2, 3, 4"),
        (arc(list("AAB"), "A"), "labels of its options are not all different"),
        ({**arc(["A"], "A", flat=True), "choices": {"text": ["x"]}}, 'a "text" and a "label"'),
        ({"question": {"choices": []}, "answerKey": "A"}, '"question" has no "stem"'),
        ({"prompt": "How many?", "answer": 7}, 'has no "question"'),
        ({**PLAIN, "question": ""}, "question is empty"),
        ({**PLAIN, "question": "a\0b"}, "NUL"),
        ('{"question": "\\ud800", "answer": 1}', "half of a surrogate pair"),
        ({"question": "How many?"}, "neither options nor an answer"),
        ({"question": "How many?", "answer": "B"}, "its answer is not a number: 'B'"),
        ({"question": "How many?", "answer": "1,2"}, "is not a number: '1,2'"),
        ({"question": "How many?", "answer": "so #### many"}, "after #### is not a number: 'many'"),
        ({"question": "How many?", "answer": [1]}, "its answer is not a number"),
        ({"question": "How many?", "answer": True}, "its answer is not a number"),
        (
            f'{{"question": "How many?", "answer": {"9" * 5000}}}',
            "has 5000 characters; a number has at most 100",
        ),
        ('{"question": "How many?", "answer": NaN}', "contains NaN"),
        ('{"question": "How many?", "answer": Infinity}', "contains Infinity"),
        ('{"question": "a", "question": "b", "answer": 1}', "has the key 'question' twice"),
        ("[1]", "is not a JSON object"),
        ("question,answer", "own.jsonl:2:1: is not JSON"),
        ('{"question": ', "own.jsonl:2:14: is not JSON"),
        ('{"a":' * 100_000, "is nested too deeply"),
        (json.dumps({**PLAIN, "question": "x" * 1_000_000}), "is too long"),
    ],
)
def test_a_line_that_is_not_a_question_is_reported_with_its_place(line, what):
    with pytest.raises(InvalidFile) as caught:
        read(NUMBER, line)
    assert caught.value.what.startswith("own.jsonl:2:")
    assert what in caught.value.what
    assert len(caught.value.what) < 300
    assert caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("records", "what"),
    [
        ((PLAIN, NUMBER), "own.jsonl:2:1: has a number as its answer, but line 1 has options"),
        ((NUMBER, NUMBER, PLAIN), "own.jsonl:3:1: has options, but the answer of line 1"),
    ],
)
def test_letters_and_numbers_in_one_file_are_refused(records, what):
    with pytest.raises(InvalidFile) as caught:
        read(*records)
    assert what in caught.value.what


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "own.jsonl: contains no questions"),
        (b"\n \n", "contains no questions"),
        (b'[{"question": "Which?"}]', "is a JSON array"),
        (b'{"question": "Gr\xf6\xdfe?"}', "own.jsonl:1:1: is not UTF-8"),
        ('{"question": "x"}'.encode("utf-16"), "UTF-16"),
        (b'{"question": "\0"}', "NUL"),
    ],
)
def test_a_file_that_is_not_jsonl_is_reported(raw, what):
    with pytest.raises(InvalidFile) as caught:
        read_jsonl_questions(raw, "own.jsonl", "own")
    assert what in caught.value.what


def test_at_most_ten_problems_are_reported():
    with pytest.raises(InvalidFile) as caught:
        read(*["{"] * 30, *[{"question": "How many?"}] * 30)
    assert len(caught.value.problems) == 10


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=10)), min_size=1, max_size=4))
def test_every_form_holds_the_same_questions(rows):
    plain = [{"question": q, "choices": options, "answer": 0} for q, options in rows]
    pro = [{"question": q, "options": o, "answer": "A", "answer_index": 0} for q, o in rows]
    labels = [[str(n) for n in range(len(options))] for _, options in rows]
    flat = [
        {"question": q, "choices": {"text": o, "label": names}, "answerKey": "0"}
        for (q, o), names in zip(rows, labels, strict=True)
    ]
    found = read(*plain)
    assert [(one.text, one.choices) for one in found] == [(q, tuple(o)) for q, o in rows]
    assert found == read(*pro) == read(*flat)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["question", "choices", "options", "answer", "text", "label", "stem", "answerKey"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=3))
def test_any_json_is_questions_or_a_problem(records):
    check(("\n".join(json.dumps(one) for one in records)).encode())


@given(st.binary(max_size=120))
def test_any_bytes_are_questions_or_a_problem(raw):
    check(raw)


def check(raw: bytes) -> None:
    try:
        found = read_jsonl_questions(raw, "own.jsonl", "own")
    except InvalidFile:
        return
    assert found
    for one in found:
        assert one.answer in one.letters if one.choices else float(one.answer) is not None
        one.text.encode()
