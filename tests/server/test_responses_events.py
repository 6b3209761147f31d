"""The events of a streamed response: their order, numbers and ids, and what they add up to.

The official client's own accumulator reads them, which raises where ids or indices do not fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from etui.events import TokenLogprob, ToolCall
from etui.server.deltas import Delta, WholeAnswer
from etui.server.responses import ResponseEvents, StreamEvent, build_items
from etui.turn.record import Tokens, TurnRecord
from tests.fixtures.turns import TURN, UNMEASURED

CALLS = json.dumps(
    [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
    ]
)
PLAIN = replace(TURN, answer="Hello world", thinking="", votes=(), probes=())
SENT = TypeAdapter(ResponseStreamEvent)
ECHO: dict[str, Any] = {
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "temperature": None,
    "instructions": None, "metadata": {},
}  # fmt: skip


def stream(record: TurnRecord, *deltas: Delta) -> list[StreamEvent]:
    response = ResponseEvents(record.turn_id, 1_700_000_000, "balanced", ECHO)

    def every() -> Iterator[StreamEvent]:
        yield from response.begin()
        for delta in deltas:
            yield from response.take(delta)
        yield from response.end(record)

    return list(every())


def texts(*pieces: str) -> list[Delta]:
    return [Delta(content=piece) for piece in pieces]


def call(index: int, call_id: str, name: str, arguments: str) -> Delta:
    return Delta(tool=ToolCall(0, index, call_id, name, arguments))


def kinds(events: Iterable[StreamEvent]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def read_by_client(events: Iterable[StreamEvent]) -> Response:
    """Return the last response; the client's types and its accumulator take every event."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    last = None
    for event in events:
        parsed = SENT.validate_python(event)
        assert parsed.type == event["type"]
        state.handle_event(parsed)
        last = parsed
    return last.response  # type: ignore[union-attr, no-any-return]


def test_an_answer_is_one_message_in_the_order_of_the_protocol() -> None:
    events = stream(PLAIN, *texts("Hello", " world"))
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = read_by_client(events)
    assert response.output_text == "Hello world"
    assert response.id == f"resp_{TURN.turn_id}"
    assert response.status == "completed"
    assert response.model == TURN.model


def test_thinking_comes_first_as_an_item_of_its_own() -> None:
    record = replace(PLAIN, thinking="Units…")
    events = stream(record, Delta(thinking="Uni"), Delta(thinking="ts…"), *texts("Hello world"))
    assert kinds(events)[2:9] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    reasoning, message = read_by_client(events).output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert reasoning.content[0].text == "Units…"
    assert message.type == "message"


def test_each_call_of_a_tool_is_an_item_with_its_arguments() -> None:
    record = replace(PLAIN, answer="Let me see.", tool_calls=CALLS)
    events = stream(
        record,
        *texts("Let me see."),
        call(0, "c1", "add", ""),
        call(0, "c1", "", '{"a"'),
        call(0, "c1", "", ": 1}"),
        call(1, "c2", "sub", "{}"),
    )
    message, add, sub = read_by_client(events).output
    assert message.type == "message"
    assert (add.type, add.call_id, add.name, add.arguments) == (  # type: ignore[union-attr]
        "function_call", "c1", "add", '{"a": 1}',
    )  # fmt: skip
    assert sub.name == "sub"  # type: ignore[union-attr]
    assert kinds(events).count("function_call_arguments.delta") == 3
    done = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in done] == ['{"a": 1}', "{}"]
    assert [event["output_index"] for event in done] == [1, 2]


def test_log_probabilities_are_in_the_deltas_and_in_the_end() -> None:
    logprob = TokenLogprob(0, (72, 105), -0.25, (((72, 105), -0.25), ((0xE2,), -2.0)))
    events = stream(
        replace(PLAIN, answer="Hi"), *texts("H"), Delta(content="i", logprobs=(logprob,))
    )
    found = [e["logprobs"] for e in events if e["type"] == "response.output_text.delta"]
    assert found[0] == []
    assert found[1][0]["token"] == "Hi"
    part = read_by_client(events).output[0].content[0]  # type: ignore[union-attr, index]
    assert part.logprobs[0].logprob == -0.25  # type: ignore[union-attr, index]
    assert part.logprobs[0].top_logprobs[1].token == "\N{REPLACEMENT CHARACTER}"  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("turn_status", "kind", "status", "item"),
    [
        ("complete", "completed", "completed", "completed"),
        ("truncated", "incomplete", "incomplete", "incomplete"),
        ("budget", "incomplete", "incomplete", "incomplete"),
        ("stopped", "failed", "failed", "incomplete"),
        ("error", "failed", "failed", "incomplete"),
    ],
)
def test_the_last_event_says_how_it_ended(
    turn_status: str, kind: str, status: str, item: str
) -> None:
    events = stream(replace(PLAIN, status=turn_status), *texts("Hello world"))
    assert kinds(events)[-1] == kind
    response = read_by_client(events)
    assert response.status == status
    assert response.output[0].status == item  # type: ignore[union-attr]
    assert (response.error is not None) == (status == "failed")
    assert (response.incomplete_details is not None) == (status == "incomplete")


def test_the_item_is_closed_before_the_meter_has_settled() -> None:
    response = ResponseEvents("t1", 0, "balanced", ECHO)
    events = [
        *response.begin(),
        *response.take(Delta(content="Hi")),
        *response.take(Delta(finish="stop")),
    ]
    assert kinds(events)[-1] == "output_item.done"
    assert events[-1]["item"]["status"] == "completed"
    assert kinds(response.end(PLAIN)) == ["completed"]


def test_an_answer_without_text_is_an_empty_message() -> None:
    response = read_by_client(stream(replace(PLAIN, answer="", status="truncated")))
    assert response.output_text == ""
    assert len(response.output) == 1


def test_what_was_streamed_stays_where_the_record_left_out_a_loop() -> None:
    events = stream(replace(PLAIN, answer="la"), *texts("la", " la", " la"))
    assert read_by_client(events).output_text == "la la la"


def test_a_failure_without_a_record_ends_the_open_item() -> None:
    response = ResponseEvents("t1", 0, "balanced", ECHO)
    events = [*response.begin(), *response.take(Delta(content="Hel")), *response.fail("gone")]
    assert kinds(events)[-2:] == ["output_item.done", "failed"]
    last = read_by_client(events)
    assert last.error is not None
    assert last.error.message == "gone"
    assert last.usage is None


def test_the_usage_has_tokens_and_joules() -> None:
    record = replace(PLAIN, tokens=Tokens(40, 30, 10, 8, 20))
    usage = stream(record, *texts("x"))[-1]["response"]["usage"]
    assert usage["input_tokens"] == 40
    assert usage["input_tokens_details"] == {"cached_tokens": 30, "cache_write_tokens": 0}
    assert usage["output_tokens"] == 20
    assert usage["output_tokens_details"] == {"reasoning_tokens": 8}
    assert usage["total_tokens"] == 60
    assert usage["energy"]["joules"] == TURN.energy.joules
    unmeasured = stream(replace(record, energy=UNMEASURED))[-1]["response"]
    assert unmeasured["usage"]["energy"]["joules"] is None
    assert unmeasured["energy"]["energy_joules"] is None


pieces = st.builds(Delta, content=st.text(max_size=3), thinking=st.text(max_size=3))
calls = st.lists(st.lists(st.text("{}a:1", max_size=3), min_size=1, max_size=3), max_size=3)


@given(decoded=st.lists(pieces, max_size=8), called=calls)
def test_any_order_of_events_is_a_valid_stream(
    decoded: list[Delta], called: list[list[str]]
) -> None:
    parts = [
        call(index, f"c{index}", "f" if first == 0 else "", text)
        for index, arguments in enumerate(called)
        for first, text in enumerate(arguments)
    ]
    tool_calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "".join(a)}}
        for i, a in enumerate(called)
    ]
    record = replace(
        PLAIN,
        answer="".join(delta.content for delta in decoded),
        thinking="".join(delta.thinking for delta in decoded),
        tool_calls=json.dumps(tool_calls) if tool_calls else "",
    )
    events = stream(record, *decoded, *parts)
    response = read_by_client(events)
    assert response.output_text == record.answer
    found = [item for item in response.output if item.type == "function_call"]
    assert [item.arguments for item in found] == ["".join(a) for a in called]
    opened = [e["item"]["id"] for e in events if e["type"] == "response.output_item.added"]
    closed = [e["item"]["id"] for e in events if e["type"] == "response.output_item.done"]
    assert opened == closed == [item.id for item in response.output]
    assert len(set(opened)) == len(opened)


def test_the_items_of_a_whole_response_are_those_of_its_record() -> None:
    items = build_items("t1", WholeAnswer(0, "", "t", CALLS, (), "tool_calls"))
    documents = [item.document("completed") for item in items]
    assert [document["type"] for document in documents] == [
        "reasoning",
        "function_call",
        "function_call",
    ]
