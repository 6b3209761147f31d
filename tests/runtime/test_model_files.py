"""The file of a model is checked once, until it changes."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.errors import ModelUnavailable
from etui.models import files
from etui.runtime.caches import FileCache
from etui.runtime.runtime import Runtime, open_runtime
from tests.models.test_gguf import tiny_gguf

ARM = Arm("direct", "mine")
LATER_NS = 1 << 62


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every file that is hashed, where no record of it can be written."""
    found: list[object] = []
    hash_file = files.hash_file

    def count(path: Any, report: Any = None) -> str:
        found.append(path)
        return hash_file(path, report)

    monkeypatch.setattr(files, "hash_file", count)
    monkeypatch.setattr(files, "write_record", lambda *_: None)
    return found


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    content = tiny_gguf()
    (config.home / "mine.gguf").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    config.models_file.write_text(
        f"models:\n  mine: {{size: s, sha256: {digest}, sources: [{{path: mine.gguf}}]}}\n"
    )
    runtime = open_runtime(config)
    runtime.model_files._checked = FileCache(lambda: LATER_NS)  # the file is not as new as it is
    return runtime


def test_a_file_without_a_record_is_hashed_once_by_a_runtime(
    runtime: Runtime[Any], hashed: list[object]
) -> None:
    first = runtime.resolve(ARM)
    assert runtime.resolve(ARM).path == first.path
    assert len(hashed) == 1


def test_a_file_that_changed_is_hashed_again(
    config: Config, runtime: Runtime[Any], hashed: list[object]
) -> None:
    path = runtime.resolve(ARM).path
    assert path is not None
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path)
    with pytest.raises(ModelUnavailable, match="sha256"):
        runtime.resolve(ARM)
    assert len(hashed) == 2
