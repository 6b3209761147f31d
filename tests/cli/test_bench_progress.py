"""The line that says where a run stands."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from etui.bench.progress import RunProgress, RunTally, format_accuracy
from etui.cli.output import open_watch
from tests.bench import synthetic
from tests.bench.test_folder import sample


def test_the_line_tells_rate_rest_accuracy_and_joules():
    tally = RunTally(100, began=10.0)
    for row in range(10):
        tally.add("direct", replace(sample(row), correct=row < 3, joules=2.0, kind="counter"))
        tally.new += 1
    line = tally.line(now=15.0)
    assert line == "10 of 100 · 30.0 ± 25.1 % · 2.0/s · 45.0 s left · 20.0 J (counter)"


def test_a_time_limit_that_comes_first_is_what_is_left():
    tally = RunTally(100, began=10.0, most_seconds=20.0)
    tally.add("direct", sample(0))
    tally.new += 1
    assert "15.0 s until the time limit" in tally.line(now=15.0)
    assert "0 s until the time limit" in tally.line(now=99.0)
    tally.total = 2
    assert "5.00 s left" in tally.line(now=15.0)


def test_the_rest_is_that_of_the_expected_questions(tmp_path):
    totals: list[float] = []

    def watch(progress):
        if progress.total is not None:
            totals.append(progress.total)

    watcher = RunProgress(watch)
    watcher.expect(5)  # before a run begins, nothing is expected
    config = synthetic.config(arms=("direct", "think"))
    watcher.begin(config, tmp_path, [])
    watcher.see([sample(0)])
    watcher.expect(120)
    watcher.see([sample(1)])
    assert totals == [1140, 240]


def test_joules_that_are_not_known_are_no_sum():
    tally = RunTally(2, began=0.0)
    tally.add("direct", replace(sample(0), joules=2.0, kind="counter"))
    tally.add("direct", sample(1))
    assert "unmeasured" in tally.line(1.0)


def test_answers_of_before_do_not_count_into_the_rate():
    tally = RunTally(10, began=0.0)
    tally.add("direct", sample(0))
    assert tally.rate(5.0) is None


def test_several_arms_are_told_apart():
    tally = RunTally(4, began=0.0)
    tally.add("a", replace(sample(0), correct=True))
    tally.add("b", sample(0))
    assert "a 100.0 ±" in tally.line(1.0)
    assert "b 0.0 ±" in tally.line(1.0)


def test_new_answers_are_counted_by_machine():
    tally = RunTally(20, began=0.0)
    tally.add("a", replace(sample(0), machine="m1"))  # of an earlier part of the run
    for row, machine in enumerate(["m2", "m1", "m2"], 1):
        tally.add_new("a", replace(sample(row), machine=machine))
    assert tally.line(1.0).endswith(" · m2 2, m1 1")
    assert (tally.done, tally.new) == (4, 3)
    for number in range(3, 12):
        tally.add_new("a", replace(sample(number + 1), machine=f"m{number}"))
    assert tally.line(1.0).endswith("m5 1, m6 1, ...")


@pytest.mark.parametrize(("right", "asked"), [(0, 3), (3, 3), (50, 200), (14042, 14042)])
def test_no_accuracy_is_certain(right, asked):
    half = float(format_accuracy(right, asked).split("±")[1].removesuffix("%"))
    assert half > 0 or asked > 10_000


def test_samples_stream_as_lines_of_json(capsys, tmp_path):
    with open_watch(jsonl=True) as watch:
        progress = RunProgress(watch)
        progress.begin(synthetic.config(arms=("direct",), drawn={"anatomy": 2}), tmp_path, [])
        progress.see([sample(0), sample(1)])
    shown = capsys.readouterr()
    assert [json.loads(line)["row"] for line in shown.out.splitlines()] == [0, 1]
    assert shown.err.splitlines()[-1].startswith("100 % · 2 of 2 · ")
    assert shown.err.endswith(" · anatomy\n")
