"""Questions out of CSV files, and what is said of files that hold none."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.datasets.questions import LETTERS, group_by_subject, hash_files, read_questions
from etui.errors import InvalidFile

ROW = b"What is 2+2?,1,2,3,4,D\n"
TEXT = st.text(
    st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=20
)


def read(raw: bytes, subject: str = "maths"):
    return read_questions(raw, "maths.csv", subject)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, st.sampled_from(LETTERS)), min_size=1))
def test_what_a_csv_writer_wrote_is_read_again(rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerow(["Question", "A", "B", "C", "D", "Answer"])
    csv.writer(out).writerows(rows)
    found = read(out.getvalue().encode())
    assert [(q.text, *q.choices, q.answer) for q in found] == rows
    assert [q.row for q in found] == list(range(len(rows)))


def test_none_stays_text_and_edges_stay_where_they_are():
    (found,) = read(b'"  two\r\nlines ",None, 1,2,"3,4",A\r\n')
    assert found.text == "  two\r\nlines "
    assert found.choices == ("None", " 1", "2", "3,4")
    assert found.subject == "maths"


def test_a_header_may_order_the_columns_and_name_subjects():
    raw = b"answer,subject,question,A,B,C,D\nB,logic,Which?,1,2,3,4\nC,,Who?,1,2,3,4\n"
    first, second = read(raw)
    assert (first.subject, first.text, first.answer) == ("logic", "Which?", "B")
    assert second.subject == "maths"


def test_a_seventh_column_is_the_subject():
    found = read(b"Which?,1,2,3,4,A,logic\nWho?,1,2,3,4,B,history\n")
    assert list(group_by_subject(found)) == ["logic", "history"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "contains no questions"),
        (b"\n\n", "contains no questions"),
        (ROW + b"Which?,1,2,3,4,E\n", "maths.csv:2:1: the answer 'E' is not one of A, B, C, D"),
        (ROW + b"Which?,1,2,3,A\n", "maths.csv:2:1: has 5 columns"),
        (b"Which?,1,2,3,4,A,logic,more\n", "has 8 columns"),
        (b"Which?,1,,3,4,A\n", "B is empty"),
        (b",1,2,3,4,A\n", "question is empty"),
        (ROW + "Größe?,1,2,3,4,A\n".encode("latin-1"), "maths.csv:2:1: is not UTF-8"),
        ("Which?,1,2,3,4,A\n".encode("utf-16"), "UTF-16"),
        (b"Which\0?,1,2,3,4,A\n", "NUL"),
        (b'"Which?,1,2,3,4,A\n', "not valid CSV"),
    ],
)
def test_a_file_that_is_no_question_file_is_told(raw, said):
    with pytest.raises(InvalidFile) as caught:
        read(raw)
    assert said in caught.value.what
    assert caught.value.exit_code == 2


def test_problems_are_all_told_up_to_ten():
    with pytest.raises(InvalidFile) as caught:
        read(b"Which?,1,2,3,4,E\n" * 30)
    assert len(caught.value.problems) == 10


def test_a_byte_order_mark_is_no_part_of_the_question():
    (found,) = read(b"\xef\xbb\xbf" + ROW)
    assert found.text == "What is 2+2?"


def test_the_hash_goes_by_names_and_not_by_the_order_of_reading():
    assert hash_files({"b": b"2", "a": b"1"}) == hash_files({"a": b"1", "b": b"2"})
    assert hash_files({"a": b"2", "b": b"1"}) != hash_files({"a": b"1", "b": b"2"})
