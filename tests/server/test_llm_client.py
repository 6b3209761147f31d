"""``llm``, a command of others, against a real server: streamed and whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.fakes import DEADLINE_SECONDS, FakePool, say, serving

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("options", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_llm_gets_the_answer_and_logs_its_joules(tmp_path: Path, options: list[str]) -> None:
    pytest.importorskip("llm")
    with serving(FakePool(say("Mars", " is red."))) as server:
        (tmp_path / "extra-openai-models.yaml").write_text(
            f"- model_id: etui\n  model_name: balanced\n  api_base: {server.url}/v1\n"
        )
        answer = run(tmp_path, "-m", "etui", *options, "Which planet is red?")
    assert answer.strip() == "Mars is red."
    [logged] = json.loads(run(tmp_path, "logs", "--json"))
    assert logged["output_tokens"] == 8
    assert json.loads(logged["token_details"])["energy"]["joules"] == pytest.approx(30.0)


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env={**os.environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
