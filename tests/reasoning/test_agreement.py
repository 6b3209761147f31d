"""Answers that say the same have one key, others have not; agreement.tsv has labelled pairs."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.agreement import read_pairs, same_key, score, total
from etui.reasoning.extraction import extract
from etui.reasoning.quantity import Quantity, Unit, compute, named_units, plain_math, quantity_key

PAIRS = read_pairs()
FLOORS = {
    "number": 0.95,
    "unit": 0.95,
    "date": 0.97,
    "yes/no": 0.97,
    "name": 0.97,
    "latex": 0.93,
    "choice": 1.0,
}
"""Share of the pairs of each class that must be judged as they are labelled."""
MOST_FALSE_MERGES = 1
"""Different answers that may be counted as one, of all pairs."""
TRAIN = "A train travels 60 km in 1.5 hours. What is the average speed of the train?"


def test_there_are_enough_pairs_of_each_class() -> None:
    assert len(PAIRS) >= 350
    assert {pair.kind for pair in PAIRS} == set(FLOORS)
    for kind in FLOORS:
        labels = [pair.same for pair in PAIRS if pair.kind == kind]
        assert labels.count(True) >= 5
        assert labels.count(False) >= 5
    assert len({(pair.question, pair.one, pair.other) for pair in PAIRS}) == len(PAIRS)


def test_the_keys_agree_with_the_labels() -> None:
    scores = score(PAIRS, same_key)
    for each in scores:
        assert each.right / each.pairs >= FLOORS[each.kind], each
    assert total(scores).false_merges <= MOST_FALSE_MERGES


@pytest.mark.parametrize(
    "text",
    [
        "40 km/h",
        "The average speed of the train is 40 km/h",
        "\\frac{60 km}{1.5 hours} = 40 km/h",
        "40",
        "**Answer:** \\boxed{40\\text{ km/h}}",
    ],
)
def test_the_speed_of_the_train_is_one_answer(text: str) -> None:
    assert extract(text, TRAIN).key == "40 km/h"


def test_both_ways_round_and_each_with_itself() -> None:
    for pair in PAIRS:
        judged = same_key(pair.question, pair.one, pair.other)
        assert judged == same_key(pair.question, pair.other, pair.one)
        assert same_key(pair.question, pair.one, pair.one)


@given(
    unit=st.sampled_from(list(named_units().values())),
    value=st.fractions(-(10**6), 10**6, max_denominator=1000),
)
def test_a_unit_is_converted_exactly(unit: Unit, value: Fraction) -> None:
    def key(of: Fraction, unit: Unit | None, asked: Unit | None = None) -> str:
        return quantity_key(Quantity(of, unit, False, 0, 0), asked, percentage=False)

    reference = Unit(unit.dimension, unit.reference, Fraction(1))
    there = value * unit.factor + unit.offset
    assert key(value, unit) == key(there, reference)
    assert key(value, None, unit) == key(value, unit)  # a bare number has the unit asked for
    assert key(value + 1, unit) != key(value, unit)


def test_units_of_a_dimension_have_one_reference() -> None:
    units = sorted(named_units().values(), key=lambda unit: unit.dimension)
    for one, other in pairwise(units):
        assert (one.dimension == other.dimension) == (one.reference == other.reference)


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        ("\\frac{60 km}{1.5 h}", "(60 km)/(1.5 h)"),
        ("\\frac{1}{2}", "1/2"),
        ("\\sqrt{\\frac{1}{4}}", "√( 1/4 )"),
        ("$5 and $7", "$5 and $7"),
        ("it is $x = 5$.", "it is  x = 5 ."),
        ("1{,}024", "1,024"),
        ("no LaTeX here", "no LaTeX here"),
    ],
)
def test_latex_is_written_plainly(latex: str, plain: str) -> None:
    assert plain_math(latex).strip() == plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60/1.5", Fraction(40)),
        ("2^10", Fraction(1024)),
        ("√(16)", Fraction(4)),
        ("1,024 * 2", Fraction(2048)),
        ("√2", 2**0.5),
        ("9^9^9", None),
        ("1/0", None),
        ("10^64^64", None),
        ("__import__('os')", None),
        ("5 apples", None),
        ("((((1", None),
        ("", None),
    ],
)
def test_expressions_of_numbers(text: str, value: Fraction | float | None) -> None:
    assert compute(text) == (pytest.approx(value) if isinstance(value, float) else value)


QUESTIONS = ("How many are there?", TRAIN, "When was it?", "Is it so?", "Who was it?", "Solve x=1.")


@given(st.text(max_size=300), st.sampled_from(QUESTIONS), st.booleans())
def test_any_answer_is_read(text: str, question: str, truncated: bool) -> None:
    found = extract(text, question, truncated=truncated)
    assert (found.key is None) == (found.status != "answered")
    assert found.key != ""


@given(st.lists(st.sampled_from([*"0123456789.,-=/()$% ", " km", "\\frac{", "}", " not "])))
def test_any_heap_of_numbers_is_read(parts: list[str]) -> None:
    for question in QUESTIONS:
        extract("".join(parts), question)


def test_a_number_cut_off_does_not_count() -> None:
    assert extract("The speed is 40 km/h", TRAIN, truncated=True).key == "40 km/h"
    assert extract("The answer is 4", TRAIN, truncated=True).status == "truncated"
    assert extract("The capital is", "What is the capital?", truncated=True).status == "truncated"


def test_quantities_on_the_way_to_an_answer_are_none() -> None:
    way = "The distance is 60 km and the time is 1.5 hours. Now we div"
    assert extract(way, TRAIN, truncated=True).status == "truncated"
    formula = "\\[ \\text{Average Speed} = \\frac{60}{1.5} ="
    assert extract(formula, TRAIN, truncated=True).status == "truncated"
    assert extract(formula + " 40 \\text{ km/h}", TRAIN, truncated=True).key == "40 km/h"
    assert extract("It is 40 km/h. It took 1.5 hours.", TRAIN).key == "40 km/h"
    assert extract("So it is 40. The time was 1.5 hours.", TRAIN).key == "40 km/h"
