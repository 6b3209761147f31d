"""Comparisons, what they refuse, and the command."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from etui.bench.compare import (
    System,
    build_labels,
    check_comparable,
    choose_pairs,
    compare,
    compare_with_mixtures,
    list_differences,
    list_obstacles,
    read_systems,
    split_arm,
)
from etui.bench.summary import group_by_system
from etui.cli.bench_runs import compare as command
from etui.errors import UsageError
from tests.bench import synthetic

RUN = synthetic.config(per_subject=4)
ROWS = synthetic.samples(RUN)
ARMS = {
    name: System(name, name, RUN, inside) for name, inside in group_by_system(ROWS, RUN).items()
}


def of(arm: str, **changes) -> System:
    return replace(ARMS[arm], run=replace(RUN, **changes), label="other")


def folder(tmp_path, name: str, arm: str, **changes):
    run = synthetic.config(arms=(arm,), per_subject=4, run_id=name, **changes)
    return synthetic.write(tmp_path / name, run, [row for row in ROWS if row.arm == arm])


def test_equal_answers_are_not_certain_to_be_equal() -> None:
    found = compare(ARMS["direct"], replace(ARMS["direct"], label="again"))
    assert found.difference.value == 0
    assert found.p_value == 1
    assert found.difference.low < 0 < found.difference.high
    assert found.difference.method == "wilson"


def test_an_unmeasured_side_has_no_energy_difference() -> None:
    bare = replace(
        ARMS["large"], samples=[replace(row, joules=None) for row in ARMS["large"].samples]
    )
    assert compare(ARMS["direct"], bare).energy is None
    assert compare_with_mixtures([ARMS["direct"], ARMS["think"], bare]) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"data_sha256": "00" * 32}, "data"),
        ({"format": "cloze"}, "format"),
        ({"format_version": 2}, "version"),
        ({"grading": "number@1"}, "grading rule"),
        ({"shots": 0}, "shots"),
        ({"seed": 9}, "seed"),
        ({"prefix_reuse": False}, "reuse"),
        ({"split": "val"}, "split"),
    ],
)
def test_runs_that_were_made_otherwise_are_refused(changes: dict, word: str) -> None:
    found = list_obstacles(ARMS["direct"], of("large", **changes))
    assert len(found) == 1
    assert word in found[0]
    with pytest.raises(UsageError, match=word):
        check_comparable([ARMS["direct"], of("large", **changes)])


def test_other_questions_are_refused() -> None:
    fewer = replace(ARMS["large"], samples=ARMS["large"].samples[5:])
    (reason,) = list_obstacles(ARMS["direct"], fewer)
    assert "228" in reason
    assert "223" in reason
    with pytest.raises(ValueError, match="same questions"):
        compare(ARMS["direct"], fewer)


def test_another_machine_is_told_and_allowed() -> None:
    other = of("large", run_id="x", machine={"cpu": "Another"}, threads=16)
    assert list_obstacles(ARMS["direct"], other) == []
    notes = " ".join(list_differences([ARMS["direct"], other]))
    assert "machine" in notes
    assert "threads" in notes


def test_labels_are_never_the_same() -> None:
    assert build_labels([("r", "a"), ("r", "b")]) == ["a", "b"]
    assert build_labels([("r", "a"), ("s", "a")]) == ["r:a", "s:a"]
    assert build_labels([("r", "a"), ("r", "a")]) == ["r:a #1", "r:a #2"]


def test_arms_are_named_behind_a_colon(tmp_path) -> None:
    (tmp_path / "odd:name").mkdir()
    assert split_arm(str(tmp_path / "odd:name")) == (str(tmp_path / "odd:name"), None)
    assert split_arm(f"{tmp_path}:think") == (str(tmp_path), "think")
    assert split_arm("nowhere")[1] is None


def test_runs_of_the_same_arms_are_held_arm_by_arm(tmp_path, config) -> None:
    one = synthetic.write(tmp_path / "one", RUN, ROWS)
    two = synthetic.write(tmp_path / "two", replace(RUN, run_id="two"), ROWS)
    runs, _ = read_systems([str(one), str(two)], config)
    assert [(a.name, b.name) for a, b in choose_pairs(runs)] == [(n, n) for n in ARMS]
    runs, _ = read_systems([str(one)], config)
    assert [b.name for _, b in choose_pairs(runs)] == ["think", "vote-5", "large"]
    runs, _ = read_systems([f"{one}:think", str(two)], config)
    assert len(choose_pairs(runs)) == 4


def invoke(*args: object):
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)


def test_what_cannot_be_compared_is_said(tmp_path) -> None:
    small = folder(tmp_path, "s", "direct")
    for args in ([small], [small, tmp_path / "gone"], [f"{small}:think", small]):
        assert isinstance(invoke(*args).exception, UsageError)
    other = folder(tmp_path, "o", "large", shots=0)
    error = invoke(small, other).exception
    assert isinstance(error, UsageError)
    assert "shots" in error.what
