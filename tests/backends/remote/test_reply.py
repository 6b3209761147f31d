"""Pieces of one answer become events, texts, tokens and phases."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.remote._answer import read_options
from etui.backends.remote._reply import (
    Reply,
    ThinkingSplitter,
    build_finished,
    describe_notes,
    find_prefill_end,
)
from etui.backends.remote._stream_parts import (
    StreamPart,
    Timings,
    Usage,
)
from etui.events import Answer, Event, Thought, TokenLogprob, ToolCall
from etui.multiple_choice import Option


def split(splitter: ThinkingSplitter, pieces: list[str]) -> tuple[str, str]:
    found = [*(splitter.push(piece) for piece in pieces), splitter.finish()]
    return "".join(thought for thought, _ in found), "".join(text for _, text in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>why</think>\n\n42", ("why", "42")),
        ("\n<think>why</think>42", ("why", "42")),
        ("42", ("", "42")),
        ("<thin", ("", "<thin")),
        ("<b>42</b> </think>", ("", "<b>42</b> </think>")),
        ("<think>never ends", ("never ends", "")),
        ("", ("", "")),
    ],
)
@given(data=st.data())
def test_tags_at_the_begin_are_thinking(text, expected, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    assert split(ThinkingSplitter("</think>", "<think>"), pieces) == expected


@given(st.lists(st.text("ab Answer:\n", max_size=6), max_size=12))
def test_a_marker_ends_the_thinking_once(pieces):
    thought, text = split(ThinkingSplitter("Answer:", thinks=True), pieces)
    whole = "".join(pieces)
    before, marker, after = whole.partition("Answer:")
    assert thought == before
    assert text.strip() == (after.strip() if marker else "")


def test_text_without_tags_is_the_answer():
    assert split(ThinkingSplitter(), ["<think>", "x"]) == ("", "<think>x")


OPTIONS = tuple(Option(letter, letter.lower()) for letter in "ABCD")


def take(reply: Reply, *pieces: StreamPart) -> list[Event]:
    found = []
    for number, piece in enumerate(pieces):
        reply.take_facts(piece)
        found += list(reply.take(piece, 1_000 * (number + 1)))
    return found


def test_thinking_answer_and_their_times():
    reply = Reply()
    events = take(
        reply,
        StreamPart(thinking="a"),
        StreamPart(thinking="b"),
        StreamPart(text="c"),
        StreamPart(finish="stop"),
    )
    assert events == [Thought(1000, "a", 1), Thought(2000, "b", 1), Answer(3000, "c", 1)]
    assert (reply.thinking, reply.answer, reply.finish) == ("ab", "c", "stop")
    assert (reply.first_ns, reply.thinking_end_ns, reply.last_ns) == (1000, 3000, 3000)


def test_tokens_are_those_of_the_server_where_it_reports_them():
    reply = Reply()
    take(reply, StreamPart(thinking="a"), StreamPart(text="b"), StreamPart(text="c"))
    assert reply.count_tokens() == (1, 3)
    reply.take_facts(StreamPart(usage=Usage(output_tokens=30)))
    assert reply.count_tokens() == (10, 30)
    reply.take_facts(StreamPart(usage=Usage(output_tokens=30, thinking_tokens=12)))
    assert reply.count_tokens() == (12, 30)
    reply.take_facts(StreamPart(usage=Usage(output_tokens=30, thinking_tokens=99)))
    assert reply.count_tokens() == (30, 30)


def test_probabilities_give_events_and_a_confidence():
    half = TokenLogprob(0, (97,), math.log(0.5), (((97,), math.log(0.5)),))
    reply = Reply(with_logprobs=True)
    events = take(reply, StreamPart(text="a", probabilities=(half,)), StreamPart(text="a"))
    assert events[1] == TokenLogprob(1000, (97,), math.log(0.5), half.top)
    assert reply.mean_probability == pytest.approx(0.5)
    assert Reply().mean_probability is None


def test_tool_calls_come_in_parts():
    reply = Reply()
    events = take(
        reply,
        StreamPart(tools=(ToolCall(0, 0, "c1", "add", ""),)),
        StreamPart(tools=(ToolCall(0, 0, "", "", '{"a":'),)),
        StreamPart(tools=(ToolCall(0, 0, "", "", " 1}"), ToolCall(0, 1, "c2", "sub", "{}"))),
        StreamPart(finish="tool_calls"),
    )
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [call.name for call in calls] == ["add", "", "", "sub"]
    assert [call.index for call in calls] == [0, 0, 0, 1]
    assert json.loads(reply.tool_calls) == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
    ]
    assert not reply.is_thinking


def test_whole_calls_with_the_same_index_are_several():
    reply = Reply()
    take(reply, StreamPart(tools=(ToolCall(0, 0, "", "add", "{}"),)))
    take(reply, StreamPart(tools=(ToolCall(0, 0, "", "add", "{}"),)))
    assert [call["id"] for call in json.loads(reply.tool_calls)] == ["call_0", "call_1"]


@given(st.lists(st.text("ab<>/think \n", max_size=6), max_size=10), st.booleans())
def test_no_text_is_lost(texts, thinks):
    reply = Reply(ThinkingSplitter("</think>", "<think>", thinks=thinks))
    events = take(reply, *(StreamPart(text=text) for text in texts), StreamPart(finish="stop"))
    shown = "".join(e.text for e in events if isinstance(e, Answer | Thought))
    assert shown == "".join(e.text for e in events if isinstance(e, Thought)) + "".join(
        e.text for e in events if isinstance(e, Answer)
    )
    kept = "".join("".join(texts).split())
    for tag in ("<think>", "</think>"):
        kept = kept if tag in "".join(shown.split()) else kept.replace(tag, "", 1)
    assert "".join((reply.thinking + reply.answer).split()) == kept
    assert sum(e.tokens for e in events if isinstance(e, Answer | Thought)) == sum(
        bool(text) for text in texts
    )


@pytest.mark.parametrize(
    ("decode", "end"),
    [(None, 4_000), (0.000_005, 4_000), (0.000_006_5, 2_500), (0.000_02, 1_000), (0.0, 4_000)],
)
def test_the_prefill_ends_where_the_servers_decode_begins(decode, end):
    reply = Reply()
    list(reply.take(StreamPart(text="a"), 4_000))
    list(reply.take(StreamPart(text="b"), 9_000))
    reply.take_facts(StreamPart(timings=Timings(decode)))
    assert find_prefill_end(reply, 1_000, 9_000) == end


def finish(*requests: list[Reply]):
    return build_finished(
        requests, start_ns=0, now_ns=9_000, status="complete", why="", estimated_prompt=7
    )


def test_the_last_event_of_two_requests_has_the_tokens_of_both():
    first, second = Reply(), Reply()
    take(first, StreamPart(thinking="hm", usage=Usage(10, 0, 4)))
    take(second, StreamPart(text="42", usage=Usage(20, 15, 2)))
    end = finish([first], [second])
    assert (end.prompt_tokens, end.cached_tokens, end.computed_tokens) == (30, 15, 15)
    assert (end.thinking_tokens, end.output_tokens) == (4, 6)
    assert (end.thinking, end.answer) == ("hm", "42")


def test_several_answers_of_one_request_share_its_prompt_and_its_usage():
    first, second = Reply(), Reply()
    take(first, StreamPart(text="a", usage=Usage(10, 0, 8)))
    take(second, StreamPart(text="b"))
    end = finish([first, second])
    assert (end.prompt_tokens, end.output_tokens) == (10, 8)
    assert describe_notes([[first, second]], []) == []


def test_a_count_of_one_of_several_answers_is_not_taken_for_all():
    replies = [Reply(), Reply()]
    take(replies[0], *(StreamPart(text="a") for _ in range(4)), StreamPart(usage=Usage(10, 0, 4)))
    take(replies[1], *(StreamPart(text="a") for _ in range(4)))
    assert finish(replies).output_tokens == 8
    assert "counted by pieces" in describe_notes([replies], [])[0]


def test_an_answer_without_anything():
    end = finish([Reply()])
    assert (end.end_ns, end.prefill_end_ns, end.first_token_ns) == (9_000, 9_000, None)
    assert (end.prompt_tokens, end.output_tokens) == (7, 0)
    assert describe_notes([[Reply()]], []) == ["prompt tokens are an estimate"]


def test_a_load_of_the_server_is_said():
    reply = Reply()
    reply.take_facts(StreamPart(usage=Usage(1, 0, 0), timings=Timings(load_seconds=3.0)))
    assert describe_notes([[reply]], []) == ["the server loaded the model for 3.00 s"]


def probability(*top: tuple[str, float]) -> TokenLogprob:
    tops = tuple((tuple(text.encode()), math.log(p)) for text, p in top)
    return TokenLogprob(0, tops[0][0], tops[0][1], tops)


def test_letters_are_summed_over_both_forms():
    first = probability(("B", 0.3), (" B", 0.2), ("A", 0.25), ("The", 0.1))
    reading = read_options(first, OPTIONS)
    assert reading.best == ("B", pytest.approx(0.5 / 0.75))
    assert reading.mass == pytest.approx(0.75)
    assert reading.margin == pytest.approx(0.25 / 0.75)
    assert dict(reading.probabilities)["D"] == 0.0


def test_no_letter_is_no_reading():
    assert read_options(probability(("The", 0.9)), OPTIONS) is None
    assert read_options(None, OPTIONS) is None
