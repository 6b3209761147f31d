"""``etui serve`` as a process with the starter model: answers, the log, and the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from etui.config.config import Config
from etui.log.queries import LogReader
from tests.server.fakes import DEADLINE_SECONDS

QUESTION = [{"role": "user", "content": "Which planet is called the red planet?"}]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is ended by SIGINT")


@pytest.fixture
def served(starter_model: Path, config: Config) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of ``etui serve``, and the address that it prints."""
    (config.home / "config.yaml").write_text("threads: 1\n")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "etui",
            "serve",
            "--port",
            "0",
            "--jsonl",
            "--model",
            "smollm2-135m",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ETUI_MODELS": str(starter_model.parent)},
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line + process.stderr.read()
        yield process, found[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)


def test_a_real_answer_is_measured_logged_and_survives_the_end(served, config: Config) -> None:
    process, url = served
    with openai.OpenAI(base_url=url, api_key="none", timeout=DEADLINE_SECONDS) as client:
        whole = client.chat.completions.create(
            model="smollm2-135m", messages=QUESTION, max_tokens=8, temperature=0, seed=1
        )
        chunks = list(
            client.chat.completions.create(
                model="etui",
                messages=QUESTION,
                max_tokens=8,
                temperature=0,
                seed=1,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == whole.choices[0].message.content.strip()
    assert text.strip()
    usage = chunks[-1].usage
    assert 0 < usage.completion_tokens <= 8
    assert (usage.energy["kind"] is None) == (usage.energy["joules"] is None)
    assert usage.energy["attribution"]["method"] == "exclusive"

    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    *changes, end = map(json.loads, shown.splitlines())
    assert {change["event"] for change in changes} == {"status"}
    assert (end["event"], end["finished"], end["accepting"]) == ("end", 2, False)
    with LogReader(config) as log:
        turn = log.find_turn(whole.id.removeprefix("chatcmpl-"))
    assert turn is not None
    assert turn.answer == whole.choices[0].message.content
    assert turn.client is not None
    assert turn.client.endpoint == "/v1/chat/completions"
    assert turn.energy.joules == whole.usage.energy["joules"]


def test_stopping_in_the_middle_of_an_answer_saves_it(served, config: Config) -> None:
    process, url = served
    with openai.OpenAI(
        base_url=url, api_key="none", timeout=DEADLINE_SECONDS, max_retries=0
    ) as client:
        stream = client.chat.completions.create(
            model="smollm2-135m", messages=QUESTION, max_tokens=8, stream=True
        )
        first = next(stream)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
    with LogReader(config) as log:
        assert log.find_turn(first.id.removeprefix("chatcmpl-")) is not None
