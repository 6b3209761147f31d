"""Facts about MMLU's original files that a reader has to get right."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from etui.bench.formats import FORMATS, prompt_text
from etui.datasets.mmlu import KNOWN, read_files
from etui.datasets.questions import Suite, hash_files
from etui.datasets.suites import load_suite

EVERYTHING = "32b9fab9685911d5ddd201d9f2a762cd2c6afe453c6e9f6f7b42692e9ddc3c43"


@pytest.fixture(scope="module")
def suites(mmlu, tmp_path_factory) -> dict[str, Suite]:
    from etui.config.config import Config

    config = Config(home=tmp_path_factory.mktemp("home"), models_dir=Path("none"))
    return {split: load_suite("mmlu", split, mmlu, config) for split in ("dev", "val", "test")}


@pytest.mark.parametrize(
    ("split", "answers"),
    [
        ("dev", {"A": 67, "B": 69, "C": 71, "D": 78}),
        ("val", {"A": 381, "B": 379, "C": 387, "D": 384}),
        ("test", {"A": 3222, "B": 3462, "C": 3582, "D": 3776}),
    ],
)
def test_every_row_is_there(suites, split, answers):
    suite = suites[split]
    rows = [question for rows in suite.questions.values() for question in rows]
    assert len(suite.questions) == 57
    assert len(rows) == KNOWN[split].questions
    assert Counter(question.answer for question in rows) == answers
    assert suite.notice == ""


def test_known_items(suites):
    test = suites["test"].questions
    assert test["abstract_algebra"][0].answer == "B"
    assert test["high_school_physics"][0].answer == "B"
    assert test["us_foreign_policy"][0].answer == "A"
    assert suites["test"].examples["college_medicine"][0].answer == "A"


def test_what_pandas_would_lose_is_kept(suites):
    rows = [q for rows in suites["test"].questions.values() for q in rows]
    assert sum("None" in q.choices for q in rows) == 10
    fields = [(q.text, *q.choices) for q in rows]
    assert sum(any("\n" in field for field in row) for row in fields) == 1127
    assert sum(any(field != field.strip() for field in row) for row in fields) == 1003
    assert sum(len(set(q.choices)) < 4 for q in rows) == 9
    assert len(rows) - len({(q.subject, q.text, q.choices, q.answer) for q in rows}) == 27


def test_the_files_hash_as_they_are_known_to(mmlu):
    files = read_files(mmlu, ("dev", "val", "test"))
    assert hash_files(files) == EVERYTHING
    for split, known in KNOWN.items():
        own = {name: body for name, body in files.items() if name.startswith(split)}
        assert hash_files(own) == known.sha256


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_reads_as_its_folder(mmlu, tmp_path, kind):
    path = tmp_path / f"mmlu.{kind}"
    names = [f"{s}/anatomy_{s}.csv" for s in ("dev", "test")]
    if kind == "tar":
        with tarfile.open(path, "w:gz") as archive:
            for name in names:
                archive.add(mmlu / name, f"data/{name}")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(mmlu / name, f"data/{name}")
    found = read_files(path, ("dev", "test"))
    assert found == {name: (mmlu / name).read_bytes() for name in names}


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma-3-270m", "qwen2.5-coder-0.5b"])
def test_prompts_hash_as_those_of_the_reference(mmlu, suites, model):
    reference = mmlu.parent / "reference" / f"letters_{model}.json"
    if not reference.is_file():
        pytest.skip("no reference scores beside MMLU")
    suite = suites["test"]
    for known in json.loads(reference.read_text(encoding="utf-8")):
        subject = known["subject"]
        question = suite.questions[subject][known["row"]]
        prompt = prompt_text(FORMATS["letters"], question, suite.examples[subject])
        assert prompt.sha == known["sha"]
        assert question.answer == known["answer"]
