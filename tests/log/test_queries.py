"""Reading the log: sort orders, filters, search, totals, chats."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.config.config import Config
from etui.energy.types import WallEnergy
from etui.log.chat_queries import find_branch, list_chat_turns, list_chats
from etui.log.database import open_for_reading, open_for_writing
from etui.log.filters import (
    Sort,
    TurnFilter,
    build_clause,
    build_match,
    build_order,
    order_by_index,
)
from etui.log.queries import LogReader, UnknownId
from etui.log.records import ChatRecord, LoggedQuestion
from etui.log.totals import GROUPS, WallTotal, sum_caches, sum_wall, totals_sql
from etui.log.writer import TurnWriter
from etui.turn.facts import list_facts
from etui.turn.record import CacheRecord, HopRecord, Tokens, TurnRecord

MakeTurn = Callable[..., TurnRecord]
Fill = Callable[..., LogReader]


def numbers(log: LogReader, wanted: TurnFilter | None = None, **how: object) -> list[int]:
    """The numbers of the turns that ``list_turns`` gives."""
    return [int(t.turn_id[4:], 16) for t in log.list_turns(wanted, **how)]  # type: ignore[arg-type]


def test_a_summary_holds_the_beginning_of_a_question(fill, make_turn):
    (summary,) = fill(make_turn(1, query="q" * 300)).list_turns()
    assert summary.query == "q" * 200


def test_every_sort_order(fill, make_turn):
    def turn(number: int, joules: float, seconds: float, output: int, name: str) -> TurnRecord:
        made = make_turn(number, joules=joules, model=name, rule=name)
        return replace(
            made,
            seconds=replace(made.seconds, total=seconds),
            tokens=replace(made.tokens, output=output),
            energy=replace(made.energy, joules_per_token=joules / output),
        )

    log = fill(turn(1, 3.0, 1.0, 10, "b"), turn(2, 2.0, 3.0, 1, "c"), turn(3, 1.0, 2.0, 20, "a"))
    wanted = {
        Sort.TIME: [3, 2, 1],
        Sort.JOULES: [1, 2, 3],
        Sort.JOULES_PER_TOKEN: [2, 1, 3],
        Sort.SECONDS: [2, 3, 1],
        Sort.TOKENS: [3, 1, 2],
        Sort.MODEL: [2, 1, 3],
        Sort.RULE: [2, 1, 3],
    }
    for sort, expected in wanted.items():
        assert numbers(log, sort=sort) == expected
        assert numbers(log, sort=sort, descending=False) == expected[::-1]
        assert numbers(log, TurnFilter(search="joule"), sort=sort) == expected


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", Sort)
def test_a_search_pages_through_the_turns_in_the_order_of_a_filter(
    fill, make_turn, sort, descending
):
    log = fill(
        *(
            make_turn(n, joules=None if n % 5 == 0 else float(n % 7),
                      query="a joule" if n % 3 else "another thing", model=f"m{n % 2}")
            for n in range(40)
        )
    )  # fmt: skip
    words, both = TurnFilter(search="jou"), TurnFilter(search="jou", status="complete")
    how = {"sort": sort, "descending": descending}
    whole = numbers(log, both, limit=None, **how)
    if sort is Sort.JOULES:  # the unmeasured come last in either direction
        assert sorted(n % 5 for n in whole)[:5] == sorted(n % 5 for n in whole[-5:]) == [0] * 5
    assert numbers(log, words, limit=None, **how) == whole
    pages = [numbers(log, words, limit=7, offset=k, **how) for k in range(0, 42, 7)]
    assert [number for page in pages for number in page] == whole
    assert log.count_turns(words) == log.count_turns(both) == len(whole) == 26


@pytest.mark.parametrize("search", [None, "joule", "+=", "nothing", "=-"])
@pytest.mark.parametrize("sort", [Sort.TIME, Sort.JOULES])
def test_a_page_with_its_count_reads_the_texts_once_where_no_index_has_the_signs(
    fill, make_turn, search, sort, monkeypatch
):
    log = fill(*(make_turn(n, query="a joule" if n % 3 else "x += 1") for n in range(30)))
    wanted = TurnFilter(search=search)
    expected = log.count_turns(wanted)
    statements: list[str] = []
    select = log.select
    monkeypatch.setattr(
        log, "select", lambda sql, *values: statements.append(sql) or select(sql, *values)
    )
    for offset in range(0, 42, 7):
        statements.clear()
        how = {"sort": sort, "descending": True, "limit": 7, "offset": offset}
        turns, total = log.list_page(wanted, **how)  # type: ignore[arg-type]
        assert total == expected
        if turns or not offset:
            scans = [sql for sql in statements if "LIKE" in sql]
            assert len(scans) == (1 if search in ("+=", "=-") else 0)
        assert turns == log.list_turns(wanted, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("sort", [Sort.TIME, Sort.JOULES, Sort.SECONDS, Sort.TOKENS])
def test_a_search_for_words_sorts_nothing(fill, make_turn, sort):
    where = order_by_index(build_clause(TurnFilter(search="joule")), sort)
    sql = f"EXPLAIN QUERY PLAN SELECT id {where.sql} {build_order(sort, True)} LIMIT 100"
    plan = " ".join(str(row["detail"]) for row in fill(make_turn(1)).select(sql, where.values))
    assert "COVERING INDEX turns_by_" in plan
    assert "TEMP B-TREE" not in plan


def test_filters(fill, make_turn):
    log = fill(
        make_turn(1, model="a", rule="r", chat_id="c1"),
        make_turn(2, model="a", rule=None, status="stopped", policy="frugal"),
        make_turn(3, model="b", rule="r"),
    )
    nine = datetime(2026, 11, 24, 10, 2, tzinfo=UTC)
    assert numbers(log, TurnFilter(model="a")) == [2, 1]
    assert numbers(log, TurnFilter(model="a", rule="r")) == [1]
    assert numbers(log, TurnFilter(status="stopped")) == [2]
    assert numbers(log, TurnFilter(policy="frugal")) == [2]
    assert numbers(log, TurnFilter(chat_id="c1")) == [1]
    assert numbers(log, TurnFilter(since=nine)) == [3, 2]
    assert numbers(log, TurnFilter(until=nine)) == [1]
    assert numbers(log, TurnFilter(search="joule", model="b")) == [3]
    assert log.count_turns(TurnFilter(model="a")) == 2
    assert log.names("model") == ["a", "b"]
    assert log.names("rule") == ["r"]
    with pytest.raises(ValueError, match="no names of answer"):
        log.names("answer")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("photon", [1]),
        ("PHOTON", [1]),
        ("phot", [1]),
        ("hoton", []),
        ("light photon", [1]),
        ("photon light missing", []),
        ("café", [2]),
        ("cafe", [2]),
        ('"energy of light"', [1]),
        ('"light of energy"', []),
        ('"energy of light', [1]),
        ("E=hf", [1]),
        ("%", [3]),
        ("_", [4]),
        ("?!", []),
        ("能量", [3]),
        ("AND", []),
        ("NOT OR NEAR(", []),
        ("answer:photon", []),
        ("photon*", [1]),
        ("^photon", [1]),
        ("'; DROP TABLE turns; --", []),
        ("   ", [4, 3, 2, 1]),
        ("pho\0ton", [1]),
    ],
)
def test_search(fill, make_turn, text, found):
    log = fill(
        make_turn(1, query="What is the energy of light?", answer="E=hf for each photon."),
        make_turn(2, query="Où est le café ?", answer="Là."),
        make_turn(3, query="什么是能量守恒", answer="100 %"),
        make_turn(4, query="snake_case", answer="yes"),
    )
    assert numbers(log, TurnFilter(search=text)) == found


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    home = tmp_path_factory.mktemp("schema")
    return open_for_writing(Config(home=home, models_dir=home / "models"))


@given(st.text(max_size=60) | st.text(alphabet="\"*^()-:+ AND'\\%_\0é能a", max_size=30))
def test_nothing_a_person_types_is_a_syntax_error(schema, text):
    where = build_clause(TurnFilter(search=text))
    schema.execute(f"SELECT count(*) {where.sql}", where.values).fetchone()


@given(st.lists(st.text(alphabet="abcé1", min_size=1, max_size=8), min_size=1, max_size=5))
def test_every_word_typed_is_found_again(schema, words):
    expression = build_match(" ".join(words))
    schema.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(body)")
    try:
        schema.execute("INSERT INTO temp.probe VALUES (?)", (" x ".join(reversed(words)),))
        found = schema.execute("SELECT count(*) FROM probe WHERE probe MATCH ?", (expression,))
        assert found.fetchone()[0] == 1
    finally:
        schema.execute("DROP TABLE temp.probe")


def test_a_turn_by_its_id_or_the_beginning_of_it(fill, make_turn):
    ids = ("abc1", "abd2", "abd22")
    log = fill(*(make_turn(n, turn_id=turn_id) for n, turn_id in enumerate(ids)))
    for wanted, found in (("abc", "abc1"), ("abd2", "abd2"), ("last", "abd22")):
        assert log.get_turn(wanted).turn_id == found
    with pytest.raises(UnknownId, match="more than one turn id begins with 'ab'") as caught:
        log.get_turn("ab")
    assert caught.value.nearest == ids
    for unknown in ("abe1", "%"):
        with pytest.raises(UnknownId, match=f"no turn '{unknown}'") as caught:
            log.get_turn(unknown)
        assert ("abc1" in caught.value.fix) == (unknown == "abe1")


def test_totals_keep_readings_estimates_and_the_unmeasured_apart(fill, make_turn):
    def kind(turn: TurnRecord, kind: str, output: int) -> TurnRecord:
        return replace(
            turn,
            energy=replace(turn.energy, kind=kind, uncertainty=0.5),
            tokens=replace(turn.tokens, output=output),
        )

    log = fill(
        kind(make_turn(1, joules=10.0), "counter", 10),
        kind(make_turn(2, joules=5.0), "integrated", 20),
        kind(make_turn(3, joules=100.0), "estimate", 30),
        make_turn(4, joules=None),
        kind(make_turn(5, joules=7.0, model="other"), "estimate", 14),
    )
    first, second = log.totals("model")
    assert (first.key, first.turns, first.unmeasured_turns) == ("smollm2-135m", 4, 1)
    assert first.joules == pytest.approx(15.0)
    assert first.uncertainty == pytest.approx(1.0)
    assert first.kind == "integrated"
    assert first.estimated_joules == pytest.approx(100.0)
    assert first.joules_per_token == pytest.approx(15.0 / 30)
    assert first.output_tokens == 80
    assert (second.key, second.joules, second.kind) == ("other", None, None)
    assert second.estimated_joules == pytest.approx(7.0)
    assert second.joules_per_token == pytest.approx(0.5)
    (everything,) = log.totals(turn_filter=TurnFilter(search="joule"))
    assert everything.turns == 5


def test_totals_of_every_group(fill, make_turn):
    log = fill(
        make_turn(1, rule=None, policy=None, created_at="2026-11-23T12:00:00.000+00:00"),
        make_turn(2, chat_id="c1"),
    )
    for by in GROUPS:
        assert sum(total.turns for total in log.totals(by)) == 2
    days = [datetime(2026, 11, day, hour, tzinfo=UTC) for day, hour in ((24, 10), (23, 12))]
    assert [total.key for total in log.totals("day")] == [f"{day.astimezone():%F}" for day in days]
    assert {total.key for total in log.totals("rule")} == {"", "math-thinks"}
    with pytest.raises(KeyError):
        log.totals("weather")


def hop(model: str, joules: float | None, output: int, *, taken: bool = False) -> HopRecord:
    return HopRecord(
        arm="think", model=model, model_sha256=None, reasoning="cot", answer="", status="complete",
        confidence=None, margin=None, probability=None, accepted=taken, taken=taken,
        tokens=Tokens(40, 30, 10, 0, output), joules=joules,
        uncertainty=None if joules is None else joules / 10,
        load_joules=0.0, seconds=output / 10, why="",
    )  # fmt: skip


def cascade(turn: TurnRecord, *hops: HopRecord) -> TurnRecord:
    """The turn as the result of hops, with their sums."""
    known = [each.joules for each in hops if each.joules is not None]
    joules = sum(known) if len(known) == len(hops) else None
    output, seconds = sum(each.tokens.output for each in hops), sum(each.seconds for each in hops)
    return replace(
        turn,
        model=hops[-1].model,
        hops=hops,
        energy=replace(turn.energy, joules=joules, uncertainty=joules and joules / 10),
        tokens=replace(turn.tokens, output=output),
        seconds=replace(turn.seconds, total=seconds),
    )


def test_totals_charge_each_hop_to_its_model(fill, make_turn):
    log = fill(
        make_turn(1, joules=5.0, model="small"),
        cascade(make_turn(2), hop("small", 44.0, 10), hop("large", 24.7, 20, taken=True)),
        cascade(make_turn(3), hop("small", 1.0, 3), hop("small", 2.0, 4, taken=True)),
        cascade(make_turn(4, joules=None), hop("small", 9.0, 1), hop("large", None, 2, taken=True)),
    )
    by_model = {total.key: total for total in log.totals("model")}
    small, large = by_model["small"], by_model["large"]
    assert small.joules == pytest.approx(5 + 44 + 3)
    assert small.uncertainty == pytest.approx(0.41 + 4.4 + 0.3)
    assert (small.turns, small.unmeasured_turns, small.output_tokens) == (4, 1, 20 + 10 + 7 + 1)
    assert small.seconds == pytest.approx(0.6 + 1 + 0.7 + 0.1)
    assert large.joules == pytest.approx(24.7)
    assert (large.turns, large.unmeasured_turns, large.output_tokens) == (2, 1, 22)
    assert large.joules_per_token == pytest.approx(24.7 / 20)
    sql, values = totals_sql("model", build_clause(TurnFilter(model="smollm2-135m")))
    plan = [str(row["detail"]) for row in log.select(f"EXPLAIN QUERY PLAN {sql}", values)]
    reads = [step for step in plan if "turns" in step.split()[1:2]]
    assert reads
    assert all("turns_history" in step or "turns_with_hops" in step for step in reads)


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 1e4)), min_size=1, max_size=4),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=15)
def test_totals_per_model_sum_to_the_total(tmp_path_factory, config, make_turn, turns):
    fresh = replace(config, home=tmp_path_factory.mktemp("home"))
    with TurnWriter(fresh) as writer:
        for number, hops in enumerate(turns):
            made = [hop(model, joules, 5) for model, joules in hops]
            writer.save_turn(cascade(make_turn(number), *made))
    for wanted in (None, TurnFilter(model="a"), TurnFilter(search="joule")):
        with LogReader(fresh) as log:
            whole, parts = log.totals("all", wanted), log.totals("model", wanted)
        assert sum(part.joules or 0.0 for part in parts) == pytest.approx(
            sum(total.joules or 0.0 for total in whole)
        )
        assert sum(part.output_tokens for part in parts) == sum(
            total.output_tokens for total in whole
        )


def test_chats_are_listed_by_their_last_turn(config, fill, make_turn):
    with TurnWriter(config) as writer:
        writer.save_chat(ChatRecord("old", "2026-11-24T09:00:00.000+00:00", "Old"))
        writer.save_chat(ChatRecord("new", "2026-11-24T09:30:00.000+00:00", "New"))
        writer.save_chat(ChatRecord("empty", "2026-11-24T08:00:00.000+00:00", "100% empty"))
    log = fill(
        make_turn(1, chat_id="new", answer="about photons"),
        make_turn(2, chat_id="old", joules=3.0),
        make_turn(3, chat_id="old", joules=4.0),
    )
    assert [summary.chat.chat_id for summary in list_chats(log)] == ["old", "new", "empty"]
    old, _, empty = list_chats(log)
    assert old.total.joules == pytest.approx(7.0)
    assert old.last_at == "2026-11-24T10:03:00.000+00:00"
    assert empty.total is None
    assert [s.chat.name for s in list_chats(log, "photons")] == ["New"]
    assert [s.chat.name for s in list_chats(log, "0%")] == ["100% empty"]
    assert [s.chat.chat_id for s in list_chats(log, limit=2)] == ["old", "new"]
    with pytest.raises(UnknownId):
        log.get_chat("none")


def test_a_chat_is_read_back_to_go_on_with_it(fill, make_turn):
    first = make_turn(1, chat_id="c", query="one", answer="first", thinking="hm")
    failed = make_turn(2, chat_id="c", query="failed", answer="", status="error")
    log = fill(
        first,
        replace(failed, parent_id=first.turn_id),
        replace(make_turn(3, chat_id="c", query="two", answer="second"), parent_id=failed.turn_id),
        make_turn(4, chat_id="d", query="other", answer="chat"),
        replace(make_turn(0, chat_id="c", query="older", answer="branch"), parent_id=None),
    )
    branch = find_branch(log, "c")
    on_branch = [t.query for t in list_chat_turns(log, "c") if t.turn_id in branch]
    assert on_branch == ["one", "failed", "two"]
    assert [t.query for t in list_chat_turns(log, "c")] == ["older", "one", "failed", "two"]


def test_a_list_of_chats_counts_their_branches(fill, make_turn):
    turns = [make_turn(number, chat_id="c") for number in range(5)]
    parents = [None, turns[0].turn_id, turns[1].turn_id, turns[0].turn_id, None]
    linked = [replace(turn, parent_id=p) for turn, p in zip(turns, parents, strict=True)]
    log = fill(*linked, make_turn(7, chat_id="d"))
    assert {each.chat.chat_id: each.branches for each in list_chats(log)} == {"c": 3, "d": 1}
    plan = log.select(
        "EXPLAIN QUERY PLAN SELECT count(*) - count(DISTINCT parent_id) FROM turns "
        "INDEXED BY turns_by_parent WHERE chat_id = 'c'"
    )
    assert any("COVERING INDEX turns_by_parent" in row["detail"] for row in plan)


def test_a_reader_opened_before_the_first_turn_sees_it(config, make_turn):
    with LogReader(config) as log:
        assert numbers(log) == []
        with TurnWriter(config) as writer:
            writer.save_turn(make_turn(1))
        assert numbers(log) == [1]
        log.close()
        assert numbers(log) == []


def test_each_page_of_turns_is_reported_and_a_turn_deleted_meanwhile_is_left_out(
    config, fill, make_turn, monkeypatch
):
    monkeypatch.setattr("etui.log.queries._PAGE_ROWS", 2)
    moment = "2026-11-24T10:00:00.000+00:00"  # in the order in which they were saved
    made = [make_turn(n, created_at=moment) for n in (3, 1, 4, 2, 5)]
    log = fill(*made)
    reports: list[tuple[int, int]] = []
    turns = log.turns(report=lambda done, total: reports.append((done, total)))
    assert next(turns) == made[0]
    with sqlite3.connect(config.database) as other:
        other.execute("DELETE FROM turns WHERE turn_id = ?", (made[2].turn_id,))
    other.close()
    assert list(turns) == [made[1], made[3], made[4]]
    assert reports == [(2, 5), (4, 5), (5, 5)]


def test_questions_are_the_part_of_the_turns_that_a_replay_reads(fill, make_turn):
    made = [make_turn(number, system=("Be brief.", None)[number % 2]) for number in range(3)]
    made[0] = cascade(made[0], hop("small", 2.0, 10), hop("large", 4.0, 20, taken=True))
    made[1] = replace(made[1], settings={}, energy=replace(made[1].energy, joules=None))
    made[2] = replace(made[2], settings={"think_tokens": 64, "build": {"cuda": False}})
    reports: list[tuple[int, int]] = []
    log = fill(*made)
    questions = list(log.questions(report=lambda done, total: reports.append((done, total))))
    assert questions == [
        LoggedQuestion(
            *(turn.turn_id, turn.chat_id, turn.query, turn.system, turn.answer),
            *(turn.arm, turn.model, turn.reasoning, turn.energy.joules, turn.energy.kind),
            dict(turn.settings),
            (turn.hops[0].arm, turn.hops[0].model) if turn.hops else None,
        )
        for turn in made
    ]
    assert [question.first_hop for question in questions] == [("think", "small"), None, None]
    assert reports == [(3, 3)]


def test_four_times_the_turns_take_four_times_the_steps_to_read(fill, make_turn, monkeypatch):
    monkeypatch.setattr("etui.log.queries._PAGE_ROWS", 2)

    def count_steps(log: LogReader) -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        log._connection.set_progress_handler(count, 10)
        assert sum(1 for _ in log.turns()) == log.count_turns()
        log._connection.set_progress_handler(None, 0)
        return steps

    moments = [datetime.fromtimestamp(60.0 * n, UTC).isoformat() for n in range(480)]
    made = [make_turn(n, created_at=moment) for n, moment in enumerate(moments)]
    few = count_steps(fill(*made[:120]))
    assert count_steps(fill(*made[120:])) < 5 * few


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_log_on_a_disk_without_write_access_is_read(config, fill, make_turn):
    fill(make_turn(1)).close()
    config.home.chmod(0o500)
    try:
        connection = open_for_reading(config)
        assert connection.execute("SELECT count(*) FROM turns").fetchone()[0] == 1
        connection.close()
    finally:
        config.home.chmod(0o700)


def test_caches_are_summed_by_the_tier_they_came_from(config, make_turn):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    record = CacheRecord("disk", 800, 9, 0.1, 0.2, 20.0, 2.0, 5.0, "operating curve")
    turns = [
        replace(make_turn(1), cache=record),
        replace(make_turn(2), cache=replace(record, saved_joules=None)),
        replace(make_turn(3), cache=replace(record, tier="memory", tokens=100)),
        make_turn(4),
    ]
    with TurnWriter(config) as writer:
        for turn in turns:
            writer.save_turn(turn)
    with LogReader(config) as log:
        disk, memory = sum_caches(log, moment)
        assert log.get_turn(turns[0].turn_id).cache == record
    assert (disk.tier, disk.turns, disk.tokens, disk.unknown_turns) == ("disk", 2, 1600, 1)
    assert (disk.saved_joules, disk.cost_joules) == (20.0, 10.0)
    assert memory.net_joules == 15.0


def test_joules_at_the_wall_are_kept_shown_and_summed(config, make_turn):
    with LogReader(config) as log:
        assert sum_wall(log, datetime(2000, 1, 1, tzinfo=UTC)) is None
    plain, beyond = make_turn(1, joules=10.0), make_turn(2, joules=20.0)
    wall = WallEnergy(31.5, 2.0, "1a2b3c4d", extrapolated=True)
    beyond = replace(beyond, energy=replace(beyond.energy, wall=wall))
    with TurnWriter(config) as writer:
        writer.save_turn(plain)
        writer.save_turn(beyond)
    with LogReader(config) as log:
        assert log.get_turn(plain.turn_id).energy.wall is None
        assert log.get_turn(beyond.turn_id).energy == beyond.energy
        moment = datetime(2000, 1, 1, tzinfo=UTC)
        assert sum_wall(log, moment) == WallTotal(1, 31.5, 2.0)
        assert sum_wall(log, datetime(2100, 1, 1, tzinfo=UTC)) is None
    shown = dict(list_facts(beyond, []))
    assert "at the wall" not in dict(list_facts(plain, []))
    assert shown["at the wall"] == (
        "32 ± 2 J (model), calibration 1a2b3c4d, beyond the calibrated range"
    )
    assert beyond.to_json()["energy"]["wall"]["kind"] == "model"
    assert "wall" not in plain.to_json()["energy"]
