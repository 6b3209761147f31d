"""Vectors and rankings over HTTP: the official client, the forms of requests, and the joules."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from etui.backends.base import AnswerRequest
from etui.events import Embedded, Event, Prefilled, Prefilling
from tests.server.fakes import (
    DEADLINE_SECONDS,
    FakePool,
    FakeTurn,
    Running,
    S,
    Script,
    connect,
    finished,
    serving,
)

RUNTIME = SimpleNamespace(config=SimpleNamespace(model=None), is_remote=lambda name: name == "far")


def give(*vectors: list[float], pooling: str = "cls", is_chat_model: bool = False) -> Script:
    """A script that gives vectors, each in a batch of its own."""

    def answer(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        for at, vector in enumerate(vectors):
            yield Prefilling(10 * S, 4 * (at + 1), 4 * len(vectors))
            text = base64.b64encode(np.array(vector, dtype="<f4").tobytes()).decode()
            yield Embedded(10 * S, (text,), (4,), pooling, is_chat_model)
        total = 4 * len(vectors)
        yield Prefilled(10 * S, 13 * S, total, 0, total)
        counts = {"prompt_tokens": total, "cached_tokens": 0, "computed_tokens": total}
        ends = {"prefill_end_ns": 13 * S, "thinking_end_ns": 13 * S, "first_token_ns": None}
        yield finished(f"{len(vectors)} x a vector", output_tokens=0, **counts, **ends)

    return answer


@contextmanager
def embedding(*scripts: Script, known: bool = True) -> Iterator[tuple[Running, FakePool]]:
    pool = FakePool(*scripts, joules_known=known)
    with serving(pool, runtime=RUNTIME) as server:
        yield server, pool


def post(server: Running, path: str, body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, timeout=DEADLINE_SECONDS)


def test_the_official_client_gets_vectors_in_both_encodings() -> None:
    with embedding(give([0.6, 0.8], [1.0, 0.0])) as (server, pool), connect(server) as client:
        plain = client.embeddings.create(model="small", input=["a", "b"], encoding_format="float")
        packed = client.embeddings.create(model="small", input=["a", "b"])
        assert [each.index for each in plain.data] == [0, 1]
        for found in (plain, packed):
            assert found.data[0].embedding == pytest.approx([0.6, 0.8])
            assert (found.usage.prompt_tokens, found.usage.total_tokens) == (8, 8)
        assert plain.energy["joules"] == pytest.approx(30.0)  # type: ignore[attr-defined]
        raw = post(server, "/v1/embeddings", {
            "model": "small", "input": "a", "encoding_format": "base64", "user": "me",
        }).json()  # fmt: skip
        assert base64.b64decode(raw["data"][1]["embedding"]) == np.float32([1, 0]).tobytes()
    asked = pool.turns[0].request
    assert asked.query.options.embed.texts == ("a", "b")
    assert asked.query.text == "(2 texts to embed)"
    assert asked.overrides.model == "small"
    assert pool.saved.turns[0].status == "complete"


@pytest.mark.parametrize("known", [True, False])
def test_the_joules_are_in_the_body_and_in_a_header(known: bool) -> None:
    with embedding(give([1.0]), known=known) as (server, _):
        answered = post(server, "/v1/embeddings", {"model": "small", "input": "a", "store": True})
    joules = answered.json()["energy"]["joules"]
    assert joules == (pytest.approx(30.0) if known else None)
    assert answered.headers["x-energy-joules"] == ("30" if known else "null")
    assert answered.headers["x-etui-ignored"] == "store"


def test_texts_and_token_ids_can_be_one_or_many() -> None:
    inputs = [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ]
    with embedding(give([1.0])) as (server, pool):
        for given, _ in inputs:
            assert post(server, "/v1/embeddings", {"model": "small", "input": given}).is_success
    read = [turn.request.query.options.embed.texts for turn in pool.turns]
    assert read == [texts for _, texts in inputs]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": {"a": 1}}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [True]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "model": "balanced"}, "model"),
        ({"input": "a", "model": ""}, "model"),
    ],
)
def test_what_cannot_be_embedded_is_a_400_with_its_field(body: Any, param: str) -> None:
    with embedding(give([0.6, 0.8])) as (server, _):
        answered = post(server, "/v1/embeddings", {"model": "small", **body})
    assert answered.status_code == 400
    assert answered.json()["error"]["param"] == param


def test_a_model_of_another_server_is_refused_by_name() -> None:
    far = SimpleNamespace(config=SimpleNamespace(model="far"), is_remote=lambda name: True)
    with serving(FakePool(give([1.0])), runtime=far) as server:
        answered = post(server, "/v1/embeddings", {"input": "a"})
    assert answered.status_code == 400
    assert "far is of another server" in answered.json()["error"]["message"]


def test_dimensions_are_the_first_ones_and_the_length_is_1_again() -> None:
    with embedding(give([0.6, 0.0, 0.8])) as (server, _), connect(server) as client:
        found = client.embeddings.create(model="small", input="a", dimensions=2)
    assert found.data[0].embedding == pytest.approx([1.0, 0.0])
    assert found.embedding == {  # type: ignore[attr-defined]
        "pooling": "cls", "width": 3, "chat_model": False,
    }  # fmt: skip


def test_a_chat_model_is_said_to_be_one() -> None:
    with embedding(give([1.0], pooling="mean", is_chat_model=True)) as (server, _):
        about = post(server, "/v1/embeddings", {"model": "small", "input": "a"}).json()["embedding"]
    assert (about["pooling"], about["chat_model"]) == ("mean", True)
    assert "chat model" in about["note"]


DOCUMENTS = ["no", "yes", "perhaps"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_are_ranked_by_the_cosine_where_the_model_does_not_rank(path: str) -> None:
    vectors = [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]
    with embedding(give(*vectors)) as (server, pool):
        found = post(server, path, {
            "model": "small", "query": "which?", "documents": DOCUMENTS, "top_n": 2,
            "return_documents": True,
        }).json()  # fmt: skip
    assert [each["index"] for each in found["results"]] == [1, 2]
    assert found["results"][1]["relevance_score"] == pytest.approx(0.6)
    assert found["results"][0]["document"] == {"text": "yes"}
    assert found["ranking"]["method"].startswith("cosine of embeddings")
    assert found["usage"]["total_tokens"] == 16
    assert found["energy"]["joules"] == pytest.approx(30.0)
    assert pool.turns[0].request.query.options.embed.query == "which?"


@pytest.mark.parametrize(
    ("scores", "expected", "method"),
    [
        ([[-2.0], [3.0], [0.0]], [1 / (1 + math.exp(-3)), 0.5, 1 / (1 + math.exp(2))], "sigmoid"),
        ([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]], [0.8, 0.5, 0.1], "probability"),
    ],
)
def test_a_model_that_ranks_gives_scores_of_0_to_1(scores, expected, method) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    body = {"model": "small", "query": "which?", "documents": documents}
    with embedding(give(*scores, pooling="rank")) as (server, _):
        found = post(server, "/v1/rerank", body).json()
    assert [each["index"] for each in found["results"]] == [1, 2, 0]
    assert [each["relevance_score"] for each in found["results"]] == pytest.approx(expected)
    assert method in found["ranking"]["method"]
    assert "document" not in found["results"][0]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a", {"title": "b"}]}, "documents[1]"),
        ({"documents": ["a"], "query": ""}, "query"),
        ({"documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_what_cannot_be_ranked_is_a_400_with_its_field(body: Any, param: str) -> None:
    with embedding(give([1.0])) as (server, _):
        answered = post(server, "/v1/rerank", {"model": "small", "query": "which?", **body})
    assert (answered.status_code, answered.json()["error"]["param"]) == (400, param)


def test_an_unknown_model_is_a_404() -> None:
    with (
        embedding(give([1.0])) as (server, _),
        connect(server) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.embeddings.create(model="no-such-model", input="a")
