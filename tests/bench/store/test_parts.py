"""Parts of a plan: every question in one of them, about as many in each, subjects whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.config import BenchPart, cut_subjects, list_part, parse_run_config
from tests.bench import synthetic

SIZES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(min_value=1, max_value=90), min_size=1
)


@given(SIZES, st.integers(2, 7), st.sampled_from(["subjects", "balanced"]), st.integers(0, 3))
def test_every_question_is_in_one_part(sizes, count, order, seed):
    total = sum(sizes.values())
    parts = [list_part(sizes, order, None, seed, BenchPart(at, count)) for at in range(count)]
    every = [(name, i) for part in parts for name, indices in part.items() for i in indices]
    assert sorted(every) == sorted((name, i) for name, size in sizes.items() for i in range(size))
    counts = [sum(map(len, part.values())) for part in parts]
    if total >= count:
        assert min(counts) > 0
        # the longest job of a list by longest processing time is at most an even share
        assert max(counts) <= 2 * max(1, total // count)


@given(SIZES, st.integers(2, 7))
def test_a_subject_that_fits_into_a_part_stays_whole(sizes, count):
    even = sum(sizes.values()) // count
    for index in range(count):
        for cut in cut_subjects(sizes, BenchPart(index, count)):
            if sizes[cut.subject] <= even:
                assert (cut.start, cut.stop) == (0, sizes[cut.subject])


def test_the_parts_of_mmlu_are_even():
    # the sizes of MMLU's test split, largest first
    sizes = [1534, 895, 783, 612, 545, 498, 433, 396, 390, 346, 324, 311, 310, 306, 282, 272, 270]
    sizes += [265, 265, 245, 245, 238, 237, 237, 235, 234, 223, 216, 204, 204, 201, 198, 193, 173]
    sizes += [173, 171, 166, 163, 152, 152, 151, 145, 144, 135, 131, 126, 114, 112, 112, 110, 108]
    sizes += [103, 102, 100, 100, 100, 100, 100, 100, 100, 100]
    named = {f"s{at}": size for at, size in enumerate(sizes)}
    for count in (2, 4, 8):
        counts = [
            sum(cut.stop - cut.start for cut in cut_subjects(named, BenchPart(at, count)))
            for at in range(count)
        ]
        assert max(counts) - min(counts) <= 0.01 * sum(sizes)


def test_a_part_counts_its_own_questions_and_belongs_to_the_plan():
    whole = synthetic.config()
    parts = [replace(whole, part=BenchPart(at, 4)) for at in range(4)]
    assert sum(part.questions for part in parts) == whole.questions
    assert {part.plan_sha256 for part in parts} == {whole.plan_sha256}
    assert len({part.sha256 for part in (whole, *parts)}) == 5
    assert parse_run_config(parts[1].to_json()).part == BenchPart(1, 4)
    for part in parts:
        assert sum(part.asked.values()) == part.questions


@pytest.mark.parametrize("order", ["subjects", "balanced"])
def test_the_whole_plan_is_listed_as_it_is(order):
    assert list_part({"b": 2, "a": 1}, order, None, 0, None) == {"b": (0, 1), "a": (0,)}
