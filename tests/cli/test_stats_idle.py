"""`etui stats --idle`: logged days replayed under several keep-warm times."""

from __future__ import annotations

import time

import pytest

from tests.log.idle_log import MODEL, write_baselines, write_residence, write_turns
from tests.support.idle_days import DAYS, draw_times, flatten

DAY = 86_400


def idle(cli, *options):
    return cli.json("stats", "--idle", "--json", *options)


def report(cli):
    shown = cli.run("stats", "--idle")
    return shown.out, shown.err


def test_an_empty_log_has_nothing_to_replay(config, cli):
    assert idle(cli)["models"] == []
    assert report(cli) == (
        "no questions in chats in the last 30 days (those of `etui ask` do not count)\n",
        "",
    )


def test_the_days_of_the_log_under_each_time(config, cli):
    begin = time.time() - 6 * DAY
    times = [begin + t for t in flatten(draw_times(DAYS["all day"], 5, 1))]
    write_turns(config, times)
    write_residence(config, begin)
    write_baselines(config)
    (model,) = idle(cli)["models"]
    assert (model["name"], model["missing"], model["gaps"]) == (MODEL, "", len(times) - 1)
    by_name = {row["name"]: row for row in model["times"]}
    assert list(by_name) == [
        "1 min", "5 min", "15 min", "60 min", "never", "T*", "auto", "best fixed",
    ]  # fmt: skip
    never, auto, best = (by_name[name] for name in ("never", "auto", "best fixed"))
    assert (never["loads"], never["seconds"], auto["seconds"]) == (0, None, None)
    assert never["extra_joules"]["value"] == pytest.approx(model["gap_seconds"] * 35, rel=1e-6)
    assert never["joules"]["value"] == pytest.approx(model["gap_seconds"] * 45, rel=1e-6)
    assert by_name["T*"]["seconds"] == pytest.approx(model["break_even_seconds"])
    fixed = [row["joules"]["value"] for row in model["times"] if row["seconds"] is not None]
    assert best["joules"]["value"] <= min(fixed)
    assert model["ratio"] == pytest.approx(auto["joules"]["value"] / best["joules"]["value"])
    assert model["ratio"] <= 1.1
    assert all(row["joules"]["uncertainty"] > 0 for row in model["times"])
    assert sum(day["gaps"] for day in model["days"]) == model["gaps"]
    assert len(model["days"]) in (5, 6)
    assert model["channels"] == [{"id": "gpu:FAKE", "loaded_watts": 45.0, "cold_watts": 10.0}]
    # A shorter window is replayed with what was learned before it.
    shorter = idle(cli, "--days", "3")["models"][0]
    assert 0 < shorter["gaps"] < model["gaps"]
    out, err = report(cli)
    assert "x the joules of the best fixed time found in hindsight" in out
    assert err.count("assumed: ") == 3


@pytest.mark.parametrize(
    ("loads", "loaded", "missing"),
    [
        (False, 45.0, "not measured yet: the joules of a load"),
        (True, None, "not measured yet: its idle power, the cold idle power"),
        (True, 9.0, "idling costs nothing"),
    ],
)
def test_what_is_missing_is_named(config, cli, loads, loaded, missing):
    begin = time.time() - DAY
    write_turns(config, [begin, begin + 60])
    if loads:
        write_residence(config, begin)
    if loaded is not None:
        write_baselines(config, loaded=loaded)
    (model,) = idle(cli)["models"]
    assert model["missing"].startswith(missing)
    assert (model["times"], model["ratio"]) == ([], None)
    out, err = report(cli)
    assert f"{MODEL}: no replay: {missing}" in out
    how = "how to measure it: etui models status\n"
    assert err == (how if missing.startswith("not measured yet") else "")


def test_one_question_has_no_gap(config, cli):
    write_turns(config, [time.time() - 100])
    write_residence(config, time.time() - 1000)
    write_baselines(config)
    (model,) = idle(cli)["models"]
    assert model["missing"] == "no two questions in this time"
