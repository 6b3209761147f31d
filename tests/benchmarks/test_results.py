"""The page of results: what it says follows from the data in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.results import (
    PAGE,
    QUESTIONS,
    Change,
    Finding,
    describe_changes,
    describe_routing,
    describe_votes,
    fill_page,
    main,
    read_changes,
    subtract,
    take_keep_warm,
    take_speculation,
    take_sweep,
)
from etui.stats.tests import Interval

SPECULATION = {
    "rows": {},
    "results": [
        {"name": "copy, lookup, m", "speedup": 2.0, "low": 1.6, "high": 2.5, "rounds": 5},
        {"name": "prose, auto, m", "speedup": 1.0, "low": 0.8, "high": 1.25, "rounds": 6},
    ],
}
DIFFERENCE = {"percent": -18.0, "low": -20.0, "high": -16.0, "p": 0.01, "blocks": 8}
SWEEP = {
    "model": "m",
    "is_complete": False,
    "blocks": 9,
    "visits": 36,
    "kind": "estimate",
    "baseline": "threads=2",
    "verdict": "threads=1 costs fewer joules",
    "settings": [
        {"setting": "threads=2", "joules_difference": None, "seconds_difference": None},
        {
            "setting": "threads=1",
            "joules_difference": DIFFERENCE,
            "seconds_difference": {**DIFFERENCE, "percent": 30.0, "low": None, "high": None},
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


def test_a_change_has_a_side_only_beyond_its_interval():
    assert Change("a", "b", -3.0, -5.0, -1.0).side == -1
    assert Change("a", "b", 3.0, 1.0, 5.0).side == 1
    assert Change("a", "b", -3.0, -5.0, 1.0).side == 0
    assert Change("a", "b", -3.0, None, None).side == 0
    assert Change("a", "b", -3.04, -5.0, 0.01).format() == "-3.0 % [-5.0, +0.0]"
    assert Change("a", "b", 3.0, None, None).format() == "+3.0 %"


def test_a_speedup_becomes_a_change_of_time_with_its_ends_in_order():
    copy, prose = take_speculation(SPECULATION).rows
    assert (copy.percent, copy.low, copy.high) == pytest.approx((-50.0, -60.0, -37.5))
    assert (prose.percent, prose.low, prose.high) == pytest.approx((0.0, -20.0, 25.0))
    assert "5 pairs" in take_speculation(SPECULATION).about


def test_a_sweep_gives_a_change_of_joules_and_one_of_time_for_each_setting():
    found = take_sweep(SWEEP)
    assert [(row.case, row.group, row.percent) for row in found.rows] == [
        ("threads=1", "joules", -18.0),
        ("threads=1", "seconds", 30.0),
    ]
    assert "stopped before its end" in found.about
    joules, seconds = describe_changes(found.rows)
    assert joules.startswith(
        "**Joules**: less in 1 of 1 cases, more in 0, no difference shown in 0"
    )
    assert "no difference shown in 1" in seconds


def test_days_are_compared_with_each_other_way():
    (row,) = take_keep_warm(IDLE).rows
    assert (row.case, row.group) == ("office, 60 J, 35 W", "never unload")
    assert (row.percent, row.low, row.high) == pytest.approx((-75.0, -80.0, -60.0))


def test_shares_are_subtracted_by_newcombe():
    # Newcombe's example a (1998): 56/70 less 48/80 is 0.2000 [0.0524, 0.3339].
    found = subtract(
        Interval(0.8, 0.6917, 0.8770, "wilson"), Interval(0.6, 0.4905, 0.7003, "wilson")
    )
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-4)
    assert subtract(Interval(0.8, None, None, None), found).low is None


def arm(
    name: str, reasoning: str, no_answer: int, accuracy: tuple[str, str, str]
) -> dict[str, str]:
    return {
        "machine": "",
        "arm": name,
        "role": "large",
        "model": "m",
        "reasoning": reasoning,
        "questions": "100",
        "energy_kind": "estimate",
        "no_answer": str(no_answer),
        **dict(zip(("accuracy", "accuracy_low", "accuracy_high"), accuracy, strict=True)),
        "joules_per_question": "10",
        "joules_multiple_against_direct": "5",
        "joules_multiple_against_direct_low": "4",
        "joules_multiple_against_direct_high": "6",
    }


def test_the_most_votes_are_compared_with_the_longest_chain():
    rows = [
        arm("large-cot-48", "cot", 0, ("0.1", "0.05", "0.2")),
        arm("large-cot-192", "cot", 1, ("0.4", "0.31", "0.5")),
        arm("large-vote-3", "vote", 0, ("0.9", "0.8", "0.95")),
        arm("large-vote-7", "vote", 2, ("0.7", "0.6", "0.78")),
    ]
    _, text = describe_votes(rows)
    assert "m: 7 votes take 5.0 [4.0, 6.0] times the joules of a direct answer" in text
    assert "(large-cot-192)" in text
    assert "**Voting pays here**: +30.0 [+15.9, +42.0] points against the chain" in text


def test_other_shares_without_an_answer_are_not_compared():
    rows = [
        arm("large-cot-192", "cot", 1, ("0.4", "0.3", "0.5")),
        arm("large-vote-7", "vote", 30, ("0.7", "0.6", "0.8")),
    ]
    _, text = describe_votes(rows)
    assert "not compared: 30.0 and 1.0 % of the questions have no answer" in text


def test_arms_without_a_gain_cannot_be_routed():
    document = {"n": 5, "apgr": None, "arms": {"a": {"accuracy": 0.5, "cost": 3.0}}}
    assert "routing cannot pay" in list(describe_routing(document))[1]


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
    with pytest.raises(SystemExit):
        fill_page("# R\n", {"sweep": Finding(())})


def test_a_run_is_taken_drawn_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    folder, page = tmp_path / "results", tmp_path / "results.md"
    monkeypatch.setattr(results, "FOLDER", folder)
    monkeypatch.setattr(results, "PAGE", page)
    monkeypatch.setattr(
        results,
        "QUESTIONS",
        {name: QUESTIONS[name] for name in ("votes", "speculation", "keep_warm", "sweep")},
    )
    marks = "\n".join(
        f"<!-- {name}: python -m benchmarks.results -->\n<!-- end of {name} -->"
        for name in results.QUESTIONS
    )
    page.write_text(marks, encoding="utf-8")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert page.read_text(encoding="utf-8").count("no data of this question") == 2
    assert {path.name for path in folder.glob("*.svg")} == {"votes.svg", "speculation.svg"}
    taken = {"speculation": SPECULATION, "keep_warm": IDLE, "sweep": {**SWEEP, "id": "/home/me"}}
    argv = []
    for name, document in taken.items():
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        argv += ["--take", f"{name}={file}"]
    assert main(argv) == 0
    assert main(["--check"]) == 0
    assert len(list(folder.glob("*.svg"))) == 4
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
