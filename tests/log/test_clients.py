"""Turns that clients of a server asked for: stored, filtered, summed by key, shown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.log.export import format_chat, write_csv, write_json_lines
from etui.log.filters import Sort, TurnFilter, build_clause
from etui.log.queries import LogReader
from etui.log.records import ChatRecord, build_row, parse_turn
from etui.log.text import format_turn, format_turns
from etui.log.totals import totals_sql
from etui.turn.record import Attribution, ClientRecord, TurnRecord
from tests.fixtures.turns import ATTRIBUTION, CLIENT, TOOL_CALLS

MakeTurn = Callable[..., TurnRecord]
Fill = Callable[..., LogReader]
TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
JOULES = st.none() | st.floats(0, 1e9)
ATTRIBUTIONS = st.builds(
    Attribution,
    st.sampled_from(("exclusive", "shapley", "tokens", "none")),
    st.none() | st.floats(0, 1),
    JOULES,
    JOULES,
    st.integers(0, 10**6),
    st.floats(1, 64),
)
CLIENTS = st.builds(ClientRecord, TEXTS, TEXTS, TEXTS, st.floats(0, 1e6))


@pytest.fixture
def served(make_turn: MakeTurn) -> list[TurnRecord]:
    """Three turns of clients and one of the chat."""
    asked = ("/v1/chat/completions", "/v1/responses", "/v1/chat/completions")
    keys = ("laptop", "laptop", "")
    clients = [ClientRecord(path, key) for path, key in zip(asked, keys, strict=True)]
    return [
        *(
            make_turn(number, joules=10.0 * number, client=client)
            for number, client in enumerate(clients, start=1)
        ),
        make_turn(4, joules=100.0),
    ]


@given(ATTRIBUTIONS | st.none(), CLIENTS | st.none(), st.sampled_from(("", TOOL_CALLS)))
def test_a_row_has_the_attribution_the_client_and_the_tool_calls(
    make_turn, attribution, client, tool_calls
):
    turn = make_turn(client=client, tool_calls=tool_calls)
    turn = replace(turn, energy=replace(turn.energy, attribution=attribution))
    assert parse_turn(build_row(turn)) == turn
    document = json.loads(json.dumps(turn.to_json()))
    assert ("client" in document) == (client is not None)
    assert ("tool_calls" in document) == bool(tool_calls)
    expected = attribution or Attribution("exclusive", batch_joules=12.34)
    found = document["energy"]["attribution"]
    assert (found["method"], found["share"]) == (expected.method, expected.share)
    assert found["batches"] == (expected.batches or None)


def test_turns_are_found_by_key_and_by_endpoint(fill, served):
    log = fill(*served)

    def numbers(**filters: str) -> list[int]:
        found = log.list_turns(TurnFilter(**filters), sort=Sort.TIME, descending=False)
        assert log.count_turns(TurnFilter(**filters)) == len(found)
        return [int(turn.turn_id[4:], 16) for turn in found]

    assert numbers(key="laptop") == [1, 2]
    assert numbers(key="") == [3]
    assert numbers(endpoint="/v1/chat/completions") == [1, 3]
    assert numbers(key="laptop", endpoint="/v1/responses", search="joule") == [2]
    assert numbers(key="nobody") == []
    assert numbers() == [1, 2, 3, 4]
    first, *_, last = log.list_turns(sort=Sort.TIME, descending=False)
    assert (first.endpoint, first.key) == ("/v1/chat/completions", "laptop")
    assert last.endpoint is last.key is None


def test_totals_by_key_sum_to_the_total(fill, served):
    log = fill(*served)
    by_key = {total.key: total for total in log.totals("key")}
    assert {key: total.joules for key, total in by_key.items()} == {"laptop": 30.0, "": 130.0}
    assert sum(total.turns for total in by_key.values()) == 4
    (laptop,) = log.totals("key", TurnFilter(key="laptop"))
    assert (laptop.turns, laptop.joules) == (2, 30.0)
    found = log.totals("key", TurnFilter(search="joule"))
    assert sum(total.turns for total in found) == 4
    models = log.totals("model", TurnFilter(key="laptop"))
    assert [(total.key, total.joules) for total in models] == [("smollm2-135m", 30.0)]
    for sql, values in (
        totals_sql("key", build_clause(TurnFilter(key=key))) for key in ("a", None)
    ):
        plan = [str(row["detail"]) for row in log.select(f"EXPLAIN QUERY PLAN {sql}", values)]
        reads = [step for step in plan if "turns" in step.split()[1:2]]
        assert reads
        assert all("turns_by_key" in step or "turns_history" in step for step in reads)


def test_the_list_names_the_client_only_if_there_is_one(fill, served):
    log = fill(*served)
    lines = format_turns(log.list_turns(sort=Sort.TIME, descending=False), None)
    assert "CLIENT" in lines[0]
    assert "laptop /v1/responses" in lines[2]
    assert "  /v1/chat/completions  " in lines[3]
    assert lines[4].split()[-5:] == ["-", *["What", "is", "a", "joule?"]]
    alone = format_turns(log.list_turns(limit=1), None)
    assert "CLIENT" not in alone[0]
    assert all(len(line) <= 170 for line in format_turns(log.list_turns(), 170))


def show(turn: TurnRecord) -> str:
    return "\n".join(" ".join(line.split()) for line in format_turn(turn, []))


def test_a_turn_is_shown_with_its_client_its_share_and_its_calls(make_turn):
    turn = make_turn(client=CLIENT, tool_calls=TOOL_CALLS)
    text = show(replace(turn, energy=replace(turn.energy, attribution=ATTRIBUTION)))
    assert "client key laptop, /v1/responses, request req-7, 0.25 s in the queue" in text
    assert (
        "attribution 30 % of 41.1 J in 52 batches of 3.5 requests, by Shapley values "
        "(0.700 J from the share by tokens)" in text
    )
    assert "tool calls:\n" + TOOL_CALLS in text
    alone = replace(make_turn(), energy=replace(turn.energy, attribution=Attribution("exclusive")))
    assert "attribution" not in show(alone)
    assert "client" not in show(alone)


@pytest.mark.parametrize(
    ("attribution", "text"),
    [
        (
            Attribution("tokens", 0.5, 10.0, None, 1, 2.0),
            "attribution 50 % of 10.0 J in 1 batch of 2.0 requests, by tokens",
        ),
        (
            Attribution("none", None),
            "attribution others used the machine, and the part of this turn is not known",
        ),
        (
            Attribution("shapley", None, None, None, 3, 2.0),
            "attribution an unknown share of unmeasured in 3 batches",
        ),
    ],
)
def test_an_attribution_says_what_is_not_known(make_turn, attribution, text):
    turn = make_turn()
    assert text in show(replace(turn, energy=replace(turn.energy, attribution=attribution)))


def test_exports_have_the_client_and_its_calls(make_turn):
    turn = make_turn(client=CLIENT, tool_calls=TOOL_CALLS, answer="")
    turn = replace(turn, energy=replace(turn.energy, attribution=ATTRIBUTION))
    file = io.StringIO()
    write_json_lines([turn], file)
    document = json.loads(file.getvalue())
    assert document["client"]["key"] == "laptop"
    assert document["tool_calls"] == json.loads(TOOL_CALLS)
    file = io.StringIO()
    write_csv([turn], file)
    (row,) = csv.DictReader(io.StringIO(file.getvalue()))
    assert (row["client_endpoint"], row["client_queue_seconds"]) == ("/v1/responses", "0.25")
    assert (row["energy_attribution_method"], row["energy_attribution_batches"]) == (
        "shapley",
        "52",
    )
    chat = ChatRecord("c1", "2026-11-24T09:00:00.000+00:00", "Chat", None)
    assert "*calls f*" in format_chat(chat, [turn])
