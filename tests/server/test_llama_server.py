"""Gaps filled and likelihoods, compared with a real llama-server on the same model.

``ETUI_LLAMA_SERVER`` names its program; without it, these tests are skipped.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from etui.config.config import Config

pytestmark = pytest.mark.slow

MODEL = "qwen2.5-coder-0.5b"
GAPS: list[dict[str, Any]] = [
    {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n\nprint(add(1, 2))\n"},
    {"input_prefix": "import os\n\n\ndef list_files(folder):\n    ", "input_suffix": "\n"},
    {"input_prefix": "for i in range(10):\n", "input_suffix": "    total += i\n",
     "input_extra": [{"filename": "sums.py", "text": "total = 0\n"}, {"text": "x = 1\n"}]},
    {"input_prefix": "class Stack:\n    def pop(self):\n", "input_suffix": "", "prompt": "    re"},
    {"input_prefix": "", "input_suffix": "\nprint(name)\n"},
    {"input_prefix": "# <|fim_middle|> is text here\nx = ", "input_suffix": "\ny = x + 1\n"},
]  # fmt: skip


@contextmanager
def run(command: list[str], url: str, ready: str) -> Iterator[httpx2.Client]:
    """Run a server from the line that says that it is ready."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stderr is not None
    try:
        assert any(ready in line for line in process.stderr), "it has not begun to listen"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        with httpx2.Client(base_url=url, timeout=120) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def model() -> Path:
    folder = Path(os.environ.get("ETUI_TEST_MODELS") or Path(__file__).parents[2] / ".models")
    path = folder.absolute() / f"{MODEL}.gguf"
    if not path.exists():
        pytest.skip(f"{MODEL} is not in {path.parent}")
    return path


@pytest.fixture
def theirs(model: Path) -> Iterator[httpx2.Client]:
    program = os.environ.get("ETUI_LLAMA_SERVER")
    if not program:
        pytest.skip("ETUI_LLAMA_SERVER names no llama-server")
    port = find_port()
    command = [program, "-m", str(model), "--port", str(port), "-c", "4096", "-t", "2", "-np", "1"]
    command += ["-fa", "off", "-ngl", "0"]
    with run(command, f"http://127.0.0.1:{port}", "is listening") as client:
        yield client


@pytest.fixture
def ours(model: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx2.Client]:
    monkeypatch.setenv("ETUI_MODELS", str(model.parent))
    port = find_port()
    command = [sys.executable, "-m", "etui", "serve", "--port", str(port), "--model", MODEL]
    with run(command, f"http://127.0.0.1:{port}", "etui serves") as client:
        yield client


def test_gaps_are_filled_with_the_same_text(ours: httpx2.Client, theirs: httpx2.Client) -> None:
    found = []
    for gap in GAPS:
        body = {
            **gap,
            "n_predict": 24,
            "temperature": 0,
            "top_k": 1,
            "seed": 0,
            "cache_prompt": False,
        }
        pair = [client.post("/infill", json=body).json() for client in (ours, theirs)]
        found.append([(each["content"], each["tokens_evaluated"]) for each in pair])
    assert [mine for mine, _ in found] == [other for _, other in found]
    assert any(re.search(r"\w", mine[0]) for mine, _ in found)
