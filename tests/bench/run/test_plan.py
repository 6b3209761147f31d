"""Plans of runs: which data they name, and that a resumed run finds them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.bench.plan import RunRequest, make_plan, restore_plan
from etui.config.config import Config
from etui.errors import UsageError
from etui.models.catalogue import load_catalogue
from tests.bench import synthetic

LINE = '{"question": "Which?", "choices": ["x", "y", "z"], "answer": 2}\n'


def write(path: Path, lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    return path


@pytest.mark.parametrize("file", ["own.jsonl", "arc-challenge.jsonl", "mmlu.csv"])
def test_a_resumed_run_finds_the_file_of_its_questions(
    config: Config, tmp_path: Path, file: str
) -> None:
    lines = LINE * 3 if file.endswith("jsonl") else "Which?,1,2,3,4,A\n" * 3
    path = write(tmp_path / file, lines)
    catalogue = load_catalogue(config)
    plan = make_plan(RunRequest(str(path)), config, catalogue)
    assert plan.data_path == str(path)
    run = synthetic.config(
        suite=plan.suite.name,
        data_path=plan.data_path,
        data_sha256=plan.suite.sha256,
        shots=0,
        per_subject=None,
        arms={},
    )
    again = restore_plan(run, config, catalogue)
    assert again.suite == plan.suite
    assert again.drawn == plan.drawn


def test_a_resumed_run_finds_the_local_copy_of_its_suite(config: Config, tmp_path: Path) -> None:
    place = write(tmp_path / "data" / "test.jsonl", LINE * 3).parent
    write(place / "train.jsonl", LINE)
    catalogue = load_catalogue(config)
    plan = make_plan(RunRequest("arc-challenge", data=str(place), shots=1), config, catalogue)
    assert plan.data_path == str(place)
    assert plan.shots == 1
    run = synthetic.config(
        suite="arc-challenge", data_path=plan.data_path, shots=1, per_subject=None, arms={}
    )
    again = restore_plan(run, config, catalogue)
    assert (again.suite, again.examples) == (plan.suite, plan.examples)


def test_missing_worked_examples_name_the_file_that_would_have_them(
    config: Config, tmp_path: Path
) -> None:
    path = write(tmp_path / "own.jsonl", LINE * 3)
    with pytest.raises(UsageError) as caught:
        make_plan(RunRequest(str(path), shots=2), config, load_catalogue(config))
    assert "own_dev.jsonl" in caught.value.fix
    place = write(tmp_path / "data" / "test.jsonl", LINE).parent
    ask = RunRequest("arc-challenge", data=str(place), shots=2)
    with pytest.raises(UsageError) as caught:
        make_plan(ask, config, load_catalogue(config))
    assert caught.value.fix == "use --shots 0"
