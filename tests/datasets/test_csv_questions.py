"""Questions out of CSV files, and what is said of files that hold none."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.datasets.question_files import read_csv_questions
from etui.datasets.questions import ALL_LETTERS, LETTERS, group_by_subject
from etui.errors import InvalidFile

ROW = b"What is 2+2?,1,2,3,4,D\n"
TEXT = st.text(
    st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=20
)


def read(raw: bytes, subject: str = "maths"):
    return read_csv_questions(raw, "maths.csv", subject)


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
        (b"Which?,1,2,3,4,5,E\n", "maths.csv:1:1: the answer '5' is not one of A, B, C, D"),
        (b"Which?,1,A\n", "has 3 columns: 1 option; a question has 2 to 10"),
        (b"Which?,A\n", "has 2 columns: 0 options"),
        (b"Which?\n", "has 1 columns: 0 options"),
        (b"Which?,1,2,3,4,5,6,7,8,9,10,11,K\n", "has 13 columns: 11 options"),
        (b"Which?,1,2,3,4,5,6,7,8,9,10,K\n", "has 12 columns, and neither of the last two"),
        (b"Which?,1,2,3,C\nWho?,1,2,3,4,C\n", "maths.csv:2:1: the answer '4' is not one of A, B"),
        (b"question,A,answer\nWhich?,1,A\n", "maths.csv:1:1: the header names 1 option"),
        (b"question,option1,option2,answer\nWhich?,x,y,1\n", "the header names 0 options"),
        (b"question,answer\nWhich?,A\n", "maths.csv:2:1: has no options, and its answer is not"),
        (b"question,answer\nWhich?,\n", "maths.csv:2:1: has no options, and its answer is not"),
        (b"question,answer\n,7\n", "maths.csv:2:1: question is empty"),
        (b"question,A,B,D,answer\n", "the header names option D but not C"),
        (b"question,A,B,B,answer\n", "the header names b twice"),
        (b"question,A,B,C,D,E,F,G,H,I,J,K,answer\n", "the header names 11 options"),
        (b"question,A,B,C,answer\nWhich?,1,2,,C\n", "2:1: the answer 'C' is not one of A, B"),
        (b"question,A,B,C,answer\nWhich?,1,,3,C\n", "maths.csv:2:1: B is empty"),
        (b"question,A,B,C,answer\n", "contains no questions"),
        (b"question,A,B,answer\n" + b"x" * 200_000 + b",1,2,A\n", "field larger than"),
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


@given(st.lists(TEXT, min_size=2, max_size=10), st.data(), st.permutations(range(4)))
def test_two_to_ten_options_in_any_order_of_columns(options, data, order):
    letters = ALL_LETTERS[: len(options)]
    answer = data.draw(st.sampled_from(letters))
    columns = [("question", "Which?"), ("answer", answer), ("subject", "logic"), ("id", "q7")]
    columns = [columns[at] for at in order] + list(zip(letters, options, strict=True))
    out = io.StringIO(newline="")
    csv.writer(out).writerow([name for name, _ in columns])
    csv.writer(out).writerow([field for _, field in columns])
    (found,) = read(out.getvalue().encode())
    assert found.choices == tuple(options)
    assert (found.answer, found.subject, found.id) == (answer, "logic", "q7")
    assert found.letters == letters


@pytest.mark.parametrize("options", [2, 3, 4, 6, 7, 8, 9, 10])
@pytest.mark.parametrize("subject", ["", ",logic"])
def test_the_first_row_without_a_header_sets_the_number_of_options(options, subject):
    row = ",".join(["Which?", *"rstuvwxyzq"[:options], ALL_LETTERS[options - 1]])
    if len(row.split(",")) + bool(subject) in (6, 7) and options != 4:
        return  # six and seven columns are four options
    found = read(f"{row}{subject}\n{row}\n".encode())
    assert [len(one.choices) for one in found] == [options, options]
    assert [one.answer for one in found] == [ALL_LETTERS[options - 1]] * 2
    assert found[0].subject == ("logic" if subject else "maths")


def test_two_letters_at_the_end_are_an_option_and_the_answer():
    (found,) = read(b"Which?,x,y,A,B\n")
    assert (found.choices, found.answer, found.subject) == (("x", "y", "A"), "B", "maths")


def test_last_options_may_be_empty_under_a_header():
    first, second = read(b"question,A,B,C,D,answer\nWhich?,1,2,3,,C\nWho?,1,2,,,B\n")
    assert (first.choices, second.choices) == (("1", "2", "3"), ("1", "2"))


@given(st.binary(max_size=200))
def test_any_bytes_are_questions_or_a_problem(raw):
    try:
        found = read(raw)
    except InvalidFile:
        return
    assert all(2 <= len(one.choices) <= 10 and one.answer in one.letters for one in found)


def test_a_header_without_options_is_of_numbers():
    found = read(
        b'id,question,answer,subject\nq1,How many?,"1,080",sums\nq2,"And, now?","Six.\n#### 6",\n'
    )
    assert [(one.text, one.choices, one.answer, one.solution) for one in found] == [
        ("How many?", (), "1080", ""),
        ("And, now?", (), "6", "Six."),
    ]
    assert [(one.subject, one.id) for one in found] == [("sums", "q1"), ("maths", "q2")]
