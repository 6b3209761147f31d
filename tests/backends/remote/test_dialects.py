"""What each kind of server is sent: every row of the table of dialects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from etui.arm import OPEN_SAMPLING, Arm, Sampling, SamplingFrom
from etui.backends.remote.dialects import choose_dialect, find_effort
from etui.backends.remote.stream_parts import Asked
from etui.chat import Message, OutputOptions
from etui.config.backend_spec import BackendKind
from etui.errors import InvalidRequest

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
def test_every_kind_gets_the_question_and_streams(kind: BackendKind) -> None:
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


def test_each_kind_has_its_own_path() -> None:
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
def test_only_values_that_the_kind_knows_are_sent(kind: BackendKind, extra: Any) -> None:
    body = build(kind)
    values = body["options"] if kind == "ollama" else body
    names = ("top_k", "min_p", "repeat_penalty", "repeat_last_n", "repetition_penalty")
    assert {name: values[name] for name in names if name in values} == extra


def test_phases_are_asked_for() -> None:
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
def test_no_thinking(kind: BackendKind, keys: Any) -> None:
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
def test_thinking_within_a_budget(kind: BackendKind, keys: Any) -> None:
    assert build(kind, thinking=True, think_tokens=200) == {**build(kind), **keys}


def test_openai_counts_the_thinking_into_its_limit() -> None:
    body = build("openai", thinking=True, think_tokens=2000)
    assert body["reasoning_effort"] == "high"
    assert body["max_completion_tokens"] == 99
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    ("tokens", "effort"),
    [(0, "none"), (1, "low"), (256, "low"), (257, "medium"), (1024, "medium"), (1025, "high"),
     (None, "high")],
)  # fmt: skip
def test_a_budget_is_an_effort(tokens: int | None, effort: str) -> None:
    assert find_effort(tokens) == effort


def test_the_thinking_is_ended_by_a_control_call_where_there_is_one() -> None:
    request = choose_dialect("llama-server").build_end_thinking("chat-7")
    assert request.path == "chat/completions/control"
    assert request.body == {"id": "chat-7", "action": "reasoning_end"}
    for kind in ("openai", "vllm", "ollama", "etui"):
        assert not choose_dialect(kind).ends_thinking  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            choose_dialect(kind).build_end_thinking("chat-7")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "key"), [("llama-server", "n_cmpl"), ("vllm", "n"), ("etui", "n"), ("openai", "n")]
)
def test_several_answers_of_one_prompt(kind: BackendKind, key: str) -> None:
    assert build(kind, count=4)[key] == 4
    assert key not in build(kind)


def test_votes_are_joined_only_where_the_kind_draws_several_answers() -> None:
    joins = {kind: choose_dialect(kind).joins_votes for kind in KINDS}
    assert joins == {
        "openai": False, "llama-server": True, "vllm": True, "ollama": False, "etui": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "asked", "sent"),
    [("openai", 0, 0), ("vllm", 0, 0), ("llama-server", 0, 1), ("llama-server", 20, 20),
     ("ollama", 5, 5)],
)  # fmt: skip
def test_probabilities(kind: BackendKind, asked: int, sent: int) -> None:
    body = build(kind, logprobs=asked)
    assert (body["logprobs"], body["top_logprobs"]) == (True, sent)
    assert "logprobs" not in build(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_the_output(kind: BackendKind) -> None:
    schema = {"type": "object"}
    body = build(kind, options=OutputOptions(json_schema=json.dumps(schema), tools=TOOL))
    assert body["tools"] == json.loads(TOOL)
    if kind == "ollama":
        assert body["format"] == schema
    else:
        assert body["response_format"]["json_schema"]["schema"] == schema


def test_which_tool_has_to_be_called() -> None:
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


def test_a_conversation_with_tools_in_each_form() -> None:
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


def test_a_raw_prompt_is_a_text_completion() -> None:
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
def test_what_a_kind_cannot_do_is_refused(kind: BackendKind, options: OutputOptions) -> None:
    with pytest.raises(InvalidRequest):
        build(kind, options=options)


def test_sampling_that_the_arm_names_is_never_ignored() -> None:
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
