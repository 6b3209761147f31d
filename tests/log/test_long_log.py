"""What a decision, and the start of the app, read of a log: as much of a long one as of a short."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.scale import fill
from etui.chat import Query
from etui.config.config import Config
from etui.curves.operating_curve import Conditions
from etui.log import database, past_answers
from etui.log.chat_queries import list_chats
from etui.log.curve_lookup import find_curve
from etui.log.database import open_for_writing
from etui.log.labels import find_largest_load, read_labelled
from etui.log.past_answers import read_model_facts
from etui.log.queries import LogReader
from etui.log.totals import sum_joules_since
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.runtime.decide import choose
from etui.runtime.explain import explain
from etui.runtime.keep_warm import read_load_cost, read_uses
from etui.runtime.log_predictor import _MOST_QUESTIONS, _TURNS
from etui.runtime.overrides import Overrides
from etui.runtime.provenance import _NEWEST_SQL, conditions
from etui.runtime.routes import read_recent_arms
from etui.runtime.runtime import open_runtime

TURNS, SHORT, LONG = 300, 4, 5
"""Turns that are made, and how often either log is doubled."""
COPIED = ("chats", "turns", "loads", "grades", "audits")
IDS = ("chat_id", "turn_id", "load_id", "audit_id", "parent_id")


def double(connection: sqlite3.Connection, times: int) -> None:
    """Add an older copy of every record, so often."""
    for copy in range(times):
        years = 2 * 2**copy
        for table in COPIED:
            columns = [
                row[1]
                for row in connection.execute(f"PRAGMA table_info({table})")
                if row[1] != "id"
            ]
            chosen = ", ".join(
                f"{name} || '-{copy}'" if name in IDS
                else f"printf('%04d', substr({name}, 1, 4) - {years}) || substr({name}, 5)"
                if name in ("created_at", "last_at")
                else name
                for name in columns
            )  # fmt: skip
            names = ", ".join(columns)
            connection.execute(f"INSERT INTO {table} ({names}) SELECT {chosen} FROM {table}")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Config]:
    """A log of thousands of turns, and one of twice as many."""
    found = []
    for times in (SHORT, LONG):
        folder = tmp_path_factory.mktemp("long")
        config = Config(home=folder, models_dir=folder / "models")
        fill(config, TURNS, datetime(2026, 11, 30, tzinfo=UTC))
        connection = open_for_writing(config)
        connection.execute("BEGIN")
        connection.execute("PRAGMA defer_foreign_keys = ON")
        double(connection, times)
        connection.execute("COMMIT")
        connection.close()
        found.append(config)
    return found[0], found[1]


def count_steps(
    config: Config, read: Callable[[LogReader, Config], object], monkeypatch: pytest.MonkeyPatch
) -> int:
    """Count the steps of SQLite's machine that a reading takes, in tens."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    class Counting(database._Connection):
        def __init__(self, *args: object, **named: object) -> None:
            super().__init__(*args, **named)  # type: ignore[arg-type]
            self.set_progress_handler(step, 10)

    with LogReader(config) as log:
        assert log.count_turns() > 2 * _MOST_QUESTIONS
    with monkeypatch.context() as patch:
        patch.setattr(database, "_Connection", Counting)
        with LogReader(config) as log:
            read(log, config)
    return steps


def here(config: Config, model: str) -> tuple[str | None, Conditions]:
    spec = load_catalogue(config).models.get(model)
    return (None if spec is None else spec.sha256), conditions(config, spec=spec)


def read_facts(model: str) -> Callable[[LogReader, Config], object]:
    def read(log: LogReader, config: Config) -> object:
        return read_model_facts(log, model, *here(config, model))

    return read


def refit(log: LogReader, config: Config) -> object:
    """Look for a new curve where the newest is of now, as after most answers."""
    sha256, now = here(config, STARTER)
    curve = find_curve(log, STARTER, sha256, replace(now, channels=("gpu:0",)))
    assert curve is not None
    return find_curve(log, STARTER, sha256, now, lambda _curve: None)


def read_names(log: LogReader, config: Config) -> object:
    assert log.names("policy") == ["balanced"]
    assert STARTER in log.names("model")
    return log.names("rule"), log.names("status")


def decide(log: LogReader, config: Config) -> object:
    """Decide a question, and explain the decision with every candidate."""
    config.models_dir.mkdir(exist_ok=True)
    (config.models_dir / f"{STARTER}.gguf").touch()
    query = Query("Which of these is larger, and why? A) the moon B) the sun C) Mars")
    with open_runtime(config) as runtime:
        policy = runtime.load_policy("balanced")
        choice = choose(query, Overrides(policy="balanced"), runtime)
        assert choice.decision.predicted_joules
        return explain(query, policy, runtime)


MODELS = (STARTER, "gemma-3-270m", "qwen2.5-coder-0.5b", "far-model", "old", "absent")
READINGS: dict[str, Callable[[LogReader, Config], object]] = {
    **{f"facts of {name}": read_facts(name) for name in MODELS},
    **{
        f"price of {name}": lambda log, config, name=name: log.price(name, here(config, name)[0])
        for name in MODELS
    },
    "curve": refit,
    "curve under new conditions": lambda log, config: find_curve(
        log, STARTER, here(config, STARTER)[0], replace(here(config, STARTER)[1], build="new")
    ),
    "recent arms": lambda log, config: read_recent_arms(config, "balanced", None),
    "recent arms of a new policy": lambda log, config: read_recent_arms(config, "new", None),
    "earlier questions": lambda log, config: log.select(_TURNS, (_MOST_QUESTIONS,)),
    "version of a remote server": lambda log, config: log.select(
        _NEWEST_SQL, ("far-model", None, "far", "http://elsewhere")
    ),
    "spending": lambda log, config: sum_joules_since(
        log, datetime(2026, 11, 30, tzinfo=UTC) - timedelta(days=1)
    ),
    "gaps": lambda log, config: read_uses(log, 200),
    "loads": lambda log, config: [
        (read_load_cost(log, name, here(config, name)[0]), find_largest_load(log, name))
        for name in (STARTER, "absent")
    ],
    "labels": lambda log, config: read_labelled(log, 20),
    "chats": lambda log, config: list_chats(log, limit=50),
    "newest turns": lambda log, config: (log.list_turns(limit=50), log.get_turn("last")),
    "names": read_names,
    "a decision": decide,
}


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_does_not_grow_with_the_log(logs, monkeypatch, name):
    monkeypatch.setattr(past_answers, "PAST_TURNS", 20)  # fewer than the audits of either log
    monkeypatch.setattr("etui.models.files.content_sha256", lambda spec, _config: spec.sha256)
    short, long = (count_steps(config, READINGS[name], monkeypatch) for config in logs)
    assert long <= 1.05 * short + 20
