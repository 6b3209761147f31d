"""Tools of a request, and the grammar of an answer that calls one."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine.chat_formats import ToolFormat
from etui.engine.chat_prompt import is_deep
from etui.engine.grammar import build_tool_grammar, choose_tools, read_tools
from etui.engine.model import Model
from etui.engine.sampler import Constraints
from etui.errors import InvalidRequest

GET = {
    "type": "function",
    "function": {
        "name": "get",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
NOW = {"function": {"name": "now"}}
TOOLS = json.dumps([GET, NOW])
ROME = '{"name": "get", "arguments": {"city": "Rome"}}'


@cache
def read_once(model: Model) -> Constraints:
    return Constraints(model._api, model)


def takes(model: Model, text: str, tool_format: ToolFormat, **options: Any) -> bool:
    tools = choose_tools(read_tools(TOOLS), options.pop("choice", "required"))
    grammar = build_tool_grammar(tools, tool_format, **{"parallel": True, **options})
    end = next(token for token in range(model.vocabulary) if model.piece(token)[1])
    constraint = read_once(model).make(grammar, 0)
    tokens = model.tokenize(text, special=False)
    return all(map(constraint.accept, tokens)) and constraint.allows(end)


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


CALLS_OF = {
    "hermes": (tagged(ROME), tagged(ROME.replace('"Rome"', "1"))),
    "xml": tuple(
        f"<tool_call>\n<function=get>\n<parameter={name}>\nRome\n</parameter>\n</function>\n</tool_call>"
        for name in ("city", "town")
    ),
    "gemma": (
        '<|tool_call>call:get{city:<|"|>Rome<|"|>}<tool_call|>',
        "<|tool_call>call:get{city:1}<tool_call|>",
    ),
    "functiongemma": (
        "<start_function_call>call:get{city:<escape>Rome<escape>}<end_function_call>",
        "<start_function_call>call:get{city:1}<end_function_call>",
    ),
}


def test_the_wrapper_is_that_of_the_family(model):
    assert takes(model, tagged(ROME), "hermes")
    assert takes(model, tagged('{"name": "now", "arguments": {}}'), "hermes")
    assert takes(model, ROME.replace("arguments", "parameters"), "llama")
    assert takes(model, f"[TOOL_CALLS] [{ROME}]", "mistral")
    for text in (ROME, "Yes", tagged(ROME) + " Yes", "<tool_call>", ""):
        assert not takes(model, text, "hermes")


@pytest.mark.parametrize("tool_format", ["hermes", "xml", "gemma", "functiongemma"])
def test_a_call_within_text_is_kept_to_its_schema(model, tool_format):
    def keeps(text: str, **options: Any) -> bool:
        return takes(model, text, tool_format, free=True, **options)

    good, bad = CALLS_OF[tool_format]
    for text in ("", "Yes.", "a <tool b", "\n", "It is {}.", "é" * 50):
        assert keeps(text), text
        assert keeps(text + good)
        assert not keeps(text + bad)
        assert not keeps(text + good[: len(good) // 2])
    assert not keeps(f"{good} Yes.")
    several = f"So.\n{good}{'' if 'gemma' in tool_format else chr(10)}{good}"
    assert keeps(several)
    assert not keeps(several, parallel=False)


def test_what_has_no_tag_of_its_own_cannot_be_kept_within_text():
    with pytest.raises(InvalidRequest, match="within text"):
        build_tool_grammar(read_tools(TOOLS), "mistral", parallel=True, free=True)


def test_arguments_match_the_parameters_of_their_own_tool(model):
    for arguments in ("{}", '{"city": 1}', '{"days": 1}', '{"city": "a", "x": 1}', '"a"'):
        assert not takes(model, tagged(f'{{"name": "get", "arguments": {arguments}}}'), "hermes")
    assert not takes(model, tagged('{"name": "now", "arguments": {"city": "a"}}'), "hermes")
    assert not takes(model, tagged('{"name": "set", "arguments": {}}'), "hermes")


def test_a_named_tool_is_the_only_one(model):
    assert takes(model, tagged(ROME), "hermes", choice="function:get")
    assert not takes(model, tagged(ROME), "hermes", choice="function:now")


def test_several_calls_only_if_they_may_be_parallel(model):
    two = f"{tagged(ROME)}\n{tagged(ROME)}"
    assert takes(model, two, "hermes")
    assert not takes(model, two, "hermes", parallel=False)
    listed = f"[TOOL_CALLS] [{ROME}, {ROME}]"
    assert takes(model, listed, "mistral")
    assert not takes(model, listed, "mistral", parallel=False)


def test_line_breaks_may_follow_thinking(model):
    assert takes(model, f"\n\n{tagged(ROME)}", "hermes", lead=True)
    assert not takes(model, f"\n\n{tagged(ROME)}", "hermes")


def test_parameters_that_a_grammar_cannot_keep_are_refused_as_tools():
    tools = read_tools(
        json.dumps([{"function": {"name": "a", "parameters": {"not": {"pattern": "a"}}}}])
    )
    with pytest.raises(InvalidRequest, match="'not'") as found:
        build_tool_grammar(tools, "hermes", parallel=False)
    assert found.value.param == "tools"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("function"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "description", "parameters", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(document=st.lists(ANYTHING, max_size=3) | ANYTHING, choice=st.text(max_size=12))
def test_any_document_is_tools_or_refused(document, choice):
    try:
        tools = read_tools(json.dumps(document))
        chosen = choose_tools(tools, choice)
        build_tool_grammar(chosen, "hermes", parallel=True)
    except InvalidRequest:
        return
    assert {tool.name for tool in chosen} <= {each["function"]["name"] for each in document}


@given(levels=st.integers(0, 90), most=st.integers(1, 80))
def test_depth_is_counted_without_recursion(levels, most):
    document: Any = 1
    for level in range(levels):
        document = [document] if level % 2 else {"a": document}
    assert is_deep(document, most) == (levels > most)
