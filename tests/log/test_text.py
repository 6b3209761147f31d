"""Speculation in the text of a turn, and in its exports."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from etui.log.export import write_csv, write_json_lines
from etui.log.text import format_totals, format_turns
from etui.tui.history.screen import turn_texts
from etui.turn.facts import list_facts
from etui.turn.record import Tokens
from etui.turn.text import energy_line
from tests.fixtures.turns import SPECULATION


@pytest.fixture
def drafted(make_turn):
    return make_turn(speculation=SPECULATION)


def test_the_facts_of_a_turn_tell_verify_draft_and_waste_apart(drafted):
    facts = dict(list_facts(drafted))
    assert facts["speculation"] == "lookup+draft: drafted 12, accepted 9 (75 %) in 3 batches"
    assert facts["  verify"] == "6.0 ± 0.3 J (counter)"
    assert facts["  draft"] == "1.5 ± 0.2 J (counter)"
    assert facts["  waste"] == "1.20 ± 0.06 J (counter)"
    assert facts["  per accepted"] == "0.700 ± 0.049 J/token"
    lookup = replace(SPECULATION, method="lookup", draft_seconds=0.0, draft_joules=0.0)
    facts = dict(list_facts(replace(drafted, speculation=lookup)))
    assert "  draft" not in facts
    assert "  verify" in facts


def test_unmeasured_speculation_is_written_so(make_turn):
    nothing = {
        f"{name}_{what}": None
        for name in ("verify", "draft", "accepted", "waste")
        for what in ("joules", "uncertainty")
    }
    turn = make_turn(joules=None, speculation=replace(SPECULATION, **nothing))
    facts = dict(list_facts(turn))
    assert facts["  verify"] == facts["  draft"] == facts["  waste"] == "unmeasured"
    assert "  per accepted" not in facts


@pytest.mark.parametrize("asked", ["lookup", "draft", "auto"])
def test_a_turn_that_drafted_nothing_says_so(make_turn, asked):
    turn = make_turn(settings={"speculate": asked})
    assert dict(list_facts(turn))["speculation"] == f"{asked}: nothing drafted"
    assert ("nothing drafted" in energy_line(turn)) == (asked != "auto")


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"speculate": "off"}},
        {"reasoning": "vote"},
        {"settings": {"speculate": "mtp", "ended": "no speculation: the file has no heads"}},
        {"status": "error"},
        {"tokens": Tokens(prompt=5, cached=0, computed=5, thinking=0, output=0)},
    ],
)
def test_where_nothing_could_be_drafted_nothing_is_said(make_turn, changes):
    turn = make_turn(**{"settings": {"speculate": "lookup"}, **changes})
    assert "speculation" not in dict(list_facts(turn))
    assert "drafted" not in energy_line(turn)


def test_exports_have_the_drafts_and_leave_them_empty_without(drafted, make_turn):
    lines, table = io.StringIO(), io.StringIO()
    write_json_lines([drafted, make_turn(2)], lines)
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert first["speculation"] == SPECULATION.to_json()
    assert second["speculation"] is None
    write_csv([drafted, make_turn(2)], table)
    with_drafts, without = csv.DictReader(io.StringIO(table.getvalue()))
    assert with_drafts["speculation_method"] == "lookup+draft"
    assert with_drafts["speculation_verify_joules"] == "6.0"
    names = [name for name in without if name.startswith("speculation_")]
    assert len(names) == 17
    assert {without[name] for name in names} == {""}


@pytest.mark.parametrize(("output", "shown"), [(0, "–"), (8, "0.500 J/token")])
def test_a_turn_without_tokens_has_no_joules_per_token(make_turn, fill, output, shown):
    turn = make_turn(1, joules=4.0)
    turn = replace(
        turn,
        tokens=replace(turn.tokens, output=output),
        energy=replace(turn.energy, joules_per_token=4.0 / output if output else None),
    )
    log = fill(turn)
    [summary] = log.list_turns()
    head, row = format_turns([summary], None)
    at = head.index("PER TOKEN")
    assert row[at:].startswith(shown)
    assert ("0.500 J/tok," in dict(list_facts(turn))["energy"]) == bool(output)
    assert turn_texts(summary)["per_token"] == ("–" if not output else "0.500 J")
    [total] = log.totals("model")
    assert shown in format_totals("model", [total])[-1]
