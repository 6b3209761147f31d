"""The first load of an unknown file, in a process of its own."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.engine import trial
from etui.engine.trial import try_model
from etui.errors import ModelUnavailable
from etui.models.catalogue import build_found_spec
from etui.models.files import read_record, require
from etui.models.spec import ModelSpec
from tests.contract.tiny_model import write_tiny_model
from tests.models.test_gguf import number


@pytest.fixture
def tiny(config: Config) -> tuple[ModelSpec, Path]:
    config.models_dir.mkdir()
    path = write_tiny_model(config.models_dir / "tiny.gguf")
    return build_found_spec(path), path


def no_process(*args: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    raise AssertionError("a trial was started")


def ends_with(code: int, stderr: bytes = b"") -> object:
    return lambda *_, **options: subprocess.CompletedProcess([], code, b"", stderr)


def test_a_good_file_is_tried_once(tiny, config, monkeypatch):
    spec, path = tiny
    require(spec, config)
    try_model(spec, path, config)
    record = read_record("tiny", config.models_dir)
    assert record.tried
    monkeypatch.setattr(trial.subprocess, "run", no_process)
    try_model(spec, path, config)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(AssertionError):
        try_model(spec, path, config)


def test_a_file_of_the_shipped_list_needs_no_trial(tiny, config, monkeypatch):
    spec, path = tiny
    monkeypatch.setattr(trial.subprocess, "run", no_process)
    try_model(replace(spec, origin="shipped", sha256="0" * 64), path, config)


def test_a_crash_is_an_error_of_the_model(config):
    config.models_dir.mkdir()
    changes = {"llama.expert_count": number(2)}
    path = write_tiny_model(config.models_dir / "bad.gguf", changes=changes)
    with pytest.raises(ModelUnavailable, match=r"bad\.gguf cannot be used: llama\.cpp crashed"):
        try_model(build_found_spec(path), path, config)


def test_the_failed_assertion_is_named(tiny, config, monkeypatch):
    spec, path = tiny
    said = b"loading\n/build/ggml/src/ggml.c:3: GGML_ASSERT(eps >= 0.0f) failed\nmore\n"
    monkeypatch.setattr(trial.subprocess, "run", ends_with(-6, said))
    with pytest.raises(ModelUnavailable) as caught:
        try_model(spec, path, config)
    assert "SIGABRT: ggml.c:3: GGML_ASSERT(eps >= 0.0f) failed in a trial" in caught.value.what
    assert caught.value.fix


def test_a_refusal_is_left_to_the_load(tiny, config, monkeypatch):
    spec, path = tiny
    require(spec, config)
    monkeypatch.setattr(trial.subprocess, "run", ends_with(1))
    try_model(spec, path, config)
    record = read_record("tiny", config.models_dir)
    assert not record.tried
