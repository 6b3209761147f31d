"""Opening: new, old, newer, foreign, damaged and unwritable databases."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from sqlite_utils import Database

from etui.config.config import Config
from etui.errors import LogUnavailable
from etui.log.chat_queries import list_chats
from etui.log.database import open_for_reading, open_for_writing, translate_error
from etui.log.filters import TurnFilter
from etui.log.migrations import NAMES, SET_NAME, migrations
from etui.log.queries import LogReader
from etui.log.records import (
    AnswerRecord,
    CurveRecord,
    RunRecord,
    SweepRecord,
    SweepSettingRecord,
)
from etui.log.rows import build_row
from etui.log.writer import TurnWriter
from etui.turn.record import REPLACES, TurnRecord
from etui.turn.residence_record import LoadRecord, UnloadRecord
from tests.fixtures.turns import ATTRIBUTION, CLIENT, SPECULATION, TOOL_CALLS

ROOT = Path(__file__).parents[2]
MakeTurn = Callable[..., TurnRecord]
SWEEP = SweepRecord(
    *("s", "2099", "sweeps/s", "m", None, "a machine", "joules", None, "threads=1", None, ""),
    *(1.3, 0.4, 4, 8, 100.0, "counter", 60.0),
    complete=False,
)
SETTING = SweepSettingRecord(
    *("s", "threads=2 kv_type=f16", {"threads": 2, "kv_type": "f16"}, "race", 2),
    *(10.0, 9.8, 10.2, 2.0, 1.9, 2.1, -18.0, -20.0, -16.0, True, 4.0, 3.0, 5.0, True),
    *(None, None, None, None, None, None, None, "", True),
)


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}


def test_a_new_database_has_every_table_and_journals_ahead(
    config: Config, make_turn: MakeTurn
) -> None:
    connection = open_for_writing(config)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert columns(connection, "turns") == {"id", *build_row(make_turn())}
    for record, table in (
        (LoadRecord, "loads"),
        (UnloadRecord, "unloads"),
        (RunRecord, "runs"),
        (AnswerRecord, "answers"),
        (CurveRecord, "curves"),
        (SweepRecord, "sweeps"),
        (SweepSettingRecord, "sweep_settings"),
    ):
        assert columns(connection, table) == {"id", *(f.name for f in fields(record))}
    connection.close()


def test_columns_are_the_names_of_the_json_document_flattened(
    config: Config, make_turn: MakeTurn
) -> None:
    def flat(document: dict[str, object], prefix: str = "") -> set[str]:
        names: set[str] = set()
        for name, value in document.items():
            deeper = isinstance(value, dict) and name not in ("channels", "settings")
            names |= flat(value, f"{prefix}{name}_") if deeper else {prefix + name}  # type: ignore[arg-type]
        return names

    connection = open_for_writing(config)
    turn = make_turn(speculation=SPECULATION, client=CLIENT, tool_calls=TOOL_CALLS)
    assert flat(turn.to_json()) <= columns(connection, "turns")
    connection.close()


def test_an_up_to_date_database_opens_without_sqlite_utils(config: Config) -> None:
    open_for_writing(config).close()
    code = (
        "import sys\n"
        "from etui.config.load import load_config\n"
        "from etui.log.writer import TurnWriter\n"
        "writer = TurnWriter(load_config()); writer.ready(); writer.close()\n"
        "from etui.log.queries import LogReader\n"
        "LogReader(load_config()).list_turns()\n"
        "heavy = {'sqlite_utils', 'textual', 'llama_cpp', 'pynvml', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def test_an_older_database_is_migrated_and_keeps_its_rows(config: Config) -> None:
    database = Database(config.database)
    migrations().apply(database, stop_before=NAMES[1])
    database["chats"].insert({"chat_id": "c", "created_at": "2026", "name": "old"})
    database.close()
    reader = open_for_reading(config)
    assert reader is not None
    assert reader.execute("SELECT name FROM chats").fetchone()["name"] == "old"
    applied = reader.execute("SELECT name FROM _sqlite_migrations ORDER BY id").fetchall()
    assert tuple(row["name"] for row in applied) == NAMES
    reader.close()


def made_before(config: Config, name: str) -> Database:
    """The database as the etui before a migration made it."""
    database = Database(config.database)
    migrations().apply(database, stop_before=name)
    return database


def insert_turn(database: Database, turn: TurnRecord) -> None:
    """Insert a turn with the columns that the database has."""
    columns = {column.name for column in database["turns"].columns}
    row = build_row(turn)
    database["turns"].insert({name: value for name, value in row.items() if name in columns})


def test_turns_of_before_shared_gpus_had_columns_are_read_by_their_flags(
    config: Config, make_turn: MakeTurn
) -> None:
    database = made_before(config, "m004_shared_gpu")
    for number, flags in ((1, ()), (2, ("gap", "shared"))):
        turn = make_turn(number)
        insert_turn(database, replace(turn, energy=replace(turn.energy, flags=flags)))
    database.close()
    open_for_writing(config).close()
    with LogReader(config) as log:
        first, second = (log.get_turn(make_turn(number).turn_id) for number in (1, 2))
        found = log.list_turns(TurnFilter(search="joule"))
    assert (first.energy.shared, second.energy.shared) == (False, True)
    assert first.energy.own_joules is second.energy.own_joules is None
    assert first.energy.joules == 12.34
    assert len(found) == 2


def test_turns_of_before_speculation_are_read_without_it(
    config: Config, make_turn: MakeTurn
) -> None:
    database = made_before(config, "m011_speculation")
    insert_turn(database, make_turn())
    database.close()
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn(2, speculation=SPECULATION))
    with LogReader(config) as log:
        assert log.get_turn(make_turn(1).turn_id) == make_turn(1)
        assert log.get_turn(make_turn(2).turn_id) == make_turn(2, speculation=SPECULATION)
    connection = open_for_reading(config)
    assert connection is not None
    drafted = connection.execute(
        "SELECT speculation_method, speculation_waste_joules, "
        "speculation_joules_per_accepted_token AS each FROM turns ORDER BY created_at"
    ).fetchall()
    assert [tuple(found) for found in drafted] == [(None, None, None), ("lookup+draft", 1.2, 0.7)]
    connection.close()


def test_unloads_of_before_idle_powers_had_columns_are_read_without_them(config: Config) -> None:
    database = made_before(config, "m012_keep_warm")
    row = build_row(UnloadRecord("u", "2026", "m", None, None, "idle", 0.2, None, None, None, 9))
    database["unloads"].insert({k: v for k, v in row.items() if not k.startswith("idle_")})
    database.close()
    open_for_writing(config).close()
    with LogReader(config) as log:
        (unload,) = log.unloads()
    assert (unload.unload_id, unload.freed_bytes) == ("u", 9)
    assert unload.idle_before_watts is unload.idle_after_watts is unload.idle_cold_watts is None


def test_a_database_of_before_sweeps_gets_their_tables_and_keeps_its_rows(
    config: Config, make_turn: MakeTurn
) -> None:
    database = made_before(config, "m014_sweeps")
    insert_turn(database, make_turn())
    database.close()
    with TurnWriter(config) as writer:
        writer.save_sweep(SWEEP, [SETTING])
        # As after each block: the same sweep has other figures.
        writer.save_sweep(
            replace(SWEEP, blocks=9, complete=True), [replace(SETTING, reason="12 % more joules")]
        )
    with LogReader(config) as log:
        assert log.get_turn(make_turn().turn_id) == make_turn()
        (sweep,) = log.select("SELECT * FROM sweeps")
        (setting,) = log.select("SELECT * FROM sweep_settings")
    assert (sweep["blocks"], sweep["complete"], sweep["best"]) == (9, 1, None)
    assert sweep["floor_joules_percent"] == 1.3
    assert json.loads(setting["axes"]) == {"threads": 2, "kv_type": "f16"}
    assert (setting["reason"], setting["accuracy"]) == ("12 % more joules", None)


def test_turns_of_before_clients_are_read_without_one(config: Config, make_turn: MakeTurn) -> None:
    database = made_before(config, "m015_serving")
    insert_turn(database, make_turn())
    database.close()
    turn = make_turn(2)
    served = replace(
        turn,
        energy=replace(turn.energy, attribution=ATTRIBUTION),
        client=CLIENT,
        tool_calls=TOOL_CALLS,
    )
    with TurnWriter(config) as writer:
        writer.save_turn(served)
    with LogReader(config) as log:
        old, new = log.get_turn(make_turn().turn_id), log.get_turn(served.turn_id)
    assert (old, new) == (make_turn(), served)
    assert old.client is old.energy.attribution is None
    assert old.to_json()["energy"]["attribution"]["method"] == "exclusive"
    assert old.to_json()["energy"]["attribution"]["batch_joules"] == 12.34


def test_chats_of_before_branches_are_a_line_with_replaced_turns_as_branches(
    config: Config, make_turn: MakeTurn
) -> None:
    database = made_before(config, "m016_branches")
    turns = [replace(make_turn(number), chat_id="c", settings={}) for number in range(5)]
    turns[3] = replace(turns[3], settings={REPLACES: turns[1].turn_id})
    turns[4] = replace(turns[4], settings={REPLACES: turns[0].turn_id}, answer=" ")
    other = replace(make_turn(9), chat_id=None)
    database.execute("INSERT INTO chats (chat_id, created_at, name) VALUES ('c', 'x', 'C')")
    for turn in (*turns, other):
        insert_turn(database, turn)
    database.execute("UPDATE turns SET settings = 'no JSON' WHERE turn_id = ?", (turns[2].turn_id,))
    database.close()
    open_for_writing(config).close()
    with LogReader(config) as log:
        found = {row[0]: row[1] for row in log.select("SELECT turn_id, parent_id FROM turns")}
        assert log.get_chat("c").head is None
    ids = [turn.turn_id for turn in turns]
    parents = dict(zip(ids, [None, ids[0], ids[1], ids[0], None], strict=True))
    assert found == {**parents, other.turn_id: None}


def test_peaks_of_turns_of_before_their_index_are_kept(config: Config, make_turn: MakeTurn) -> None:
    database = made_before(config, "m017_energy_index")
    old = make_turn()
    insert_turn(database, replace(old, energy=replace(old.energy, peak_watts=321.0)))
    database.close()
    open_for_writing(config).close()
    with LogReader(config) as log:
        (peak,) = log.select("SELECT energy_peak_watts FROM turns INDEXED BY turns_energy")
    assert peak["energy_peak_watts"] == 321.0


@pytest.mark.parametrize("count", range(1, len(NAMES)))
def test_an_etui_of_before_a_migration_refuses_the_database(
    config: Config, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    open_for_writing(config).close()
    monkeypatch.setattr("etui.log.database.NAMES", NAMES[:count])
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(LogUnavailable, match=NAMES[-1]):
            open_it(config)


def test_a_newer_database_is_refused_and_left_alone(config: Config) -> None:
    connection = open_for_writing(config)
    connection.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, '')",
        (SET_NAME, "m099_from_the_future"),
    )
    connection.close()
    before = config.database.read_bytes()
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(LogUnavailable, match=r"newer etui .*m099_from_the_future") as caught:
            open_it(config)
        assert "update etui" in caught.value.fix
    assert config.database.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"this is no database, only text" * 40, b"SQLite format 3\0xx"]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    config: Config, content: bytes
) -> None:
    config.database.write_bytes(content)
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(LogUnavailable, match="not a database") as caught:
            open_it(config)
        assert "move it away" in caught.value.fix
    assert config.database.read_bytes() == content


def damage(config: Config, old: bytes, new: bytes) -> None:
    """Create a database and replace bytes of its file."""
    connection = open_for_writing(config)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = config.database.read_bytes()
    assert old in content
    config.database.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"m002_full_text_search", b"m002_full_text_sear\xff\xff"),  # a row that is no UTF-8
        (b"m002_full_text_search", b"m002_full_text_sear\x1b["),  # a row that nobody wrote
        (b"CREATE TABLE turns", b"CREATE TABL\xff turns"),  # an error message that is no UTF-8
        (b"CREATE TABLE turns", b"CREATE full! turns"),
        (b"CREATE TABLE turns", b'CREATE "\n\n   " turns'),  # a message of two lines
        (b"migration_set", b"migration_sex"),  # a column that is not ours
    ],
)
def test_a_damaged_database_is_not_a_full_disk(config: Config, old: bytes, new: bytes) -> None:
    damage(config, old, new)
    before = config.database.read_bytes()
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(LogUnavailable, match="is damaged") as caught:
            open_it(config)
        assert caught.value.fix.startswith("move it away")
        assert caught.value.what.isprintable()
        assert len(caught.value.what) < 400
    assert config.database.read_bytes() == before


def test_a_full_disk_is_a_full_disk(config: Config) -> None:
    connection = open_for_writing(config)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("CREATE TABLE more (full_text TEXT)")
    connection.close()
    assert translate_error(config.database, full.value).fix == "free space on that disk"


def test_the_database_of_another_program_is_refused(config: Config) -> None:
    other = sqlite3.connect(config.database)
    other.execute("CREATE TABLE turns (theirs TEXT)")
    other.close()
    with pytest.raises(LogUnavailable, match="another program"):
        open_for_writing(config)


def test_a_folder_in_its_place_is_refused(config: Config) -> None:
    config.database.mkdir()
    with pytest.raises(LogUnavailable, match="is a folder"):
        open_for_writing(config)


def test_a_home_that_cannot_be_made_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnavailable, match="ETUI_HOME"):
        open_for_writing(replace(config, home=tmp_path / "file" / "home"))


def test_a_missing_or_empty_database_reads_as_an_empty_log(config: Config) -> None:
    for exists in (False, True):
        if exists:
            config.database.touch()
        with LogReader(config) as log:
            assert not log.exists
            assert log.list_turns() == []
            assert log.count_turns() == 0
            assert log.totals() == []
            assert list_chats(log) == []
        assert config.database.exists() == exists


def test_a_reader_cannot_write(config: Config) -> None:
    open_for_writing(config).close()
    reader = open_for_reading(config)
    assert reader is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM turns")
    reader.close()


def test_two_processes_may_make_the_database_at_once(config: Config) -> None:
    code = (
        "from etui.config.load import load_config\n"
        "from etui.log.database import open_for_writing\n"
        "import sqlite_utils, sys\n"
        "sys.stdin.read()\n"
        "open_for_writing(load_config()).close()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    with LogReader(config) as log:
        assert log.exists
