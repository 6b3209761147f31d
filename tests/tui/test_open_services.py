"""The app's chats over a real database, and the way to the next arm over real policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from etui.config.config import Config
from etui.log.daily_energy import sum_by_period
from etui.log.queries import LogReader
from etui.log.records import ChatRecord
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.runtime.routes import Route, other_route
from etui.tui.open_services import LoggedChats
from tests.tui.fakes import turn_record

POLICY = """\
version: 1
description: Two arms.
models: {small: [tiny], large: [big]}
arms:
  quick: {model: small, reasoning: direct}
  think: {model: small, reasoning: cot, think_tokens: 128}
rules:
  - {name: all, use: quick}
budgets:
  turn: {joules: 400}
  hour: {joules: 100, when_exceeded: degrade}
  day: {joules: 1000, when_exceeded: degrade}
"""


@pytest.fixture
def logged(config: Config) -> Iterator[tuple[LoggedChats, TurnWriter]]:
    with closing(TurnWriter(config)) as writer, closing(LogReader(config)) as reader:
        yield LoggedChats(config, reader, writer), writer


def at(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def test_chats_are_kept_found_and_removed(logged: tuple[LoggedChats, TurnWriter]) -> None:
    chats, writer = logged
    assert chats.chats("") == []
    writer.save_turn(turn_record(1, chat_id="a"))
    chats.save(ChatRecord("a", "2026-01-01T00:00:00Z", "Named", "Be brief."))
    (found,) = chats.chats("Answer")
    assert (found.chat.name, found.chat.system) == ("Named", "Be brief.")
    assert found.total is not None
    assert found.total.joules == 12.5
    assert [turn.query for turn in chats.turns("a")] == ["Question 1?"]
    chats.delete("a")
    assert chats.chats("") == []
    assert chats.turns("a") == []


def test_what_today_and_the_budgets_have_come_to(
    config: Config, logged: tuple[LoggedChats, TurnWriter]
) -> None:
    chats, writer = logged
    config.policies_dir.mkdir(parents=True)
    (config.policies_dir / "mine.yaml").write_text(POLICY.replace("[tiny]", "[smollm2-135m]")
                                                   .replace("[big]", "[smollm2-135m]"))  # fmt: skip
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=3)
    for number, moment in enumerate((now, now, long_ago)):
        writer.save_turn(turn_record(number, created_at=at(moment)))
    writer.flush()
    spending = chats.spending(Route("mine"))
    assert spending.daily is not None
    assert spending.today is not None
    assert sum_by_period(spending.daily, spending.today)["day"].turns == 2
    assert [(b.period, b.limit_joules, b.spent_joules) for b in spending.budgets] == [
        ("turn", 400.0, None),
        ("hour", 100.0, 25.0),
        ("day", 1000.0, 25.0),
    ]
    assert chats.spending(Route("mine", "smollm2-135m")).budgets == (), "no policy is asked"


def test_the_next_arm_is_one_of_the_policy_and_else_another_model(config: Config) -> None:
    here = replace(config, models_dir=config.home / "models")
    for folder in (here.models_dir, here.policies_dir):
        folder.mkdir(parents=True)
    (here.policies_dir / "mine.yaml").write_text(POLICY)
    for name, size in (("tiny", 100), ("big", 100_000)):
        (here.models_dir / f"{name}.gguf").write_bytes(b"x" * size)
    catalogue = load_catalogue(here)
    route = Route("mine")
    quick = turn_record(0, model="tiny")
    assert other_route(quick, route, "larger", here, catalogue) == Route("mine", arm="think")
    think = replace(quick, arm="think", reasoning="cot", settings={"think_tokens": 128})
    assert other_route(think, route, "larger", here, catalogue) == Route("mine", "big")
    assert other_route(think, route, "smaller", here, catalogue) == Route("mine", arm="quick")
    assert other_route(quick, route, "smaller", here, catalogue) is None
