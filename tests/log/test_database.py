"""Opening: new, old, newer, foreign, damaged and unwritable databases."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.errors import LogUnavailable
from etui.log.chat_queries import list_chats
from etui.log.database import NAMES, SET_NAME, open_for_reading, open_for_writing, translate_error
from etui.log.queries import LogReader
from etui.log.records import (
    ChatRecord,
    build_row,
)
from etui.log.writer import TurnWriter
from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord
from tests.fixtures.rows import ANSWER_COLUMNS, RUN_COLUMNS, SWEEP_COLUMNS, sweep_row
from tests.fixtures.turns import ATTRIBUTION, CLIENT, SPECULATION, TOOL_CALLS

ROOT = Path(__file__).parents[2]
MakeTurn = Callable[..., TurnRecord]
SWEEP = sweep_row(
    *("s", "2099", "sweeps/s", "m", None, "a machine", "joules", None, "threads=1", None, ""),
    *(1.3, 0.4, 4, 8, 100.0, "counter", 60.0, False),
)
SETTING = {
    "sweep_id": "s",
    "setting": "threads=2 kv_type=f16",
    "axes": {"threads": 2, "kv_type": "f16"},
    "stage": "race",
    "blocks": 2,
    "joules": 10.0,
    "joules_percent": -18.0,
    "joules_claimed": True,
    "seconds_claimed": True,
    "reason": "",
    "frontier": True,
}


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}


def test_a_new_database_has_every_table_and_journals_ahead(config, make_turn):
    connection = open_for_writing(config)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert columns(connection, "turns") == {"id", *build_row(make_turn())}
    for record, table in (
        (LoadRecord, "loads"),
        (UnloadRecord, "unloads"),
    ):
        assert columns(connection, table) == {"id", *(f.name for f in fields(record))}
    rows = {"runs": RUN_COLUMNS, "answers": ANSWER_COLUMNS, "sweeps": SWEEP_COLUMNS}
    for table, names in rows.items():
        assert columns(connection, table) == {"id", *names}
    connection.close()


def test_columns_are_the_names_of_the_json_document_flattened(config, make_turn):
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


def test_an_up_to_date_database_opens_without_sqlite_utils(config):
    open_for_writing(config).close()
    code = (
        "import sys\n"
        "from etui.config.config import load_config\n"
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


def test_a_log_of_the_last_step_before_0_1_opens_and_keeps_its_rows(config, make_turn):
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn())
    connection = open_for_writing(config)
    connection.executemany(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, '')",
        [(SET_NAME, f"m{number:03}_step") for number in range(1, 18)],
    )
    connection.close()
    before = config.database.read_bytes()
    with LogReader(config) as log:
        assert log.get_turn(make_turn().turn_id) == make_turn()
    assert config.database.read_bytes() == before


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An etui with one more migration than this one."""
    (tmp_path / "schema.sql").write_text((files("etui.log") / "schema.sql").read_text("utf-8"))
    for name in NAMES[1:]:
        (tmp_path / f"{name}.sql").write_text((files("etui.log") / f"{name}.sql").read_text())
    (tmp_path / "m020_notes.sql").write_text(
        "ALTER TABLE chats ADD COLUMN note TEXT NOT NULL DEFAULT ';';\n"
        "-- A statement may have more than one line.\n"
        "UPDATE chats\n    SET note = name;\n"
    )
    monkeypatch.setattr("etui.log.database.NAMES", (*NAMES, "m020_notes"))
    monkeypatch.setattr("etui.log.database.files", lambda _package: tmp_path)
    return tmp_path


def test_an_older_database_is_migrated_and_keeps_its_rows(config, request):
    with TurnWriter(config) as writer:
        writer.save_chat(ChatRecord("c", "2026", "old"))
    request.getfixturevalue("next_version")
    reader = open_for_reading(config)
    assert tuple(reader.execute("SELECT name, note FROM chats").fetchone()) == ("old", "old")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM turns")
    applied = reader.execute("SELECT name FROM _sqlite_migrations ORDER BY id").fetchall()
    assert tuple(row["name"] for row in applied) == (*NAMES, "m020_notes")
    reader.close()


def test_a_migration_that_fails_changes_nothing(config, next_version):
    (next_version / "m020_notes.sql").write_text("DROP TABLE chats;\nDROP TABLE nothing;\n")
    with pytest.raises(LogUnavailable):
        open_for_writing(config)
    connection = sqlite3.connect(config.database)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()


@pytest.mark.usefixtures("next_version")
def test_an_etui_of_before_a_migration_refuses_the_database(config, monkeypatch):
    open_for_writing(config).close()
    monkeypatch.setattr("etui.log.database.NAMES", NAMES)
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(LogUnavailable, match="m020_notes"):
            open_it(config)


def test_a_sweep_is_saved_again_with_new_figures(config):
    with TurnWriter(config) as writer:
        writer.save_rows("sweeps", [SWEEP])
        writer.save_rows("sweep_settings", [SETTING])
        # As after each block: the same sweep has other figures.
        writer.save_rows("sweeps", [SWEEP | {"blocks": 9, "complete": True}])
        writer.save_rows("sweep_settings", [SETTING | {"reason": "12 % more joules"}])
    with LogReader(config) as log:
        (sweep,) = log.select("SELECT * FROM sweeps")
        (setting,) = log.select("SELECT * FROM sweep_settings")
    assert (sweep["blocks"], sweep["complete"], sweep["best"]) == (9, 1, None)
    assert sweep["floor_joules_percent"] == 1.3
    assert json.loads(setting["axes"]) == {"threads": 2, "kv_type": "f16"}
    assert (setting["reason"], setting["accuracy"]) == ("12 % more joules", None)


def test_turns_with_and_without_speculation_and_a_client_are_read_as_saved(config, make_turn):
    turn = make_turn(2, speculation=SPECULATION)
    full = replace(
        turn,
        energy=replace(turn.energy, attribution=ATTRIBUTION),
        client=CLIENT,
        tool_calls=TOOL_CALLS,
    )
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn())
        writer.save_turn(full)
    with LogReader(config) as log:
        plain = log.get_turn(make_turn().turn_id)
        assert (plain, log.get_turn(full.turn_id)) == (make_turn(), full)
        drafted = log.select(
            "SELECT speculation_method, speculation_waste_joules, "
            "speculation_joules_per_accepted_token AS each FROM turns ORDER BY created_at"
        )
    assert [tuple(row) for row in drafted] == [(None, None, None), ("lookup+draft", 1.2, 0.7)]
    assert plain.client is plain.energy.attribution is None
    assert plain.to_json()["energy"]["attribution"]["method"] == "exclusive"
    assert plain.to_json()["energy"]["attribution"]["batch_joules"] == 12.34


def migrate(sql: str) -> Callable[[Config], None]:
    """Change the list of the migrations of a new database."""

    def change(config: Config) -> None:
        with open_for_writing(config) as connection:
            connection.execute(sql)
        connection.close()

    return change


def make_foreign(config: Config) -> None:
    with sqlite3.connect(config.database) as other:
        other.execute("CREATE TABLE turns (theirs TEXT)")
    other.close()


@pytest.mark.parametrize(
    ("make", "what", "fix"),
    [
        (
            migrate(
                "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
                f"VALUES ('{SET_NAME}', 'm099_from_the_future', '')"
            ),
            *(r"newer etui .*m099_from_the_future", "update etui"),
        ),
        (
            migrate(
                "UPDATE _sqlite_migrations SET name = 'm017_energy_index' WHERE name LIKE 'm018%'"
            ),
            *(r"before 0\.1", "starts a new one"),
        ),
        (
            lambda config: config.database.write_bytes(b"this is no database, only text" * 40),
            *("not a database", "move it away"),
        ),
        (
            lambda config: config.database.write_bytes(b"SQLite format 3\0xx"),
            *("not a database", "move it away"),
        ),
        (make_foreign, "another program", "move it away"),
    ],
)
def test_what_is_no_log_of_this_version_is_refused_and_left_alone(config, make, what, fix):
    make(config)
    before = config.database.read_bytes()
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(LogUnavailable, match=what) as caught:
            open_it(config)
        assert fix in caught.value.fix
    assert config.database.read_bytes() == before


def test_places_without_a_file_are_refused(config, tmp_path):
    config.database.mkdir()
    with pytest.raises(LogUnavailable, match="is a folder"):
        open_for_writing(config)
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnavailable, match="ETUI_HOME"):
        open_for_writing(replace(config, home=tmp_path / "file" / "home"))


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
        (b"m018_grades_and_audits", b"m018_grades_and_audi\xff\xff"),  # a row that is no UTF-8
        (b"m018_grades_and_audits", b"m018_grades_and_audi\x1b["),  # a row that nobody wrote
        (b"CREATE TABLE turns", b"CREATE TABL\xff turns"),  # an error message that is no UTF-8
        (b"CREATE TABLE turns", b"CREATE full! turns"),
        (b"CREATE TABLE turns", b'CREATE "\n\n   " turns'),  # a message of two lines
        (b"migration_set", b"migration_sex"),  # a column that is not ours
    ],
)
def test_a_damaged_database_is_not_a_full_disk(config, old, new):
    damage(config, old, new)
    before = config.database.read_bytes()
    for open_it in (open_for_writing, open_for_reading):
        with pytest.raises(LogUnavailable, match="is damaged") as caught:
            open_it(config)
        assert caught.value.fix.startswith("move it away")
        assert caught.value.what.isprintable()
        assert len(caught.value.what) < 400
    assert config.database.read_bytes() == before


def test_a_full_disk_is_a_full_disk(config):
    connection = open_for_writing(config)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("CREATE TABLE more AS SELECT zeroblob(100000) AS full")
    connection.close()
    assert translate_error(config.database, full.value).fix == "free space on that disk"


def test_a_missing_or_empty_database_reads_as_an_empty_log(config):
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


def test_two_processes_may_make_the_database_at_once(config):
    code = (
        "from etui.config.config import load_config\n"
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
        process.stdin.close()
        process.stdin = None
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    with LogReader(config) as log:
        assert log.exists
