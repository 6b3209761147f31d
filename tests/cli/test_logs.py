"""``etui logs`` from the outside: what it prints where, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone

import pytest

from etui.cli.main import run
from etui.cli.param_types import parse_since
from etui.errors import ExitCode, UsageError
from etui.log.chat_queries import find_branch, list_chat_turns
from etui.log.queries import LogReader, Sort
from etui.log.writer import TurnWriter
from etui.turn.record import ClientRecord, LoadRecord, LoopRecord, TurnRecord, UnloadRecord

MakeTurn = Callable[..., TurnRecord]


@pytest.fixture
def save(config):
    def save(*turns):
        with TurnWriter(config) as log:
            for turn in turns:
                log.save_turn(turn)

    return save


@pytest.fixture
def filled(save, make_turn):
    """A cheap, a dear, an estimated and an unmeasured turn."""
    estimated = make_turn(3, joules=50.0, query="third", rule="other")
    save(
        make_turn(1, joules=5.0, query="first"),
        make_turn(2, joules=500.0, query="second", model="big", chat_id="c1"),
        replace(estimated, energy=replace(estimated.energy, kind="estimate")),
        make_turn(4, joules=None, query="fourth", status="stopped"),
    )


def questions(text):
    """The last word of every line below the head of a table."""
    return [line.split()[-1] for line in text.splitlines()[1:]]


def test_an_empty_log_says_so_and_is_no_error(config, cli):
    for args in (["list"], ["search", "x"], ["totals"], ["export"]):
        shown = cli.run("logs", *args)
        assert shown.out == ""
        assert "the log is empty" in shown.err
    assert cli.json("logs", "list", "--json") == {"total": 0, "turns": []}
    assert not config.database.exists()


@pytest.mark.usefixtures("filled")
def test_list(cli):
    table = cli.out("logs", "list")
    assert questions(table) == ["fourth", "third", "second", "first"]
    fourth, third, second, _ = table.splitlines()[1:]
    assert "unmeasured" in fourth
    assert "[stopped] fourth" in fourth
    assert "≈50 J" in third
    assert "500.00 ± 0.41 J (counter)" in second
    assert cli.out("logs") == table
    assert questions(cli.out("logs", "-n", "1")) == ["fourth"]
    assert "export" in cli.out("logs", "--help")


@pytest.mark.usefixtures("filled")
def test_list_sorts_filters_and_limits(cli):
    def listed(*args):
        return questions(cli.out("logs", "list", *args))

    assert listed("--sort", "joules") == ["second", "third", "first", "fourth"]
    assert listed("--sort", "joules", "--reverse") == ["first", "third", "second", "fourth"]
    assert listed("-n", "1", "--sort", "joules") == ["second"]
    assert listed("--model", "big") == ["second"]
    assert listed("--rule", "other") == ["third"]
    assert listed("--status", "stopped") == ["fourth"]
    assert listed("--chat", "c1") == ["second"]
    assert listed("--since", "2026-11-24T10:03:00+00:00") == ["fourth", "third"]


@pytest.mark.usefixtures("filled")
def test_search_finds_and_says_when_it_does_not(cli):
    assert questions(cli.out("logs", "search", "thir")) == ["third"]
    assert "no turn in the log matches" in cli.err("logs", "search", 'NEAR("*')
    assert run(["logs", "search", "  "]) == ExitCode.USAGE


def test_show_writes_no_net_below_zero_and_marks_the_idle_power_of_an_estimate(
    config, save, make_turn, cli
):
    turn = make_turn(1)
    below = replace(turn.energy, net_joules=-1.4, idle_watts=18.0)
    estimate = replace(turn.energy, kind="estimate", channels={"estimate:cpu": 12.34})
    save(replace(turn, energy=below), replace(make_turn(2), energy=estimate))
    shown = " ".join(cli.out("logs", "show", turn.turn_id).split())
    assert "net not above idle, without the 18.0 W of idling" in shown
    shown = " ".join(cli.out("logs", "show", make_turn(2).turn_id).split())
    assert "net ≈8.5 J, ≈0.42 J/tok, without the ≈3.2 W of idling" in shown
    assert "etui's part ≈9.9 J, the rest is idle power and other programs on the CPU" in shown


def test_show_has_phases_tokens_route_and_load(config, save, make_turn, cli):
    turn = make_turn(1)
    save(turn)
    with TurnWriter(config) as log:
        log.save_load(
            LoadRecord("l", "2026", "m", None, turn.turn_id, 1.5, 30.0, 1.0, "counter", 0, 10**8)
        )
        unloaded = ("big", None, turn.turn_id, "room", 0.25, 5.0, 1.0, "counter", 5 * 10**9)
        log.save_unload(UnloadRecord("u", "2026", *unloaded))
    shown = " ".join(cli.out("logs", "show", "aaaa").split())
    for fact in (
        "chosen by balanced, rule math-thinks",
        "40 tok, 30 cached",
        "energy 12.34 ± 0.41 J (counter), 0.600 J/tok, idle included · a hardware counter",
        "net 8.50 J, 0.425 J/tok, without the 3.20 W of idling",
        "9.87 J, the rest is idle power and other programs on the GPU",
        "read 2.34 J",
        "write 6.00 J",
        "think 4.00 J",
        "unload big, ≈5.00 GB freed, 0.25 s, 5 ± 1 J (counter); not in the turn's",
        "load m, 100 MB, 1.50 s, 30 ± 1 J (counter); not in the turn's energy",
        "CPU package: not readable",
        "flags coarse",
        "vote 1 A (5 tokens)",
        "question: What is a joule?",
        "answer: A watt for a second.",
    ):
        assert fact in shown, fact


def test_loads_and_unloads_are_listed_together(config, cli):
    assert cli.err("logs", "loads") == "no model has been loaded yet\n"
    times = [f"2026-01-02T03:04:0{second}.000+00:00" for second in range(4)]
    ahead = LoadRecord("l1", times[0], "m", None, None, 1.5, 30.0, 1.0, "counter", 0, 10**8)
    idle = UnloadRecord("u1", times[1], "m", None, None, "idle", 0.2, None, None, None, 2 * 10**8)
    again = replace(
        ahead, load_id="l2", created_at=times[2], turn_id="0123456789ab", kind="estimate"
    )
    with TurnWriter(config) as log:
        for load in (again, ahead):
            log.save_load(load)
        log.save_unload(idle)
    _, *lines = [" ".join(line.split()[2:]) for line in cli.out("logs", "loads").splitlines()]
    assert lines == [
        "load m 100 MB 1.50 s ≈30 J turn 01234567",
        "unload m ≈200 MB 0.20 s unmeasured idle timeout",
        "load m 100 MB 1.50 s 30 ± 1 J (counter) upcoming question",
    ]
    assert "turn 01234567" in cli.out("logs", "loads", "-n", "1").splitlines()[1]
    document = cli.json("logs", "loads", "--json")
    assert [load["load_id"] for load in document["loads"]] == ["l2", "l1"]
    assert document["unloads"] == [asdict(idle)]


@pytest.mark.usefixtures("filled")
def test_show_last_and_as_json(make_turn, cli):
    document = cli.json("logs", "show", "last", "--json")
    assert document["query"] == "fourth"
    assert document["energy"]["joules"] is None
    assert document["turn_id"] == make_turn(4).turn_id


@pytest.mark.usefixtures("filled")
def test_show_of_an_unknown_turn_names_the_nearest(cli):
    shown = cli.run("logs", "show", "aaab00000001", code=ExitCode.FAILED)
    assert shown.out == ""
    assert "no turn 'aaab00000001'" in shown.err
    assert "did you mean aaaa00000001" in shown.err
    assert "more than one turn" in cli.err("logs", "show", "aaaa", code=ExitCode.FAILED)


def test_nothing_in_a_question_reaches_the_terminal(save, make_turn, cli):
    evil = "red \x1b[31m bell \x07 back \x08\r\nnext \x9b2J \u202eright"
    save(make_turn(1, query=evil, answer=evil, model="m\x1b[0m", rule="r\n\x1b]0;t\x07", why=evil))
    for args in (["list"], ["search", "red"], ["show", "last"], ["totals", "--by", "rule"]):
        out = cli.out("logs", *args)
        assert not {c for c in out if ord(c) < 32 or 127 <= ord(c) < 160} - {"\n"}
        assert "\u202e" not in out
    assert len(cli.out("logs", "list").splitlines()) == 2


@pytest.mark.usefixtures("filled")
def test_totals_of_models(cli):
    head, big, small = (line.split() for line in cli.out("logs", "totals").splitlines())
    assert head[0] == "MODEL"
    assert big[:2] == ["big", "1"]
    assert small[:2] == ["smollm2-135m", "3"]
    assert "≈50 J" in " ".join(small)
    assert small[-1] == "1"


@pytest.mark.usefixtures("filled")
def test_export(cli):
    lines = cli.out("logs", "export").splitlines()
    assert [json.loads(line)["query"] for line in lines] == ["first", "second", "third", "fourth"]
    (row,) = csv.DictReader(
        io.StringIO(cli.out("logs", "export", "--format", "csv", "--model", "big"))
    )
    assert row["energy_joules"] == "500.0"
    assert cli.out("logs", "export", "--format", "markdown", "--chat", "c1").startswith(
        "# second\n"
    )
    assert cli.json("logs", "export", "--format", "json", "--chat", "c1")["chat_id"] == "c1"
    assert run(["logs", "export", "--format", "markdown"]) == ExitCode.USAGE
    assert run(["logs", "export", "--format", "json", "--chat", "nope"]) == ExitCode.FAILED


def test_a_chat_is_shown_as_its_current_branch(config, make_turn, cli):
    turns = [make_turn(number, query=f"q{number}", chat_id="c") for number in range(4)]
    parents = [None, turns[0].turn_id, turns[1].turn_id, turns[0].turn_id]
    turns = [replace(turn, parent_id=p) for turn, p in zip(turns, parents, strict=True)]

    def listed():
        printed = cli.run("logs", "list", "--chat", "c", "--reverse")
        assert "on other branches of this chat" in printed.err
        return [word for word in printed.out.split() if word in {"q0", "q1", "q2", "q3"}]

    with TurnWriter(config) as writer:
        for turn in turns:
            writer.save_turn(turn)
    assert listed() == ["q0", "q3"]
    text = cli.out("logs", "export", "--format", "markdown", "--chat", "c")
    assert "> q3" in text
    assert "> q1" not in text
    assert "*2 turns on other branches left out*" in text
    with LogReader(config) as log, TurnWriter(config) as writer:
        writer.save_chat(replace(log.get_chat("c"), head=turns[1].turn_id))
    assert listed() == ["q0", "q1", "q2"]
    with LogReader(config) as log:
        branch = find_branch(log, "c")
        on_branch = [t.query for t in list_chat_turns(log, "c") if t.turn_id in branch]
        assert on_branch == ["q0", "q1", "q2"]
    found = cli.json("logs", "export", "--format", "json", "--chat", "c")["turns"]
    assert [turn["parent_id"] for turn in found] == parents
    assert cli.json("logs", "list", "--chat", "c", "--json")["total"] == 4


def test_path(config, cli):
    assert cli.out("logs", "path") == f"{config.database}\n"


def test_a_database_that_is_none_fails_with_a_way_out(config, cli):
    config.database.write_text("hello " * 100)
    shown = cli.run("logs", "list", code=ExitCode.FAILED)
    assert "is not a database" in shown.err
    assert "move it away" in shown.err


def test_points_in_time():
    zone = timezone(timedelta(hours=2))
    now = datetime(2026, 11, 24, 15, 30, tzinfo=zone)
    midnight = datetime(2026, 11, 24, tzinfo=zone)
    assert parse_since("today", now) == midnight
    assert parse_since("Yesterday", now) == midnight - timedelta(days=1)
    assert parse_since("90m", now) == now - timedelta(minutes=90)
    assert parse_since("2 w", now) == now - timedelta(weeks=2)
    assert parse_since("2026-11-24", now) == midnight
    assert parse_since("2026-11-24T10:00:00+00:00", now).utcoffset() == timedelta(0)
    for wrong in ("soon", "", "7y", "2026-13-01", "999999w"):
        with pytest.raises(UsageError, match="not a time"):
            parse_since(wrong, now)


@pytest.mark.usefixtures("filled")
def test_totals_cost_what_the_stated_factors_say_and_nothing_without(etui_home, cli):
    [bare] = cli.json("logs", "totals", "--by", "all", "--json")["totals"]
    assert "cost" not in bare
    assert "COST" not in cli.out("logs", "totals")
    (etui_home / "config.yaml").write_text("price_per_kwh: 0.30\ncurrency: EUR\n")
    [total] = cli.json("logs", "totals", "--by", "all", "--json")["totals"]
    assert total["cost"]["price"] == pytest.approx(0.3 * total["joules"] / 3.6e6)
    assert total["cost"]["currency"] == "EUR"
    assert "grams_co2e" not in total["cost"]
    estimated = total["estimated_cost"]["kilowatt_hours"]
    assert estimated == pytest.approx(total["estimated_joules"] / 3.6e6)
    head, row = cli.out("logs", "totals", "--by", "all").splitlines()
    assert head.endswith(" COST")
    assert row.endswith(" < 0.01 EUR")


@pytest.mark.usefixtures("filled")
def test_hours_are_totals_too_and_a_turn_has_its_cost(etui_home, cli):
    (etui_home / "config.yaml").write_text("price_per_kwh: 0.30\ncurrency: EUR\n")
    hours = cli.json("logs", "totals", "--by", "hour", "--json")["totals"]
    assert hours == sorted(hours, key=lambda total: total["key"], reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:00", total["key"]) for total in hours)
    lines = [json.loads(line) for line in cli.out("logs", "export").splitlines()]
    known = [line["cost"]["price"] for line in lines if line["energy"]["joules"] is not None]
    priced = [total[name] for total in hours for name in ("cost", "estimated_cost")]
    assert sum(known) == pytest.approx(sum(cost["price"] for cost in priced if cost))
    measured = next(line["turn_id"] for line in lines if line["energy"]["joules"] is not None)
    assert "EUR/kWh), by the tariff of today" in cli.out("logs", "show", measured)
    assert "tariff" not in cli.out("logs", "show", "last"), "its joules are not known"
    head, *rows = cli.out("logs", "export", "--format", "csv").splitlines()
    assert head.endswith("cost_kilowatt_hours,cost_price,cost_currency,cost_grams_co2e")
    assert len(rows) >= len(known)


def test_show_has_the_repetition_that_was_cut(save, make_turn, cli):
    why = "the answer repeats itself (7 tokens, 5 times), so it was ended after 50"
    turn = replace(
        make_turn(1),
        ended="repeats",
        loop=LoopRecord("la femme, la femme", "", 462, 43.2),
        settings={"ended": why},
    )
    save(turn)
    shown = " ".join(cli.out("logs", "show", "aaaa").split())
    assert f"ended {why} (saved up to ≈43 J)" in shown
    assert "answer with its repetition: la femme, la femme" in shown
    document = cli.json("logs", "show", "aaaa", "--json")
    turn_document = document.get("turn", document)
    assert turn_document["ended"] == "repeats"
    assert turn_document["loop"]["raw_answer"] == "la femme, la femme"


def test_turns_of_a_client_are_listed_and_summed(save, make_turn, cli):
    client = ClientRecord("/v1/responses", "laptop", "req-1", 0.5)
    save(
        make_turn(1, joules=5.0, query="first", client=client),
        make_turn(2, joules=7.0, query="second"),
    )
    for option in ("--key=laptop", "--endpoint=/v1/responses"):
        shown = cli.out("logs", "list", option)
        assert questions(shown) == ["first"]
        assert "laptop /v1/responses" in shown
    assert "no turn in the log matches" in cli.err("logs", "list", "--key", "phone")
    second, first = cli.json("logs", "list", "--json")["turns"]
    assert (first["key"], first["endpoint"]) == ("laptop", "/v1/responses")
    assert second["key"] is second["endpoint"] is None
    sums = {
        t["key"]: t["joules"] for t in cli.json("logs", "totals", "--by", "key", "--json")["totals"]
    }
    assert sums == {"laptop": 5.0, "": 7.0}
    assert "key laptop, /v1/responses, request req-1" in cli.out("logs", "show", "aaaa00000001")


def test_an_answer_is_graded(config, filled, cli):
    with LogReader(config) as log:
        (turn,) = log.list_turns(limit=1, sort=Sort.TIME, descending=False)
    assert "bad (first)" in cli.out("logs", "grade", turn.turn_id, "bad")
    assert "grade: bad" in cli.out("logs", "show", turn.turn_id)
    assert cli.json("logs", "grade", turn.turn_id, "good", "--json") == {
        "turn_id": turn.turn_id,
        "grade": "good",
    }
    assert cli.json("logs", "show", turn.turn_id, "--json")["grade"] == "good"
    cli.run("logs", "grade", turn.turn_id, "clear")
    assert cli.json("logs", "show", turn.turn_id, "--json")["grade"] is None


def test_a_grade_needs_an_answer_and_a_word(save, make_turn, cli):
    save(make_turn(1, answer=" "))
    assert "has no answer to grade" in cli.err("logs", "grade", "last", "good", code=ExitCode.USAGE)
    assert run(["logs", "grade", "last", "fine"]) == ExitCode.USAGE
    assert run(["logs", "grade", "nothere", "good"]) != ExitCode.DONE


def test_a_deleted_chat_takes_its_caches_with_it(config, save, make_turn, cli):
    from array import array

    import numpy as np

    from etui.engine.kv_folder import KvFolder
    from etui.engine.kv_store import SavedSequence

    mine, other = make_turn(1, chat_id="mine"), make_turn(2, chat_id="other")
    save(mine, other)
    folder = KvFolder(config.kv_dir, 1 << 30)
    for number, turn in enumerate((mine, other)):
        tokens, state = array("i", [number] * 200), np.zeros(9, dtype=np.uint8)
        kept = SavedSequence("k" * 64, "", turn.turn_id, tokens, (), False, 1.0, 9, 0.0, state)
        assert folder.write(kept)
    shown = cli.run("logs", "delete", "mine", "--yes")
    assert shown.out == "deleted 'What is a joule?' and 1 KV cache\n"
    with LogReader(config) as log:
        assert [turn.chat_id for turn in log.turns()] == ["other"]
    assert [each.label for each in folder.find("k" * 64, "")] == [other.turn_id]
    assert cli.run("logs", "delete", "--caches").out == "deleted 1 KV cache\n"
    assert folder.find("k" * 64, "") == []
    with LogReader(config) as log:
        assert log.count_turns() == 1


@pytest.mark.parametrize("args", [[], ["chat", "--caches"]])
def test_deleting_needs_chats_or_caches(cli, args):
    assert "either chats or --caches" in cli.err("logs", "delete", *args, code=ExitCode.USAGE)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
def test_a_command_takes_an_open_log_from_other_users_and_says_so_once(config, cli):
    TurnWriter(config).close()
    config.home.chmod(0o755)
    config.database.chmod(0o644)
    assert cli.run("logs", "list").err.startswith("etui: other users could read ")
    assert config.home.stat().st_mode & 0o777 == 0o700
    assert config.database.stat().st_mode & 0o777 == 0o600
    assert "other users" not in cli.run("logs", "list").err
