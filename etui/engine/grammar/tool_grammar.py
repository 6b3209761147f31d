"""The tools of a request, and the grammar of an answer that has to call one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etui.engine.chat_prompt import NESTING, is_deep
from etui.engine.grammar.output_grammar import LEAD, GrammarWriter, json_text, quote
from etui.engine.grammar.schema_graph import check_schema
from etui.engine.grammar.schema_reader import read_schema
from etui.engine.session import OutputGrammar, ToolFormat
from etui.errors import InvalidRequest

TOOLS_CHARACTERS = 262_144
TOOLS = 128
CALLS = 16
"""Most calls of one answer that the grammar allows."""

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_PARAM = "tools"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model may call."""

    name: str
    parameters: str  # JSON schema of its arguments, as JSON text


def read_tools(text: str) -> tuple[Tool, ...]:
    """Read the tools of a request, a JSON array in the OpenAI form.

    Raises:
        InvalidRequest: They are not in this form, or too many, too large or too deep.
    """
    if len(text) > TOOLS_CHARACTERS:
        raise _refuse(f"the tools have {len(text)} characters, more than {TOOLS_CHARACTERS}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refuse(f"the tools are not JSON: {error}") from error
    if not isinstance(document, list) or not document:
        raise _refuse("the tools are not a list with at least one tool")
    if len(document) > TOOLS:
        raise _refuse(f"there are {len(document)} tools, more than {TOOLS}")
    if is_deep(document):
        raise _refuse(f"the tools are nested more than {NESTING} levels deep")
    tools = tuple(_read_tool(each) for each in document)
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise _refuse(f"two tools are called {name!r}")
    return tools


def _read_tool(document: Any) -> Tool:
    function = document.get("function") if isinstance(document, dict) else None
    if not isinstance(function, dict) or document.get("type", "function") != "function":
        raise _refuse("a tool is not an object with `type: function` and a `function`")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refuse(
            "a tool has no name of 1 to 64 letters, digits, underscores, dots and hyphens"
        )
    if not isinstance(function.get("description"), str | None):
        raise _refuse(f"the description of the tool {name!r} is not a text")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise _refuse(f"the parameters of the tool {name!r} are not a JSON schema")
    return Tool(name, json.dumps(parameters))


def choose_tools(tools: Sequence[Tool], choice: str) -> tuple[Tool, ...]:
    """Return the tools that a ``tool_choice`` leaves: all, or the named one.

    Raises:
        InvalidRequest: The choice is unknown, or names no tool of the request.
    """
    if choice in ("auto", "required"):
        return tuple(tools)
    kind, _, name = choice.partition(":")
    found = tuple(tool for tool in tools if tool.name == name)
    if kind != "function" or not found:
        raise InvalidRequest(
            f"tool_choice {choice[:80]!r} is not auto, none, required or a tool of the request",
            "name one of the tools",
            "tool_choice",
        )
    return found


def build_tool_grammar(
    tools: Sequence[Tool], tool_format: ToolFormat, *, parallel: bool, lead: bool = False
) -> OutputGrammar:
    """Build the grammar of an answer that calls at least one of these tools, and writes no text.

    Args:
        tool_format: How the model writes calls; not empty.
        parallel: Whether it may call several.
        lead: Allow line breaks before the first call, for an answer that follows thinking.

    Raises:
        InvalidRequest: The parameters of a tool are no schema, or one that a grammar cannot keep.
    """
    writer = GrammarWriter(_PARAM)
    key = "parameters" if tool_format == "llama" else "arguments"
    calls = [writer.add(_write_call(writer, tool, key)) for tool in tools]
    call = writer.add(" | ".join(calls))
    more = CALLS - 1 if parallel else 0
    match tool_format:
        case "hermes":
            tagged = writer.add(f'"<tool_call>\\n" {call} "\\n</tool_call>"')
            body = tagged + (f' ("\\n" {tagged}){{0,{more}}}' if more else "")
        case "mistral":
            listed = call + (f' (", " {call}){{0,{more}}}' if more else "")
            body = f'"[TOOL_CALLS]" " "? "[" {listed} "]"'
        case _:
            body = call
    return writer.finish(f"{LEAD} {body}" if lead else body)


def _write_call(writer: GrammarWriter, tool: Tool, key: str) -> str:
    schema = read_schema(tool.parameters, _PARAM)
    check_schema(schema, _PARAM)
    head = f'{{"name": {json_text(tool.name)}, "{key}": '
    return f'{quote(head)} {writer.add_schema(schema)} "}}"'


def _refuse(what: str) -> InvalidRequest:
    return InvalidRequest(what, "use tools in the form of the OpenAI API", _PARAM)
