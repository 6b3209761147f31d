"""Every command restores the power limits of a killed sweep; without any it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from etui.cli.main import run
from etui.energy.power_limits.journal import JournalEntry, new_journal, write_journal
from tests.support.power_limits import read_package, write_package

ENTRY = JournalEntry("package:0", "CPU package 0", "long_term", 65.0, 40.0, False, "etui", "")
RESTORED = "etui: restored the power limit of CPU package 0 to 65 W (an earlier sweep was killed)\n"


@pytest.fixture
def package(config):
    """A package whose limit a killed sweep has left at 40 W."""
    folder = write_package(config.sysfs_dir, long_watts=40)
    journal = replace(new_journal((ENTRY,)), process_start="1 ticks")
    write_journal(config.power_limits_file, journal)
    return folder


def test_a_command_restores_and_says_so_on_standard_error(package, config, cli):
    printed = cli.run("models", "list", "--json")
    assert printed.err == RESTORED
    json.loads(printed.out)
    assert read_package(package) == (65, 120)
    assert not config.power_limits_file.exists()
    assert cli.err("models", "list", "--json") == ""


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_nothing(package, option):
    assert run([option]) == 0
    assert read_package(package) == (40, 120)


def test_a_fault_does_not_fail_the_command(package, monkeypatch, cli):
    def fail(config):
        raise RuntimeError("what now")

    monkeypatch.setattr("etui.energy.power_limits.hold.restore_left_over", fail)
    assert "cannot restore power limits: internal error: RuntimeError" in cli.err("models", "list")


def test_without_a_journal_nothing_is_imported():
    code = (
        "import sys\nfrom etui.cli.main import run\nrun(['completion', 'bash'])\n"
        "print(*[m for m in sys.modules if m.startswith(('etui.energy', 'filelock', 'msgspec'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
