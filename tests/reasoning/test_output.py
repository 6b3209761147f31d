"""The form of an answer that a client asks for, on a session that says what is scripted."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, EarlyExit
from etui.chat import Message, OutputOptions
from etui.errors import ContextOverflow, InvalidRequest
from etui.events import Answer, Thought, TokenLogprob, ToolCall, Vote
from etui.reasoning.answer import answer
from etui.reasoning.output import adapt_arm, build_output, check_options
from tests.reasoning.scripted import GO_ON, FakeControl, FakeSession, plain_facts, script

DIRECT = Arm("quick", "fake", max_tokens=80)
THINK = Arm("think", "fake", "cot", think_tokens=20, max_tokens=80)
VOTE = Arm("vote", "fake", "vote", think_tokens=0, max_tokens=80, votes=3)
CHOOSE = Arm("choose", "fake", readout="choices", max_tokens=80)
ASK = (Message("user", "What is it?"),)
TAGS = {"think_open": "<think>", "think_close": "</think>", "thinking_switch": "enable_thinking"}
SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TOOLS = json.dumps([TOOL])
CALL = '<tool_call>\n{"name": "get", "arguments": {"city": "Rome"}}\n</tool_call>'


def ask(session, options, arm=DIRECT, messages=ASK, control=GO_ON):
    return list(answer(messages, arm, session, control, options=options))


def shown(events):
    return "".join(event.text for event in events if isinstance(event, Answer))


def says(text, after="[assistant]"):
    """A script that also bears a prompt whose last token waits for the forks."""
    own = script(after, text)
    return lambda so_far: own(so_far) if after in so_far else "?"


# stop strings


@given(
    text=st.text("abé ", min_size=1, max_size=12),
    stops=st.lists(st.text("abé ", min_size=1, max_size=3), max_size=4),
    alternatives=st.integers(0, 3),
)
def test_only_tokens_of_the_shown_text_are_reported(text, stops, alternatives):
    session = FakeSession(plain_facts(), says(text))
    options = OutputOptions(stop=tuple(stops), top_logprobs=alternatives)
    events = ask(session, options)
    logged = [event for event in events if isinstance(event, TokenLogprob)]
    whole = b"".join(bytes(event.piece) for event in logged).decode()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert whole == text == shown(events)
    assert whole == shown(events)
    assert not any(stop in whole for stop in stops)
    assert all(len(event.top) == alternatives for event in logged)
    for event in logged:
        assert [value for _, value in event.top] == sorted((v for _, v in event.top), reverse=True)
    # A token is reported once its text is shown, never before.
    seen = ""
    told = 0
    for event in events:
        if isinstance(event, Answer):
            seen += event.text
        elif isinstance(event, TokenLogprob):
            told += len(bytes(event.piece).decode())
            assert told <= len(seen)


def test_the_thinking_does_not_end_at_a_stop_string_and_has_no_logprobs():
    session = FakeSession(plain_facts(**TAGS), script("<think>\n", "END so</think>yes END no"))
    events = ask(session, OutputOptions(stop=("END",), top_logprobs=0), THINK)
    assert events[-1].thinking == "END so"
    assert events[-1].answer == "yes"
    logged = [event for event in events if isinstance(event, TokenLogprob)]
    assert b"".join(bytes(e.piece) for e in logged).decode() == "yes "
    first = next(i for i, e in enumerate(events) if isinstance(e, TokenLogprob))
    assert isinstance(events[first - 1], Answer)


def test_a_token_that_is_a_part_of_a_character_waits_for_the_rest():
    from etui.engine.session import Sampled
    from etui.reasoning.decoding import TokenLog

    log = TokenLog(FakeSession(plain_facts(), says("")), None, 0)  # type: ignore[arg-type]
    log.take(Sampled(0, 1, b"\xc3", -1.0, False), 1)
    assert log.show("") == []
    log.take(Sampled(0, 2, b"\xa9", -2.0, False), 2)
    assert [event.logprob for event in log.show("é")] == [-1.0, -2.0]


# grammars


def test_the_grammar_is_set_before_the_first_token():
    session = FakeSession(plain_facts(), says('{"a": 1}'))
    events = ask(session, OutputOptions(json_schema=SCHEMA))
    (sequence,) = session.opened
    assert sequence.grammar is not None
    assert sequence.constrained_at == len("^[user]What is it?[assistant]")
    assert events[-1].answer == '{"a": 1}'
    assert events[-1].why == ""


def test_a_model_with_think_tags_thinks_before_the_grammar_begins():
    session = FakeSession(plain_facts(**TAGS), script("<think>\n", 'so</think>{"a": 1}'))
    events = ask(session, OutputOptions(json_schema=SCHEMA), THINK)
    (sequence,) = session.opened
    at = sequence.constrained_at
    assert sequence.text[:at].endswith("</think>")
    assert (events[-1].thinking, events[-1].answer) == ("so", '{"a": 1}')


def test_thinking_that_is_cut_hands_over_to_the_grammar():
    session = FakeSession(
        plain_facts(**TAGS),
        lambda text: (
            '{"a": 1}'[len(text.rpartition("</think>\n\n")[2]) :] if "</think>" in text else "x"
        ),
    )
    events = ask(session, OutputOptions(json_schema=SCHEMA), THINK)
    (sequence,) = session.opened
    assert sequence.text[: sequence.constrained_at].endswith("</think>\n\n")
    assert events[-1].answer == '{"a": 1}'


def test_probes_of_the_thinking_are_not_constrained():
    session = FakeSession(
        plain_facts(**TAGS),
        lambda text: (
            '{"a": 1}'[len(text.rpartition("</think>\n\n")[2]) :] if "</think>" in text else "x"
        ),
    )
    arm = replace(THINK, early_exit=EarlyExit(every=5, min_p=1.0, stable=99))
    ask(session, OutputOptions(json_schema=SCHEMA), arm)
    first, *probes = session.opened
    assert first.grammar is not None
    assert probes
    assert all(probe.grammar is None for probe in probes)


def test_an_answer_that_is_cut_is_truncated():
    session = FakeSession(plain_facts(), says('{"a": 123456}'))
    events = ask(session, OutputOptions(json_schema=SCHEMA), replace(DIRECT, max_tokens=5))
    assert events[-1].status == "truncated"
    assert events[-1].answer == '{"a":'


@pytest.mark.parametrize("count", [1, 3])
def test_a_sequence_that_a_grammar_refuses_is_closed(count):
    session = FakeSession(plain_facts(), says("x"))
    session.constrain = lambda *_: (_ for _ in ()).throw(InvalidRequest("no", "", "tools"))  # type: ignore
    with pytest.raises(InvalidRequest):
        ask(session, OutputOptions(json_schema=SCHEMA, count=count))
    assert not session.live


# tools


def test_calls_are_taken_out_of_the_text_and_streamed():
    session = FakeSession(plain_facts(tool_format="hermes"), says(f"I look. {CALL}"))
    events = ask(session, OutputOptions(tools=TOOLS))
    assert session.opened[0].text.startswith(f"^[tools]{TOOLS}")
    assert session.opened[0].grammar is None
    assert shown(events) == "I look."
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert calls[0].name == "get"
    assert len(calls) > 3
    assert "".join(call.arguments for call in calls) == '{"city": "Rome"}'
    assert {(call.index, call.call_id) for call in calls} == {(0, calls[0].call_id)}
    end = events[-1]
    (document,) = json.loads(end.tool_calls)
    assert document == {
        "id": calls[0].call_id,
        "type": "function",
        "function": {"name": "get", "arguments": '{"city": "Rome"}'},
    }
    assert end.answer == "I look."
    tokens = sum(event.tokens for event in events if isinstance(event, Answer))
    assert tokens == end.output_tokens == len(f"I look. {CALL}")


def test_text_that_is_no_call_is_left_as_it_is():
    session = FakeSession(plain_facts(tool_format="hermes"), says("No <tool_call>x"))
    end = ask(session, OutputOptions(tools=TOOLS))[-1]
    assert (end.answer, end.tool_calls) == ("No <tool_call>x", "")


def test_a_call_can_be_required_of_one_tool():
    other = {"type": "function", "function": {"name": "set"}}
    session = FakeSession(plain_facts(tool_format="hermes"), says(CALL))
    both = json.dumps([TOOL, other])
    ask(session, OutputOptions(tools=both, tool_choice="function:set"))
    ask(session, OutputOptions(tools=both, tool_choice="required"))
    named, any_ = (sequence.grammar.text for sequence in session.opened)
    assert "set" in named
    assert "get" not in named
    assert "set" in any_
    assert "get" in any_


def test_strict_tools_keep_a_call_within_text_to_its_schema_or_say_why_not():
    session = FakeSession(plain_facts(tool_format="hermes"), says(f"I look. {CALL}"))
    end = ask(session, OutputOptions(tools=TOOLS, strict_tools=True))[-1]
    assert session.opened[0].grammar.text.startswith("start: TEXT | before first")
    assert json.loads(end.tool_calls)[0]["function"]["name"] == "get"
    assert end.why == ""
    session = FakeSession(plain_facts(tool_format="llama"), says("Yes."))
    end = ask(session, OutputOptions(tools=TOOLS, strict_tools=True))[-1]
    assert session.opened[0].grammar is None
    assert end.why.startswith("the tools are not strict: ")


def test_without_a_choice_of_tools_they_are_not_in_the_prompt():
    session = FakeSession(plain_facts(), says(CALL))
    end = ask(session, OutputOptions(tools=TOOLS, tool_choice="none"))[-1]
    assert "[tools]" not in session.opened[0].text
    assert (end.answer, end.tool_calls) == (CALL, "")


def test_one_call_is_enough_if_they_may_not_be_parallel():
    session = FakeSession(plain_facts(tool_format="hermes"), says(CALL * 2))
    end = ask(session, OutputOptions(tools=TOOLS, parallel_tool_calls=False))[-1]
    assert len(json.loads(end.tool_calls)) == 1


def test_a_thinking_model_thinks_before_it_calls():
    session = FakeSession(
        plain_facts(**TAGS, tool_format="hermes"), script("<think>\n", f"hm</think>{CALL}")
    )
    events = ask(session, OutputOptions(tools=TOOLS), THINK)
    assert [event.text for event in events if isinstance(event, Thought)][:2] == ["h", "m"]
    assert json.loads(events[-1].tool_calls)[0]["function"]["name"] == "get"


def test_the_result_of_a_tool_is_the_last_message():
    session = FakeSession(plain_facts(tool_format="hermes"), says("Sunny."))
    calls = json.dumps([{"id": "a", "function": {"name": "get", "arguments": "{}"}}])
    chat = (
        *ASK,
        Message("assistant", "", tool_calls=calls),
        Message("tool", "sun", tool_call_id="a"),
    )
    end = ask(session, OutputOptions(tools=TOOLS), THINK, chat)[-1]
    assert end.answer == "Sunny."
    assert "[tool]sun[assistant]" in session.opened[0].text


# arms


@pytest.mark.parametrize("arm", [THINK, VOTE, CHOOSE], ids=lambda arm: arm.name)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (OutputOptions(json_schema=SCHEMA), "a JSON schema"),
        (OutputOptions(tools=TOOLS), "tools"),
        (OutputOptions(raw=True), "a raw prompt"),
    ],
)
def test_an_arm_that_cannot_keep_the_form_answers_directly(arm, options, reason):
    session = FakeSession(plain_facts(tool_format="hermes"), lambda text: "")
    end = ask(session, options, arm)[-1]
    assert end.why == f"{arm.name} answered directly, because of {reason}"
    assert len(session.opened) == 1
    assert "step by step" not in session.opened[0].text


@given(
    arm=st.sampled_from([DIRECT, THINK, VOTE, CHOOSE]),
    style=st.sampled_from(["auto", "plain", "native"]),
    tags=st.booleans(),
    role=st.sampled_from(["user", "tool", "assistant"]),
    options=st.builds(
        OutputOptions,
        json_schema=st.sampled_from(["", SCHEMA]),
        tools=st.sampled_from(["", TOOLS]),
        tool_choice=st.sampled_from(["auto", "none", "required"]),
        raw=st.booleans(),
        count=st.integers(1, 3),
        top_logprobs=st.none() | st.just(2),
        stop=st.sampled_from([(), ("x",)]),
    ),
)
def test_an_adapted_arm_needs_no_other_adaptation(arm, style, tags, role, options):
    facts = plain_facts(**TAGS) if tags else plain_facts()
    messages = (Message(role, "x"),)
    arm = replace(arm, style=style)
    once, note = adapt_arm(arm, options, facts, messages)
    assert adapt_arm(once, options, facts, messages) == (once, "")
    assert bool(note) == (once.reasoning != arm.reasoning or once.readout != arm.readout)
    formed = bool(options.json_schema or (options.tools and options.tool_choice != "none"))
    if options.raw or role == "assistant" or (formed and not tags):
        assert once.reasoning == "direct"
        assert once.readout == "text"
    if not formed:
        assert once.loop_guard == arm.loop_guard


def test_without_options_the_arm_is_kept():
    session = FakeSession(plain_facts(), says("4"))
    events = list(answer(ASK, VOTE, session, GO_ON))
    assert [event.choice for event in events if isinstance(event, Vote)]
    assert "directly" not in events[-1].why
    stopped = ask(FakeSession(plain_facts(), says("4 END 5")), OutputOptions(stop=("END",)), VOTE)
    assert {event.answer for event in stopped if isinstance(event, Vote)} == {"4"}


# several answers


def several_session(**facts):
    texts = ("one END x", "two", "three END", "four")

    def says_by_seed(text, seed):
        written = text.rpartition("[assistant]")[2]
        own = texts[seed % 4]
        return own[len(written) :] if own.startswith(written) else ""

    return FakeSession(plain_facts(**facts), says_by_seed, seeded=True)


def test_several_answers_share_one_prefill():
    session = several_session()
    events = ask(session, OutputOptions(count=4, stop=("END",), top_logprobs=1))
    votes = [event for event in events if isinstance(event, Vote)]
    assert [v.answer for v in sorted(votes, key=lambda v: v.index)] == [
        "one",
        "two",
        "three",
        "four",
    ]
    assert {v.status for v in votes} == {"answered"}
    end = events[-1]
    assert (end.answer, end.status) == ("one", "complete")
    assert end.output_tokens == sum(v.tokens for v in votes)
    assert session.widest == 4
    prompt = len("^[user]What is it?[assistant]")
    assert session.computed <= prompt + 4 + end.output_tokens + 1
    by_answer = {v.index: "" for v in votes}
    for event in events:
        if isinstance(event, TokenLogprob):
            by_answer[event.index] += bytes(event.piece).decode()
    assert by_answer == {0: "one ", 1: "two", 2: "three ", 3: "four"}
    for first, second in pairwise(e for e in events if isinstance(e, TokenLogprob | Vote)):
        if isinstance(first, TokenLogprob):
            assert first.index == second.index
    assert not session.live


def test_each_of_several_answers_has_the_grammar():
    session = several_session()
    ask(session, OutputOptions(count=3, json_schema=SCHEMA))
    base, *forks = session.opened
    assert base.grammar is None
    assert len(forks) == 3
    assert all(fork.grammar is not None for fork in forks)


def test_answers_that_do_not_fit_wait_for_a_place():
    session = several_session()
    session.sequences = 2
    events = ask(session, OutputOptions(count=3))
    assert len([event for event in events if isinstance(event, Vote)]) == 3
    assert session.widest == 1


def test_calls_of_several_answers_are_in_their_votes():
    session = FakeSession(plain_facts(tool_format="hermes"), says(f"Yes. {CALL}"))
    events = ask(session, OutputOptions(count=2, tools=TOOLS))
    votes = [event for event in events if isinstance(event, Vote)]
    for each in (*votes, events[-1]):
        assert each.answer == "Yes."
        assert json.loads(each.tool_calls)[0]["function"]["name"] == "get"


def test_several_answers_that_think():
    session = FakeSession(plain_facts(**TAGS), says("so</think>yes", "<think>\n"))
    events = ask(session, OutputOptions(count=2), THINK)
    votes = [event for event in events if isinstance(event, Vote)]
    assert [(v.thinking, v.answer) for v in votes] == [("so", "yes")] * 2
    assert events[-1].thinking == "so"
    assert events[-1].thinking_tokens == sum(e.tokens for e in events if isinstance(e, Thought))


@pytest.mark.parametrize("at", range(-1, 5))
def test_a_cancelled_set_of_answers_keeps_what_it_has(at):
    session = several_session()
    control = FakeControl(cancelled_when=lambda: session.steps > at)
    events = ask(session, OutputOptions(count=4), control=control)
    assert events[-1].status == "stopped"
    assert not session.live


def test_answers_that_nobody_reads_on_are_closed():
    session = several_session()
    events = answer(ASK, DIRECT, session, GO_ON, options=OutputOptions(count=3))
    while session.widest < 3:
        next(events)
    events.close()
    assert not session.live


@pytest.mark.parametrize("at", range(-1, 5))
def test_spent_joules_end_several_answers(at):
    session = several_session()
    control = FakeControl(spent_when=lambda: session.steps > at)
    events = ask(session, OutputOptions(count=4), control=control)
    assert events[-1].status == "budget"
    assert events[-1].output_tokens > 0
    assert not session.live


# raw prompts and begun answers


def test_a_raw_prompt_is_the_prompt():
    session = FakeSession(plain_facts(), script("int main", "() {}"))
    end = ask(session, OutputOptions(raw=True), messages=(Message("user", "int main"),))[-1]
    assert session.opened[0].text == "^int main() {}"
    assert end.answer == "() {}"


def test_token_ids_are_the_prompt():
    session = FakeSession(plain_facts(vocabulary_tokens=200), script("hi", "!"))
    ask(session, OutputOptions(raw=True, prompt_tokens=(104, 105)))
    assert session.opened[0].text == "hi!"


@pytest.mark.parametrize(
    ("token", "vocabulary"), [(-1, 200), (200, 200), (1 << 40, 200), (1, None)]
)
def test_token_ids_that_the_model_does_not_have(token, vocabulary):
    session = FakeSession(plain_facts(vocabulary_tokens=vocabulary), says(""))
    with pytest.raises(InvalidRequest) as found:
        ask(session, OutputOptions(raw=True, prompt_tokens=(token,)))
    assert found.value.param == "prompt"
    assert not session.opened


def test_a_raw_prompt_that_does_not_fit():
    session = FakeSession(plain_facts(context_tokens=40), says(""))
    with pytest.raises(ContextOverflow):
        ask(session, OutputOptions(raw=True), messages=(Message("user", "x" * 39),))


def test_an_empty_raw_prompt_is_refused():
    session = FakeSession(plain_facts(), says(""))
    session.tokenize = lambda *_, **__: []  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest, match="empty"):
        ask(session, OutputOptions(raw=True), messages=(Message("user", ""),))


def test_the_begin_of_an_answer_is_continued():
    session = FakeSession(plain_facts(**TAGS), script("Once", " upon a time"))
    begun = (*ASK, Message("assistant", "Once"))
    end = ask(session, OutputOptions(), THINK, begun)[-1]
    assert end.answer == "upon a time"
    assert "the begin of the answer was given" in end.why
    assert session.opened[0].text.endswith("Once upon a time")


# what is refused


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (OutputOptions(stop=("a",) * 33), "stop"),
        (OutputOptions(logit_bias=((1, 1.0),) * 1025), "logit_bias"),
        (OutputOptions(logit_bias=((1, 1.0),)), "logit_bias"),  # of an unknown vocabulary
        (OutputOptions(stop=("",)), "stop"),
        (OutputOptions(stop=("x" * 300,)), "stop"),
        (OutputOptions(count=0), "n"),
        (OutputOptions(count=9), "n"),
        (OutputOptions(top_logprobs=-1), "top_logprobs"),
        (OutputOptions(top_logprobs=21), "top_logprobs"),
        (OutputOptions(tools=TOOLS, tool_choice="required", json_schema=SCHEMA), "response_format"),
        (OutputOptions(raw=True, tools=TOOLS), "tools"),
        (OutputOptions(raw=True, json_schema=SCHEMA), "response_format"),
        (OutputOptions(prompt_tokens=(1,)), "prompt"),
        (OutputOptions(json_schema="{"), "response_format"),
        (OutputOptions(tools="{"), "tools"),
        (OutputOptions(tools="[]"), "tools"),
        (OutputOptions(tools='[{"type": "retrieval"}]'), "tools"),
        (OutputOptions(tools='[{"function": {"name": "a b"}}]'), "tools"),
        (OutputOptions(tools='[{"function": {"name": "a", "parameters": 3}}]'), "tools"),
        (OutputOptions(tools='[{"function": {"name": "a", "description": []}}]'), "tools"),
        (OutputOptions(tools=json.dumps([TOOL, TOOL])), "tools"),
        (OutputOptions(tools=json.dumps([TOOL] * 129)), "tools"),
        (OutputOptions(tools="[" * 50_000), "tools"),
        (OutputOptions(tools="[" * 90 + "]" * 90), "tools"),
        (OutputOptions(tools=" " * 300_000), "tools"),
        (OutputOptions(tools=TOOLS, tool_choice="function:none"), "tool_choice"),
        (OutputOptions(tools=TOOLS, tool_choice="sometimes"), "tool_choice"),
        (
            OutputOptions(
                tools='[{"function": {"name": "a", "parameters": {"not": {}}}}]',
                tool_choice="required",
            ),
            "tools",
        ),
    ],
)
def test_options_that_are_refused(options, param):
    session = FakeSession(plain_facts(tool_format="hermes"), says(""))
    with pytest.raises(InvalidRequest) as found:
        ask(session, options)
    assert found.value.param == param
    assert not session.opened


@pytest.mark.parametrize("text", ['{"a": 1}', CALL])
def test_with_a_schema_an_answer_is_a_call_or_a_text_of_it(text):
    session = FakeSession(plain_facts(tool_format="hermes"), says(text))
    *events, end = ask(session, OutputOptions(tools=TOOLS, json_schema=SCHEMA))
    [sequence] = session.opened
    assert "whole: %json" in sequence.grammar.text
    assert (end.answer == text) == (text != CALL)
    assert any(isinstance(event, ToolCall) for event in events) == (text == CALL)


def test_calls_that_are_messages_exclude_a_schema():
    session = FakeSession(plain_facts(tool_format="harmony"), says(""))
    with pytest.raises(InvalidRequest, match="as messages") as found:
        ask(session, OutputOptions(tools=TOOLS, json_schema=SCHEMA))
    assert found.value.param == "response_format"


def test_tools_without_a_template_for_them_name_the_model():
    session = FakeSession(plain_facts(), says(""))
    with pytest.raises(InvalidRequest, match="fake") as found:
        ask(session, OutputOptions(tools=TOOLS))
    assert found.value.param == "tools"


@pytest.mark.parametrize("options", [OutputOptions(json_schema=SCHEMA), OutputOptions(tools=TOOLS)])
def test_a_begun_answer_has_no_other_form(options):
    begun = (*ASK, Message("assistant", "Once"))
    with pytest.raises(InvalidRequest) as found:
        build_output(options, DIRECT, plain_facts(tool_format="hermes"), begun)
    assert found.value.param == "messages"


def test_a_model_that_always_thinks_continues_no_answer():
    facts = plain_facts(think_open="<think>", think_close="</think>")
    with pytest.raises(InvalidRequest, match="always thinks"):
        build_output(OutputOptions(), DIRECT, facts, (*ASK, Message("assistant", "Once")))


def test_good_options_pass():
    check_options(OutputOptions(stop=("a",) * 4, count=8, top_logprobs=20))
