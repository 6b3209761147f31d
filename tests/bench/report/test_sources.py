"""Question texts of a report: only from the same data, and nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.bench.results import load_texts
from etui.config.config import Config
from etui.datasets.mmlu import suite_dir
from etui.datasets.suites import load_suite
from tests.bench import synthetic

LINES = '{"question": "1 + 1?", "answer": 2}\n{"question": "2 + 2?", "answer": 4}\n'


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fetch", "fetch_url"):
        monkeypatch.setattr(f"etui.models.hub.{name}", lambda *args: pytest.fail("downloaded"))


def write(path: Path, lines: str = LINES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    return path


def test_texts_of_a_local_copy(config: Config, tmp_path: Path) -> None:
    place = write(tmp_path / "data" / "test.jsonl").parent
    sha256 = load_suite("gsm8k", "test", place, config).sha256
    run = synthetic.config(suite="gsm8k", data_path=str(place), data_sha256=sha256)
    texts = load_texts(run, config)
    assert texts is not None
    assert [texts["gsm8k", row].text for row in (0, 1)] == ["1 + 1?", "2 + 2?"]
    moved = write(tmp_path / "moved" / "test.jsonl")
    assert load_texts(run, config, moved) == texts
    write(moved, LINES.replace("4", "5"))
    assert load_texts(run, config, moved) is None


@pytest.mark.parametrize("name", ["mmlu", "gsm8k", "arc-challenge", "mmlu-pro"])
def test_a_suite_that_is_not_here_has_no_texts(config: Config, name: str) -> None:
    run = synthetic.config(suite=name, data_path=None)
    assert load_texts(run, config) is None
    suite_dir(config, name).mkdir(parents=True)
    assert load_texts(run, config) is None


def test_texts_of_a_file_that_is_named_like_a_suite(config: Config, tmp_path: Path) -> None:
    path = write(tmp_path / "gsm8k.jsonl")
    suite = load_suite(str(path), "test", None, config)
    run = synthetic.config(suite=suite.name, data_path=str(path), data_sha256=suite.sha256)
    texts = load_texts(run, config)
    assert texts is not None
    assert texts["gsm8k", 1].answer == "4"


def test_texts_of_the_sample(config: Config) -> None:
    suite = load_suite("sample", "test", None, config)
    run = synthetic.config(suite="sample", data_sha256=suite.sha256)
    assert len(load_texts(run, config) or ()) == 60
