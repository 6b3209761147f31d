"""The forms in which models of today think and call tools, recognised by their chat templates.

Two tables, one of thoughts and one of calls: a model has a row of each, so that a new mixture of
known forms needs no row. A row is recognised by texts of the template, and a switch by the names of
variables in its code. Everything else is the same for all models and lives where it is used: the
texts of a prompt in :mod:`etui.reasoning.prompts`, the reading of calls in
:mod:`etui.reasoning.tool_events`, their grammar in :mod:`etui.engine.grammar`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from etui.models.spec import ModelSpec

ToolFormat = Literal[
    "",
    "hermes",
    "llama",
    "mistral",
    "mistral-args",
    "granite",
    "apriel",
    "xml",
    "deepseek",
    "deepseek-json",
    "lfm2",
    "gemma",
    "functiongemma",
    "harmony",
]
"""How a model writes the calls of tools; empty if it writes none that etui can read."""


@dataclass(frozen=True, slots=True)
class ThoughtForm:
    """The texts around a thought, behind the header that a template writes for the assistant."""

    open: str
    close: str
    answer: str  # Leads from the end of a thought to the answer
    empty: str  # Begins an answer without a thought, where the template itself does not
    writes_answer: bool = False
    """Whether etui writes ``answer`` also where the model ends its thought itself."""
    ends: tuple[str, ...] = ()  # Strings that end an answer after a thought
    turn: str = ""
    """Header of the messages that a thought, calls and an answer are (harmony); empty where they
    are parts of one."""
    efforts: bool = False  # Whether the template has a variable ``reasoning_effort``


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How one model thinks and calls tools."""

    thought: ThoughtForm | None = None  # None for a model that does not think
    switch: str | None = None
    """Variable of the template that switches thinking; None if the model always thinks."""
    tools: ToolFormat = ""
    note: str = ""  # What of the template is not known; empty if nothing
    shown: tuple[str, ...] = ()  # Tokens of the forms, which have to be visible in a text
    stop: tuple[str, ...] = ()  # Strings that end an answer, besides the vocabulary's end tokens

    @property
    def always_thinks(self) -> bool:
        """Whether the template cannot switch thinking off."""
        return self.thought is not None and self.switch is None

    def variables(self, think_tokens: int | None) -> Mapping[str, object]:
        """Return the template's variables for a thinking budget; None keeps its defaults."""
        if think_tokens is None or self.thought is None:
            return {}
        found: dict[str, object] = {}
        if self.switch is not None:
            found[self.switch] = think_tokens > 0
        if self.thought.efforts:
            # By the ladder of ``etui serve``.
            effort = "low" if think_tokens <= 128 else "medium" if think_tokens <= 256 else "high"
            found["reasoning_effort"] = effort
        return found


PLAIN_FORMAT = ChatFormat()
"""A model without thoughts and calls."""


def tag_thought(open_: str, close: str) -> ThoughtForm:
    """Return the form of a thought between two tags on lines of their own."""
    empty = f"{open_}\n\n{close}\n\n"
    return ThoughtForm(f"{open_}\n", close, "\n\n", empty)


HARMONY = ThoughtForm(
    open="<|channel|>analysis<|message|>",
    close="<|end|>",
    answer="<|start|>assistant<|channel|>final<|message|>",
    empty="<|channel|>final<|message|>",
    writes_answer=True,
    ends=("<|end|>",),
    turn="<|start|>assistant",
    efforts=True,
)
"""The channels of gpt-oss: analysis is a thought, final an answer, commentary a call."""

_GRANITE = ThoughtForm(
    "<think>", "</think>", "<response>", "", writes_answer=True, ends=("</response>",)
)
_GEMMA = ThoughtForm(
    "<|channel>thought\n", "<channel|>", "", "<|channel>thought\n<channel|>", ends=("<|channel>",)
)

_APRIEL = ThoughtForm(
    open="Here are my reasoning steps:\n",
    close="[BEGIN FINAL RESPONSE]",
    answer="\n",
    empty="Here are my reasoning steps:\n\n[BEGIN FINAL RESPONSE]\n",
    ends=("[END FINAL RESPONSE]", "<|end|>"),
)

_THOUGHTS: tuple[tuple[tuple[str, ...], ThoughtForm], ...] = (
    (("<|channel|>", "analysis"), HARMONY),  # gpt-oss
    (("<|channel>", "<channel|>"), _GEMMA),  # Gemma 4
    (("[THINK]", "[/THINK]"), ThoughtForm("[THINK]", "[/THINK]", "", "[THINK][/THINK]")),  # Mistral
    (("[BEGIN FINAL RESPONSE]",), _APRIEL),  # Apriel 1.5 and 1.6
    (("<think></think>", "<response></response>"), _GRANITE),  # Granite 3.2 and 3.3
    (("<think>",), tag_thought("<think>", "</think>")),  # Qwen 3, DeepSeek, LFM2, GLM, ...
    (("<｜Assistant｜>", "</think>"), tag_thought("<think>", "</think>")),  # the first R1 templates
)
"""Texts of a template that are all in it -> the form of its thoughts; the first row counts."""


@dataclass(frozen=True, slots=True)
class _Calls:
    """A row of the table of calls."""

    marks: tuple[str, ...]
    tools: ToolFormat
    tags: tuple[str, ...] = ()  # Tokens of a call
    stop: tuple[str, ...] = ()


_DEEPSEEK = ("begin", "end")
_DEEPSEEK_TAGS = (
    *(f"<｜tool▁calls▁{each}｜>" for each in _DEEPSEEK),
    *(f"<｜tool▁call▁{each}｜>" for each in _DEEPSEEK),
    "<｜tool▁sep｜>",
)
_HARMONY_TAGS = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>")
_LFM2_TAGS = ("<|tool_call_start|>", "<|tool_call_end|>")
_HERMES_TAGS = ("<tool_call>", "</tool_call>")
_ESCAPES = ("<start_function_call>", "<end_function_call>", "<escape>")
_AFTER_CALL = "<start_function_response>"

_CALLS = (
    _Calls(("<|channel|>", "functions"), "harmony", _HARMONY_TAGS),  # gpt-oss
    _Calls(("<｜tool▁call▁begin｜>", "```json"), "deepseek-json", _DEEPSEEK_TAGS),  # R1
    _Calls(("<｜tool▁call▁begin｜>",), "deepseek", _DEEPSEEK_TAGS),  # V3.1
    _Calls(("<|tool_call>", "call:"), "gemma", ("<|tool_call>", "<tool_call|>", '<|"|>')),  # 4
    _Calls(("<start_function_call>",), "functiongemma", (*_ESCAPES, _AFTER_CALL), (_AFTER_CALL,)),
    _Calls(("<|tool_call_start|>",), "lfm2", _LFM2_TAGS),
    _Calls(("<|tool_list_start|>",), "lfm2", _LFM2_TAGS),
    _Calls(("List of tools: [",), "lfm2", _LFM2_TAGS),
    _Calls(("[TOOL_CALLS]", "[ARGS]"), "mistral-args", ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")),
    _Calls(("[TOOL_CALLS]",), "mistral", ("[TOOL_CALLS]",)),
    _Calls(("<|tool_call|>",), "granite", ("<|tool_call|>", "<|/tool_call|>")),  # 3, and Phi 4
    _Calls(("<tool_calls>[",), "apriel", ("<tool_calls>", "</tool_calls>")),
    _Calls(("<tool_call>", "<function=", "<parameter="), "xml", _HERMES_TAGS),  # Qwen 3.5, Coder
    _Calls(("<function=",), ""),  # Functionary, Seed
    _Calls(("<arg_key>",), ""),  # GLM
    _Calls(("invoke name=",), ""),  # MiniMax, DeepSeek V3.2
    _Calls(("<tool_call>",), "hermes", _HERMES_TAGS),  # Qwen, Hermes, Granite 4
    _Calls(("<|python_tag|>",), "llama", ("<|python_tag|>",)),
    _Calls(("<|eot_id|>", '"parameters"'), "llama"),
)
"""The forms of calls; the first row whose marks are all in a template counts."""

_NO_TAGS = "its chat template can think, but between what is not known: name the tags as `thinking`"
_NO_CALLS = "its chat template writes the calls of tools in a form that is not known"


def recognise(template: str | None) -> ChatFormat:
    """Recognise the forms of a chat template; what is unknown is a plain model, with a note."""
    if not template:
        return PLAIN_FORMAT
    names = frozenset(_read_names(template))
    thought = next((form for marks, form in _THOUGHTS if _has(template, marks)), None)
    switch = next((name for name in ("enable_thinking", "thinking") if name in names), None)
    calls = next((row for row in _CALLS if _has(template, row.marks)), None)
    if not names & {"tools", "available_tools"}:
        calls = None
    elif calls is None or not calls.tools:
        calls = _Calls((), "")
    notes = []
    if thought is None and switch is not None:
        notes.append(_NO_TAGS)
    if calls is not None and not calls.tools:
        notes.append(_NO_CALLS)
    tags = () if thought is None else _find_tags(thought)
    return ChatFormat(
        thought,
        None if thought is None else switch,
        "" if calls is None else calls.tools,
        "; ".join(notes),
        tuple(dict.fromkeys((*tags, *(calls.tags if calls else ())))),
        calls.stop if calls is not None else (),
    )


def choose_format(spec: ModelSpec, template: str | None) -> ChatFormat:
    """Return the format of a model: by its template, or its thoughts by its entry if it has some.

    An entry with the tags of the template changes no more than the switch.
    """
    found = recognise(template)
    if spec.think_open is None:
        return found
    if not spec.think_open or not spec.think_close:
        return replace(found, thought=None, switch=None, note="")
    thought, known = tag_thought(spec.think_open, spec.think_close), found.thought
    if known is not None and (known.open.strip(), known.close) == (spec.think_open, thought.close):
        thought = known
    shown = dict.fromkeys((spec.think_open, spec.think_close, *found.shown))
    note = found.note.replace(_NO_TAGS, "").strip("; ")
    return replace(
        found, thought=thought, switch=spec.thinking_switch, shown=tuple(shown), note=note
    )


def _has(template: str, marks: tuple[str, ...]) -> bool:
    return all(mark in template for mark in marks)


def _find_tags(thought: ThoughtForm) -> list[str]:
    texts = "".join((thought.open, thought.close, thought.answer, *thought.ends))
    return re.findall(r"<[^<>]+>|\[/?[A-Z ]+\]", texts)


_CODE = re.compile(r"\{([%{#])")
_PART = re.compile(
    r"""(?P<end>[%}]\})|(?:'(?:[^'\\]|\\.)*(?:'|\Z))|(?:"(?:[^"\\]|\\.)*(?:"|\Z))|\.\s*\w+"""
    r"""|(?P<name>[A-Za-z_]\w*)|[^\w'"%}.]+|.""",
    re.DOTALL,
)


def _read_names(template: str) -> Iterator[str]:
    """Yield the names in the code of a template, without attributes and texts.

    Linear in its length whatever it contains, since a template is not to be trusted.
    """
    at = 0
    while (begin := _CODE.search(template, at)) is not None:
        at = begin.end()
        if begin[1] == "#":
            end = template.find("#}", at)
            at = end + 2 if end >= 0 else len(template)
            continue
        for part in _PART.finditer(template, at):
            at = part.end()
            if part["end"]:
                break
            if part["name"]:
                yield part["name"]
