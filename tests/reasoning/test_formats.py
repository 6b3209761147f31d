"""Thoughts, answers and calls of every chat format, however they are cut into tokens."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, EarlyExit
from etui.chat import Message, OutputOptions
from etui.engine.chat_formats import ChatFormat, recognise
from etui.engine.session import Sampled
from etui.events import Answer, Finished, Prefilled, Thought, ToolCall, Vote
from etui.reasoning.answer import answer
from etui.reasoning.tool_events import ChannelParser, ToolCallParser, opening_tags
from tests.engine.templates import TEMPLATES
from tests.reasoning.scripted import (
    END,
    GO_ON,
    FakeControl,
    FakeSequence,
    FakeSession,
    plain_facts,
    script,
)

QUESTION = (Message("user", "2+2?"),)
DIRECT = Arm("quick", "fake", max_tokens=200)
THINK = Arm("think", "fake", "cot", think_tokens=100, max_tokens=200)
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}
TOOLS = OutputOptions(tools=json.dumps([TOOL]))
_PIECES = 2_000_000


@dataclass
class PieceSession(FakeSession):
    """Draws several characters as one token, up to the next of the cuts of what is written."""

    cuts: frozenset[int] = frozenset()
    pieces: list[str] = field(default_factory=list)

    def text_of(self, sequence: FakeSequence) -> str:
        return "".join(
            self.pieces[token - _PIECES] if token >= _PIECES else chr(token)
            for token in sequence.tokens
        )

    def _draw(self, sequence: FakeSequence) -> Sampled:
        following = self.says(self.text_of(sequence))
        if not following:
            return Sampled(sequence.id, END, b"", -0.5, True)
        at = len(self.text_of(sequence))
        size = next((n for n in range(1, len(following)) if at + n in self.cuts), len(following))
        self.pieces.append(following[:size])
        token = _PIECES + len(self.pieces) - 1
        sequence.tokens.append(token)
        return Sampled(sequence.id, token, following[:size].encode(), -0.5, False)


FORMS: dict[str, ChatFormat] = {name: recognise(source) for name, source in TEMPLATES.items()}
THINKERS = [name for name, form in FORMS.items() if form.thought is not None]
GAPS = {"granite": "<response>", "harmony": "<|start|>assistant<|channel|>final<|message|>"}


def facts(family, **changes):
    return plain_facts(**{"format": FORMS[family], **changes})


def texts(events, kind):
    return "".join(event.text for event in events if isinstance(event, kind))


def run(session, arm, options=None, control=GO_ON):
    return list(answer(QUESTION, arm, session, control, options=options or OutputOptions()))


def open_tag(family):
    return FORMS[family].thought.open.strip()


@pytest.mark.parametrize("family", THINKERS)
@given(data=st.data())
def test_a_thought_and_its_answer_are_apart_however_they_are_cut(family, data):
    thought = FORMS[family].thought
    # The model writes the whole of it; what etui writes itself is not drawn again.
    written = f"Two and\ntwo.{thought.close}"
    rest = "It is 4." + ("</response>" if family == "granite" else "")

    def says(so_far):
        head, closed, reply = so_far.rpartition(thought.close)
        if not closed or head.count(open_tag(family)) < 1:
            begun = so_far[so_far.index(open_tag(family)) + len(thought.open) :]
            return written[len(begun) :]
        gap = GAPS.get(family, "")
        reply = reply.removeprefix(gap)
        return rest[len(reply) :] if rest.startswith(reply) else ""

    cuts = data.draw(st.frozensets(st.integers(0, 200), max_size=200))
    session = PieceSession(facts(family), says, cuts=cuts)
    events = run(session, THINK)
    end = events[-1]
    assert (end.thinking, end.answer) == ("Two and\ntwo.", "It is 4.")
    assert texts(events, Thought).strip() == "Two and\ntwo."
    assert texts(events, Answer).strip() == "It is 4."
    assert (end.status, end.why) == ("complete", "")


@pytest.mark.parametrize("family", THINKERS)
def test_the_budget_hands_over_in_the_words_of_the_format(family):
    thought = FORMS[family].thought
    lead = f"{thought.close}{thought.answer}"

    def says(so_far):
        _, closed, reply = so_far.rpartition(lead)
        return "4"[len(reply) :] if closed else "on and on " * 99

    session = FakeSession(facts(family), says)
    end = run(session, Arm("think", "fake", "cot", think_tokens=12, max_tokens=30))[-1]
    assert (end.answer, end.thinking_tokens, end.status) == ("4", 12, "complete")
    assert "budget for thinking is used up" in end.thinking
    assert not any(tag in end.thinking + end.answer for tag in FORMS[family].shown)
    assert session.opened[0].text.count(lead) == 1


@pytest.mark.parametrize("family", THINKERS)
def test_an_early_exit_leads_straight_to_the_answer(family):
    thought = FORMS[family].thought
    lead = f"{thought.close}{thought.answer}Answer:"

    def says(so_far):
        _, closed, reply = so_far.rpartition(lead)
        return " B"[len(reply) :] if closed else "hm" * 99

    def sees(text, token):
        assert text.endswith(lead)
        return math.log(0.97 if token == " B" else 0.01)

    session = FakeSession(facts(family), says, sees=sees)
    arm = Arm("think", "fake", "cot", think_tokens=90, early_exit=EarlyExit(10, 0.9, 2))
    asked = (Message("user", "Which?\nA) a\nB) b"),)
    end = list(answer(asked, arm, session, GO_ON))[-1]
    assert (end.thinking_tokens, end.answer) == (20, "B")
    assert "early exit" in end.why


@pytest.mark.parametrize("family", FORMS)
def test_letters_are_read_where_the_answer_opens(family):
    form = FORMS[family]
    seen = []

    def sees(text, token):
        seen.append(text)
        return math.log(0.9 if token == " B" else 0.01)

    arm = Arm("choose", "fake", readout="choices", max_tokens=30)
    asked = (Message("user", "Which?\nA) a\nB) b"),)
    events = list(answer(asked, arm, FakeSession(facts(family), lambda _: " B", sees=sees), GO_ON))
    assert events[-1].answer == "B) b"
    empty = form.thought.empty if form.always_thinks else ""
    assert seen[0].endswith(f"{empty}Answer:")
    if family == "harmony":
        assert seen[0].endswith("[assistant]<|channel|>final<|message|>Answer:")


@pytest.mark.parametrize("family", THINKERS)
def test_a_direct_answer_has_no_thought(family):
    form = FORMS[family]
    end_of_prompt = form.thought.empty if form.always_thinks else "[assistant]"
    if form.switch:  # the fake template writes an empty thought
        end_of_prompt = form.thought.close
    session = FakeSession(facts(family), script(end_of_prompt, "Yes"))
    events = run(session, DIRECT)
    assert events[-1].answer == "Yes"
    assert not texts(events, Thought)


@pytest.mark.parametrize("family", THINKERS)
def test_a_thought_that_the_template_opens_in_vain_is_closed(family):
    form = FORMS[family]
    opened = form.thought.open

    @dataclass
    class Opens(FakeSession):
        def render(self, messages, *, think_tokens=None, tools=""):
            return f"[user]{messages[-1].content}[assistant]{opened}"

    session = Opens(facts(family), lambda so_far: "" if so_far.endswith("Yes") else "Yes")
    run(session, DIRECT)
    text = session.opened[0].text
    assert text.count(opened.strip()) == form.thought.empty.count(opened.strip())
    session = Opens(facts(family), lambda so_far: "")
    run(session, THINK)
    assert session.opened[0].text.count(opened.strip()) == 1


def test_harmony_that_ends_its_answer_as_a_message_ends_it():
    session = FakeSession(facts("harmony"), script("final<|message|>", "Yes<|end|><|start|>user"))
    end = run(session, DIRECT)[-1]
    assert (end.answer, end.status) == ("Yes", "complete")


def test_a_plain_style_of_a_model_that_always_thinks_begins_with_an_empty_thought():
    for family in ("harmony", "magistral", "always thinks"):
        session = FakeSession(facts(family), lambda _: "")
        run(session, Arm("think", "fake", "cot", think_tokens=9, max_tokens=9, style="plain"))
        assert FORMS[family].thought.empty in session.opened[0].text


def test_a_call_within_a_thought_ends_it():
    text = 'I look.<tool_call>\n{"name": "get", "arguments": {"city": "Rome"}}\n</tool_call>'
    session = FakeSession(facts("qwen3"), script("<think>\n", text))
    end = run(session, THINK, TOOLS)[-1]
    assert (end.thinking, end.answer) == ("I look.", "")
    assert json.loads(end.tool_calls)[0]["function"]["arguments"] == '{"city": "Rome"}'


# harmony: channels


CALL = "<|channel|>commentary to=functions.get <|constrain|>json<|message|>"
ROME = '{"city": "Rome"}'


@pytest.mark.parametrize(
    ("written", "thought", "shown", "calls"),
    [
        ("<|channel|>final<|message|>Yes.", "", "Yes.", []),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes",
         "Hm.", "Yes", []),
        (f"{CALL}{ROME}", "", "", [("get", ROME)]),
        (f" to=functions.get<|channel|>commentary json<|message|>{ROME}", "", "", [("get", ROME)]),
        (f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{CALL}{ROME}",
         "Hm.", "", [("get", ROME)]),
        (f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{CALL}{ROME}",
         "", "I look.", [("get", ROME)]),
        ("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>analysis"
         f"<|message|>Hm.<|end|><|start|>assistant{CALL}{ROME}", "Hm.", "I look.", [("get", ROME)]),
        ("<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>analysis<|message|>B."
         "<|end|><|start|>assistant<|channel|>final<|message|>Yes", "A.\n\nB.", "Yes", []),
        (f"{CALL}{ROME}<|call|><|start|>assistant{CALL}{ROME}", "", "", [("get", ROME)] * 2),
        (f"{CALL}", "", "", [("get", "{}")]),
        (f"{CALL}" + '{"city": "Ro', "", "", [("get", '{"city": "Ro')]),
        ("Plain words.", "", "Plain words.", []),
        ("<|channel|>fin", "", "", []),
        ("<|channel|>final<|message|>a <|b", "", "a <|b", []),
        ("<|start|>assistant<|channel|>final<|message|>Yes<|return|>", "", "Yes", []),
        ("", "", "", []),
    ],
)  # fmt: skip
@given(cuts=st.lists(st.integers(0, 300), max_size=12))
def test_channels_are_read_however_they_are_cut(written, thought, shown, calls, cuts):
    parser = ChannelParser()
    places = [0, *sorted({cut % (len(written) + 1) for cut in cuts}), len(written)]
    parts = [part for a, b in pairwise(places) for part in parser.push(written[a:b])]
    parts += parser.finish()
    assert "".join(part.text for part in parts if isinstance(part, Thought)) == thought
    assert "".join(part for part in parts if isinstance(part, str)) == shown
    found = [each["function"] for each in json.loads(parser.document() or "[]")]
    assert [(each["name"], each["arguments"]) for each in found] == calls


@given(data=st.data())
def test_a_call_after_a_thought_is_streamed_and_its_phases_follow_the_channels(data):
    written = (
        "Hm, Rome.<|end|><|start|>assistant<|channel|>commentary to=functions.get "
        f"<|constrain|>json<|message|>{ROME}"
    )
    cuts = data.draw(st.frozensets(st.integers(0, 400), max_size=200))
    session = PieceSession(facts("harmony"), script("analysis<|message|>", written), cuts=cuts)
    events = run(session, THINK, TOOLS)
    end = events[-1]
    assert (end.thinking, end.answer) == ("Hm, Rome.", "")
    (call,) = json.loads(end.tool_calls)
    assert call["function"] == {"name": "get", "arguments": ROME}
    streamed = [event for event in events if isinstance(event, ToolCall)]
    assert "".join(event.arguments for event in streamed) == ROME
    assert [event.name for event in streamed if event.name] == ["get"]
    thoughts = sum(event.tokens for event in events if isinstance(event, Thought))
    answers = sum(event.tokens for event in events if isinstance(event, Answer))
    assert (end.thinking_tokens, end.output_tokens) == (thoughts, thoughts + answers)


def test_a_thought_of_a_direct_answer_with_tools_counts_as_thinking():
    written = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    written += "<|channel|>final<|message|>Sunny."
    session = FakeSession(facts("harmony"), script("[assistant]", written))
    events = run(session, DIRECT, TOOLS)
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.thinking, end.answer, end.tool_calls) == ("Hm.", "Sunny.", "")
    thoughts = [event for event in events if isinstance(event, Thought) and event.tokens]
    assert end.thinking_tokens == len(thoughts) > len("Hm.")
    assert end.output_tokens == len(written)
    assert end.thinking_end_ns == thoughts[-1].t_ns
    prefilled = next(event for event in events if isinstance(event, Prefilled))
    assert prefilled.end_ns < end.thinking_end_ns < end.end_ns


HEADED = f"<|channel|>analysis<|message|>A final get.<|end|><|start|>assistant{CALL}{ROME}"


@pytest.mark.parametrize("arm", [DIRECT, THINK])
@pytest.mark.parametrize(
    ("stop", "last", "answer", "stopped"),
    [
        ("final", "<|channel|>final<|message|>It is final.", "It is", "final"),
        ("final", "<|channel|>final<|message|>Sunny.", "Sunny.", ""),
        ("assistant", "<|channel|>final<|message|>Sunny.", "Sunny.", ""),
        ("annel", "<|channel|>final<|message|>A channel.", "A ch", "annel"),
        ("get", "<|channel|>commentary<|message|>I get it.", "I", "get"),
        ("Rome", "<|channel|>final<|message|>In Rome.", "In", "Rome"),
    ],
)
def test_a_stop_string_is_not_looked_for_in_headers_thoughts_and_calls(
    arm, stop, last, answer, stopped
):
    begin = "analysis<|message|>" if arm is THINK else "[assistant]"
    head = HEADED.partition("<|message|>")[2] if arm is THINK else HEADED
    written = f"{head}<|call|><|start|>assistant{last}"
    options = OutputOptions(tools=TOOLS.tools, stop=(stop,))
    arm = replace(arm, max_tokens=900)
    end = run(FakeSession(facts("harmony"), script(begin, written)), arm, options)[-1]
    assert (end.answer, end.stop, end.thinking) == (answer, stopped, "A final get.")
    assert json.loads(end.tool_calls)[0]["function"] == {"name": "get", "arguments": ROME}


def test_a_stop_string_ends_a_text_without_a_header():
    options = OutputOptions(tools=TOOLS.tools, stop=("words",))
    end = run(FakeSession(facts("harmony"), script("[assistant]", "Plain words.")), DIRECT, options)
    assert (end[-1].answer, end[-1].stop) == ("Plain", "words")


def test_several_answers_have_their_thoughts_and_calls_apart():
    written = f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{CALL}{ROME}"
    own = script("[assistant]", written)
    session = FakeSession(
        facts("harmony"), lambda text: own(text) if "[assistant]" in text else "?"
    )
    events = run(session, DIRECT, OutputOptions(tools=TOOLS.tools, count=2))
    votes = [event for event in events if isinstance(event, Vote)]
    assert [(each.thinking, each.answer) for each in votes] == [("Hm.", "")] * 2
    assert all(json.loads(each.tool_calls)[0]["function"]["name"] == "get" for each in votes)


def test_a_budget_with_tools_leaves_the_channel_to_the_model():
    lead = "<|end|><|start|>assistant"

    def says(so_far):
        _, closed, reply = so_far.partition(lead)
        written = f"{CALL}{ROME}"
        return written[len(reply) :] if closed else "on and on " * 99

    session = FakeSession(facts("harmony"), says)
    arm = Arm("think", "fake", "cot", think_tokens=12, max_tokens=120)
    end = run(session, arm, TOOLS)[-1]
    assert json.loads(end.tool_calls)[0]["function"]["arguments"] == ROME
    assert (end.answer, end.thinking_tokens) == ("", 12)


@pytest.mark.parametrize("arm", [DIRECT, THINK])
def test_a_call_that_is_required_has_its_header_written(arm):
    options = OutputOptions(tools=TOOLS.tools, tool_choice="required")
    lead = "<|channel|>commentary to=functions."

    def says(so_far):
        _, begun, reply = so_far.partition(lead)
        if begun:
            return f"get <|constrain|>json<|message|>{ROME}"[len(reply) :]
        return "Hm.<|end|>"[len(so_far.partition("analysis<|message|>")[2]) :]

    session = FakeSession(facts("harmony"), says)
    events = run(session, arm, options)
    (sequence,) = session.opened
    assert sequence.text[: sequence.constrained_at].endswith(
        f"assistant{lead}" if arm is THINK else lead
    )
    (call,) = json.loads(events[-1].tool_calls)
    assert call["function"] == {"name": "get", "arguments": ROME}
    assert events[-1].answer == ""


def test_a_schema_binds_the_final_channel_alone():
    options = OutputOptions(json_schema='{"type": "object"}')
    session = FakeSession(
        facts("harmony"),
        lambda so_far: (
            "{}"[len(so_far.partition("final<|message|>")[2]) :]
            if "final<|message|>" in so_far
            else "Hm.<|end|>"[len(so_far.partition("analysis<|message|>")[2]) :]
        ),
    )
    end = run(session, THINK, options)[-1]
    (sequence,) = session.opened
    at = sequence.constrained_at
    assert sequence.text[:at].endswith("<|start|>assistant<|channel|>final<|message|>")
    assert (end.thinking, end.answer) == ("Hm.", "{}")


def test_a_spent_budget_ends_the_analysis():
    lead = "<|end|><|start|>assistant<|channel|>final<|message|>"

    def says(so_far):
        _, closed, reply = so_far.partition(lead)
        return "4"[len(reply) :] if closed else "so " * 400

    events = []
    control = FakeControl(spent_when=lambda: len(events) > 10)
    session = FakeSession(facts("harmony"), says)
    for event in answer(QUESTION, THINK, session, control):
        events.append(event)
    assert (events[-1].answer, events[-1].status) == ("4", "budget")


# calls of the other formats


T_BEGIN, T_SEP, T_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
S_BEGIN, S_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
DAYS = '{"city": "Rome", "days": 2}'
XML = (
    "<function=get>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    "</function>"
)
TYPES = {"get": {"city": ("string",), "days": ("integer",)}}


def parse(text, tool_format, cuts=()):
    numbers = count()
    parser = ToolCallParser(
        tool_format, ("get", "set"), create_id=lambda: f"id{next(numbers)}", types=TYPES
    )
    places = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    parts = [part for a, b in pairwise(places) for part in parser.push(text[a:b])]
    parts += parser.finish()
    found = [each["function"] for each in json.loads(parser.document() or "[]")]
    shown = "".join(part for part in parts if isinstance(part, str))
    return shown, [(each["name"], each["arguments"]) for each in found]


CASES = [
    ("mistral-args", f"[TOOL_CALLS]get[ARGS]{DAYS}", "", [("get", DAYS)]),
    ("mistral-args", f"Hm. [TOOL_CALLS]get[CALL_ID]a1b2c3d4e[ARGS]{DAYS}", "Hm.", [("get", DAYS)]),
    ("mistral-args", f"[TOOL_CALLS]get[ARGS]{DAYS}[TOOL_CALLS]set[ARGS]{{}}", "",
     [("get", DAYS), ("set", "{}")]),
    ("mistral-args", "[TOOL_CALLS]get city", "[TOOL_CALLS]get city", []),
    ("mistral-args", '[TOOL_CALLS]get[ARGS]{"city": "Ro', "", [("get", '{"city": "Ro')]),
    ("granite", f'<|tool_call|>[{{"name": "get", "arguments": {DAYS}}}]', "", [("get", DAYS)]),
    ("granite", f'<|tool_call|>[{{"name": "get", "arguments": {DAYS}}}]<|/tool_call|>', "",
     [("get", DAYS)]),
    ("granite", "<|tool_call|>none", "<|tool_call|>none", []),
    ("xml", f"<tool_call>\n{XML}\n</tool_call>", "", [("get", DAYS)]),
    ("xml", f"Hm.\n{XML}\n</tool_call>", "Hm.", [("get", DAYS)]),
    ("xml", f"<tool_call>\n{XML}\n</tool_call>\n<tool_call>\n{XML}\n</tool_call>", "",
     [("get", DAYS)] * 2),
    ("xml", "<tool_call>\n<function=set>\n</function>\n</tool_call>", "", [("set", "{}")]),
    ("xml", "<tool_call>\n<function=get>\n<parameter=city>\n5\n<b>\n</parameter>\n</function>",
     "", [("get", '{"city": "5\\n<b>"}')]),
    ("xml", "<tool_call>\n<function=set>\n<parameter=a>\n[1, 2]\n</parameter>\n</function>",
     "", [("set", '{"a": [1, 2]}')]),
    ("xml", "<tool_call>no</tool_call>", "<tool_call>no</tool_call>", []),
    ("xml", "<tool_call>\n<function=get>\n<oops>", "<tool_call>\n<function=get>\n<oops>", []),
    ("deepseek", f"{S_BEGIN}{T_BEGIN}get{T_SEP}{DAYS}{T_END}{S_END}", "", [("get", DAYS)]),
    ("deepseek", f"Hm.{S_BEGIN}{T_BEGIN}get{T_SEP}{DAYS}{T_END}{T_BEGIN}set{T_SEP}{{}}{T_END}"
     f"{S_END}", "Hm.", [("get", DAYS), ("set", "{}")]),
    ("deepseek-json", f"{S_BEGIN}{T_BEGIN}function{T_SEP}get\n```json\n{DAYS}\n```{T_END}{S_END}",
     "", [("get", DAYS)]),
    ("deepseek-json", f"{S_BEGIN}{T_BEGIN}function{T_SEP}get\n```json\n{DAYS}\n```{T_END}\n"
     f"{T_BEGIN}function{T_SEP}set\n```json\n{{}}\n```{T_END}{S_END}", "",
     [("get", DAYS), ("set", "{}")]),
    ("deepseek", f"{S_BEGIN}{T_BEGIN}<b>", f"{S_BEGIN}{T_BEGIN}<b>", []),
    ("lfm2", '<|tool_call_start|>[get(city="Rome", days=2)]<|tool_call_end|>', "", [("get", DAYS)]),
    ("lfm2", '<|tool_call_start|>[{"name": "get", "arguments": ' + DAYS + "}]<|tool_call_end|>",
     "", [("get", DAYS)]),
    ("lfm2", "<|tool_call_start|>[get(city='Rome', days=2), set()]<|tool_call_end|>Done.", "Done.",
     [("get", DAYS), ("set", "{}")]),
    ("lfm2", """<|tool_call_start|>[set(a=[1, -2.5, true, None], from={"b": 'c, )'})]"""
     "<|tool_call_end|>", "", [("set", '{"a": [1, -2.5, true, null], "from": {"b": "c, )"}}')]),
    ("lfm2", "<|tool_call_start|>[get(__import__('os'))]<|tool_call_end|>",
     "<|tool_call_start|>[get(__import__('os'))]<|tool_call_end|>", []),
    ("lfm2", "<|tool_call_start|>[get(city=open('x'))]",
     "<|tool_call_start|>[get(city=open('x'))]", []),
    ("gemma", '<|tool_call>call:get{city:<|"|>Rome<|"|>,days:2}<tool_call|>', "", [("get", DAYS)]),
    ("gemma", '<|tool_call>call:set{a:{b:[<|"|>x"}]<|"|>,true]}}<tool_call|>', "",
     [("set", '{"a":{"b":["x\\"}]",true]}}')]),
    ("gemma", "<|tool_call>call:get{city:Rome}<tool_call|>",
     "<|tool_call>call:get{city:Rome}<tool_call|>", []),
    ("gemma", '<|tool_call>call:get{city:<|"|>Ro', '<|tool_call>call:get{city:<|"|>Ro', []),
    ("functiongemma", "<start_function_call>call:get{city:<escape>Rome<escape>,days:2}"
     "<end_function_call>", "", [("get", DAYS)]),
]  # fmt: skip


def normal(calls):
    """Compare arguments as JSON, where they are."""
    try:
        return [(name, json.loads(arguments)) for name, arguments in calls]
    except ValueError:
        return calls


@pytest.mark.parametrize(("tool_format", "text", "shown", "calls"), CASES)
def test_calls_are_read_in_the_form_of_the_format(tool_format, text, shown, calls):
    found, named = parse(text, tool_format)
    assert (found.strip(), normal(named)) == (shown.strip(), normal(calls))


@pytest.mark.parametrize(("tool_format", "text", "shown", "calls"), CASES)
@given(cuts=st.lists(st.integers(0, 300), max_size=12))
def test_no_cut_changes_a_call(tool_format, text, shown, calls, cuts):
    whole = parse(text, tool_format)
    assert parse(text, tool_format, cuts) == whole
    assert parse(text, tool_format, range(len(text))) == whole


PARTS = st.sampled_from(
    [
        *{tag for form in ("xml", "lfm2", "gemma", "deepseek", "mistral-args", "granite")
          for tag in opening_tags(form)},
        "</tool_call>", "<tool_call|>", T_END, S_END, T_SEP, "<|tool_call_end|>", "[ARGS]", "get",
        "<function=get>", "<parameter=city>", "</parameter>", "</function>", "call:get{", "}", "{",
        '{"a": 1}', "(", ")", "[", "]", "a='b'", ",", '"', "'", "\\", "\n", " ", "x", '<|"|>',
    ]
)  # fmt: skip


@given(
    parts=st.lists(PARTS, max_size=12),
    tool_format=st.sampled_from(
        ["xml", "lfm2", "gemma", "functiongemma", "deepseek", "mistral-args", "granite"]
    ),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_any_text_is_read_the_same_however_it_is_cut(parts, tool_format, cuts):
    text = "".join(parts)
    whole = parse(text, tool_format)
    assert parse(text, tool_format, cuts) == whole
    if not whole[1] and not any(tag in text for tag in opening_tags(tool_format)):
        assert whole[0] == text


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_channels_lose_no_text(text, cuts):
    parser = ChannelParser()
    parser.push("<|channel|>final<|message|>")
    places = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    parts = [part for a, b in pairwise(places) for part in parser.push(text[a:b])]
    parts += parser.finish()
    if "<|" not in text:
        assert "".join(part for part in parts if isinstance(part, str)) == text
