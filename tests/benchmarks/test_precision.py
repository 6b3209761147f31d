"""The benchmark of ``--precision``: coverage and questions on tables with a known truth."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.precision import made_table, main, read_table, simulate

pytestmark = pytest.mark.slow


def shared_table() -> Path | None:
    """The outcomes of two real models, beside the data of MMLU if they are there."""
    folder = os.environ.get("ETUI_MMLU")
    path = Path(folder).parent / "outcomes" / "mmlu_two_models.csv" if folder else None
    return path if path is not None and path.is_file() else None


@pytest.mark.skipif(shared_table() is None, reason="needs outcomes beside ETUI_MMLU")
def test_two_real_models_are_covered_with_few_questions_more_than_a_fixed_sample():
    path = shared_table()
    assert path is not None
    report = simulate(read_table(path), 3.0, 120, 0, None)
    assert report["all"]["coverage"] >= 0.95
    assert report["all"]["coverage_least"] >= 0.93
    assert report["all"]["ratio"] <= 1.15
    assert report["covariate_all"]["coverage_least"] >= 0.93
    assert report["covariate_all"]["ratio"] <= 1.0
    assert report["pairs_all"]["coverage"] >= 0.93


@pytest.mark.parametrize(
    ("accuracies", "sizes", "points"),
    [
        ((0.25, 0.5, 0.95), (300, 200, 100, 100, 60) * 4, 3.0),
        ((0.4, 0.98), (1,) * 200 + (2,) * 100 + (700, 900), 5.0),
        ((0.6,), (100, 120, 300) * 3, 5.0),
    ],
    ids=["like MMLU", "tiny subjects", "one model"],
)
def test_made_up_models_are_covered(accuracies, sizes, points):
    report = simulate(made_table(accuracies, sizes), points, 150, 0, None)
    assert report["all"]["coverage_least"] >= 0.93  # 150 draws of 96 % have an error of 1.6 points
    if len(accuracies) == 1:
        assert report["pairs"] == []
        assert report["covariate_all"] is None
    else:
        assert report["all"]["coverage"] >= 0.95
        assert report["covariate_all"]["coverage"] >= 0.95
        assert report["covariate_all"]["questions"] <= 1.01 * report["all"]["questions"]


def test_looking_often_makes_no_wrong_stop():
    report = simulate(made_table((0.5, 0.8), (100,) * 20), 5.0, 100, 3, 5)
    assert report["all"]["looks"] > 20
    assert report["all"]["coverage_of_all_looks"] >= 0.93


def test_a_width_that_the_questions_cannot_give_asks_all_of_them():
    report = simulate(made_table((0.5,), (40, 40)), 0.5, 3, 0, None)
    row = report["models"]["made_0.5"]
    assert row["questions"] == 80
    assert row["coverage"] == 1.0


def test_rows_may_come_in_any_order(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("subject,row,m\nb,1,1\na,0,0\nb,0,0\n")
    table = read_table(path)
    assert dict(table.sizes) == {"a": 1, "b": 2}
    assert table.correct[:, 0].tolist() == [0, 1, 0]
    assert sorted(table.order(5).tolist()) == [0, 1, 2]
    assert table.strata.tolist() == [0, 1, 1]


def test_the_report_is_one_document(tmp_path, capsys):
    path = tmp_path / "table.csv"
    random = np.random.default_rng(0)
    rows = [f"s{at % 7},{at},{random.integers(2)},{random.integers(2)}" for at in range(700)]
    path.write_text("subject,row,one,two\n" + "\n".join(rows))
    arguments = ["--outcomes", str(path), "--precision", "5", "--draws", "4"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["models"]) == {"one", "two"}
    assert report["questions"] == 700
    assert main(arguments) == 0
    assert "two - one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("subject,row\n", "no arm column"),
        ("subject,row,m\n", "has no outcomes"),
        ("subject,row,m\na,0,2\n", "not 0 or 1"),
        ("subject,row,m\na,0,1\na,0,1\n", "already in line 2"),
        ("row,m\n0,1\n", "no column subject"),
    ],
)
def test_a_bad_table_is_one_line_and_exit_code_2(tmp_path, capsys, text, said):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert main(["--outcomes", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_a_missing_table_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["--outcomes", str(tmp_path / "none.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--precision", "0"], ["--precision", "nan"], ["--draws", "0"]]
)
def test_bad_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
