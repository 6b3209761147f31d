"""Pictures over HTTP with a real model and a random projector, by each protocol."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import pytest

from etui.chat import Picture
from etui.config.config import Config
from etui.log.queries import LogReader
from etui.prompts.pictures import read_picture
from etui.server import build_request
from tests.server.fakes import DEADLINE_SECONDS, FakePool, say, serving
from tests.support.tiny_projector import IMAGE, TOKENS, write_png, write_projector

STARTER = "smollm2-135m"
PNG = write_png(48, 32)
ENCODED = base64.b64encode(PNG).decode()
DATA_URL = f"data:image/png;base64,{ENCODED}"


@pytest.fixture(scope="module")
def served(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with the starter, once as it is and once with a projector; its URL and its home."""
    home = tmp_path_factory.mktemp("home")
    write_projector(home / "mmproj.gguf", 576, edge=IMAGE)
    (home / "config.yaml").write_text("threads: 1\n")
    (home / "models.yaml").write_text(
        "models:\n  seeing:\n    size: 135M\n    context: 1024\n    mmproj: mmproj.gguf\n"
        f"    sources: [{{path: '{starter_model}'}}]\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "etui", "serve", "--port", "0", "--model", "seeing"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ETUI_HOME": str(home), "ETUI_MODELS": str(starter_model.parent)},
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://[^/]+", line)
        assert found is not None, line + process.stderr.read()
        yield found[0], home
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_SECONDS)


def test_a_picture_is_read_once_and_beside_the_other_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading it inflates it: a body of 8 MB could name a thousand large ones."""
    threads = []

    def read(data: bytes, name: str) -> Picture:
        threads.append(threading.current_thread().name)
        return read_picture(data, name)

    monkeypatch.setattr(build_request, "read_picture", read)
    with serving(FakePool(say("A cat.")), body_limit_bytes=2**20) as server:
        shown = {"type": "image_url", "image_url": {"url": DATA_URL}}
        body = {"model": "small", "messages": [{"role": "user", "content": [shown] * 100}]}
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body)
    assert reply.status_code == 200
    [name] = threads
    assert name.startswith("AnyIO worker")  # of its pool, not that of the server


def chat(url: str, picture: Any, model: str = "seeing") -> httpx2.Response:
    content = [
        {"type": "text", "text": "What is this? "},
        {"type": "image_url", "image_url": picture},
    ]
    body = {
        "model": model,
        "max_tokens": 4,
        "messages": [{"role": "user", "content": content}],
    }
    return httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=DEADLINE_SECONDS)


def test_every_protocol_shows_pictures_to_the_model(served: Any) -> None:
    url, home = served
    answered = chat(url, {"url": DATA_URL, "detail": "low"})
    assert answered.status_code == 200, answered.text
    assert answered.json()["usage"]["prompt_tokens"] > TOKENS + 10
    other = f"data:image/png;base64,{base64.b64encode(write_png(seed=7)).decode()}"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        made = client.responses.create(
            model="seeing",
            max_output_tokens=4,
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What?"},
                        {"type": "input_image", "image_url": other, "detail": "auto"},
                    ],
                }
            ],
        )
        assert made.usage is not None
        assert made.usage.output_tokens > 0
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as claude:
        source = {"type": "base64", "media_type": "image/png", "data": ENCODED}
        content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]
        asked: Any = [{"role": "user", "content": content}]
        said = claude.messages.create(model="seeing", max_tokens=4, messages=asked)
        assert said.usage.output_tokens > 0
        assert claude.messages.count_tokens(model="seeing", messages=asked).input_tokens > TOKENS
    found = ollama.Client(url, timeout=DEADLINE_SECONDS).chat(
        model="seeing",
        messages=[{"role": "user", "content": "What?", "images": [PNG]}],
        options={"num_predict": 4},
    )
    assert found.message.content is not None
    with LogReader(Config(home=home, models_dir=home)) as log:
        rows = log.select("SELECT query, pictures FROM turns ORDER BY created_at")
        logged = [tuple(row) for row in rows]
    assert all("[picture " in query for query, _ in logged)
    assert '"tokens"' in logged[0][1]
    assert not any(ENCODED[:40] in query for query, _ in logged)


def test_etui_ask_shows_a_picture(served: Any, tmp_path: Path, starter_model: Path) -> None:
    path = tmp_path / "it.png"
    path.write_bytes(write_png(seed=9))
    done = subprocess.run(
        [*(sys.executable, "-m", "etui", "ask", "What is it?", "-f", str(path)),
         *("--model", "seeing", "--max-tokens", "4", "--json")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, "ETUI_HOME": str(served[1]),
             "ETUI_MODELS": str(starter_model.parent)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    turn = json.loads(done.stdout)
    assert turn["pictures"]["tokens"] == 2 * TOKENS
    phases = turn["energy"]["phases"]
    if turn["energy"]["joules"] is not None:
        parts = phases["prefill"] + phases["image"] + phases["decode"]
        assert parts == pytest.approx(turn["energy"]["joules"], abs=1e-9)


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        ({"url": "https://example.org/cat.png"}, "none is fetched"),
        ({"url": "file:///etc/passwd"}, "none is fetched"),
        ({"url": "data:image/png;base64,%%%"}, "no base64"),
        ({"url": "data:image/png;base64,AAAA"}, "no PNG or JPEG"),
        ({"url": DATA_URL[:422]}, "damaged"),
        ({}, "data URL"),
        (None, "data URL"),
    ],
)
def test_what_is_no_picture_is_a_400_that_says_why(served: Any, picture: Any, why: str) -> None:
    refused = chat(served[0], picture)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert why in error["message"]
    assert error["param"] == "messages[0].content[1]"


def test_a_model_without_projector_is_a_400_that_says_what_to_do(served: Any) -> None:
    refused = chat(served[0], {"url": DATA_URL}, STARTER)
    assert refused.status_code == 400
    assert "mmproj" in refused.json()["error"]["message"]
