"""``etui serve`` as a process with an encoder and a chat model: vectors, and Ollama's client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import ollama
import openai
import pytest

from etui.config.config import Config
from etui.log.queries import LogReader
from tests.server.fakes import DEADLINE_SECONDS
from tests.support.tiny_embedders import WIDTH, write_embedder

STARTER = "smollm2-135m"


@pytest.fixture
def url(starter_model: Path, config: Config, tmp_path: Path) -> Iterator[str]:
    """The root of a server with the starter, an encoder and a model that ranks."""
    models = tmp_path / "models"
    models.mkdir()
    for path in starter_model.parent.glob(f"{STARTER}.gguf*"):
        (models / path.name).symlink_to(path)
    write_embedder(models / "encoder.gguf", "mean")
    write_embedder(models / "ranker.gguf", "rank")
    (config.home / "config.yaml").write_text("threads: 1\naliases: {text-embedding-3-*: encoder}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "etui", "serve", "--port", "0", "--model", STARTER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ETUI_MODELS": str(models)},
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://[^/]+", line)
        assert found is not None, line + process.stderr.read()
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_SECONDS)


def test_vectors_rankings_and_tokens_of_real_models(url: str, config: Config) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        found = client.embeddings.create(model="text-embedding-3-small", input=["a cat", "dogs"])
        assert found.model == "encoder"
        assert len(found.data[1].embedding) == WIDTH
        chat = client.embeddings.create(model="etui", input="a cat", dimensions=16)
        assert np.linalg.norm(chat.data[0].embedding) == pytest.approx(1)
        assert chat.embedding["chat_model"] is True  # type: ignore[attr-defined]
        with pytest.raises(openai.BadRequestError, match="/v1/rerank"):
            client.embeddings.create(model="ranker", input="a cat")
        with pytest.raises(openai.BadRequestError, match="cannot answer"):
            client.chat.completions.create(
                model="encoder", messages=[{"role": "user", "content": "Hi"}]
            )
    with httpx2.Client(base_url=url, timeout=DEADLINE_SECONDS) as http:
        documents = ["a cat", "dogs", "mats"]
        for model, method in (("ranker", "sigmoid"), ("encoder", "cosine")):
            body = {"model": model, "query": "cats?", "documents": documents}
            ranked = http.post("/v1/rerank", json=body).json()
            assert sorted(each["index"] for each in ranked["results"]) == [0, 1, 2]
            assert method in ranked["ranking"]["method"]
        tokens = http.post("/tokenize", json={"content": "Hi <|im_end|>"}).json()["tokens"]
        assert http.post("/detokenize", json={"tokens": tokens}).json() == {
            "content": "Hi <|im_end|>"
        }
        pieces = http.post("/tokenize", json={"content": "ü", "with_pieces": True}).json()["tokens"]
        assert pieces
        long = http.post("/tokenize", json={"content": "ü" * 2**19 + "a"}).json()["error"]
        assert (long["param"], "1048576 bytes" in long["message"]) == ("content", True)
        unknown = http.post("/detokenize", json={"tokens": [10**6]})
        assert unknown.status_code == 400
        props = http.get("/props").json()
        assert (props["model_alias"], props["model_path"]) == (STARTER, f"{STARTER}.gguf")
        assert props["eos_token"] == "<|im_end|>"
        assert "im_start" in props["chat_template"]
    with LogReader(config) as log:
        rows = log.select("SELECT client_endpoint, query, status, tokens_output FROM turns")
    logged = [tuple(row) for row in rows]
    assert ("/v1/embeddings", "(2 texts to embed)", "complete", 0) in logged
    assert ("/v1/rerank", "(3 texts to rank)", "complete", 0) in logged
    assert not any("cat" in query for _, query, _, _ in logged)


def test_the_client_of_ollama_finds_and_asks_real_models(url: str) -> None:
    client = ollama.Client(url, timeout=DEADLINE_SECONDS)
    listed = {model.model: model for model in client.list().models}
    assert listed[f"{STARTER}:latest"].size > 10**7
    assert listed["encoder:latest"].details.family == "bert"
    shown = client.show(f"{STARTER}:latest")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["general.architecture"] == "llama"
    assert client.show("encoder").capabilities == ["embedding"]
    assert client.ps().models == []
    ask = [{"role": "user", "content": "Count from one to five."}]
    options = {"num_predict": 8, "temperature": 0}
    whole = client.chat(model=STARTER, messages=ask, options=options)
    assert whole.eval_count == 8
    assert whole.done_reason == "length"
    assert 0 < whole.eval_duration <= whole.total_duration
    parts = list(client.chat(model=STARTER, messages=ask, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    answer = client.generate(model=STARTER, prompt="Mars is", raw=True, options=options)
    assert answer.response
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    options = {"num_predict": 40, "temperature": 0}
    assert client.chat(
        model=STARTER, messages=ask, format=schema, options=options
    ).message.content.startswith("{")
    assert [model.model for model in client.ps().models] == [f"{STARTER}:latest"]
    vectors = client.embed(model="encoder:latest", input=["a cat", "abcdef " * 200]).embeddings
    assert [len(vector) for vector in vectors] == [WIDTH, WIDTH]
    with pytest.raises(ollama.ResponseError, match="maximum context length"):
        client.embed(model="encoder", input="abcdef " * 200, truncate=False)
