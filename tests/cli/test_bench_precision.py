"""``etui bench --precision`` and ``etui bench difficulty`` as a user meets them."""

from __future__ import annotations

import json

import pytest

from etui.bench.difficulty import read_difficulty
from etui.bench.folder import RunFolder, read_run
from tests.bench import synthetic
from tests.cli.test_bench import models as models  # a fixture
from tests.cli.test_bench import run

ASK = ("--suite", "sample", "--shots", "0", "--precision", "14", "-m", "smollm2-135m")


@pytest.fixture(scope="module")
def precise(models, tmp_path_factory):
    """A run that stopped at a precision: its folder and its document."""
    home = tmp_path_factory.mktemp("home")
    out = tmp_path_factory.mktemp("runs") / "precise"
    done = run(home, *ASK, "--out", str(out), "--json", models=models)
    assert "±14 points reached after" in done.stderr
    return out, json.loads(done.stdout)


def test_a_run_stops_when_it_is_precise_and_is_complete(precise):
    out, summary = precise
    found = summary["precision"]
    asked = len(read_run(out).samples)
    assert found["reached"]
    assert summary["complete"]
    assert summary["questions"] == found["questions"] == asked < 60
    system = found["systems"]["smollm2-135m"]
    assert system["half_width"] <= 0.14
    assert system["low"] <= system["value"] <= system["high"]
    assert found["population"] == 60
    assert "±14 points reached" in (out / "report.html").read_text()
    config = read_run(out).config
    assert (config.order, config.block, config.questions) == ("balanced", None, 60)


def test_a_resumed_run_stops_where_the_whole_one_did(precise, models, etui_home, tmp_path):
    out, summary = precise
    whole = read_run(out)
    with RunFolder.start(tmp_path / "part", whole.config) as folder:
        folder.add_samples(whole.samples[:21])
    done = run(etui_home, "--resume", str(tmp_path / "part"), "--json", models=models)
    again = json.loads(done.stdout)
    assert again["precision"] == summary["precision"]
    told = [
        [(s.key, s.choice) for s in read_run(path).samples] for path in (out, tmp_path / "part")
    ]
    assert told[0] == told[1]
    done = run(etui_home, "report", str(tmp_path / "part"), "--markdown", "--no-texts")
    assert "- ±14 points reached after" in done.stdout


def test_a_model_is_not_its_own_covariate(precise, models, etui_home, tmp_path):
    table = tmp_path / "difficulty.csv"
    done = run(etui_home, "difficulty", str(precise[0]), "-o", str(table))
    assert "answered by 1 model at most" in done.stderr
    assert done.stdout == ""
    assert len(read_difficulty(table).values) == precise[1]["questions"]
    out = tmp_path / "own"
    done = run(
        etui_home, *ASK, "--difficulty", str(table), "--out", str(out), models=models, code=2
    )
    assert "made from answers of smollm2-135m itself" in done.stderr
    assert not out.exists()


def test_a_dry_run_says_how_many_questions_are_expected(models, etui_home):
    done = run(etui_home, *ASK, "--limit", "40", "--dry-run", "--json", models=models)
    found = json.loads(done.stdout)["precision"]
    assert (found["points"], found["of"], found["most"]) == (14.0, "accuracy", 40)
    assert set(found["expected"]) == {"0.3", "0.5", "0.7", "0.9"}
    assert 25 < found["expected"]["0.5"] < 60
    done = run(etui_home, *ASK, "--dry-run", models=models)
    assert "±14 points after about" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--precision", "0"], "0.0 is not in the range 0<x<50"),
        (["--precision", "-3"], "-3.0 is not in the range 0<x<50"),
        (["--precision", "60"], "60.0 is not in the range 0<x<50"),
        (["--precision", "nan"], "nan is not a number"),
        (["--precision-of", "difference"], "--precision-of needs --precision"),
        (["--difficulty", "d.csv"], "--difficulty needs --precision"),
        (["--precision", "3", "--per-subject", "2"], "cannot be combined with --per-subject"),
        (["--precision", "3", "--precision-of", "difference"], "needs at least two systems"),
        (["--precision", "3", "--difficulty", "/none.csv"], "/none.csv: cannot be read"),
    ],
)
def test_bad_input_has_a_message_and_exit_code_2(etui_home, tmp_path, args, said):
    done = run(etui_home, "--suite", "sample", *args, models=tmp_path / "none", code=2)
    assert said in done.stderr
    assert done.stdout == ""


def test_resume_takes_no_precision(etui_home):
    done = run(etui_home, "--resume", "none", "--precision", "3", code=2)
    assert "--precision cannot be used with --resume" in done.stderr


def test_difficulties_of_runs_and_tables(etui_home, tmp_path):
    config = synthetic.config(arms=("direct", "large"), per_subject=1)
    folder = synthetic.write(tmp_path / "run", config, synthetic.samples(config))
    table = tmp_path / "outcomes.csv"
    table.write_text("subject,row,other\nastronomy,0,1\nastronomy,1,0\n")
    out = tmp_path / "difficulty.csv"
    run(etui_home, "difficulty", str(folder), "--outcomes", str(table), "-o", str(out))
    made = read_difficulty(out)
    assert made.data_sha256 == config.data_sha256
    assert [source.name for source in made.sources] == ["small", "large", "other"]
    assert (made.models["astronomy", 0], made.models["astronomy", 1]) == (3, 1)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "no answers given"),
        (["none"], "there is no run 'none'"),
        (["--outcomes", "/none.csv"], "/none.csv: cannot be read"),
    ],
)
def test_difficulties_of_nothing_are_refused(etui_home, tmp_path, args, said):
    done = run(etui_home, "difficulty", *args, "-o", str(tmp_path / "d.csv"), code=2)
    assert said in done.stderr
    assert not (tmp_path / "d.csv").exists()


def test_runs_of_other_data_are_refused_by_name(etui_home, tmp_path):
    folders = []
    for name, data in (("one", "aa" * 32), ("two", "bb" * 32)):
        config = synthetic.config(("direct",), 1, data_sha256=data, run_id=f"run-{name}")
        folders.append(synthetic.write(tmp_path / name, config, synthetic.samples(config)))
    done = run(etui_home, "difficulty", *map(str, folders), "-o", str(tmp_path / "d.csv"), code=2)
    assert "run run-two and run run-one asked different data" in done.stderr
