"""Chunks of the OpenAI protocol: what is read of them, and that nothing in them can do harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.remote.dialects import choose_dialect
from etui.backends.remote.stream_parts import (
    Progress,
    StreamPart,
    Timings,
    ToolPart,
    Usage,
    parse_chunk,
)
from tests.backends.remote.stub import delta, logprob, usage

NUMBERS = st.integers() | st.floats() | st.just(True) | st.just(10**400)
NAMES = st.text(max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
WORDS = """
choices delta message content reasoning reasoning_content tool_calls function name arguments
index id finish_reason logprobs top_logprobs token logprob bytes tokens token_logprobs usage
prompt_tokens completion_tokens prompt_tokens_details cached_tokens timings prompt_ms
predicted_ms prompt_n cache_n metrics time_to_first_token_ms queue_time_ms error energy
prompt_progress total processed done done_reason eval_count eval_duration thinking
"""
KEYS = st.sampled_from(WORDS.split())
CHUNKS = st.dictionaries(KEYS, st.recursive(
    JSON, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
), max_size=8)  # fmt: skip


def check(piece: StreamPart) -> None:
    """Check that a piece has only numbers that can be right."""
    assert isinstance(piece.text, str)
    assert isinstance(piece.thinking, str)
    assert piece.index >= 0
    assert piece.tokens >= 0
    for count in vars_of(piece.usage):
        assert count is None or (type(count) is int and count >= 0)
    for seconds in vars_of(piece.timings):
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
    for token in piece.probabilities:
        assert token.logprob <= 0.0
        assert all(0 <= byte < 256 for byte in token.piece)
        values = [value for _, value in token.top]
        assert values == sorted(values, reverse=True)
    if piece.progress is not None:
        assert 0 <= piece.progress.done_tokens <= piece.progress.total_tokens


def vars_of(value: Any) -> list[Any]:
    return [] if value is None else [getattr(value, name) for name in value.__slots__]


@pytest.mark.parametrize("kind", ["openai", "llama-server", "vllm", "ollama", "etui"])
@given(chunk=CHUNKS)
def test_no_chunk_is_too_strange(kind: Any, chunk: Mapping[str, Any]) -> None:
    pieces = choose_dialect(kind).parse(chunk)
    assert pieces
    for piece in pieces:
        check(piece)


def test_a_chunk_has_a_piece_for_each_choice() -> None:
    chunk = delta("a", finish="stop")
    chunk["choices"] += delta("b", index=1, reasoning="hm")["choices"]
    first, second = parse_chunk(chunk)
    assert (first.index, first.text, first.finish) == (0, "a", "stop")
    assert (second.index, second.text, second.thinking) == (1, "b", "hm")
    assert first.request_id == "chat-1"


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_thinking_has_two_names(key: str) -> None:
    assert parse_chunk(delta(**{key: "hm"}))[0].thinking == "hm"


def test_usage_with_its_details() -> None:
    chunk = usage(
        10,
        5,
        prompt_tokens_details={"cached_tokens": 4},
        completion_tokens_details={"reasoning_tokens": 2},
    )
    assert parse_chunk(chunk)[0].usage == Usage(10, 4, 5, 2)


@pytest.mark.parametrize("value", [-1, 1.5, "7", True, None, 10**12, [1]])
def test_an_impossible_count_is_missing_and_not_zero(value: Any) -> None:
    chunk = {"usage": {"prompt_tokens": value, "completion_tokens": value}}
    assert parse_chunk(chunk)[0].usage == Usage()


def test_llama_server_reports_times_tokens_and_progress() -> None:
    timings = {"prompt_n": 6, "cache_n": 4, "prompt_ms": 250, "predicted_n": 3, "predicted_ms": 500}
    piece = choose_dialect("llama-server").parse({**delta("x"), "timings": timings})[0]
    assert piece.timings == Timings(0.25, 0.5)
    assert piece.usage == Usage(10, 4, 3)
    progress = {"prompt_progress": {"total": 10, "cache": 2, "processed": 6, "time_ms": 3}}
    assert parse_chunk({**delta(), **progress})[0].progress == Progress(6, 10)


def test_vllm_reports_the_time_to_the_first_token_with_the_queue() -> None:
    metrics = {"time_to_first_token_ms": 300, "queue_time_ms": 100, "generation_time_ms": 900}
    piece = parse_chunk({**usage(3, 2), "metrics": metrics})[0]
    assert piece.timings is not None
    assert piece.timings.prefill_seconds == pytest.approx(0.2)
    assert piece.timings.decode_seconds == pytest.approx(0.9)


def test_ollama_ends_with_counts_and_nanoseconds() -> None:
    last = {
        "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "length",
        "load_duration": 2_000_000_000, "prompt_eval_count": 9, "prompt_eval_duration": 500_000_000,
        "eval_count": 4, "eval_duration": 1_000_000_000,
    }  # fmt: skip
    piece = choose_dialect("ollama").parse(last)[0]
    assert piece.finish == "length"
    assert piece.usage == Usage(prompt_tokens=9, output_tokens=4)
    assert piece.timings == Timings(0.5, 1.0, 2.0)
    assert piece.last


def test_ollama_thinks_and_calls_tools() -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    message = {"content": "", "thinking": "hm", "tool_calls": [call]}
    piece = choose_dialect("ollama").parse({"message": message, "done": False})[0]
    assert piece.thinking == "hm"
    assert piece.tools == (ToolPart(0, "", "add", '{"a": 1}'),)
    assert piece.finish is None


def test_probabilities_of_chats_and_of_text_completions() -> None:
    chat = delta("A", logprobs=[logprob("A", -0.5, ("B", -2.0), ("A", -0.5))])
    token = parse_chunk(chat)[0].probabilities[0]
    assert token.piece == (65,)
    assert token.top == (((65,), -0.5), ((66,), -2.0))
    old = {"tokens": ["A"], "token_logprobs": [-0.5], "top_logprobs": [{"B": -2.0, "A": -0.5}]}
    assert parse_chunk({"choices": [{"text": "A", "logprobs": old}]})[0].probabilities == (token,)


@pytest.mark.parametrize("value", [None, "x", True, 1.0, float("nan"), float("inf"), 10**400])
def test_what_is_no_log_probability_is_left_out(value: Any) -> None:
    chunk = delta("A", logprobs=[{"token": "A", "logprob": value}])
    assert parse_chunk(chunk)[0].probabilities == ()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"message": "out of\nmemory"}, "out of memory"),
        ("busy", "busy"),
        ({}, "an error without a message"),
        ({"message": 3}, "an error without a message"),
        (None, ""),
    ],
)
def test_an_error_is_an_object_or_a_text(error: Any, text: str) -> None:
    assert parse_chunk({"error": error})[0].error == text


def test_the_energy_of_another_etui_is_found() -> None:
    energy = {"joules": 3.0, "uncertainty": 0.2, "kind": "counter"}
    assert parse_chunk(usage(1, 1, energy=energy))[0].energy == energy
    assert parse_chunk({**usage(1, 1), "energy": energy})[0].energy == energy
    assert parse_chunk(usage(1, 1, energy=None))[0].energy is None
