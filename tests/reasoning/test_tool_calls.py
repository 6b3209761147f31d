"""Calls of tools are separated from text, however the answer is cut into tokens."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etui.events import ToolCall
from etui.reasoning.tool_events import ToolCallParser

TAGS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
GET = '{"name": "get", "arguments": {"city": "Rome", "days": [1, 2]}}'
ARGUMENTS = '{"city": "Rome", "days": [1, 2]}'


def parse(text, tool_format="hermes", cuts=(), names=("get", "set"), **options):
    """Parse a text cut at these places: its text, and its calls as (name, arguments)."""
    ids = count()
    parser = ToolCallParser(tool_format, names, create_id=lambda: f"id{next(ids)}", **options)
    ends = [*sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    parts, start = [], 0
    for end in ends:
        parts += parser.push(text[start:end])
        start = end
    parts += parser.finish()
    shown = "".join(part for part in parts if isinstance(part, str))
    calls: dict[int, list[str]] = {}
    for part in parts:
        if isinstance(part, ToolCall):
            if part.index not in calls:
                assert part.name, "the name comes first"
                calls[part.index] = [part.name, ""]
            else:
                assert not part.name, "the name comes once"
            calls[part.index][1] += part.arguments
    found = [tuple(call) for call in calls.values()]
    document = json.loads(parser.document() or "[]")
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in document] == found
    assert [c["id"] for c in document] == sorted({c["id"] for c in document})
    return shown, found


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("Hello <b>you</b>", "Hello <b>you</b>", []),
        ("a <tool_ b", "a <tool_ b", []),
        (f"<tool_call>\n{GET}\n</tool_call>", "", [("get", ARGUMENTS)]),
        (f"Let me see.\n<tool_call>{GET}</tool_call>", "Let me see.", [("get", ARGUMENTS)]),
        (
            f"<tool_call>\n{GET}\n</tool_call>\n<tool_call>\n{GET}\n</tool_call>",
            "",
            [("get", ARGUMENTS)] * 2,
        ),
        (f"<tool_call>{GET}</tool_call> Done.", " Done.", [("get", ARGUMENTS)]),
        (f"<tool_call>{GET}<tool_call>{GET}</tool_call>", "", [("get", ARGUMENTS)] * 2),
        (f"<tool_call>{GET}}}</tool_call>", "", [("get", ARGUMENTS)]),
        ('<tool_call>{"name": "get"}</tool_call>', "", [("get", "{}")]),
        (
            '<tool_call>{"arguments": {"a": 1}, "name": "get"}</tool_call>',
            "",
            [("get", '{"a": 1}')],
        ),
        (
            '<tool_call>{"id": "7", "name": "get", "arguments": null}</tool_call>',
            "",
            [("get", "{}")],
        ),
        (
            r'<tool_call>{"name": "get", "arguments": "{\"a\": \"</tool_call>\"}"}</tool_call>',
            "",
            [("get", '{"a": "</tool_call>"}')],
        ),
        (
            '<tool_call>{"name": "get", "arguments": {"a": "</tool_call> \\" }"}}</tool_call>',
            "",
            [("get", '{"a": "</tool_call> \\" }"}')],
        ),
        # Arguments that break off stay arguments; the tag is not a part of them.
        ('<tool_call>{"name": "get", "arguments": {"a": </tool_call>', "", [("get", '{"a": ')]),
        ('<tool_call>{"name": "get", "arguments": {"a": 1', "", [("get", '{"a": 1')]),
        ('<tool_call>{"name": "get", "arguments": 12', "", [("get", "12")]),
        ('<tool_call>{"name": "get", "arguments": "{\\"a', "", [("get", '"{\\"a')]),
        ('<tool_call>{"name": "get", "arguments": nul', "", [("get", "{}")]),
        (
            '<tool_call>{"name": "get", "arguments": <',
            '<tool_call>{"name": "get", "arguments": <',
            [],
        ),
        (r'<tool_call>{"name": "get", "arguments": "\x"}', "", [("get", r'"\x"')]),
        (
            '<tool_call>{"arguments": {}, "name": ""}</tool_call>',
            '<tool_call>{"arguments": {}, "name": ""}</tool_call>',
            [],
        ),
        # Small models forget the tags.
        (GET, "", [("get", ARGUMENTS)]),
        (f"\n{GET}\n{GET}\n", "", [("get", ARGUMENTS)] * 2),
        (f"{GET}\n<tool_call>{GET}</tool_call>", "", [("get", ARGUMENTS)] * 2),
        (f"{GET} Done.", " Done.", [("get", ARGUMENTS)]),
        (f"So: {GET}", f"So: {GET}", []),
        (f"```json\n{GET}\n```", "", [("get", ARGUMENTS)]),
        (f"```\n{GET}\n```\n\n```json\n{GET}\n```\n", "", [("get", ARGUMENTS)] * 2),
        (f"```json\n{GET}\n{GET}\n```", "", [("get", ARGUMENTS)] * 2),
        (f"```json\n{GET}\n``` Done.", " Done.", [("get", ARGUMENTS)]),
        (f"```json\n{GET}", "", [("get", ARGUMENTS)]),
        ('```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```', []),
        ("```js\nf({})\n```", "```js\nf({})\n```", []),
        ("```jsonc\n{}", "```jsonc\n{}", []),
        ("``", "``", []),
        (f"{{{GET}}}", "", [("get", ARGUMENTS)]),
        (f"{{{GET}}} }}", " }", [("get", ARGUMENTS)]),
        (f"```json\n{{{GET}}}\n```", "", [("get", ARGUMENTS)]),
        (f"<tool_call>\n{{{GET}}}\n</tool_call> So.", " So.", [("get", ARGUMENTS)]),
        ('{{"a": 1}}', '{{"a": 1}}', []),
        ("{{ x }}", "{{ x }}", []),
        ("<tool_call>\n{{ x }}", "<tool_call>\n{{ x }}", []),
        ("{{", "{{", []),
        (f"```json: {GET}", f"```json: {GET}", []),
        (f"{GET}\n```", "\n```", [("get", ARGUMENTS)]),
        ('{"name": "Bob", "arguments": {}}', '{"name": "Bob", "arguments": {}}', []),
        ('{"a": 1}', '{"a": 1}', []),
        # What is no call is text, with its tag.
        ("<tool_call>get(1)</tool_call>", "<tool_call>get(1)</tool_call>", []),
        ('<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
        ('<tool_call>{"name": "get"', '<tool_call>{"name": "get"', []),
        ("<tool_call>", "<tool_call>", []),
    ],
)
def test_calls_between_tags(text, shown, calls):
    for cuts in ((), range(len(text))):
        assert parse(text, cuts=cuts) == (shown, calls)


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ('{"name": "get", "parameters": {"a": 1}}', "", [("get", '{"a": 1}')]),
        (
            '<|python_tag|>{"name": "get", "parameters": {}}; {"name": "set", "parameters": {}}',
            "",
            [("get", "{}"), ("set", "{}")],
        ),
        ('{"type": "function", "name": "get", "parameters": {}}', "", [("get", "{}")]),
        ('{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
        ('{"name": "Bob", "parameters": {}}', '{"name": "Bob", "parameters": {}}', []),
        ('It is {"name": "get", "parameters": {}}', 'It is {"name": "get", "parameters": {}}', []),
        ("{not json", "{not json", []),
        ("<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    ],
)
def test_bare_objects_are_calls_only_of_known_tools(text, shown, calls):
    for cuts in ((), range(len(text))):
        assert parse(text, "llama", cuts) == (shown, calls)


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        (f"[TOOL_CALLS] [{GET}]", "", [("get", ARGUMENTS)]),
        (f"[TOOL_CALLS][{GET}, {GET}]", "", [("get", ARGUMENTS)] * 2),
        (f"Yes. [TOOL_CALLS] [{GET}", "Yes.", [("get", ARGUMENTS)]),
        ("[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
        (f"[TOOL_CALLS] [{GET}, 5]", ", 5]", [("get", ARGUMENTS)]),
        ("[TOOL] a", "[TOOL] a", []),
    ],
)
def test_calls_in_a_list(text, shown, calls):
    for cuts in ((), range(len(text))):
        assert parse(text, "mistral", cuts) == (shown, calls)


def test_calls_beyond_the_most_are_left_out():
    call = f"<tool_call>{GET}</tool_call>"
    assert parse(call * 3, most=1) == ("", [("get", ARGUMENTS)])


def test_arguments_are_passed_on_before_they_end():
    parser = ToolCallParser("hermes", create_id=lambda: "x")
    assert parser.push('<tool_call>{"name": "get", "arg') == []
    assert parser.push('uments": {"a"') == [ToolCall(0, 0, "x", "get", '{"a"')]
    assert parser.push(": 1") == [ToolCall(0, 0, "x", "", ": 1")]


def test_a_json_answer_is_not_held_back_to_its_end():
    for tool_format in ("hermes", "llama"):
        parser = ToolCallParser(tool_format, ("get",))
        assert parser.push('{"answer') == []
        assert parser.push('": [1') == ['{"answer": [1']
        assert parser.push(", 2") == [", 2"]


PIECES = st.lists(
    st.sampled_from(
        [
            *TAGS, GET, "{", "}", "[", "]", '"', "\\", ",", ";", ":", " ", "\n", "a", "<", "7",
            '"name"', '"get"', '"parameters"', '{"name": "get", "parameters": {"a": [', "null",
            '{"name": "set", "arguments": "{}"}', '"name": "get", "arguments": ', "é",
        ]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@given(text=PIECES, tool_format=st.sampled_from(["hermes", "llama", "mistral"]), data=st.data())
@example(text='<tool_call>{"name": "get"}', tool_format="hermes", data=None)
def test_no_cut_changes_what_is_found(text, tool_format, data):
    whole = parse(text, tool_format)
    assert parse(text, tool_format, range(len(text))) == whole
    if data is not None:
        cuts = data.draw(st.lists(st.integers(0, max(1, len(text))), max_size=6))
        assert parse(text, tool_format, cuts) == whole


@given(
    before=st.text(st.characters(exclude_characters="<[{", exclude_categories=["Cs"]), max_size=20),
    arguments=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
            max_leaves=6,
        ),
        max_size=4,
    ),
    calls=st.integers(1, 3),
)
def test_any_arguments_come_back_as_they_are(before, arguments, calls):
    text = json.dumps(arguments, ensure_ascii=False)
    call = '{"name": "get", "arguments": ' + text + "}"
    shown, found = parse(before + f"<tool_call>\n{call}\n</tool_call>\n" * calls)
    assert found == [("get", text)] * calls
    assert shown == before.rstrip(" \t\r\n")
    _, listed = parse(f"[TOOL_CALLS] [{', '.join([call] * calls)}]", "mistral")
    assert listed == found


@given(text=st.text(max_size=60), tool_format=st.sampled_from(["", "hermes", "mistral"]))
def test_text_without_a_call_is_not_lost(text, tool_format):
    shown, calls = parse(text, tool_format, range(len(text)))
    if not calls:
        assert shown == text
