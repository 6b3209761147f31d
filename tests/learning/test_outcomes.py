"""Tables of outcomes, and what is said of wrong ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import EtuiError, InvalidFile, UsageError
from etui.learning.outcomes import drop_questions, read_arms, read_costs, read_table, read_texts
from tests.learning import made


def test_a_table_is_read_with_its_texts(tmp_path):
    outcomes, data = made.write(tmp_path, 30)
    table = read_table(outcomes, read_texts(data, "test"), complete=True)
    graded, sha256 = table.graded, table.sha256
    assert graded.arms == ("weak", "strong")
    assert len(graded) == len(graded.questions) == 30
    expected = [[weak, strong] for *_, weak, strong in made.rows(30)]
    assert graded.correct.tolist() == expected
    assert graded.questions[0].stem.startswith("Which ")
    assert len(sha256) == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1:1: is empty"),
        ("row,a\n0,1\n", ":1:1: has no column subject"),
        ("subject,a\nx,1\n", ":1:1: has no column row"),
        ("a,subject,row\n1,x,0\n", ":1:1: its first two columns are not subject and row"),
        ("subject,row\nx,0\n", ":1:1: has no arm column"),
        ("subject,row,a,a\nx,0,1,1\n", ":1:1: has two columns 'a'"),
        ("subject,row,a,\nx,0,1,1\n", ":1:1: column 4 has no name"),
        ("subject,row,a,b\n", ":1:1: has no outcomes"),
        ("subject,row,a,b\nalgebra,0,1\n", ":2:1: has 3 columns, the first line has 4"),
        ("subject,row,a,b\nalgebra,0,1,2\n", ":2:1: b is '2', not 0 or 1"),
        ("subject,row,a,b\nalgebra,0,1,true\n", ":2:1: b is 'true', not 0 or 1"),
        ("subject,row,a,b\nalgebra,-1,1,1\n", ":2:1: row is '-1', not a number from 0"),
        (
            "subject,row,a,b\nalgebra,0,1,1\n\nalgebra,0,0,1\n",
            ":4:1: algebra row 0 is already in line 2",
        ),
        ("subject,row,a,b\n,0,1,1\n", ":2:1: subject is empty"),
        ("subject,row,a,b\nalgbra,0,1,1\n", ":2:1: the data has no subject 'algbra'; did you"),
        ("subject,row,a,b\nalgebra,99,1,1\n", ":2:1: algebra has no row 99, its last is 9"),
        ('subject,row,a,b\nalgebra,0,1,"1\n', "is not valid CSV"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, said):
    _, data = made.write(tmp_path, 30)
    file = tmp_path / "wrong.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidFile) as raised:
        read_table(file, read_texts(data, "test"), complete=True)
    assert said in raised.value.what
    assert raised.value.what.startswith(str(file))
    assert raised.value.fix


@given(st.binary(max_size=200))
def test_any_bytes_give_a_table_or_a_located_error(tmp_path, raw):
    file = tmp_path / "any.csv"
    for body in (raw, b"subject,row,a,b\nx,0,1,0\n" + raw):
        file.write_bytes(body)
        graded, told = None, ""
        try:
            graded = read_table(file, complete=True).graded
        except InvalidFile as error:
            told = error.what
        assert told.startswith(str(file)) if graded is None else len(graded) > 0


def test_costs_are_read_in_the_order_of_the_arms():
    assert read_costs("b=10, a=1.5", ["a", "b"], ["a", "b"]) == {"a": 1.5, "b": 10.0}
    arms = ('phi "mini", 3.8B', "mixtral=8x7b", "模型")  # with the signs of the option
    costs = read_costs('phi "mini", 3.8B=2, mixtral=8x7b=20,模型=3', arms, arms)
    assert costs == dict(zip(arms, (2.0, 20.0, 3.0), strict=True))


def test_costs_may_name_some_arms_and_a_default():
    arms = ("a", "b", "c")
    assert read_costs("b=2", arms, arms) == {"b": 2.0}
    assert read_costs("b=2,default=7", arms, ("a", "b")) == {"a": 7.0, "b": 2.0}
    assert read_costs("a=1", arms, ("b", "c")) == {}, "a cost of an arm that is not judged"
    named = ("a", "default")
    assert read_costs("default=7", named, named) == {"default": 7.0}, "an arm of this name"


def test_arms_are_chosen_in_the_order_of_the_table():
    arms = ("a", "b, c", "b", "d")
    assert read_arms("d, a", arms) == ["a", "d"]
    assert read_arms("d,b, c", arms) == ["b, c", "d"]
    for text, said in (("a,x", "no arm 'x'"), ("a", "needs two"), ("a,a", "needs two")):
        with pytest.raises(UsageError, match=said):
            read_arms(text, arms)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=1,b=0", "0 of b is not above 0"),
        ("a=1,b=-3", "-3 of b is not above 0"),
        ("a=1,b=inf", "inf of b is not above 0"),
        ("a=1,b=nan", "nan of b is not above 0"),
        ("a=1,b=1e300", "1e300 of b is not above 0 and at most 1e"),
        ("a=1,b=ten", "'ten' of b is not a number"),
        ("a=1,a=2,b=1", "a is named twice"),
        ("a=1,c=2", "no arm 'c'"),
        ("a", "'a' is not ARM=NUMBER"),
        ("", "'' is not ARM=NUMBER"),
    ],
)
def test_wrong_costs_are_refused(text, said):
    with pytest.raises(UsageError) as raised:
        read_costs(text, ["a", "b"], ["a", "b"])
    assert said in raised.value.what
    assert raised.value.fix


def test_questions_that_are_also_in_another_split_are_left_out(tmp_path):
    outcomes, data = made.write(tmp_path, 30)
    texts = read_texts(data, "test")
    graded = read_table(outcomes, texts).graded
    left = drop_questions(graded, [texts["algebra", 0], texts["history", 3]])
    assert len(left) == 28
    assert ("algebra", 0) not in zip(left.subjects, left.rows, strict=True)
    assert len(drop_questions(graded, [])) == 30
    with pytest.raises(EtuiError, match="cannot be read"):
        read_table(tmp_path / "none.csv")


def written(tmp_path, text):
    file = tmp_path / "table.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_an_empty_cell_is_an_arm_without_an_answer(tmp_path):
    file = written(tmp_path, "subject,row,a,b\nx,0,1,\nx,1,0.0,1.0\nx,2,,0\n")
    table = read_table(file)
    assert table.graded.weights.tolist() == [[1, 0], [1, 1], [0, 1]]
    assert table.graded.compute_rate(0) == 0.5
    kept, left_out = table.keep_complete()
    assert left_out == 2
    assert kept.graded.weights is None
    assert kept.graded.correct.tolist() == [[False, True]]
    with pytest.raises(InvalidFile, match="b is '', not 0 or 1"):
        read_table(file, complete=True)


@pytest.mark.parametrize(
    "head",
    ["a,b,a:cost,b:cost", "a,b,cost_a,cost_b", "a,b,a joules,b joules", "a,b,Cost a,b price"],
)
def test_costs_are_read_from_columns_named_for_their_arms(tmp_path, head):
    table = read_table(written(tmp_path, f"subject,row,{head}\nx,0,1,0,2.5,30\nx,1,1,1,0,20\n"))
    assert table.graded.arms == ("a", "b")
    assert table.cost.tolist() == [[2.5, 30.0], [0.0, 20.0]]


def test_a_column_that_is_no_cost_of_an_arm_is_an_arm(tmp_path):
    table = read_table(written(tmp_path, "subject,row,low cost,\x1b[31ma\nx,0,1,0\n"))
    assert table.graded.arms == ("low cost", "␛[31ma"), "and cannot send escape sequences"
    assert table.cost is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("subject,row,a,b,a:cost\nx,0,1,1,2\n", ":1:1: has no column of costs for b"),
        ("subject,row,a,a:cost\nx,0,1,much\n", ":2:1: a:cost is 'much', not a number"),
        ("subject,row,a,a:cost\nx,0,1,-1\n", ":2:1: a:cost is -1, not from 0"),
        ("subject,row,a,a:cost\nx,0,1,nan\n", ":2:1: a:cost is nan, not from 0"),
        ("subject,row,a,a:cost\nx,0,1,\n", ":2:1: a:cost is '', not a number"),
        ("subject,row,a,a:cost\nx,0,1,0\n", ":1:1: every cost of a is 0"),
        ("subject,row,a,b\nx,0,1,\n", ":1:1: b has no outcome"),
    ],
)
def test_faults_of_costs_are_told_with_their_line(tmp_path, text, said):
    with pytest.raises(InvalidFile) as raised:
        read_table(written(tmp_path, text))
    assert said in raised.value.what
