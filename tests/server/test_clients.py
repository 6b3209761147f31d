"""Requests as other programs send them, and their own readers of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from etui.backends.base import AnswerRequest
from etui.events import Answer, Event, Prefilled, PromptTokens, TokenLogprob
from tests.server.fakes import FakePool, FakeTurn, Running, S, finished, say, serving

PREFILLED = Prefilled(10 * S, 11 * S, 20, 5, 15)
ASK: list[dict[str, Any]] = [{"role": "user", "content": "Which planet is red?"}]
READ = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file. " * 400,
        "parameters": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"filePath": {"type": "string"}, "limit": {"type": "number"}},
            "required": ["filePath"],
            "additionalProperties": False,
        },
    },
}

CHATS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "aider": (
        {
            "model": "small", "stream": True, "temperature": 0, "messages": [
                {"role": "system", "content": "Act as an expert software developer. " * 200},
                *ASK,
                {"role": "assistant", "content": "Ok."},
                *ASK,
            ],
        },
        set(),
    ),
    "opencode": (
        {
            "model": "small", "max_tokens": 32_000, "top_p": 1, "messages": [
                {"role": "system", "content": "You are an interactive CLI tool. " * 900}, *ASK,
            ],
            "tools": [READ], "tool_choice": "auto", "stream": True,
            "stream_options": {"include_usage": True}, "reasoningSummary": "auto",
        },
        {"reasoningSummary"},
    ),
    "Open WebUI": (
        {
            "stream": True, "model": "small", "messages": ASK, "params": {}, "tool_servers": [],
            "features": {"web_search": False}, "variables": {"{{USER_NAME}}": "me"},
            "session_id": "s", "chat_id": "c", "id": "i", "parent_id": None,
            "background_tasks": {"tags": True}, "stream_options": {"include_usage": True},
        },
        {"params", "tool_servers", "features", "variables", "session_id", "chat_id", "id",
         "background_tasks"},
    ),
    "LibreChat": (
        {
            "model": "small", "user": "65f", "stream": True, "messages": ASK, "temperature": 1,
            "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "max_tokens": -1,
            "parallel_tool_calls": True, "conversation_id": "new", "n": 1,
        },
        {"user", "conversation_id"},
    ),
    "litellm": (
        {
            "model": "small", "messages": ASK, "stream": True, "max_completion_tokens": 64,
            "stop": ["\n\n"], "user": "u", "extra_body": {}, "metadata": {"trace": "t", "n": 1},
            "caching": True, "stream_options": {"include_usage": True},
        },
        {"user", "extra_body", "metadata.n", "caching"},
    ),
    "instructor": (
        {
            "model": "small", "messages": ASK, "stream": True, "tools": [READ],
            "tool_choice": {"type": "function", "function": {"name": "read"}},
        },
        set(),
    ),
    "llama.cpp's own page": (
        {
            "messages": ASK, "stream": True, "return_progress": True, "timings_per_token": True,
            "temperature": 0.8, "dynatemp_range": 0, "dynatemp_exponent": 1, "top_k": 40,
            "top_p": 0.95, "min_p": 0.05, "xtc_probability": 0, "xtc_threshold": 0.1, "typ_p": 1,
            "repeat_last_n": 64, "repeat_penalty": 1, "presence_penalty": 0, "dry_multiplier": 0,
            "frequency_penalty": 0, "max_tokens": -1, "samplers": ["top_k"], "cache_prompt": True,
            "reasoning_format": "auto",
        },
        {"return_progress", "timings_per_token", "dynatemp_range", "dynatemp_exponent", "typ_p",
         "dry_multiplier", "xtc_probability", "xtc_threshold", "samplers", "cache_prompt",
         "reasoning_format"},
    ),
}  # fmt: skip
"""What each sends, and what is ignored of it."""

CONTINUE: dict[str, Any] = {
    "model": "small", "prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))",
    "max_tokens": 4096, "temperature": 0.01, "top_p": 1, "frequency_penalty": 0,
    "presence_penalty": 0, "stream": True, "keep_alive": 1800, "raw": True,
    "stop": ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
             "<|repo_name|>", "<|file_sep|>", "<|im_start|>", "<|im_end|>", "/src/",
             "#- coding: utf-8", "```"],
}  # fmt: skip
"""An editor's completion, as Continue asks for it."""


def send(server: Running, path: str, body: dict[str, Any]) -> httpx2.Response:
    response = httpx2.post(f"{server.url}{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response


def read_stream(text: str) -> list[dict[str, Any]]:
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


@pytest.mark.parametrize("client", CHATS)
def test_the_chats_of_other_programs_are_answered(client: str) -> None:
    body, ignored = CHATS[client]
    with serving(FakePool(say("Mars", " is red."))) as server:
        response = send(server, "/v1/chat/completions", body)
    deltas = [each["delta"] for chunk in read_stream(response.text) for each in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Mars is red."
    assert set(filter(None, response.headers.get("x-etui-ignored", "").split(", "))) == ignored


def test_the_completion_of_an_editor_fills_the_gap() -> None:
    pool = FakePool(say("a", " + b"))
    with serving(pool) as server:
        response = send(server, "/v1/completions", CONTINUE)
    chunks = read_stream(response.text)
    assert "".join(each["text"] for chunk in chunks for each in chunk["choices"]) == "a + b"
    options = pool.turns[0].request.query.options
    assert options.infill is not None
    assert options.infill.suffix == CONTINUE["suffix"]
    assert len(options.stop) == 12
    assert response.headers["x-etui-ignored"] == "keep_alive, raw"


def test_lm_eval_reads_likelihoods(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenacity")
    models = pytest.importorskip("lm_eval.models.openai_completions")
    instances = pytest.importorskip("lm_eval.api.instance")

    def score(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield PREFILLED
        ids = request.options.prompt_tokens
        tokens = [
            TokenLogprob(
                11 * S, tuple(chr(each).encode()), -1.0 if place else None,
                (((66,), -0.5), ((67,), -1.0)) if each == ord("z") else (((66,), -1.0),),
            )
            for place, each in enumerate(ids)
        ]  # fmt: skip
        yield PromptTokens(11 * S, tuple(tokens))
        yield TokenLogprob(12 * S, (), -3.0, (((), -3.0),))  # the end token
        yield finished("")

    class Api(models.LocalCompletionsAPI):  # type: ignore[name-defined,misc]
        """Tokens are code points."""

        def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
            return [ord(char) for char in string]

    pool = FakePool(score)
    with serving(pool) as server:
        api = Api(
            base_url=f"{server.url}/v1/completions", tokenizer_backend="None", model="small",
            batch_size=2, max_retries=1,
        )  # fmt: skip
        api.tokenizer = SimpleNamespace(eos_token="")
        api.tokenizer_backend, api.tokenized_requests = "remote", True
        asked = [("The sea", " is"), ("The sky", " zz"), ("A", " b")]
        found = api.loglikelihood(
            [
                instances.Instance("loglikelihood", {}, pair, index)
                for index, pair in enumerate(asked)
            ],
            disable_tqdm=True,
        )
    assert [(round(value, 6), greedy) for value, greedy in found] == [
        (-3.0, True), (-3.0, False), (-2.0, True)
    ]  # fmt: skip
    assert {turn.request.overrides.max_tokens for turn in pool.turns} == {1}
    assert all(turn.request.query.options.echo for turn in pool.turns)


def test_langchain_gets_its_answer_and_its_usage() -> None:
    chat = pytest.importorskip("langchain_openai").ChatOpenAI
    with serving(FakePool(say("Mars"))) as server:
        answer = chat(base_url=f"{server.url}/v1", api_key="none", model="small").invoke("Which?")
    assert answer.content == "Mars"
    assert answer.usage_metadata["output_tokens"] == 8


def test_instructor_gets_an_object() -> None:
    instructor = pytest.importorskip("instructor")
    import openai
    from pydantic import BaseModel

    class Planet(BaseModel):
        name: str

    def call(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        function = {"name": "Planet", "arguments": '{"name": "Mars"}'}
        calls = json.dumps([{"id": "c1", "type": "function", "function": function}])
        yield PREFILLED
        yield Answer(12 * S, "", 8)
        yield finished("", tool_calls=calls)

    with serving(FakePool(call)) as server:
        client = instructor.from_openai(
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        )
        planet = client.create(model="small", response_model=Planet, messages=ASK)
    assert planet.name == "Mars"


def test_pydantic_ai_runs_an_agent() -> None:
    agents = pytest.importorskip("pydantic_ai")
    models = pytest.importorskip("pydantic_ai.models.openai")
    providers = pytest.importorskip("pydantic_ai.providers.openai")
    with serving(FakePool(say("Mars"))) as server:
        provider = providers.OpenAIProvider(base_url=f"{server.url}/v1", api_key="none")
        agent = agents.Agent(models.OpenAIChatModel("small", provider=provider))
        assert agent.run_sync("Which planet is red?").output == "Mars"
