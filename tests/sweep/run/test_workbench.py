"""This machine as a workbench: a sweep of a model of two megabytes, with the real engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etui.cli.main import run
from etui.config.config import Config
from etui.log.queries import LogReader
from etui.sweep.folder import list_sweeps, read_sweep
from tests.contract.tiny_model import write_tiny_model

SMALL = (
    *("--blocks", "2", "--rounds", "1", "--window", "0.02", "--cool-down", "0", "--force"),
    *("--output-tokens", "3"),
)


@pytest.fixture(autouse=True)
def one_thread(config: Config) -> Path:
    config.models_dir.mkdir(parents=True, exist_ok=True)
    config.config_file.write_text("threads: 1\n")
    return write_tiny_model(config.models_dir / "tiny.gguf")


def test_a_sweep_of_a_real_model(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("tiny", "--axis", "kv_type=f16,q8_0", "--suite", "sample", "--limit", "4")
    code = run(["sweep", *asked, *SMALL, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    document = json.loads(printed.out)
    assert document["is_complete"]
    (folder,) = list_sweeps(config)
    read = read_sweep(folder)
    assert {visit.setting for block in read.blocks for visit in block.visits} == {
        "kv_type=f16",
        "kv_type=q8_0",
    }
    tokens = {visit.decode.tokens for block in read.blocks for visit in block.visits}
    assert len(tokens) == 1  # the same for every setting
    assert len(read.answers) == 8
    assert {answer.choice for answer in read.answers} == {"B"}
    assert len(read.power) == sum(len(block.visits) for block in read.blocks)
    with LogReader(config) as log:
        loads = log.loads()
    assert {load.model for load in loads} == {"tiny"}
    assert len(loads) >= 2
