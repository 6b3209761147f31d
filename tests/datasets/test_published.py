"""ARC-Challenge, GSM8K and MMLU-Pro: local copies, downloads, and GSM8K's real questions."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etui.bench.arms import ArmOverrides
from etui.bench.plan import RunRequest, make_plan
from etui.datasets import suites
from etui.datasets.mmlu import suite_dir
from etui.datasets.question_files import read_questions
from etui.datasets.questions import SPLITS, hash_questions
from etui.datasets.suites import (
    PUBLISHED,
    PublishedSuite,
    build_url,
    load_published_files,
    load_suite,
)
from etui.errors import DownloadFailed, EtuiError, InvalidFile, UsageError
from etui.models.catalogue import load_catalogue

GSM8K = PUBLISHED["gsm8k"]


def sums(count: int) -> bytes:
    rows = [{"question": f"{n} + 1?", "answer": f"Add.\n#### {n + 1}"} for n in range(count)]
    return "\n".join(json.dumps(row) for row in rows).encode()


def choices(count: int, **more: Any) -> bytes:
    rows = [
        {"question": f"Which {n}?", "options": ["x", "y", "z"], "answer": "C", **more}
        for n in range(count)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


def lay_out(folder: Path, **files: bytes) -> Path:
    for name, body in files.items():
        path = folder / name.replace("__", "/")
        path = path.with_name(f"{path.name}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


@pytest.fixture
def small_gsm8k(monkeypatch) -> tuple[PublishedSuite, dict[str, bytes]]:
    """GSM8K as if it had three questions and two worked examples."""
    bodies = {"test": sums(3), "train": sums(2)}
    parts = {}
    for split, word in (("test", "test"), ("dev", "train")):
        body, known = bodies[word], GSM8K.splits[split]
        file = replace(known.file, sha256=hashlib.sha256(body).hexdigest(), size_bytes=len(body))
        parts[split] = replace(
            known, questions=len(body.splitlines()), content_sha256=None, file=file
        )
    small = replace(GSM8K, splits=parts)
    monkeypatch.setitem(PUBLISHED, "gsm8k", small)
    return small, bodies


def test_every_fact_has_its_form():
    for suite in PUBLISHED.values():
        assert "test" in suite.splits
        assert "dev" in suite.splits
        for split in suite.splits.values():
            assert re.fullmatch(r"[0-9a-f]{64}", split.file.sha256)
            assert re.fullmatch(r"[0-9a-f]{40}", split.file.commit)
            assert split.file.commit in build_url(split.file)
            assert split.file.name == split.file.path.rsplit("/", maxsplit=1)[-1]
        for name in SPLITS:
            if name in suite.splits:
                assert suite.splits[name].file.name in suite.list_local(name)


def test_a_folder_gives_the_questions_and_the_worked_examples(tmp_path, config):
    place = lay_out(tmp_path / "data", test=sums(3), train=sums(2))
    suite = load_suite("gsm8k", "test", place, config)
    assert (suite.name, suite.split, suite.grading) == ("gsm8k", "test", "number")
    assert suite.sizes == {"gsm8k": 3}
    assert [one.solution for one in suite.examples["gsm8k"]] == ["Add."] * 2
    assert "3 questions instead of 1319" in suite.notice
    assert load_suite("gsm8k", "dev", place, config).examples == {}


def test_gsm8k_without_its_training_split_has_the_first_five_of_it(tmp_path, config):
    place = lay_out(tmp_path / "data", test=sums(3))
    for data in (place, place / "test.jsonl"):  # a file is the split alone
        alone = load_suite("gsm8k", "test", data, config)
        assert alone.sizes == {"gsm8k": 3}
        assert [one.answer for one in alone.examples["gsm8k"]] == ["72", "10", "5", "42", "624"]
        for overrides in (ArmOverrides(), ArmOverrides(max_tokens=99)):
            ask = RunRequest("gsm8k", data=str(data), overrides=overrides)
            plan = make_plan(ask, config, load_catalogue(config))
            assert (plan.format.name, plan.config.shots) == ("gsm8k", 5)


def test_the_hubs_own_files_are_read(tmp_path, config):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as files

    options = {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}
    row = {"id": "q1", "question": "Which?", "choices": options, "answerKey": "3"}
    for word, count in (("test", 3), ("train", 2)):
        path = tmp_path / f"{word}-00000-of-00001.parquet"
        files.write_table(pyarrow.Table.from_pylist([row] * count), path)
    suite = load_suite("arc-challenge", "test", tmp_path, config)
    assert suite.sizes == {"arc-challenge": 3}
    assert suite.questions["arc-challenge"][0].answer == "C"
    assert len(suite.examples["arc-challenge"]) == 2


@pytest.mark.parametrize("folder", ["ARC-Challenge__", ""])
def test_arcs_own_folders_are_known(tmp_path, config, folder):
    names = {"Test": 3, "Dev": 1, "Train": 2}
    files = {f"{folder}ARC-Challenge-{name}": choices(count) for name, count in names.items()}
    place = lay_out(tmp_path, **files)
    assert load_suite("arc-challenge", "test", place, config).sizes == {"arc-challenge": 3}
    found = load_suite("arc-challenge", "val", place, config)
    assert found.sizes == {"arc-challenge": 1}
    assert len(found.examples["arc-challenge"]) == 2
    assert "1 questions instead of 299" in found.notice


def test_mmlu_pro_has_a_subject_for_each_category(tmp_path, config):
    shown = choices(2, category="computer science", cot_content="A: Let's think. (C).")
    asked = choices(3, category="computer science") + b"\n" + choices(2, category="law")
    place = lay_out(tmp_path, data__test=asked, data__validation=shown)
    suite = load_suite("mmlu-pro", "test", place, config)
    assert suite.sizes == {"computer_science": 3, "law": 2}
    assert [one.row for one in suite.questions["law"]] == [3, 4]
    assert suite.examples["computer_science"][0].solution.startswith("A: Let's think")


def test_the_same_questions_in_another_form_have_the_same_hash(tmp_path, config):
    one = lay_out(tmp_path / "one", test=sums(3))
    other = tmp_path / "other"
    other.mkdir()
    rows = [json.loads(line) for line in sums(3).splitlines()]
    spaced = [json.dumps({"id": n, **row}, indent=None) for n, row in enumerate(rows)]
    (other / "test.jsonl").write_text("\r\n".join(spaced) + "\r\n", encoding="utf-8")
    hashes = {load_suite("gsm8k", "test", place, config).sha256 for place in (one, other)}
    assert len(hashes) == 1


def test_other_content_of_the_right_size_has_a_notice(tmp_path, config, small_gsm8k, monkeypatch):
    small, bodies = small_gsm8k
    known = hash_questions(
        replace(one, subject="gsm8k") for one in read_questions(bodies["test"], "a.jsonl", "x")
    )
    part = replace(small.splits["test"], content_sha256=known)
    monkeypatch.setitem(PUBLISHED, "gsm8k", replace(small, splits={**small.splits, "test": part}))
    place = lay_out(tmp_path / "data", test=bodies["test"])
    assert load_suite("gsm8k", "test", place, config).notice == ""
    changed = bodies["test"].replace(b"#### 1", b"#### 9")
    place = lay_out(tmp_path / "changed", test=changed)
    assert (
        "as many questions, with other content" in load_suite("gsm8k", "test", place, config).notice
    )


@pytest.mark.parametrize(
    ("name", "split", "make", "what"),
    [
        ("gsm8k", "val", lambda p: lay_out(p, test=sums(1)), "GSM8K has no val split"),
        ("mmlu-pro", "val", lambda p: lay_out(p, test=choices(1)), "MMLU-Pro has no val split"),
        ("gsm8k", "test", lambda p: p / "nowhere", "does not exist"),
        ("gsm8k", "test", lambda _: Path(__file__), "is not a file of questions"),
        ("gsm8k", "test", lambda p: p, "does not contain the test split of GSM8K"),
        ("gsm8k", "dev", lambda p: lay_out(p, test=sums(1)), "does not contain the dev split"),
        ("gsm8k", "test", lambda p: lay_out(p, test=choices(2)), "is not GSM8K: its questions ha"),
        ("mmlu-pro", "test", lambda p: lay_out(p, test=sums(2)), "have numbers as their answers"),
        ("gsm8k", "test", lambda p: lay_out(p, test=b"{"), r"test.jsonl:1:2: is not JSON"),
    ],
)
def test_a_place_without_the_suite_is_reported(tmp_path, config, name, split, make, what):
    with pytest.raises((UsageError, InvalidFile), match=what) as caught:
        load_suite(name, split, make(tmp_path), config)
    assert caught.value.fix


def test_a_download_is_checked_kept_and_not_repeated(config, small_gsm8k):
    small, bodies = small_gsm8k
    calls = []

    def fetch(file, folder, report):
        calls.append(file.name)
        report(file.size_bytes)
        path = folder / "partial"
        path.write_bytes(bodies[file.name.removesuffix(".jsonl")])
        return path

    lines: list[str] = []
    files = load_published_files(small, "test", config, lines.append, fetch)
    assert {split: body for split, (_, body) in files.items()} == {
        "test": bodies["test"],
        "dev": bodies["train"],
    }
    assert any(line.startswith("downloading GSM8K (github openai/") for line in lines)
    assert load_published_files(small, "dev", config, lines.append, fetch)
    assert calls == ["test.jsonl", "train.jsonl"]
    names = sorted(path.name for path in suite_dir(config, "gsm8k").iterdir())
    assert names == ["test.jsonl", "train.jsonl"]
    assert load_suite("gsm8k", "test", None, config).sizes == {"gsm8k": 3}


def test_a_download_of_something_else_is_refused(config, small_gsm8k):
    def fetch(file, folder, report):
        path = folder / "partial"
        path.write_bytes(b"x")
        return path

    with pytest.raises(DownloadFailed, match="wrong sha256"):
        load_published_files(small_gsm8k[0], "test", config, fetch=fetch)
    assert not list(suite_dir(config, "gsm8k").iterdir())
    lay_out(suite_dir(config, "gsm8k"), test=sums(4), train=sums(2))
    with pytest.raises(InvalidFile, match="is not the published file of GSM8K"):
        load_suite("gsm8k", "test", None, config)


@pytest.mark.parametrize("suite", PUBLISHED.values(), ids=list(PUBLISHED))
def test_without_network_it_is_said_what_to_do(config, monkeypatch, suite):
    def refuse(*args, **kwargs):
        raise DownloadFailed("the download broke off: no route to host")

    if suite is not GSM8K:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    monkeypatch.setattr("etui.models.hub.fetch", refuse)
    with pytest.raises(DownloadFailed) as caught:
        load_suite(suite.name, "test", None, config)
    assert "no route to host" in caught.value.what
    assert build_url(suite.splits["test"].file) in caught.value.fix
    assert "--data" in caught.value.fix


def test_nothing_is_downloaded_that_could_not_be_read(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr("etui.models.hub.fetch", lambda *args: pytest.fail("downloaded"))
    with pytest.raises(EtuiError, match=r"needs etui\[suites\]"):
        load_suite("mmlu-pro", "test", None, config)


def test_the_real_questions_of_gsm8k_are_all_read(gsm8k, config):
    suite = load_suite("gsm8k", "test", gsm8k, config)
    assert suite.notice == ""
    assert suite.sizes == {"gsm8k": 1319}
    rows = suite.questions["gsm8k"]
    assert (rows[0].answer, rows[1].answer, rows[2].answer) == ("18", "3", "70000")
    assert all(re.fullmatch(r"-?\d+", one.answer) and one.solution for one in rows)
    raw = (gsm8k / "test.jsonl").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == GSM8K.splits["test"].file.sha256
    for one, line in zip(rows, raw.splitlines(), strict=True):
        whole = json.loads(line)["answer"]
        assert f"{one.solution}\n#### {one.answer}" == whole.replace(
            whole[whole.index("####") :], f"#### {one.answer}"
        )


def test_named_suites_are_not_files():
    assert all(suites.is_named_suite(name) for name in ("mmlu", "sample", *PUBLISHED))
    assert not suites.is_named_suite("questions.csv")
