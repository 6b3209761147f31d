"""What each kind of server is sent: every row of the table of dialects."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import OPEN_SAMPLING, Arm, Sampling, SamplingFrom
from etui.backends.remote._client import EventReader, LineReader, RequestFailed, parse_document
from etui.backends.remote._dialects import choose_dialect, find_effort
from etui.backends.remote._stream_parts import (
    Asked,
    StreamPart,
    Timings,
    Usage,
    parse_chunk,
)
from etui.chat import Message, OutputOptions
from etui.config.backend_spec import BackendKind
from etui.errors import InvalidRequest
from etui.events import Prefilling, ToolCall
from tests.backends.remote.stub import delta, logprob, usage

TEXTS = st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20))


def read_all(reader: LineReader, chunks: list[bytes]) -> list[str]:
    return [*(line for chunk in chunks for line in reader.push(chunk)), *reader.finish()]


@given(TEXTS, st.sampled_from(["\n", "\r\n"]), st.data())
def test_lines_do_not_depend_on_how_the_bytes_are_cut(texts, end, data):
    raw = "".join(text + end for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    bounds = [0, *cuts, len(raw)]
    chunks = [raw[a:b] for a, b in itertools.pairwise(bounds)]
    assert read_all(LineReader(), chunks) == texts


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_are_lines_or_a_fault(chunks):
    reader = LineReader(most_line_bytes=64, most_body_bytes=512)
    try:
        lines = read_all(reader, chunks)
    except RequestFailed:
        return
    assert all(len(line.encode()) <= 64 for line in lines)
    assert sum(len(chunk) for chunk in chunks) <= 512


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 6] * 2, [b"a\n" + b"x" * 11 + b"\n"]])
def test_a_line_over_its_bound_is_refused(chunks):
    with pytest.raises(RequestFailed, match="longer than 10 bytes"):
        read_all(LineReader(most_line_bytes=10), chunks)


def test_a_stream_over_its_bound_is_refused():
    with pytest.raises(RequestFailed, match="longer than 8 bytes"):
        read_all(LineReader(most_body_bytes=8), [b"abc\n"] * 3)


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(RequestFailed, match="UTF-8"):
        LineReader().push(b"\xff\xfe\n")


def test_events_have_data_and_nothing_else():
    reader = EventReader()
    given_lines = [": ping", "", "event: x", "data: a", "data:b", "id: 1", "", "", "data: c", ""]
    assert [data for line in given_lines if (data := reader.push(line)) is not None] == [
        "a\nb",
        "c",
    ]


@pytest.mark.parametrize("text", ["", "[]", "1", "null", '"x"', "{", "{'a': 1}", "[" * 100_000])
def test_only_a_json_object_is_a_document(text):
    with pytest.raises(RequestFailed):
        parse_document(text)


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
def test_no_chunk_is_too_strange(kind, chunk):
    pieces = choose_dialect(kind).parse(chunk)
    assert pieces
    for piece in pieces:
        check(piece)


def test_a_chunk_has_a_piece_for_each_choice():
    chunk = delta("a", finish="stop")
    chunk["choices"] += delta("b", index=1, reasoning="hm")["choices"]
    first, second = parse_chunk(chunk)
    assert (first.index, first.text, first.finish) == (0, "a", "stop")
    assert (second.index, second.text, second.thinking) == (1, "b", "hm")
    assert first.request_id == "chat-1"


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_thinking_has_two_names(key):
    assert parse_chunk(delta(**{key: "hm"}))[0].thinking == "hm"


def test_usage_with_its_details():
    chunk = usage(
        10,
        5,
        prompt_tokens_details={"cached_tokens": 4},
        completion_tokens_details={"reasoning_tokens": 2},
    )
    assert parse_chunk(chunk)[0].usage == Usage(10, 4, 5, 2)


@pytest.mark.parametrize("value", [-1, 1.5, "7", True, None, 10**12, [1]])
def test_an_impossible_count_is_missing_and_not_zero(value):
    chunk = {"usage": {"prompt_tokens": value, "completion_tokens": value}}
    assert parse_chunk(chunk)[0].usage == Usage()


def test_llama_server_reports_times_tokens_and_progress():
    timings = {"prompt_n": 6, "cache_n": 4, "prompt_ms": 250, "predicted_n": 3, "predicted_ms": 500}
    piece = choose_dialect("llama-server").parse({**delta("x"), "timings": timings})[0]
    assert piece.timings == Timings(0.5)
    assert piece.usage == Usage(10, 4, 3)
    progress = {"prompt_progress": {"total": 10, "cache": 2, "processed": 6, "time_ms": 3}}
    assert parse_chunk({**delta(), **progress})[0].progress == Prefilling(0, 6, 10)


def test_vllm_reports_the_time_of_the_decode():
    metrics = {"time_to_first_token_ms": 300, "generation_time_ms": 900}
    assert parse_chunk({**usage(3, 2), "metrics": metrics})[0].timings == Timings(0.9)


def test_ollama_ends_with_counts_and_nanoseconds():
    last = {
        "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "length",
        "load_duration": 2_000_000_000, "prompt_eval_count": 9, "prompt_eval_duration": 500_000_000,
        "eval_count": 4, "eval_duration": 1_000_000_000,
    }  # fmt: skip
    piece = choose_dialect("ollama").parse(last)[0]
    assert piece.finish == "length"
    assert piece.usage == Usage(prompt_tokens=9, output_tokens=4)
    assert piece.timings == Timings(1.0, 2.0)
    assert piece.last


def test_ollama_thinks_and_calls_tools():
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    message = {"content": "", "thinking": "hm", "tool_calls": [call]}
    piece = choose_dialect("ollama").parse({"message": message, "done": False})[0]
    assert piece.thinking == "hm"
    assert piece.tools == (ToolCall(0, 0, "", "add", '{"a": 1}'),)
    assert piece.finish is None


def test_probabilities_of_chats_and_of_text_completions():
    chat = delta("A", logprobs=[logprob("A", -0.5, ("B", -2.0), ("A", -0.5))])
    token = parse_chunk(chat)[0].probabilities[0]
    assert token.piece == (65,)
    assert token.top == (((65,), -0.5), ((66,), -2.0))
    old = {"tokens": ["A"], "token_logprobs": [-0.5], "top_logprobs": [{"B": -2.0, "A": -0.5}]}
    assert parse_chunk({"choices": [{"text": "A", "logprobs": old}]})[0].probabilities == (token,)


@pytest.mark.parametrize("value", [None, "x", True, 1.0, float("nan"), float("inf"), 10**400])
def test_what_is_no_log_probability_is_left_out(value):
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
def test_an_error_is_an_object_or_a_text(error, text):
    assert parse_chunk({"error": error})[0].error == text


def test_the_energy_of_another_etui_is_found():
    energy = {"joules": 3.0, "uncertainty": 0.2, "kind": "counter"}
    assert parse_chunk(usage(1, 1, energy=energy))[0].energy == energy
    assert parse_chunk({**usage(1, 1), "energy": energy})[0].energy == energy
    assert parse_chunk(usage(1, 1, energy=None))[0].energy is None


KINDS: tuple[BackendKind, ...] = ("openai", "llama-server", "vllm", "ollama", "etui")
QUESTION = (Message("system", "Be brief."), Message("user", "Why?"))
SAMPLING = Sampling(0.7, 0.9, 30, 0.02, 7, 1.1, 32)
TOOL = '[{"type": "function", "function": {"name": "add", "parameters": {}}}]'


def build(kind: BackendKind, **changes: Any) -> dict[str, Any]:
    asked = Asked(**{
        "model": "big", "messages": QUESTION, "sampling": SAMPLING, "max_tokens": 99, **changes
    })  # fmt: skip
    return dict(choose_dialect(kind).build(asked).body)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gets_the_question_and_streams(kind):
    body = build(kind, stops=("END",))
    assert body["model"] == "big"
    assert body["stream"] is True
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    values = body["options"] if kind == "ollama" else body
    assert (values["temperature"], values["top_p"], values["seed"]) == (0.7, 0.9, 7)
    assert values["stop"] == ["END"]
    assert 99 in (values.get("max_tokens"), values.get("num_predict"))


def test_each_kind_has_its_own_path():
    asked = Asked("big", QUESTION, SAMPLING, 9)
    paths = {kind: choose_dialect(kind).build(asked).path for kind in KINDS}
    assert paths.pop("ollama") == "//api/chat"
    assert set(paths.values()) == {"chat/completions"}


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("openai", {}),
        ("etui", {}),
        ("llama-server", {"top_k": 30, "min_p": 0.02, "repeat_penalty": 1.1, "repeat_last_n": 32}),
        ("vllm", {"top_k": 30, "min_p": 0.02, "repetition_penalty": 1.1}),
        (
            "ollama",
            {"top_k": 30, "min_p": 0.02, "repeat_penalty": 1.1, "repeat_last_n": 32},
        ),
    ],
)
def test_only_values_that_the_kind_knows_are_sent(kind, extra):
    body = build(kind)
    values = body["options"] if kind == "ollama" else body
    names = ("top_k", "min_p", "repeat_penalty", "repeat_last_n", "repetition_penalty")
    assert {name: values[name] for name in names if name in values} == extra


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_a_presence_penalty(kind):
    asked = Asked("big", QUESTION, replace(SAMPLING, presence_penalty=1.5), 9)
    body = choose_dialect(kind).build(asked).body
    assert (body["options"] if kind == "ollama" else body)["presence_penalty"] == 1.5
    assert "presence_penalty" not in json.dumps(build(kind))


def test_phases_are_asked_for():
    assert build("llama-server")["timings_per_token"] is True
    assert build("llama-server")["return_progress"] is True
    stream = {"include_usage": True, "continuous_usage_stats": True}
    assert build("vllm")["stream_options"] == stream
    assert build("openai")["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("openai", {"reasoning_effort": "none"}),
        ("etui", {"reasoning_effort": "none"}),
        ("llama-server", {"reasoning_effort": "none", "chat_template_kwargs": {"enable": False}}),
        ("vllm", {"chat_template_kwargs": {"enable": False}}),
        ("ollama", {"think": False}),
    ],
)
def test_no_thinking(kind, keys):
    body = build(kind, thinking=False, switch="enable")
    assert body == {**build(kind), **keys}


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("etui", {"reasoning_effort": "low"}),
        (
            "llama-server",
            {
                "chat_template_kwargs": {"enable_thinking": True},
                "reasoning_control": True,
                "thinking_budget_tokens": 200,
            },
        ),
        (
            "vllm",
            {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 200},
        ),
        ("ollama", {"think": True}),
    ],
)
def test_thinking_within_a_budget(kind, keys):
    assert build(kind, thinking=True, think_tokens=200) == {**build(kind), **keys}


def test_openai_counts_the_thinking_into_its_limit():
    body = build("openai", thinking=True, think_tokens=2000)
    assert body["reasoning_effort"] == "high"
    assert body["max_completion_tokens"] == 99
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    ("tokens", "effort"),
    [(0, "none"), (1, "low"), (256, "low"), (257, "medium"), (1024, "medium"), (1025, "high"),
     (None, "high")],
)  # fmt: skip
def test_a_budget_is_an_effort(tokens, effort):
    assert find_effort(tokens) == effort


def test_the_thinking_is_ended_by_a_control_call_where_there_is_one():
    request = choose_dialect("llama-server").build_end_thinking("chat-7")
    assert request.path == "chat/completions/control"
    assert request.body == {"id": "chat-7", "action": "reasoning_end"}
    for kind in ("openai", "vllm", "ollama", "etui"):
        assert not choose_dialect(kind).ends_thinking  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "key"), [("llama-server", "n_cmpl"), ("vllm", "n"), ("etui", "n"), ("openai", "n")]
)
def test_several_answers_of_one_prompt(kind, key):
    assert build(kind, count=4)[key] == 4
    assert key not in build(kind)


def test_votes_are_joined_only_where_the_kind_draws_several_answers():
    joins = {kind: choose_dialect(kind).joins_votes for kind in KINDS}
    assert joins == {
        "openai": False, "llama-server": True, "vllm": True, "ollama": False, "etui": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "asked", "sent"),
    [("openai", 0, 0), ("vllm", 0, 0), ("llama-server", 0, 1), ("llama-server", 20, 20),
     ("ollama", 5, 5)],
)  # fmt: skip
def test_probabilities(kind, asked, sent):
    body = build(kind, logprobs=asked)
    assert (body["logprobs"], body["top_logprobs"]) == (True, sent)
    assert "logprobs" not in build(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_the_output(kind):
    schema = {"type": "object"}
    body = build(kind, options=OutputOptions(json_schema=json.dumps(schema), tools=TOOL))
    assert body["tools"] == json.loads(TOOL)
    if kind == "ollama":
        assert body["format"] == schema
    else:
        assert body["response_format"]["json_schema"]["schema"] == schema


def test_which_tool_has_to_be_called():
    options = OutputOptions(tools=TOOL, tool_choice="function:add", parallel_tool_calls=False)
    body = build("vllm", options=options)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert body["parallel_tool_calls"] is False
    none = OutputOptions(tools=TOOL, tool_choice="none")
    assert build("vllm", options=none)["tool_choice"] == "none"
    assert "tools" not in build("ollama", options=none)
    with pytest.raises(InvalidRequest, match="ollama cannot force a tool call"):
        build("ollama", options=OutputOptions(tools=TOOL, tool_choice="required"))


CALL = (
    '[{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}]'
)
TOOL_TALK = (
    Message("user", "1+1?"),
    Message("assistant", "", tool_calls=CALL),
    Message("tool", "2", tool_call_id="c1"),
)


def test_a_conversation_with_tools_in_each_form():
    assert build("openai", messages=TOOL_TALK)["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": json.loads(CALL)},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]
    assert build("ollama", messages=TOOL_TALK)["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "2", "tool_name": "add"},
    ]


def test_a_raw_prompt_is_a_text_completion():
    raw = OutputOptions(raw=True)
    asked = Asked("big", (Message("user", "Once"),), SAMPLING, 9, options=raw, logprobs=3)
    request = choose_dialect("vllm").build(asked)
    assert request.path == "completions"
    assert request.body["prompt"] == "Once"
    assert request.body["logprobs"] == 3
    assert "messages" not in request.body
    tokens = OutputOptions(raw=True, prompt_tokens=(1, 2))
    assert build("llama-server", options=tokens)["prompt"] == [1, 2]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ollama", OutputOptions(raw=True)),
        ("openai", OutputOptions(raw=True, prompt_tokens=(1,))),
        ("vllm", OutputOptions(raw=True, json_schema="{}")),
        ("vllm", OutputOptions(raw=True, tools=TOOL)),
    ],
)
def test_what_a_kind_cannot_do_is_refused(kind, options):
    with pytest.raises(InvalidRequest):
        build(kind, options=options)


def test_sampling_that_the_arm_names_is_never_ignored():
    openai = choose_dialect("openai")
    named = Arm("a", "m", sampling=Sampling(temperature=0.7, top_k=5))
    with pytest.raises(InvalidRequest, match="top_k"):
        openai.check(named)
    for kind in ("llama-server", "vllm", "ollama"):
        choose_dialect(kind).check(named)  # type: ignore[arg-type]
    greedy = Arm("a", "m", sampling=Sampling(temperature=0.0, top_k=5))
    openai.check(greedy)
    of_model = Arm("a", "m", sampling=Sampling(0.7, top_k=5), sampling_from=OPEN_SAMPLING)
    openai.check(of_model)
    option = SamplingFrom(min_p="option")
    with pytest.raises(InvalidRequest, match="min_p"):
        openai.check(Arm("a", "m", sampling=Sampling(0.7, min_p=0.2), sampling_from=option))
    window = Arm("a", "m", sampling=Sampling(0.7, repeat_penalty=1.2, repeat_last_n=10))
    with pytest.raises(InvalidRequest, match="repeat_last_n"):
        choose_dialect("vllm").check(window)
