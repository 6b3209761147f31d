"""Turns and chats in forms that other programs read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from etui.log.export import format_chat, write_csv, write_json_lines
from etui.log.records import ChatRecord
from etui.turn.record import TurnRecord

MakeTurn = Callable[..., TurnRecord]
CHAT = ChatRecord("c1", "2026-11-24T09:00:00.000+00:00", "Two\nlines", "Be brief.")


def test_json_lines_hold_the_document_of_ask_and_the_route(make_turn):
    turns = [make_turn(1, answer="a\nb"), make_turn(2, joules=None)]
    file = io.StringIO()
    write_json_lines(turns, file)
    documents = [json.loads(line) for line in file.getvalue().splitlines()]
    for turn, document in zip(turns, documents, strict=True):
        assert document.pop("trace") == turn.trace
        assert document.pop("system") == turn.system
        assert document.pop("energy_record")["source"]["id"] == turn.turn_id
        assert document == turn.to_json()


def test_csv_has_a_column_for_every_number_and_leaves_the_unknown_empty(make_turn):
    file = io.StringIO()
    write_csv([make_turn(1, query='a "quoted"\nquestion, é'), make_turn(2, joules=None)], file)
    first, second = csv.DictReader(io.StringIO(file.getvalue()))
    assert first["query"] == 'a "quoted"\nquestion, é'
    assert float(first["energy_joules"]) == 12.34
    assert json.loads(first["energy_channels"]) == {"gpu:GPU-1": 12.34}
    assert (second["energy_joules"], second["energy_kind"]) == ("", "")


def test_a_chat_to_read(make_turn):
    first = make_turn(1, query="one\ntwo\x1b[31m", answer="**bold**")
    error, parent = "the engine died", first.turn_id
    failed = make_turn(2, answer="", status="error", error=error, joules=None, parent_id=parent)
    turns = [first, failed]
    text = format_chat(CHAT, turns)
    assert text.startswith("# Two lines\n\n")
    assert "2 turns, 12.3 J, 3.43 mWh" in text
    assert "> one\n> two␛[31m\n\n**bold**\n\n*smollm2-135m: 20 tokens" in text
    assert "12.34 ± 0.41 J (counter)" in text
    assert "*no answer (error: the engine died)*" in text
    assert "energy unmeasured" in text


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ("Look:\n\n```python\nprint(", "print(\n```"),
        ("````md\n```\na\n```", "```\n````"),
        ("~~~\ncode\n~~~\nand ```", "and ```"),
        ("```\ncode\n```", "code\n```"),
    ],
)
def test_a_fence_that_was_cut_off_is_closed(make_turn, answer, end):
    text = format_chat(CHAT, [make_turn(1, answer=answer, status="stopped")])
    assert f"{end}\n\n*smollm2-135m: " in text


def test_the_total_of_a_chat_labels_its_estimates(make_turn):
    turn = make_turn(1, joules=100.0)
    energy = replace(turn.energy, kind="estimate")
    estimated = replace(turn, turn_id="b", parent_id=turn.turn_id, energy=energy)
    text = format_chat(CHAT, [turn, estimated])
    assert "2 turns, 100 J, 27.8 mWh and ≈100 J, ≈28 mWh" in text
    assert "1 turn, unmeasured" in format_chat(CHAT, [make_turn(3, joules=None)])
