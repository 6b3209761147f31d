"""The writer: what is saved comes back, and what cannot be saved is never lost."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.errors import LogUnavailable
from etui.log import row_files as unsaved
from etui.log import writer
from etui.log.chat_queries import list_chats
from etui.log.database import SET_NAME, open_for_writing
from etui.log.filters import TurnFilter
from etui.log.queries import LogReader
from etui.log.records import ChatRecord
from etui.log.writer import TurnWriter
from etui.turn.record import LoadRecord, LoopRecord, TurnRecord, UnloadRecord, VoteRecord
from tests.fixtures.rows import answer_row, run_row

MakeTurn = Callable[..., TurnRecord]


def saved(config: Config) -> dict[str, TurnRecord]:
    with LogReader(config) as log:
        return {turn.turn_id: turn for turn in log.turns()}


def make_newer(config: Config) -> None:
    """Turn the database into one of a newer etui."""
    connection = open_for_writing(config)
    connection.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, 'm999', '')",
        (SET_NAME,),
    )
    connection.close()


def make_current(config: Config) -> None:
    connection = sqlite3.connect(config.database)
    with connection:
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'm999'")
    connection.close()


def test_turns_come_back_as_they_went_in(config, make_turn, monkeypatch):
    monkeypatch.setattr(writer, "_BATCH_ROWS", 7)  # in several transactions
    loop = LoopRecord("Paris. Paris.", "", 400, 31.5)
    vote = VoteRecord(0, "A", "", 9, 1.0, ended="repeats", raw_answer="A A A", raw_thinking="hm hm")
    turns = [make_turn(number, chat_id="c1") for number in range(30)]
    turns[1] = make_turn(1, joules=None, status="error")
    turns[2] = replace(make_turn(2), ended="repeats", loop=loop, votes=(vote,))
    log = TurnWriter(config)
    for turn in turns:
        log.save_turn(turn)
    log.flush()
    assert saved(config) == {turn.turn_id: turn for turn in turns}
    log.close()
    log.close()


def test_a_turn_saved_twice_is_one_turn_and_is_found_by_its_new_words(config, make_turn):
    with TurnWriter(config) as log:
        log.save_turn(make_turn(1, answer="before"))
        log.save_turn(make_turn(1, answer="afterwards"))
    with LogReader(config) as reader:
        assert [turn.answer for turn in reader.list_turns(TurnFilter(search="afterwards"))] == [
            "afterwards"
        ]
        assert reader.list_turns(TurnFilter(search="before")) == []
        assert reader.count_turns() == 1


def test_records_of_every_kind_are_saved(config):
    load = LoadRecord("l1", "2026", "m", None, "t1", 1.5, None, None, None, 0, 94_000_000)
    unload = UnloadRecord(
        "u1", "2026", "big", "cd" * 32, "t1", "room", 0.05, 2.5, 0.4, "counter", 5_000_000_000
    )
    run = run_row(
        "r1", "2026", None, "running", "/runs/r1", "sample", "letters", 5, 1, None, None,
        60, 0, None, None, None, 0.0, ("quick", "think"), {"chunk": 512}, {},
    )  # fmt: skip
    answer = answer_row(
        "r1", "quick", "anatomy", 3, "B", "B", True, 0.9, "complete", 90, 10, 0, 1,
        2.5, 0.2, "counter", 0.4, {"A": -2.0, "B": -0.1},
    )  # fmt: skip
    curve = {
        "curve_id": "k1", "created_at": "2026", "model": "m", "machine": "here", "build": "b1",
        "source": "calibration", "n": 12, "coefficients": {"prefill_a": 0.01}, "residuals": {},
    }  # fmt: skip
    with TurnWriter(config) as log:
        log.save_load(load)
        log.save_unload(unload)
        log.save_rows("runs", [run])
        log.save_rows("answers", [answer, answer])
        log.save_rows("runs", [run | {"status": "done", "correct": 1}])
        log.save_rows("curves", [curve])
    connection = open_for_writing(config)
    row = connection.execute("SELECT * FROM runs JOIN answers USING (run_id)").fetchone()
    assert (row["status"], row["correct"], json.loads(row["arms"])) == (
        "done",
        1,
        ["quick", "think"],
    )
    assert json.loads(row["logprobs"]) == {"A": -2.0, "B": -0.1}
    row = connection.execute("SELECT * FROM curves").fetchone()
    assert json.loads(row["coefficients"]) == {"prefill_a": 0.01}
    connection.close()
    with LogReader(config) as reader:
        assert reader.loads(turn_id="t1") == [load]
        assert reader.loads(turn_id="t2") == []
        assert reader.unloads(turn_id="t1") == reader.unloads() == [unload]
        assert reader.unloads(turn_id="t2") == []


def test_a_turn_of_an_unknown_chat_makes_the_chat(config, make_turn):
    with TurnWriter(config) as log:
        log.save_turn(make_turn(1, chat_id="c1", query="  Why\nis the sky blue? " + "x" * 99))
        for number, key in ((2, "own_system"), (3, "prompt")):
            turn = make_turn(number, chat_id=f"c{number}", settings={key: "x"})
            log.save_turn(replace(turn, system="of this turn alone"))
    with LogReader(config) as reader:
        chat = reader.get_chat("c1")
        assert chat.name == "Why is the sky blue?…"
        assert [reader.get_chat(chat_id).system for chat_id in ("c2", "c3")] == [None, None]
    with TurnWriter(config) as log:
        log.save_chat(ChatRecord("c1", "2026", "Sky", "Be brief."))
    with LogReader(config) as reader:
        assert reader.get_chat("c1") == ChatRecord("c1", "2026", "Sky", "Be brief.")


def test_chats_are_renamed_and_deleted_with_their_turns(config, make_turn):
    with TurnWriter(config) as log:
        for number, chat_id in enumerate(("c1", "c1", "c2", None)):
            log.save_turn(make_turn(number, chat_id=chat_id, query=f"needle {number}"))
        log.save_chat(ChatRecord("c2", "2026", "Second"))
        log.delete_chat("c1")
    with LogReader(config) as reader:
        assert [summary.chat.name for summary in list_chats(reader)] == ["Second"]
        found = reader.list_turns(TurnFilter(search="needle"))
        assert sorted(turn.query for turn in found) == ["needle 2", "needle 3"]


def test_text_that_is_no_text_is_saved_as_far_as_it_is(config, make_turn):
    turn = make_turn(1, query="bytes \udcff end", answer="nul \0 here", settings={"x": "\ud800"})
    with TurnWriter(config) as log:
        log.save_turn(turn)
    back = saved(config)[turn.turn_id]
    assert back.query == "bytes \ufffd end"
    assert back.answer == "nul \0 here"


def test_a_newer_database_keeps_the_turn_for_later(config, make_turn):
    make_newer(config)
    said: list[str] = []
    log = TurnWriter(config, report=said.append)
    with pytest.raises(LogUnavailable, match="newer etui"):
        log.ready()
    log.save_turn(make_turn(1, chat_id="c1"))
    with pytest.raises(LogUnavailable, match=r"1 record kept in .*unsaved-turns\.jsonl") as caught:
        log.flush()
    assert "update etui" in caught.value.fix
    log.flush()  # it has been raised
    with pytest.raises(LogUnavailable, match="1 record kept in"):
        log.close()
    assert said == [caught.value.what]
    assert len(unsaved.unsaved_file(config).read_text().splitlines()) == 1

    make_current(config)
    with TurnWriter(config) as log:
        log.ready()
        assert saved(config) == {"aaaa00000001": make_turn(1, chat_id="c1")}
    assert not unsaved.unsaved_file(config).exists()


def test_a_locked_database_keeps_the_turn_and_takes_it_in_with_the_next(config, make_turn):
    log = TurnWriter(config, busy_seconds=0.01)
    log.ready()
    other = sqlite3.connect(config.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    log.save_turn(make_turn(1))
    with pytest.raises(LogUnavailable, match="locked by another program; 1 record kept in"):
        log.flush()
    other.execute("ROLLBACK")
    other.close()
    log.save_turn(make_turn(2))
    log.flush()
    assert set(saved(config)) == {make_turn(1).turn_id, make_turn(2).turn_id}
    assert not unsaved.unsaved_file(config).exists()
    log.close()


@pytest.fixture
def locked(config) -> Iterator[sqlite3.Connection]:
    """Lock the database until a ROLLBACK."""
    open_for_writing(config).close()
    other = sqlite3.connect(config.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def test_a_lock_is_said_once_and_its_end_too_and_closing_is_then_quiet(config, make_turn, locked):
    said: list[str] = []
    log = TurnWriter(config, report=said.append, busy_seconds=0.01)
    for number in range(3):
        log.save_turn(make_turn(number))
        with pytest.raises(LogUnavailable, match=f"locked .*; {number + 1} records? kept in"):
            log.flush()
    log.flush()  # nothing new waits
    assert log.unsaved == 3
    locked.execute("ROLLBACK")
    log.flush()
    assert log.unsaved == 0
    assert set(saved(config)) == {make_turn(number).turn_id for number in range(3)}
    log.save_turn(make_turn(3))
    log.close()
    began, ended = said
    assert "locked by another program; 1 record kept in" in began
    assert ended == "the log can be written again; stored: 3 records that had waited"


def test_the_end_of_a_lock_is_noticed_without_another_record(
    config, make_turn, locked, monkeypatch
):
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.01)
    over = threading.Event()

    def report(text: str) -> None:
        if "locked" in text:
            locked.execute("ROLLBACK")
        elif "written again" in text:
            over.set()

    locked.close()
    locked = sqlite3.connect(config.database, isolation_level=None, check_same_thread=False)
    locked.execute("BEGIN IMMEDIATE")
    log = TurnWriter(config, report=report, busy_seconds=0.01)
    log.save_turn(make_turn(1))
    assert over.wait(60)
    assert set(saved(config)) == {make_turn(1).turn_id}
    log.close()
    locked.close()


def test_what_waited_replaces_nothing_that_came_after_it(config, locked):
    run = run_row(
        "r1", "2026", None, "running", "/runs/r1", "sample", "letters", 5, 1, None, None,
        60, 0, None, None, None, 0.0, ("quick",), {}, {},
    )  # fmt: skip
    log = TurnWriter(config, busy_seconds=0.01)
    log.save_rows("runs", [run])
    with pytest.raises(LogUnavailable):
        log.flush()
    locked.execute("ROLLBACK")
    log.save_rows("runs", [run | {"status": "done"}])
    log.close()
    with LogReader(config) as reader:
        assert [row[0] for row in reader.select("SELECT status FROM runs")] == ["done"]


def test_closing_stores_what_waited_for_a_lock_that_has_passed(config, make_turn, locked):
    log = TurnWriter(config, busy_seconds=0.01)
    log.save_turn(make_turn(1))
    with pytest.raises(LogUnavailable):
        log.flush()
    locked.execute("ROLLBACK")
    log.close()
    assert set(saved(config)) == {make_turn(1).turn_id}
    assert not unsaved.unsaved_file(config).exists()


def test_a_removed_database_is_made_again_and_said(config, make_turn):
    said: list[str] = []
    log = TurnWriter(config, report=said.append)
    log.save_turn(make_turn(1))
    log.flush()
    with LogReader(config) as reader:
        assert reader.count_turns() == 1
        config.database.unlink()
        assert reader.count_turns() == 0
        log.save_turn(make_turn(2, chat_id="c1"))
        log.flush()
        assert [turn.turn_id for turn in reader.list_turns()] == [make_turn(2).turn_id]
    log.save_turn(make_turn(3))
    log.close()
    assert set(saved(config)) == {make_turn(2).turn_id, make_turn(3).turn_id}
    assert said == [
        f"the log {config.database} was removed: a new one is made, without the earlier turns"
    ]
    with closing(sqlite3.connect(config.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_replaced_database_gets_what_follows(config, make_turn, tmp_path):
    elsewhere = replace(config, home=tmp_path / "elsewhere")
    with TurnWriter(elsewhere) as other:
        other.save_turn(make_turn(7))
    said: list[str] = []
    log = TurnWriter(config, report=said.append)
    log.save_turn(make_turn(1))
    log.flush()
    os.replace(elsewhere.database, config.database)
    log.save_turn(make_turn(2))
    log.clear_grade("none")
    log.close()
    assert set(saved(config)) == {make_turn(7).turn_id, make_turn(2).turn_id}
    assert len(said) == 1
    assert "was replaced" in said[0]


def test_a_database_that_is_removed_while_it_is_written_loses_no_record(
    config, make_turn, monkeypatch
):
    put = writer.Store.put
    removed = []

    def put_and_remove(store, table, row, **named):
        put(store, table, row, **named)
        if not removed:
            removed.append(config.database.unlink())

    log = TurnWriter(config)
    log.ready()
    monkeypatch.setattr(writer.Store, "put", put_and_remove)
    log.save_turn(make_turn(1))
    log.close()
    assert set(saved(config)) == {make_turn(1).turn_id}


def test_a_home_that_cannot_be_written_is_told_and_kept_in_memory(config, make_turn, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    elsewhere = replace(config, home=blocked / "home")
    log = TurnWriter(elsewhere)
    log.save_turn(make_turn(1))
    with pytest.raises(LogUnavailable, match="kept in memory only"):
        log.flush()
    blocked.unlink()
    log.flush()
    log.close()
    assert set(saved(elsewhere)) == {make_turn(1).turn_id}


def test_what_can_be_written_nowhere_is_said_to_be_lost(config, make_turn, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    log = TurnWriter(replace(config, home=blocked / "home"))
    log.save_turn(make_turn(1))
    with pytest.raises(LogUnavailable, match="1 record of the log could not be saved anywhere"):
        log.close()


def test_a_full_disk_leaves_no_half_line(config, make_turn, monkeypatch):
    path = unsaved.unsaved_file(config)
    row = unsaved.UnsavedRow("loads", {"load_id": "x"})
    unsaved.append_rows(path, [row])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unsaved.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        unsaved.append_rows(path, [row])
    assert path.read_bytes() == before


def test_lines_that_nobody_can_read_are_kept_apart_and_told(config, make_turn):
    make_newer(config)
    log = TurnWriter(config)
    log.save_turn(make_turn(1))
    with pytest.raises(LogUnavailable):
        log.close()
    make_current(config)
    bad = '{"table": "turns", "row": {"turn_id": "half\n{"table": "turns; DROP", "row": {}}\n'
    strange = '{"table": "loads", "row": {"load_id": "x", "bogus": 1}}\n'
    with unsaved.unsaved_file(config).open("a") as file:
        file.write(bad + strange)
    log = TurnWriter(config)
    with pytest.raises(LogUnavailable, match="cannot read 3 lines that were set aside earlier"):
        log.close()
    assert set(saved(config)) == {make_turn(1).turn_id}
    assert unsaved.unreadable_file(config).read_text() == bad + strange
    assert not unsaved.unsaved_file(config).exists()


def test_one_record_that_does_not_fit_does_not_hold_up_the_others(config, make_turn):
    log = TurnWriter(config)
    log.save_turn(make_turn(1))
    log.save_turn(make_turn(2, model=None))
    log.save_turn(make_turn(3))
    with pytest.raises(LogUnavailable, match="does not fit the log"):
        log.close()
    assert set(saved(config)) == {make_turn(1).turn_id, make_turn(3).turn_id}
    assert "aaaa00000002" in unsaved.unreadable_file(config).read_text()
    assert not unsaved.unsaved_file(config).exists()


def test_a_turn_saved_after_close_is_kept(config, make_turn):
    log = TurnWriter(config)
    log.close()
    log.save_turn(make_turn(1))
    assert "aaaa00000001" in unsaved.unsaved_file(config).read_text()
    with pytest.raises(LogUnavailable, match="already closed"):
        log.flush()
    with pytest.raises(LogUnavailable, match="not deleted"):
        log.delete_chat("c")


def test_a_listener_that_fails_does_not_end_the_log(config, make_turn):
    def broken(text: str) -> None:
        raise ValueError("the listener is broken")

    log = TurnWriter(config, report=broken)
    log.save_turn(make_turn(1, model=None))
    log.save_turn(make_turn(2))
    with pytest.raises(LogUnavailable):
        log.close()
    assert set(saved(config)) == {make_turn(2).turn_id}


def test_two_writers_and_many_threads_lose_nothing(config, make_turn):
    writers = [TurnWriter(config), TurnWriter(config)]

    def save(log: TurnWriter, first: int) -> None:
        for number in range(first, first + 40):
            log.save_turn(make_turn(number))
            log.flush()

    threads = [
        threading.Thread(target=save, args=(log, 100 * index + 50 * half))
        for index, log in enumerate(writers)
        for half in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in writers:
        log.close()
    assert len(saved(config)) == 160


def test_a_program_that_ends_without_close_has_saved_its_turns(config):
    code = (
        "from etui.config.config import load_config\n"
        "from etui.log.records import ChatRecord\n"
        "from etui.log.writer import TurnWriter\n"
        "writer = TurnWriter(load_config())\n"
        "writer.save_chat(ChatRecord('c', '2026', 'name'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
    with LogReader(config) as reader:
        assert reader.get_chat("c").name == "name"
