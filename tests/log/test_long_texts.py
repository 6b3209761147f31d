"""What the log keeps of long texts: begin, end and length, and that every view says so."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st

from etui.log.export import build_turn_document, write_csv
from etui.log.filters import TurnFilter
from etui.log.queries import LogReader
from etui.log.records import REFUSED_BYTES, TURN_BYTES, build_row
from etui.log.text import format_turn, format_turns
from etui.log.writer import TurnWriter
from etui.text import cut_middle
from etui.turn.record import CUT, ClientRecord, Tokens, VoteRecord

NOTHING = Tokens(0, 0, 0, 0, 0)
CLIENT = ClientRecord("/v1/chat/completions", "laptop", "req_1")
LONG = "begin " + "word and word " * 560_000 + " end"


def refused(make_turn, number: int = 1, **changes):
    usual = {"query": LONG, "client": CLIENT, "tokens": NOTHING, "status": "error", "answer": ""}
    return make_turn(number, joules=None, **{**usual, "error": "too long", **changes})


def log_bytes(config) -> int:
    return sum(file.stat().st_size for file in config.home.glob("etui.db*"))


def test_refused_questions_of_clients_hardly_grow_the_log(config, make_turn):
    with TurnWriter(config) as log:
        log.save(make_turn(0))
    before = log_bytes(config)
    with TurnWriter(config) as log:
        for number in range(1, 13):
            log.save(refused(make_turn, number))
    assert log_bytes(config) - before < 12 * 12_000  # 72 of them take less than 1 MB
    with LogReader(config) as reader:
        turn = reader.find_turn(refused(make_turn).turn_id)
    assert turn is not None
    assert turn.query.startswith("begin ")
    assert turn.query.endswith(" end")
    assert f"{len(LONG):,} bytes" in turn.query
    assert len(turn.query.encode()) <= REFUSED_BYTES
    assert turn.settings[CUT] == {"query": len(LONG)}


def test_a_client_that_left_the_queue_leaves_as_little(make_turn):
    row = build_row(refused(make_turn, status="stopped", system=LONG))
    assert len(row["query"]) + len(row["system"]) <= REFUSED_BYTES


def test_questions_of_the_user_and_answered_ones_stay_whole(make_turn):
    long = "text " * 20_000
    for turn in (
        refused(make_turn, query=long, client=None),
        make_turn(1, query=long, client=CLIENT),
    ):
        row = build_row(turn)
        assert row["query"] == long
        assert CUT not in json.loads(row["settings"])


def test_all_texts_of_a_turn_share_a_limit(make_turn):
    vote = VoteRecord(0, "é" * 900_000, "", 9, 1.0)
    call = [{"function": {"name": "find", "arguments": "x" * 700_000}}]
    turn = make_turn(
        1, query="q" * 2_000_000, answer="short", votes=(vote,), tool_calls=json.dumps(call)
    )
    row = build_row(turn)
    assert row["answer"] == "short"
    assert json.loads(row["tool_calls"])[0]["function"]["name"] == "find"
    texts = [value for value in row.values() if isinstance(value, str)]
    assert 0.9 * TURN_BYTES < sum(len(text.encode()) for text in texts) < 1.02 * TURN_BYTES
    cut = json.loads(row["settings"])[CUT]
    assert cut["query"] == 2_000_000
    assert cut["votes"] >= 1_800_000
    assert "answer" not in cut


def test_every_view_says_what_was_cut(config, make_turn):
    with TurnWriter(config) as log:
        log.save(refused(make_turn))
    with LogReader(config) as reader:
        (listed,) = reader.list_turns(TurnFilter())
        turn = reader.find_turn(listed.turn_id)
    assert turn is not None
    assert listed.kept == "part"
    assert "[error] [cut] begin" in format_turns([listed], None)[1]
    shown = "\n".join(format_turn(turn, []))
    assert "question of 7.84 MB: the log keeps begin and end" in shown
    assert "the middle was not kept" in shown
    assert build_turn_document(turn)["settings"][CUT] == {"query": len(LONG)}
    csv = StringIO()
    write_csv([turn], csv)
    assert f'""cut"": {{""query"": {len(LONG)}}}' in csv.getvalue()


def test_a_turn_read_back_and_saved_again_is_the_same(config, make_turn):
    with TurnWriter(config) as log:
        log.save(refused(make_turn))
        log.save(make_turn(2, query="é" * 1_500_000))
    with LogReader(config) as reader:
        first = list(reader.turns())
    assert [build_row(turn) for turn in first] == [
        build_row(replace(turn, settings=dict(turn.settings))) for turn in first
    ]
    for turn in first:
        assert json.loads(build_row(turn)["settings"]) == turn.settings
        assert build_row(turn)["query"] == turn.query


@given(st.text(max_size=3_000), st.integers(100, 4_000))
def test_a_cut_text_fits_and_keeps_both_ends(text: str, most: int) -> None:
    cut = cut_middle(text, most)
    if len(text.encode()) <= most:
        assert cut == text
    else:
        assert len(cut.encode()) <= most
        head, tail = cut.split("\n[… ", 1)[0], cut.rsplit(" …]\n", 1)[1]
        assert text.startswith(head)
        assert text.endswith(tail)
