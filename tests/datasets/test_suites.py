"""Where questions come from: folders, archives, files, the sample, the hub."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from etui.datasets import mmlu as fetch
from etui.datasets import suites
from etui.datasets.mmlu import (
    KNOWN,
    SUBJECT_GROUPS,
    find_key,
    load_mmlu_files,
    read_files,
    suite_dir,
)
from etui.datasets.questions import hash_files
from etui.datasets.suites import load_suite
from etui.errors import DownloadFailed, InvalidFile, UsageError

ROW = "Which is {n}?,{n},x{n},y{n},z{n},A\n"


def small_mmlu(left_out: str | None = None) -> dict[str, bytes]:
    """MMLU's files with one row in each."""
    return {
        f"{split}/{subject}_{split}.csv": ROW.format(n=f"{split} {subject}").encode()
        for split in KNOWN
        for subject in SUBJECT_GROUPS
        if subject != left_out
    }


def lay_out(files: dict[str, bytes], folder: Path) -> Path:
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def archive(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(f"data/{name}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return path


@pytest.fixture
def known_small(monkeypatch):
    """Take the small files for the original ones."""
    files = small_mmlu()
    for split, known in KNOWN.items():
        own = {name: body for name, body in files.items() if name.startswith(split)}
        small = replace(known, questions=len(own), sha256=hash_files(own))
        monkeypatch.setitem(fetch.KNOWN, split, small)
    assert suites.KNOWN is fetch.KNOWN
    return files


def test_a_folder_that_is_not_the_original_is_read_with_a_notice(tmp_path, config):
    suite = load_suite("mmlu", "test", lay_out(small_mmlu(), tmp_path / "data"), config)
    assert len(suite.questions) == len(suite.examples) == 57
    assert "57 questions instead of 14042" in suite.notice


def test_the_folder_above_the_splits_will_do(tmp_path, config):
    lay_out(small_mmlu(), tmp_path / "data")
    assert load_suite("mmlu", "val", tmp_path, config).sizes["anatomy"] == 1


def test_missing_subjects_are_named(tmp_path, config):
    place = lay_out(small_mmlu(left_out="virology"), tmp_path / "data")
    with pytest.raises(InvalidFile, match="missing: virology"):
        load_suite("mmlu", "test", place, config)


def test_a_missing_dev_file_is_named(tmp_path, config):
    files = small_mmlu()
    del files["dev/virology_dev.csv"]
    with pytest.raises(InvalidFile, match="no dev file for virology"):
        load_suite("mmlu", "test", lay_out(files, tmp_path / "data"), config)


def test_an_answer_e_is_told_with_its_file(tmp_path, config):
    files = small_mmlu()
    files["test/anatomy_test.csv"] = b"Which?,1,2,3,4,E\n"
    with pytest.raises(InvalidFile, match=r"test/anatomy_test.csv:1:1: the answer 'E'"):
        load_suite("mmlu", "test", lay_out(files, tmp_path / "data"), config)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "contains no dev/SUBJECT_dev.csv"),
        (lambda p: p.write_bytes(b"hello"), "neither a folder nor a tar or zip"),
        (lambda p: p.write_bytes(b"PK\3\4" + bytes(40)), "neither a folder nor a tar or zip"),
        (lambda p: archive({"test/anatomy_test.csv": b"x"}, p), "contains no dev"),
    ],
)
def test_a_place_without_mmlu_is_told(tmp_path, config, make, said):
    place = tmp_path / "place"
    make(place)
    with pytest.raises((InvalidFile, UsageError), match=said):
        load_suite("mmlu", "test", place, config)


def test_a_damaged_archive_is_told(tmp_path):
    path = archive(small_mmlu(), tmp_path / "mmlu.tar")
    whole = path.read_bytes()
    path.write_bytes(whole[:700] + b"\xff" * 512 + whole[1212:2000])
    with pytest.raises(InvalidFile):
        read_files(path, ("dev", "test"))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("data/test/anatomy_test.csv", "test/anatomy_test.csv"),
        ("test/anatomy_test.csv", "test/anatomy_test.csv"),
        ("data/test/._anatomy_test.csv", None),
        ("data/auxiliary_train/race.csv", None),
        ("data/dev/anatomy_test.csv", None),
        ("latest/anatomy_test.csv", None),
    ],
)
def test_members_are_told_from_the_rest(name, key):
    assert find_key(name, ("dev", "test")) == key


def test_a_download_is_checked_kept_and_not_repeated(tmp_path, config, known_small):
    calls = []

    def hub(folder, report):
        calls.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        report(83_000_000)
        more = {**known_small, "auxiliary_train/race.csv": b"x"}
        return archive(more, folder / "partial")

    said = []
    files = load_mmlu_files(config, "val", said.append, hub)
    assert {name.split("/")[0] for name in files} == {"dev", "val"}
    assert any("83.0 MB of 166 MB" in line for line in said)
    assert sorted(p.name for p in suite_dir(config, "mmlu").iterdir()) == ["dev", "test", "val"]
    assert load_mmlu_files(config, "test", said.append, hub).keys() != files.keys()
    assert len(calls) == 1
    assert not calls[0].exists()


def test_a_download_of_something_else_is_refused(config, known_small):
    def hub(folder, report):
        folder.mkdir(parents=True, exist_ok=True)
        return archive({**known_small, "test/anatomy_test.csv": b"x"}, folder / "partial")

    with pytest.raises(DownloadFailed, match="not MMLU: wrong sha256 of test"):
        load_mmlu_files(config, "test", download=hub)
    assert not suite_dir(config, "mmlu").exists()


def test_a_copy_that_was_changed_is_refused(config, known_small):
    lay_out(known_small, suite_dir(config, "mmlu"))
    (suite_dir(config, "mmlu") / "test" / "anatomy_test.csv").write_text("x")
    with pytest.raises(InvalidFile, match="was modified"):
        load_mmlu_files(config, "test")
    assert load_mmlu_files(config, "val")


def test_without_network_it_is_said_what_to_do(config, monkeypatch):
    def refuses(*args, **kwargs):
        raise DownloadFailed("the hub stopped giving data.tar: no route to host")

    monkeypatch.setattr("etui.models.hub.fetch", refuses)
    with pytest.raises(DownloadFailed) as caught:
        load_suite("mmlu", "test", None, config)
    assert "no route to host" in caught.value.what
    assert "--data" in caught.value.fix
    assert "--suite sample" in caught.value.fix


def test_the_sample_is_complete_and_even(config):
    suite = load_suite("sample", "test", None, config)
    rows = [question for rows in suite.questions.values() for question in rows]
    assert len(suite.questions) == 12
    assert len(rows) == 60
    assert set(Counter(question.answer for question in rows).values()) == {15}
    assert all(len(set(question.choices)) == 4 for question in rows)
    shown = [question for rows in suite.examples.values() for question in rows]
    assert len(shown) == 60
    assert not {q.text for q in shown} & {q.text for q in rows}


def test_a_file_of_ones_own_and_its_examples(questions_csv, config):
    suite = load_suite(str(questions_csv), "test", None, config)
    assert suite.name == "sums"
    assert suite.sizes == {"adding": 3, "taking": 3}
    assert [len(rows) for rows in suite.examples.values()] == [2, 2]
    assert [q.row for q in suite.questions["taking"]] == [3, 4, 5]


@pytest.mark.parametrize(
    ("name", "split", "data", "said"),
    [
        ("mmlup", "test", None, "unknown suite 'mmlup', did you mean 'mmlu'"),
        ("questions", "test", None, "unknown suite 'questions'\n"),
        ("gsm8", "test", None, "did you mean 'gsm8k'"),
        ("arc", "test", None, "unknown suite 'arc'"),
        ("sample", "test", Path("."), "--data has no effect"),
        ("sample", "val", None, "no val split"),
    ],
)
def test_a_suite_that_does_not_exist_is_told(config, name, split, data, said):
    with pytest.raises(UsageError, match=said):
        load_suite(name, split, data, config)


def test_a_file_named_like_a_suite_is_not_that_suite(tmp_path, config):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text('{"question": "How many?", "answer": 7}\n', encoding="utf-8")
    suite = load_suite(str(path), "test", None, config)
    assert suite.name == "gsm8k.jsonl"
    assert not suites.is_named_suite(suite.name)
    assert suite.sizes == {"gsm8k": 1}
    assert (suite.grading, suite.chance) == ("number", 0.0)


def test_a_jsonl_file_has_its_examples_beside_it(tmp_path, config):
    line = '{"question": "Which?", "choices": ["x", "y", "z"], "answer": 2}\n'
    (tmp_path / "own.jsonl").write_text(line * 3, encoding="utf-8")
    (tmp_path / "own_dev.jsonl").write_text(line, encoding="utf-8")
    suite = load_suite(str(tmp_path / "own.jsonl"), "test", None, config)
    assert (suite.name, suite.grading) == ("own", "letter")
    assert suite.chance == pytest.approx(1 / 3)
    assert [len(rows) for rows in suite.examples.values()] == [1]


def test_examples_of_the_other_kind_are_refused(tmp_path, config):
    (tmp_path / "own.jsonl").write_text('{"question": "How many?", "answer": 7}\n')
    (tmp_path / "own_dev.jsonl").write_text(
        '{"question": "Which?", "choices": ["x", "y"], "answer": "A"}\n'
    )
    with pytest.raises(InvalidFile, match="letters, those of the other are numbers"):
        load_suite(str(tmp_path / "own.jsonl"), "test", None, config)


def test_a_file_that_cannot_be_read_is_reported(tmp_path, config, monkeypatch):
    path = tmp_path / "own.csv"
    path.write_text("Which?,1,2,3,4,A\n")
    monkeypatch.setattr("etui.datasets.records._MOST_BYTES", 4)
    with pytest.raises(InvalidFile, match="too large"):
        load_suite(str(path), "test", None, config)


def test_suites_have_titles_and_datasets():
    assert [suites.suite_title(name) for name in ("mmlu", "gsm8k", "own")] == [
        *("MMLU", "GSM8K", "own")
    ]
    assert suites.suite_repo("arc-challenge") == "allenai/ai2_arc"
    assert suites.suite_repo("mmlu") == "cais/mmlu"
    assert suites.suite_repo("own") == "own"
