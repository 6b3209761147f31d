"""``--when``: the time that is chosen, what is said of it, and the wait, with a fake clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest

from etui.cli.when import parse_by, wait_for_price, when_options
from etui.config.config import load_config
from etui.config.week_prices import DAYS
from etui.errors import ExitCode, Stopped, UsageError
from etui.units import energy_text

NOW = datetime(2026, 11, 24, 20, 7)


class Clock:
    """A clock of the wall that only sleeping moves."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at_s = at.timestamp()
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.at_s += seconds

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.at_s)


def write_prices(home: Path, values: dict[int, float | None], unit: str = "EUR/MWh") -> None:
    """Write prices of hours from NOW's midnight on; the machine's zone is that of the file."""
    midnight = NOW.replace(hour=0, minute=0)
    rows = [
        f"{midnight + timedelta(hours=at):%Y-%m-%d %H:%M},"
        f"{midnight + timedelta(hours=at + 1):%Y-%m-%d %H:%M},{'' if value is None else value}"
        for at, value in values.items()
    ]
    text = "\n".join([f"start,end,carbon intensity or price [{unit}]", *rows])
    (home / "hours.csv").write_text(text)
    kind = "prices" if "EUR" in unit else "carbon"
    (home / "config.yaml").write_text(f"tariff: {{{kind}: hours.csv}}\n")


def wait(clock: Clock, seconds: float | None = 3600.0, joules: float | None = 3.6e6, **options):
    given = {"when": "cheap", "by": None, **options}
    config = load_config(os.environ)
    wait_for_price(given, config, lambda: (seconds, joules), now=clock.now, sleep=clock.sleep)


def test_it_waits_for_the_cheapest_hour_and_says_what_that_saves(etui_home, capsys):
    write_prices(etui_home, {at: {26: 40.0}.get(at, 240.0) for at in range(18, 36)})
    clock = Clock()
    wait(clock)
    assert clock.moment == NOW.replace(hour=2, minute=0) + timedelta(days=1)
    assert max(clock.sleeps) <= 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "the cheapest time for about 1 h 00 min is Wed 02:00 until Wed 03:00: 0.04 EUR/kWh, now "
        "0.24 EUR/kWh",
        f"it saves about 0.20 EUR of an estimated {energy_text(3.6e6)}",
        "once begun, the run goes on when that time is over; Ctrl-C leaves now",
    ]


def test_a_terminal_counts_the_time_down_on_one_line(etui_home, capsys, monkeypatch):
    write_prices(etui_home, {20: 20.0, 21: 10.0})
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    wait(Clock(), 1800)
    shown = [part.strip() for part in capsys.readouterr().err.split("\r") if "begins" in part]
    assert shown[0] == "begins at 21:00, in 53 min 00 s"
    assert shown[-1] == "begins at 21:00, in 1.00 s"
    assert len(shown) == 53 * 60


def test_a_resumed_run_begins_at_once_when_it_is_the_time(etui_home, capsys):
    write_prices(etui_home, {at: {20: 40.0}.get(at, 240.0) for at in range(18, 36)})
    clock = Clock()
    wait(clock, 1800)
    assert clock.sleeps == []
    assert (
        capsys.readouterr().err == "now is the cheapest time for about 30 min 00 s: 0.04 EUR/kWh\n"
    )


def test_by_bounds_the_end_and_gaps_are_not_used(etui_home, capsys):
    values = {at: 240.0 - at for at in range(18, 36)}
    write_prices(etui_home, {**values, 22: 215.0, 23: None})
    clock = Clock()
    wait(clock, by="23:00")
    assert clock.moment == NOW.replace(hour=22, minute=0)
    clock = Clock()
    wait(clock, 7200, by="06:30")
    assert clock.moment == NOW.replace(hour=4, minute=30) + timedelta(days=1), (
        "22 h has no two hours"
    )
    with pytest.raises(
        UsageError, match=r"prices are not known for 15 h 00 min without a gap"
    ) as error:
        wait(Clock(), 15 * 3600)
    assert "up to date" in error.value.fix


def test_clean_uses_the_carbon_and_negative_prices_are_the_cheapest(etui_home, capsys):
    write_prices(etui_home, {20: 300.0, 21: 300.0, 22: 100.0}, "gCO2eq/kWh")
    clock = Clock()
    wait(clock, when="clean", joules=7.2e6)
    assert clock.moment.hour == 22
    assert "saves about 400 g CO2e of an estimated" in capsys.readouterr().err
    write_prices(etui_home, {20: 10.0, 21: -5.0, 22: 0.0})
    clock = Clock()
    wait(clock, joules=None)
    assert clock.moment.hour == 21
    assert "0.01 EUR of a kilowatt-hour" in capsys.readouterr().err


def test_a_run_of_unknown_length_is_taken_for_an_hour(etui_home, capsys):
    write_prices(etui_home, {20: 10.0, 21: 5.0, 22: 5.0})
    wait(Clock(), None, None)
    assert "one hour is assumed" in capsys.readouterr().err


def test_dry_run_says_when_and_does_not_wait(etui_home, capsys):
    write_prices(etui_home, {20: 10.0, 21: 5.0})
    clock = Clock()
    given = {"when": "cheap", "by": None}
    config = load_config(os.environ)
    wait_for_price(given, config, lambda: (60.0, None), dry_run=True, now=clock.now)
    assert clock.sleeps == []
    assert "is 21:00 until 21:01" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "price_per_kwh: 0.3\n", "carbon_g_per_kwh: 300\n"])
@pytest.mark.parametrize("goal", ["cheap", "clean"])
def test_without_prices_by_time_it_is_an_error(etui_home, text, goal):
    (etui_home / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=f"--when {goal} needs") as error:
        wait(Clock(), when=goal)
    assert "tariff" in error.value.fix


def test_times_of_a_tariff_are_known_a_week_ahead(etui_home, capsys):
    (etui_home / "config.yaml").write_text(
        "currency: EUR\nprice_per_kwh: 0.3\ntariff: {times: {mo 03:00-04:00: 0.1}}\n"
    )
    clock = Clock()
    wait(clock)
    assert (clock.moment.weekday(), clock.moment.hour) == (0, 3)
    assert "0.1 EUR/kWh, now 0.3 EUR/kWh" in capsys.readouterr().err


def test_by_alone_and_by_in_the_past_are_errors(etui_home):
    with pytest.raises(UsageError, match="--by needs --when"):
        wait(Clock(), when=None, by="06:00")
    for text in ("soon", "25:00", "2026-01-01", "0h", "2026-13-01T00:00"):
        with pytest.raises(UsageError, match="--by") as error:
            parse_by(text, NOW)
        assert error.value.fix
    assert parse_by("06:00", NOW) == (NOW.replace(hour=6, minute=0) + timedelta(1)).timestamp()
    assert parse_by("23:00", NOW) == NOW.replace(hour=23, minute=0).timestamp()
    assert parse_by("90m", NOW) == (NOW + timedelta(minutes=90)).timestamp()


def test_ctrl_c_leaves_the_wait_cleanly(etui_home):
    write_prices(etui_home, {20: 10.0, 21: 5.0})

    def press(_: float) -> None:
        raise KeyboardInterrupt

    clock = Clock()
    clock.sleep = press  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="nothing was begun") as stopped:
        wait(clock)
    assert stopped.value.exit_code == ExitCode.PARTIAL


@pytest.mark.skipif(os.name == "nt", reason="a signal that ends the process there")
def test_a_signal_while_an_object_is_freed_ends_the_wait(etui_home, monkeypatch):
    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)  # what its handler raises here is lost

    def lose(_: float) -> None:
        assert not clock.sleeps, "the signal was lost"
        Freed()
        clock.sleeps.append(0.0)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    write_prices(etui_home, {20: 10.0, 21: 5.0})
    clock = Clock()
    clock.sleep = lose  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="nothing was begun"):
        wait(clock)


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "--suite", "sample", "--model", "smollm2-135m"),
        ("sweep", "smollm2-135m"),
        ("calibrate", "smollm2-135m"),
    ],
)
def test_every_command_has_it_and_refuses_to_wait_without_prices(etui_home, cli, words):
    shown = cli.err(*words, "--when", "cheap", code=ExitCode.USAGE)
    assert "--when cheap needs prices that differ by time" in shown
    assert "--by needs --when" in cli.err(*words, "--by", "12h", code=ExitCode.USAGE)


@pytest.mark.parametrize("words", [("--list",), ("--show", "last"), ("--revert", "m")])
def test_what_measures_nothing_does_not_wait(cli, words):
    assert "cannot be used" in cli.err("sweep", *words, "--when", "cheap", code=ExitCode.USAGE)


@pytest.mark.skipif(os.name == "nt", reason="a signal that ends the process there")
def test_a_signal_ends_a_real_wait_without_a_traceback(etui_home):
    day = DAYS[(datetime.now().weekday() + 3) % 7]
    (etui_home / "config.yaml").write_text(
        f"price_per_kwh: 0.3\ntariff: {{times: {{'{day} 03:00-04:00': 0.1}}}}\n"
    )
    code = (
        "from etui.cli.main import run; import sys; sys.exit(run(['calibrate', 'm', '--when', "
        "'cheap']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert "the cheapest time for about" in lines[0], lines
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == ExitCode.PARTIAL
    assert "stopped while waiting: nothing was begun" in rest
    assert "Traceback" not in rest


def test_the_options_are_the_same_everywhere():
    @click.command()
    @when_options
    def command(**_: object) -> None: ...

    assert [param.name for param in command.params] == ["when", "by"]
