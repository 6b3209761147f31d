"""The page of results: what it says follows from the data in the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.results import (
    NO_DATA,
    PAGE,
    QUESTIONS,
    Change,
    Finding,
    compare_votes,
    describe_changes,
    describe_routing,
    describe_sides,
    describe_votes,
    fill_page,
    main,
    read_changes,
    take_keep_warm,
    take_speculation,
    take_sweep,
)
from etui.design.analysis import DesignAnalysis, analyse
from tests.design import synthetic
from tests.design.synthetic import Truth

SPECULATION = {
    "date": "2026-11-30",
    "machine": "A CPU, 2 CPUs, Linux x86_64",
    "rows": {},
    "results": [
        {"name": "copy, lookup, m", "speedup": 2.0, "low": 1.6, "high": 2.5} | {"rounds": 5}
        | {"diverged": 0},
        {"name": "prose, auto, m", "speedup": 1.0, "low": 0.8, "high": 1.25} | {"rounds": 6}
        | {"diverged": 1},
    ],
}  # fmt: skip
DIFFERENCE = {"percent": -18.0, "low_percent": -20.0, "high_percent": -16.0, "is_claimed": True}
UNKNOWN_ENDS = {"low_percent": None, "high_percent": None}
SWEEP = {
    "model": "m",
    "is_complete": False,
    "created": "2026-11-30T19:20:00+00:00",
    "provenance": {"machine": "A CPU, 2 CPUs, Linux x86_64"},
    "blocks": 9,
    "visits": 36,
    "kind": "estimate",
    "baseline": "threads=2",
    "verdict": "threads=1 costs fewer joules",
    "notes": ["joules are an estimate"],
    "settings": [
        {"setting": "threads=2", "joules_difference": None, "seconds_difference": None},
        {
            "setting": "threads=1",
            "joules_difference": DIFFERENCE,
            "seconds_difference": DIFFERENCE | {"percent": 30.0} | UNKNOWN_ENDS,
        },
        {
            "setting": "kv_type=q8_0",
            "joules_difference": DIFFERENCE | {"is_claimed": False},
            "seconds_difference": None,
        },
    ],
}
IDLE = {
    "runs": [
        {
            "kind": "office",
            "machine": "60 J, 35 W",
            "days": 7,
            "against": {"never unload": {"value": 0.25, "low": 0.2, "high": 0.4}},
        }
    ]
}
SIDES = {
    "model": "m",
    "shots": 0,
    "questions": 200,
    "equal": 198,
    "share": {"value": 0.99, "low": 0.964, "high": 0.997},
    "bench_right": {"value": 0.4, "low": 0.33, "high": 0.47},
    "lm_eval_right": {"value": 0.405, "low": 0.34, "high": 0.474},
    "median_nats": 0.0012,
    "largest_nats": 0.05,
    "near": 199,
    "kinds": {"tie": 2},
}


def test_a_change_has_a_side_only_beyond_its_interval():
    assert Change("a", "b", -3.0, -5.0, -1.0).side == -1
    assert Change("a", "b", 3.0, 1.0, 5.0).side == 1
    assert Change("a", "b", -3.0, -5.0, 1.0).side == 0
    assert Change("a", "b", -3.0, None, None).side == 0
    assert Change("a", "b", -3.0, -5.0, -1.0, is_claimed=False).side == 0
    assert Change("a", "b", -3.04, -5.0, 0.01).format() == "-3.0 % [-5.0, +0.0]"
    assert Change("a", "b", 3.0, None, None).format() == "+3.0 %"


def test_a_speedup_becomes_a_change_of_time_with_its_ends_in_order():
    found = take_speculation(SPECULATION)
    copy, prose = found.rows
    assert (copy.percent, copy.low, copy.high) == pytest.approx((-50.0, -60.0, -37.5))
    assert (prose.percent, prose.low, prose.high) == pytest.approx((0.0, -20.0, 25.0))
    assert "(2026-11-30, A CPU, 2 CPUs, Linux x86_64)" in found.about
    assert "5 pairs or more" in found.about
    assert "texts of 1 of 11 pairs part" in found.about


def test_a_sweep_gives_a_change_of_joules_and_one_of_time_for_each_setting():
    found = take_sweep(SWEEP)
    assert [(row.case, row.group, row.percent) for row in found.rows] == [
        ("threads=1", "joules", -18.0),
        ("threads=1", "seconds", 30.0),
        ("kv_type=q8_0", "joules", -18.0),
    ]
    assert "stopped before its end (2026-11-30, A CPU" in found.about
    assert found.about.endswith("Its notes: joules are an estimate.")
    joules, seconds = describe_changes(found.rows)
    # The sweep claims one of two changes, though both intervals are below 0.
    assert joules.startswith(
        "**Joules**: less in 1 of 2 cases, more in 0, no difference shown in 1"
    )
    assert "no difference shown in 1" in seconds


def test_days_are_compared_with_each_other_way():
    (row,) = take_keep_warm(IDLE).rows
    assert (row.case, row.group) == ("office, 60 J, 35 W", "never unload")
    assert (row.percent, row.low, row.high) == pytest.approx((-75.0, -80.0, -60.0))


def build_votes(vote: float, silent: Mapping[str, int] | None = None) -> DesignAnalysis:
    """Analyse a design with an arm of votes of this accuracy at the joules of the larger model.

    Args:
        silent: Arm -> questions that it gives no answer to.
    """
    truths = {
        "small-direct": Truth(0.4, 10.0, 4),
        "small-vote-3": Truth(vote, 30.0, 60),
        "large-direct": Truth(0.6, 30.0, 4),
    }
    run = synthetic.config(truths, 4)
    left = dict(silent or {})
    samples = []
    for sample in synthetic.samples(run, truths):
        if left.get(sample.arm, 0):
            left[sample.arm] -= 1
            sample = replace(sample, status="no_answer", correct=False)
        samples.append(sample)
    return analyse(run, samples, {}, synthetic.ROLES)


@pytest.mark.parametrize(
    ("accuracy", "verdict", "side"),
    [
        (0.95, "Votes pay here with small vote 3", 1),
        (0.6, "No votes are shown to pay here", 0),
        (0.1, "Votes do not pay here", -1),
    ],
)
def test_votes_are_compared_with_the_other_arms_for_no_more_joules(accuracy, verdict, side):
    found = build_votes(accuracy)
    gains = compare_votes(found)
    gain = gains["small vote 3"]["difference"]
    assert side * 0.1 <= side * gain["value"] <= 0.7
    head, text, item = describe_votes(found, gains)
    assert f"{len(found.paired)} questions of MMLU" in head
    assert ". 0.0 % of the questions have no answer" in head
    assert text.startswith(f"**{verdict}**: ")
    assert item.startswith("- small vote 3: ")
    assert "J a question" in item


def test_arms_with_other_shares_without_an_answer_are_not_compared():
    found = build_votes(0.95, {"small-vote-3": 20})
    head, text = describe_votes(found, compare_votes(found))
    assert ". 0.0 to 8.8 % of the questions have no answer" in head
    assert "not compared" in text


def test_arms_without_a_gain_cannot_be_routed():
    document = {"n": 5, "apgr": None, "arms": {"a": {"accuracy": 0.5, "cost": 3.0}}}
    assert "routing cannot pay" in list(describe_routing(document))[1]


def test_equal_answers_and_the_kinds_of_others_are_said():
    text = describe_sides(SIDES)
    assert "**the same letter in 198**, 99.0 [96.4, 99.7] %" in text
    assert "`etui bench` 40.0 [33.0, 47.0] %, lm-eval 40.5 [34.0, 47.4] %" in text
    assert "within 0.1 nats in 199, and 0.05 nats apart at most" in text
    assert "The other 2: 2 x the two best letters are within 0.1 nats" in text
    assert "The other" not in describe_sides(SIDES | {"kinds": {}})


def test_the_page_gets_the_lines_and_the_figure_of_each_question():
    page = (
        "# R\n\n<!-- sweep: python -m benchmarks.results -->\nold\n<!-- end of sweep -->\n\nrest\n"
    )
    once = fill_page(page, {"sweep": Finding(("one.", "two."), lambda: "<svg/>")})
    assert "old" not in once
    assert once.endswith("<!-- end of sweep -->\n\nrest\n")
    assert "one.\n\ntwo.\n\n![" in once
    assert "](../data/results/sweep.svg)" in once
    assert fill_page(once, {"sweep": Finding(("one.", "two."), lambda: "<svg/>")}) == once
    assert "](a.svg)" in fill_page(page, {"sweep": Finding((), picture="a.svg")})
    with pytest.raises(SystemExit):
        fill_page("# R\n", {"sweep": Finding(())})


def test_a_run_is_taken_drawn_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    folder, page = tmp_path / "results", tmp_path / "results.md"
    names = ("speculation", "keep_warm", "sweep", "lm_eval")
    monkeypatch.setattr(results, "FOLDER", folder)
    monkeypatch.setattr(results, "PAGE", page)
    monkeypatch.setattr(results, "QUESTIONS", {name: QUESTIONS[name] for name in names})
    marks = "\n".join(
        f"<!-- {name}: python -m benchmarks.results -->\n<!-- end of {name} -->" for name in names
    )
    page.write_text(marks, encoding="utf-8")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert page.read_text(encoding="utf-8").count(NO_DATA) == 4
    assert not list(folder.glob("*.svg"))
    taken = {"speculation": SPECULATION, "keep_warm": IDLE, "sweep": {**SWEEP, "id": "/home/me"}}
    argv = []
    for name, document in taken.items():
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        argv += ["--take", f"{name}={file}"]
    (folder / "lm_eval-m.json").write_text(json.dumps(SIDES), encoding="utf-8")
    assert main(argv) == 0
    assert main(["--check"]) == 0
    assert len(list(folder.glob("*.svg"))) == 3
    assert "198" in page.read_text(encoding="utf-8")
    assert "/home/me" not in "".join(path.read_text() for path in folder.glob("*.json"))
    assert read_changes("sweep") == take_sweep(SWEEP)
    with pytest.raises(SystemExit):
        main(["--take", f"sweep={tmp_path / 'speculation.json'}"])


def test_the_page_in_the_repository_is_what_its_data_say():
    pytest.importorskip("sklearn")
    assert main(["--check"]) == 0


def test_every_question_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for name in QUESTIONS:
        assert f"<!-- {name}: python -m benchmarks.results -->" in text
