"""A turn whose process is killed has its row, with the joules that are known of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.log.daily_energy import read_daily_energy, sum_parts
from etui.log.queries import LogReader, TurnFilter
from etui.log.records import build_row
from etui.log.row_files import OpenTurns, _join, _note_progress, open_dir, take_left
from etui.log.text import format_turns
from etui.log.writer import TurnWriter
from etui.owner import Owner, find_owner, read_process_start
from etui.turn.facts import list_facts
from etui.turn.record import INTERRUPTED, TurnRecord
from etui.turn.text import energy_line, price_facts
from tests.fixtures.turns import ENERGY, TURN, UNMEASURED
from tests.turn.scripted import Meter10W

DIES = """
import sys
from dataclasses import replace
from etui.config.config import load_config
from etui.log import row_files
from etui.log.writer import TurnWriter
from tests.fixtures.turns import ENERGY, TURN, UNMEASURED

row_files.PROGRESS_S = 0.01
begun = replace(TURN, status="interrupted", answer="", energy=UNMEASURED)
count = 0

def read():
    global count
    count += 1
    if count == 3:  # the one before it is in the file
        print("noted", flush=True)
    if sys.argv[1] == "unmeasured":
        return replace(begun, answer="word " * count)
    return replace(begun, answer="word " * count, energy=replace(ENERGY, joules=5.0 * count))

writer = TurnWriter(load_config())
writer.save_turn(replace(TURN, turn_id="bbbb"))
writer.flush()
writer.open_turns.begin(begun, read)
sys.stdin.readline()
"""


def make_turn(number: int, **changes: Any) -> TurnRecord:
    numbered: dict[str, Any] = {"turn_id": f"aaaa{number:08x}", "created_at": TURN.created_at}
    return replace(TURN, **(numbered | changes))


def leave(config: Config, record: TurnRecord, **owner: object) -> None:
    """Write the file of a turn whose process is dead."""
    open_dir(config).mkdir(parents=True, exist_ok=True)
    document = {
        "owner": {**asdict(find_owner()), "process_start": "1 ticks", **owner},
        "row": build_row(record),
    }
    path = open_dir(config) / f"{record.turn_id}.jsonl"
    path.write_text(json.dumps(document) + "\n")


def read_turns(config: Config) -> list[TurnRecord]:
    with LogReader(config) as log:
        return list(log.turns())


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
@pytest.mark.parametrize("case", ["measured", "unmeasured"])
def test_a_turn_in_flight_at_kill_9_is_a_row(config, case):
    process = subprocess.Popen(
        [sys.executable, "-c", DIES, case],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "noted\n"
        assert [turn.turn_id for turn in read_turns(config)] == ["bbbb"], "it still runs"
        os.kill(process.pid, signal.SIGKILL)
    with TurnWriter(config):
        pass
    with LogReader(config) as log:
        found = log.find_turn(TURN.turn_id)
    assert found is not None
    assert found.status == INTERRUPTED
    assert found.answer.startswith("word word ")
    if case == "measured":
        assert found.energy.joules is not None
        assert found.energy.joules >= 10
        assert "its joules are those of its first" in found.error
        assert "at least" in found.error
    else:
        assert found.energy.joules is None
        assert found.error.endswith("its joules are unknown")
    assert list(open_dir(config).iterdir()) == []


def test_to_read_the_log_closes_what_is_left_too(config):
    with TurnWriter(config):
        pass
    leave(config, make_turn(1, status=INTERRUPTED))
    (found,) = read_turns(config)
    assert found.status == INTERRUPTED


def test_sums_have_the_bound_and_count_what_is_unknown(config):
    now = datetime.now(UTC).isoformat()
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn(3, created_at=now, energy=replace(ENERGY, joules=2.0)))
    energy = replace(ENERGY, joules=5.0, flags=("lower-bound",))
    leave(config, make_turn(1, created_at=now, status=INTERRUPTED, energy=energy))
    leave(config, make_turn(2, created_at=now, status=INTERRUPTED, energy=UNMEASURED))
    with LogReader(config) as log:
        (total,) = log.totals("all")
        today = datetime.now().date()
        day = sum_parts(read_daily_energy(log, today, today).parts)
        (of_status,) = log.turns(TurnFilter(status="complete"))
    assert (total.turns, total.joules, total.unmeasured_turns) == (3, 7.0, 1)
    assert (day.turns, day.joules, day.unmeasured) == (3, 7.0, 1)
    assert of_status.turn_id == make_turn(3).turn_id


def test_joules_that_are_a_bound_are_shown_as_one(config):
    turn = make_turn(1, status=INTERRUPTED, energy=replace(ENERGY, flags=("lower-bound",)))
    with TurnWriter(config) as writer:
        writer.save_turn(turn)
        writer.save_turn(make_turn(2, status=INTERRUPTED, energy=UNMEASURED))
    with LogReader(config) as log:
        rows = format_turns(log.list_turns(TurnFilter()), None)
    assert sum("unmeasured" in row for row in rows) == 1
    assert sum("at least" in row for row in rows) == 1
    assert "at least" in energy_line(turn)
    assert "at least" in price_facts(turn)[0]
    assert "at least" in dict(list_facts(turn))["energy"]
    assert "at least" not in energy_line(replace(turn, status="complete"))


def test_a_turn_that_is_stored_leaves_nothing(config):
    with TurnWriter(config) as writer:
        writer.open_turns.begin(make_turn(1), lambda: make_turn(1))
        writer.open_turns.begin(make_turn(2), lambda: make_turn(2))
        assert len(list(open_dir(config).iterdir())) == 2
        writer.save_turn(make_turn(1))
        writer.open_turns.forget(make_turn(2).turn_id)
    assert list(open_dir(config).iterdir()) == []
    assert read_turns(config) == [make_turn(1)]


def test_a_record_is_never_replaced_by_what_was_left_of_it(config):
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn(1))
    leave(config, make_turn(1, status=INTERRUPTED, answer=""))
    assert read_turns(config) == [make_turn(1)]
    assert list(open_dir(config).iterdir()) == []


def test_the_rounds_of_a_turn_add_up(config):
    record = make_turn(1, energy=replace(ENERGY, joules=2.0))
    unknown = replace(record, energy=UNMEASURED)
    opened = OpenTurns(config)
    for each in (record, unknown, record):
        opened.begin(each, lambda each=each: each)
    assert _join([record, unknown, record]).energy.joules == 4.0
    assert _join([unknown, unknown]).energy.joules is None
    (turn,) = opened._open.values()
    _note_progress(turn)
    assert turn.row["energy_joules"] == 4.0


@pytest.mark.parametrize(
    ("owner", "age_s", "closed"),
    [
        ({"boot_id": "before"}, 0, True),
        ({"pid_namespace": "pid:[1]"}, 0, True),
        ({"boot_id": "other", "machine": "other"}, 3600, False),
        ({"boot_id": "other", "machine": "other"}, 90_000, True),
    ],
    ids=["rebooted", "container", "another machine", "silent for a day"],
)
def test_whose_turns_are_closed(config, owner, age_s, closed):
    with TurnWriter(config):
        pass
    leave(config, make_turn(1, status=INTERRUPTED), **owner)
    (path,) = open_dir(config).iterdir()
    at = path.stat().st_mtime - age_s
    os.utime(path, (at, at))
    assert bool(read_turns(config)) is closed


def test_a_live_process_of_another_container_is_known_by_its_lock(config):
    opened = OpenTurns(config)
    opened._owner = {**asdict(find_owner()), "pid_namespace": "pid:[1]"}
    opened.begin(make_turn(1), lambda: make_turn(1))
    with take_left(config) as left:
        assert left == []
    opened.forget(make_turn(1).turn_id)


def test_a_cut_line_and_a_row_of_another_version(config):
    with TurnWriter(config):
        pass
    leave(config, make_turn(1, status=INTERRUPTED))
    leave(config, make_turn(2, status=INTERRUPTED))
    first, second = sorted(open_dir(config).iterdir())
    with first.open("a") as file:
        file.write('{"row": {"answer": "cut')
    document = json.loads(second.read_text())
    document["row"]["colour"] = "blue"
    second.write_text(json.dumps(document) + "\n")
    empty, old = open_dir(config) / "new.jsonl", open_dir(config) / "old.jsonl"
    for path in (empty, old):
        path.write_text("")
    os.utime(old, (1, 1))
    assert [turn.turn_id for turn in read_turns(config)] == [make_turn(1).turn_id]
    assert "blue" in (config.log_dir / "unreadable-turns.jsonl").read_text()
    assert list(open_dir(config).iterdir()) == [empty]


def test_a_row_without_its_times_ends_no_command(config):
    with TurnWriter(config):
        pass
    leave(config, make_turn(1, status=INTERRUPTED))
    (path,) = open_dir(config).iterdir()
    document = json.loads(path.read_text())
    del document["row"]["energy_start_ns"]
    path.write_text(json.dumps(document) + "\n")
    assert len(read_turns(config)) <= 1
    assert list(open_dir(config).iterdir()) == []


def test_a_process_whose_start_is_a_date_lives_when_the_clock_is_set(tmp_path):
    """Without /proc, on Windows and macOS, the time of the boot follows from the clock."""
    me = Owner(os.getpid(), read_process_start(os.getpid(), tmp_path), "boot at 1 min", "", "")
    assert me.is_alive(tmp_path)
    assert not replace(me, process_start="1.00 s").is_alive(tmp_path)


def test_a_full_disk_costs_the_note_and_not_the_turn(config, monkeypatch):
    def fail(path):
        raise OSError("no space")

    monkeypatch.setattr("etui.log.row_files._create", fail)
    with TurnWriter(config) as writer:
        writer.open_turns.begin(make_turn(1), lambda: make_turn(1))
        writer.save_turn(make_turn(1))
    assert read_turns(config) == [make_turn(1)]


def test_work_has_a_turn_until_it_is_kept(config):
    opened, kept = OpenTurns(config), []
    items = opened.note_each(iter("ab"), "sweep 1", Arm("a", "m"), Meter10W(), kept.append)
    assert next(items) == "a"
    (path,) = open_dir(config).iterdir()
    row = json.loads(path.read_text())["row"]
    assert (row["query"], row["arm"], row["status"]) == ("sweep 1", "a", INTERRUPTED)
    assert row["energy_joules"] == pytest.approx(10 * row["seconds_total"])
    assert next(items) == "b"
    assert len(list(open_dir(config).iterdir())) == 2
    assert list(items) == []
    for forget in kept:
        forget()
    assert list(open_dir(config).iterdir()) == []


def test_work_that_fails_is_forgotten(config):
    def fail():
        raise KeyboardInterrupt
        yield

    opened = OpenTurns(config)
    with pytest.raises(KeyboardInterrupt):
        next(opened.note_each(fail(), "sweep 1", Arm("a", "m"), Meter10W(), lambda f: f()))
    assert list(open_dir(config).iterdir()) == []
