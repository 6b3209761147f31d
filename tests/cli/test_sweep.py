"""``etui sweep`` as a user meets it, on a machine whose joules are known."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from etui.cli.output import print_lines
from etui.cli.sweep_text import format_result
from etui.errors import EtuiError
from etui.sweep.blocks import SettingFailed
from etui.sweep.folder import list_sweeps, read_sweep
from etui.sweep.verdict import format_verdict
from etui.text import count_cells
from tests.contract.tiny_model import write_tiny_model
from tests.support.power_limits import write_package
from tests.sweep import results
from tests.sweep.fakes import FakeWorkbench
from tests.sweep.run.test_run import price

ROOT = Path(__file__).parents[2]
ASKED = ("tiny", "--axis", "batch_tokens=64,128,256,512", "--blocks", "4", "--rounds", "2")


@pytest.fixture(autouse=True)
def models(config):
    config.models_dir.mkdir(parents=True, exist_ok=True)
    return write_tiny_model(config.models_dir / "tiny.gguf")


@pytest.fixture
def bench():
    return FakeWorkbench(price)


@pytest.fixture
def sweep(bench, monkeypatch, cli):
    """``sweep("tiny", ...)`` runs the command; returns what it prints."""

    @contextmanager
    def open_bench(*args, **kwargs):
        yield bench

    monkeypatch.setattr("etui.sweep.workbench.open_workbench", open_bench)

    return lambda *args, code=0: cli.run("sweep", *args, code=code)


def interrupt_at(visit):
    def interrupt(number):
        if number == visit:
            raise KeyboardInterrupt

    return interrupt


def test_the_table_goes_to_stdout_and_the_rest_to_stderr(sweep, config):
    out, err = sweep(*ASKED)
    assert out.startswith("batch_tokens=512 saves")
    assert "batch_tokens=256" in out
    for part in ("4 settings", "Detection floor: with 4 blocks", "% in joules", "report: "):
        assert part in err
    (folder,) = list_sweeps(config)
    assert str(folder) in err
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "blocks.jsonl",
        "power.jsonl",
        "result.json",
        "report.html",
    }


def test_the_log_has_a_row_of_the_sweep_and_one_of_each_setting(sweep, config):
    out = sweep(*ASKED).out
    with sqlite3.connect(config.database) as log:
        (found,) = log.execute("SELECT model, best, verdict, complete FROM sweeps").fetchall()
        settings = log.execute(
            "SELECT setting, joules, joules_percent, dropped_after, reason FROM sweep_settings"
        ).fetchall()
    assert found == ("tiny", "batch_tokens=512", out.splitlines()[0], 1)
    assert {row[0] for row in settings} == {f"batch_tokens={n}" for n in (64, 128, 256, 512)}
    assert min(settings, key=lambda row: row[1])[0] == "batch_tokens=512"


def test_json_is_one_document(sweep):
    document = json.loads(sweep(*ASKED, "--json", code=0).out)
    assert (document["best"], document["is_complete"]) == ("batch_tokens=512", True)


def test_jsonl_tells_block_by_block(sweep, config):
    out = sweep(*ASKED, "--jsonl").out
    lines = [json.loads(line) for line in out.splitlines()]
    begun, *middle, result = [line for line in lines if line["event"] != "note"]
    (folder,) = list_sweeps(config)
    assert begun["event"] == "begun"
    assert (begun["sweep"], begun["folder"], begun["model"]) == (folder.name, str(folder), "tiny")
    assert begun["baseline"] == begun["settings"][0]
    blocks = [line for line in middle if line["event"] == "block"]
    assert [line["block"] for line in blocks] == list(range(1, len(blocks) + 1))
    assert [line["stage"] for line in blocks[:5]] == ["floor"] * 4 + ["race"]
    assert blocks[-1]["stage"] == "confirm"
    assert (blocks[-1]["blocks_left"], blocks[-1]["seconds_left"]) == (0, 0)
    assert blocks[-1]["best"] == "batch_tokens=512"
    assert blocks[-1]["joules"] > blocks[0]["joules"] > 0
    assert set(blocks[0]) == {
        *("event", "stage", "block", "blocks_left", "remaining", "best"),
        *("seconds_left", "joules"),
    }
    assert all(line["reason"] for line in middle if line["event"] == "dropped")
    assert (result["event"], result["best"]) == ("result", "batch_tokens=512")
    assert any("can be shown" in line["text"] for line in lines if line["event"] == "note")


def test_ctrl_c_prints_what_there_is_and_the_same_command_resumes(sweep, bench, config):
    bench.before = interrupt_at(14)
    out, err = sweep(*ASKED, code=3)
    assert out
    (folder,) = list_sweeps(config)
    assert f"etui sweep --resume {folder}" in err
    kept = len(read_sweep(folder).blocks)
    bench.before = lambda number: None
    out, err = sweep(*ASKED)
    assert f"({kept} blocks already measured)" in err
    assert list_sweeps(config) == (folder,)
    assert read_sweep(folder).is_finished


def test_a_sweep_is_resumed_by_name(sweep, bench, config):
    bench.before = interrupt_at(14)
    sweep(*ASKED, "--goal", "time", code=None)
    bench.before = lambda number: None
    out = sweep("--resume", "last", "--json").out
    assert json.loads(out)["goal"]["measure"] == "time"


def test_a_sweep_that_asks_for_limits_is_resumed_in_a_terminal_alone(sweep, bench, config):
    write_package(config.sysfs_dir, long_watts=65.0, max_watts=125.0)
    bench.price = lambda setting: float(setting.get("power_limit") or 0)
    bench.before = interrupt_at(14)
    err = sweep("tiny", "--axis", "power_limit=40,50", "--cap", "user", "--jsonl", code=3).err
    bench.before = lambda number: None
    err = sweep("--resume", "last", code=2).err
    assert "needs a terminal" in err
    sweep("--resume", "last", "--jsonl", code=0)


def test_a_power_limit_that_is_not_restored_fails_the_command(sweep, bench, config):
    write_package(config.sysfs_dir)
    bench.price = lambda setting: float(setting.get("power_limit") or 0)

    def leave(number):
        config.power_limits_file.write_text("what could not be restored")

    bench.before = leave
    asked = ("tiny", "--axis", "power_limit=40,50", "--cap", "set", "--blocks", "2")
    out, err = sweep(*asked, code=1)
    assert "power_limit=40" in out, "the result is printed first"
    assert "the power limit is not as it was found" in err


def test_a_dry_run_measures_nothing(sweep, bench, config):
    out = sweep(*ASKED, "--dry-run").out
    assert bench.opened == 0
    assert list_sweeps(config) == ()
    for part in ("batch_tokens=64", "(in use)", "4 settings", "4 to confirm", "about"):
        assert part in out
    out = sweep(*ASKED, "--dry-run", "--json").out
    assert json.loads(out)["axes"] == {"batch_tokens": [64, 128, 256, 512]}


def test_a_dry_run_says_how_many_answers_accuracy_takes(sweep, monkeypatch):
    monkeypatch.setattr("etui.sweep._machine.usable_cpus", lambda: 8)  # a test has one
    asked = (*ASKED, "--axis", "threads=1,2", "--suite", "sample", "--limit", "20", "--dry-run")
    out = sweep(*asked).out
    assert "accuracy on 20 questions of sample: 80 answers, as settings" in out
    document = json.loads(sweep(*asked, "--json").out)
    assert (document["questions"], document["answers"]) == (20, 80)


def test_sweeps_are_listed_and_shown(sweep, bench, config):
    out, err = sweep("--list")
    assert out == ""
    assert "there are no sweeps" in err
    bench.before = interrupt_at(14)
    sweep(*ASKED, code=None)
    (folder,) = list_sweeps(config)
    out = sweep("--list").out
    assert folder.name in out
    assert "not complete" in out
    (row,) = json.loads(sweep("--list", "--json").out)["sweeps"]
    assert (row["sweep"], row["model"], row["complete"]) == (folder.name, "tiny", False)
    bench.before = lambda number: None
    measured = sweep(*ASKED).out
    assert "not complete" not in sweep("--list").out
    assert sweep("--show", "last").out == measured
    assert json.loads(sweep("--show", folder.name, "--json").out)["best"] == "batch_tokens=512"


def test_combinations_that_are_left_out_are_said_before_and_in_the_result(sweep, config):
    axes = ("--axis", "kv_type=f16,q8_0", "--axis", "flash_attention=off,on")
    left_out = "left out 1 combination: kv_type=q8_0 needs flash attention"
    out, err = sweep("tiny", *axes, "--blocks", "2", "--rounds", "1")
    assert left_out in err
    assert f"note: {left_out}" in out
    document = json.loads(sweep("--show", "last", "--json").out)
    assert left_out in document["notes"]
    (folder,) = list_sweeps(config)
    assert left_out in (folder / "report.html").read_text(encoding="utf-8")


def test_an_estimate_says_so_wherever_its_joules_are(sweep, bench, config):
    bench.change = lambda number, visit: replace(visit, kind="estimate")
    out, err = sweep(*ASKED, "--apply")
    sentence, _, head, *rows = out.splitlines()
    assert "of the joules (estimate)" in sentence
    assert "J/answer (estimate)" in head
    assert "≈" in rows[0]
    assert "of the joules (estimate)" in err  # what is used from now on, and why
    with sqlite3.connect(config.database) as log:
        assert log.execute("SELECT verdict FROM sweeps").fetchall() == [(sentence,)]
    assert json.loads(sweep("--show", "last", "--json").out)["verdict"] == sentence


def test_a_setting_that_cannot_run_is_not_called_dropped(sweep, bench, config):
    def refuse(number, visit):
        if visit.setting == "batch_tokens=64":
            raise SettingFailed("not enough memory", "close other programs")
        return visit

    bench.change = refuse
    out = sweep("tiny", "--axis", "batch_tokens=64,128", "--blocks", "2", "--rounds", "1").out
    assert "left out batch_tokens=64: not enough memory" in out
    assert "dropped" not in out
    assert "saved" not in out  # no time was saved by dropping it
    (folder,) = list_sweeps(config)
    (drop,) = json.loads((folder / "result.json").read_text())["drops"]
    assert (drop["after_block"], drop["reason"]) == (None, "not enough memory")


def test_one_block_is_one(sweep, bench):
    bench.before = interrupt_at(3)
    err = sweep(*ASKED, code=3).err
    assert "stopped after 1 block\n" in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [40, 60, 80, 160])
def test_a_result_is_as_wide_as_the_terminal(monkeypatch, columns):
    result = results.sixteen_settings().result
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    print_lines(format_result(result))
    lines = terminal.getvalue().splitlines()
    assert max(map(count_cells, lines)) <= columns
    sentence = lines[: lines.index("")]
    assert " ".join(sentence) == format_verdict(result)


def test_a_dry_run_says_the_whole_goal(sweep):
    out = sweep(*ASKED, "--within", "10", "--dry-run").out
    assert "goal joules within 10 % of the best time" in out


def test_a_damaged_sweep_is_named_in_the_list(sweep, config):
    sweep(*ASKED, code=None)
    (folder,) = list_sweeps(config)
    (folder / "config.json").write_text("{}")
    out, err = sweep("--list")
    assert folder.name not in out
    assert "is not a sweep configuration" in err


def test_the_best_setting_is_applied_and_reverted(sweep, config):
    out, err = sweep(*ASKED, "--apply")
    assert "tiny uses batch_tokens=512 on this machine from now on" in err
    assert "etui sweep --revert tiny" in err
    err = sweep("--revert", "tiny").err
    assert "uses the settings of models.yaml" in err
    err = sweep("--revert", "tiny").err
    assert "no settings of a sweep" in err
    out = sweep("--apply", "last", "--json").out
    document = json.loads(out)
    assert document["applied"]["values"] == {"batch_tokens": 512}
    document = json.loads(sweep("--revert", "tiny", "--json").out)
    assert document["reverted"]["values"] == {"batch_tokens": 512}


def test_nothing_is_applied_of_a_sweep_that_is_not_complete(sweep, bench, config):
    bench.before = interrupt_at(14)
    err = sweep(*ASKED, "--apply", code=3).err
    assert "nothing was applied" in err
    err = sweep("--apply", "last", code=2).err
    assert "is not complete" in err
    assert not config.tuned_file.exists()


@pytest.mark.parametrize(
    ("args", "said", "fix"),
    [
        ((), "no model given", "etui sweep MODEL"),
        (("--apply",), "no model given", "--apply SWEEP"),
        (("--policy", "balanced"), "--policy needs the arm", "--arm"),
        (("tiny", "--arm", "quick"), "cannot be combined", "only one"),
        (("tiny", "--json", "--jsonl"), "cannot be combined", "only one"),
        (("tiny", "--data", "x"), "--data has no effect", "--suite"),
        (("tiny", "--limit", "5"), "--limit has no effect", "--suite"),
        (("tiny", "--goal", "time", "--within", "5"), "--within 5 cannot", "--goal joules"),
        (("tiny", "--resume", "last"), "MODEL cannot be used with --resume", "new sweep"),
        (("--resume", "last", "--seed", "1"), "--seed cannot be used with --resume", "remove"),
        (("--resume", "nothing"), "there is no sweep 'nothing'", "sweeps are in"),
        (("--apply", "tiny"), "there is no sweep 'tiny'", "etui sweep tiny --apply"),
        (("tiny", "--apply", "last"), "MODEL cannot be used with --apply", "put --apply last"),
        (("--apply", "last", "--resume", "last"), "cannot be combined", "only one"),
        (("--list", "--show", "last"), "cannot be combined", "only one"),
        (("--show", "last", "--seed", "2"), "--seed cannot be used with --show", "remove"),
        (("--revert", "tiny", "--force"), "--force cannot be used with --revert", "remove"),
        (("--revert", "tyni"), "no model is called 'tyni'", "tiny"),
        (("--show", "last"), "there is no sweep 'last'", "and there are none"),
        (("tiny", "--suite", "smaple"), "did you mean 'sample'?", "use mmlu, arc-challenge"),
        (("--show", "~no-such-user/x"), "begins with ~ and the name of no user", "in full"),
        (("tiny", "--workload", "~no-such-user/x"), "begins with ~ and", "in full"),
        (("--list", "tiny"), "MODEL cannot be used with --list", "remove"),
        (("tiny", "--axis", "thread=1,2"), "did you mean 'threads'?", "axes are"),
        (("tiny", "--axis", "kv_type=f16,q3"), "q3", ""),
        (("tiny", "--axis", "kv_type=f16"), "only one combination", "another value"),
        (("tiny", "--axis", "power_limit=100,200"), "power_limit", "--cap"),
        (("tiny", "--axis", "power_limit=1,2", "--cap", "user"), "needs a terminal", "--cap set"),
        (("tyni",), "no model is called 'tyni'", ""),
    ],
)
def test_wrong_usage_says_what_and_how_to_fix_it(sweep, config, bench, args, said, fix):
    out, err = sweep(*args, code=2)
    assert out == ""
    what, *fixes = err.strip().splitlines()
    assert said in what
    assert fix in " ".join(fixes)
    assert list_sweeps(config) == ()
    assert bench.opened == 0


@pytest.mark.parametrize(
    "args",
    [
        ("--blocks", "1"),
        ("--window", "0"),
        ("--cool-to", "nan"),
        ("--goal", "watts"),
        ("--seed", "-1"),
        ("--cap", "me"),
    ],
)
def test_values_out_of_range_are_wrong_usage(sweep, args):
    sweep("tiny", *args, code=2)


def test_a_model_that_is_not_here_says_how_to_get_it(sweep):
    err = sweep("smollm2-135m", code=1).err
    assert "etui models pull smollm2-135m" in err


def test_a_busy_machine_is_refused(sweep, bench, config):
    def refuse():
        raise EtuiError("the machine is not idle: the CPUs are busy (70%)", "add --force")

    bench.busy = refuse
    err = sweep(*ASKED, code=1).err
    assert "not idle" in err
    assert list_sweeps(config) == ()


def start(*args, hang_at):
    """Start the command on the simulated machine, and wait until it hangs in a visit."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "sweep" / "driver.py"), "sweep", *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SWEEP_HANG_AT": str(hang_at)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line == "hanging\n":
            return process
    raise AssertionError("".join(seen))


@pytest.mark.parametrize("hang_at", [8, 9, 13, 21])
def test_kill_9_loses_one_block_at_most(sweep, config, hang_at):
    process = start(*ASKED, hang_at=hang_at)
    process.kill()
    process.communicate()
    (folder,) = list_sweeps(config)
    blocks = read_sweep(folder).blocks
    visits = sum(len(block.visits) for block in blocks)
    most = len(read_sweep(folder).config.design.settings) + 1
    assert hang_at - 1 - visits < most  # only those of the running block are lost
    err = sweep(*ASKED).err
    assert f"({len(blocks)} blocks already measured)" in err
    assert list_sweeps(config) == (folder,)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_sigterm_keeps_the_blocks_and_exits_with_3(config):
    process = start(*ASKED, hang_at=14)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 3
    (folder,) = list_sweeps(config)
    assert f"etui sweep --resume {folder}" in err
    assert out
    assert len(read_sweep(folder).blocks) >= 5


def test_two_at_once_cannot_write_one_sweep(sweep, config):
    process = start(*ASKED, hang_at=14)
    try:
        err = sweep(*ASKED, code=1).err
        assert "another etui is writing" in err
    finally:
        process.kill()
        process.communicate()
