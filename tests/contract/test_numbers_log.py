"""What the log answers about three hundred turns: totals, statistics, days, prices, gaps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from etui.config.config import Config
from etui.log.chat_queries import find_branch, list_chat_turns, list_chats
from etui.log.curve_lookup import TurnCost, mean_token_cost
from etui.log.daily_energy import read_daily_energy, sum_by_day, sum_by_model, sum_by_period
from etui.log.export import build_energy_record
from etui.log.filters import Sort, TurnFilter
from etui.log.prediction_quality import PredictionOutcome, compute_accuracy
from etui.log.queries import LogReader
from etui.log.records import ChatRecord
from etui.log.totals import GROUPS, sum_joules_since
from etui.log.writer import TurnWriter
from etui.runtime.keep_warm import compute_gaps, read_load_cost, read_uses
from etui.text import format_utc
from etui.turn.record import ClientRecord, HopRecord, LoadRecord, Tokens, TurnRecord
from tests.contract.numbers import check_numbers
from tests.fixtures.turns import ATTRIBUTION, SPECULATION, TURN, UNMEASURED

START = datetime(2026, 3, 20, 7, 30, tzinfo=UTC)
MODELS = ("small", "large", "tiny")
ZONE = ZoneInfo("Europe/Berlin")


def build_turns(count: int = 300) -> list[TurnRecord]:
    """Turns of three models over twelve days, of every kind that the log tells apart."""
    rng, moment, made = random.Random(6), START, []
    for number in range(count):
        moment += timedelta(seconds=rng.lognormvariate(6.5, 1.6))
        model = rng.choice(MODELS)
        joules = rng.lognormvariate(3, 1) * (1 + MODELS.index(model))
        output, prompt = rng.randrange(1, 400), rng.randrange(20, 900)
        kind = rng.choice(["counter", "counter", "integrated", "estimate"])
        if rng.random() < 0.1:
            energy = UNMEASURED
        else:
            prefill = joules * rng.uniform(0.05, 0.3)
            energy = replace(
                TURN.energy,
                joules=joules,
                uncertainty=joules * 0.04,
                net_joules=joules * 0.7,
                kind=kind,
                mean_watts=rng.uniform(20, 300),
                peak_watts=rng.uniform(300, 400),
                joules_per_token=joules / output,
                phases={"load": None, "prefill": prefill, "decode": joules - prefill},
                shared=rng.random() < 0.1,
                attribution=ATTRIBUTION if rng.random() < 0.1 else None,
            )
        seconds = replace(TURN.seconds, total=rng.uniform(0.2, 30), decode=rng.uniform(0.1, 20))
        hops: tuple[HopRecord, ...] = ()
        if rng.random() < 0.1:
            hops = tuple(
                HopRecord(
                    f"arm-{each}",
                    each,
                    None,
                    "direct",
                    "an answer",
                    "complete",
                    0.8,
                    0.5,
                    0.7,
                    True,
                    each == model,
                    Tokens(prompt, 0, prompt, 0, output),
                    joules / (1 + step),
                    joules * 0.02,
                    0.0,
                    1.5,
                    "why",
                    kind=kind,
                    step=step,
                )
                for step, each in enumerate(dict.fromkeys(("tiny", model)), start=1)
            )
        made.append(
            replace(
                TURN,
                turn_id=f"aaaa{number:08x}",
                created_at=format_utc(moment),
                chat_id=f"chat-{number % 40}" if number % 4 else None,
                query=f"question {number} about {'joules' if number % 3 else 'watts'}",
                model=model,
                model_sha256=f"{MODELS.index(model)}" * 64,
                arm=rng.choice(["quick", "think"]),
                rule=rng.choice(["rest", "math", None]),
                status=rng.choice(["complete"] * 8 + ["stopped", "failed"]),
                tokens=Tokens(prompt, prompt // 3, prompt - prompt // 3, output // 2, output),
                seconds=seconds,
                energy=energy,
                predicted_joules=joules * rng.lognormvariate(0, 0.3) if number % 5 else None,
                speculation=SPECULATION if number % 17 == 0 else None,
                client=ClientRecord("/v1/responses", f"key-{number % 3}", "", 0.25)
                if number % 6 == 0
                else None,
                hops=hops,
            )
        )
    return made


@pytest.fixture
def log(config: Config) -> Iterator[LogReader]:
    with TurnWriter(config) as writer:
        for number in range(40):
            at = format_utc(START + timedelta(minutes=number))
            writer.save_chat(ChatRecord(f"chat-{number}", at, f"Chat {number}"))
        for number, turn in enumerate(build_turns()):
            writer.save_turn(turn)
            if number % 25 == 0:
                writer.save_load(
                    LoadRecord(
                        f"load-{number}", turn.created_at, turn.model, turn.model_sha256, None,
                        2.0 + number / 100, 90.0 + number, 4.0, "counter", 31, 98_000_000,
                    )
                )  # fmt: skip
    with LogReader(config) as reader:
        yield reader


def test_what_the_log_answers(log: LogReader) -> None:
    last = START + timedelta(days=4)
    filters = {
        "all": TurnFilter(),
        "model": TurnFilter(model="small"),
        "time": TurnFilter(since=START + timedelta(days=1), until=last),
        "search": TurnFilter(search="watts", status="complete"),
        "key": TurnFilter(key="key-0"),
        "rule": TurnFilter(rule="math"),
    }
    found: dict[str, Any] = {}
    for name, wanted in filters.items():
        found[f"totals {name}"] = {
            by: log.totals(by, wanted)
            for by in GROUPS
            if by not in ("day", "hour")  # of the local zone; test_days_and_chats has days
        }
        found[f"count {name}"] = log.count_turns(wanted)
    for sort in Sort:
        turns = log.list_turns(TurnFilter(), sort=sort, limit=12)
        found[f"sorted by {sort.value}"] = [(t.turn_id, t.joules, t.seconds_total) for t in turns]
    found["first"] = log.list_turns(limit=3)
    found["names"] = {name: log.names(name) for name in ("model", "rule", "status", "policy")}
    found["prices"] = [log.price(model, str(at) * 64) for at, model in enumerate(MODELS)]
    found["spent"] = [sum_joules_since(log, START), sum_joules_since(log, last)]
    found["loads"] = log.loads()
    uses = read_uses(log)
    for model in MODELS:
        sha256 = str(MODELS.index(model)) * 64
        found[f"idle {model}"] = [compute_gaps(uses, model), read_load_cost(log, model, sha256)]
    check_numbers("log", found)


def test_days_and_chats(log: LogReader) -> None:
    first, last = date(2026, 3, 1), date(2026, 4, 30)
    found: dict[str, Any] = {}
    for name, zone in (("utc", UTC), ("berlin", ZONE)):
        daily = read_daily_energy(log, first, last, zone)
        found[name] = {
            "days": [(day.isoformat(), spent) for day, spent in sum_by_day(daily, 45)],
            "models": sum_by_model(daily),
            "periods": sum_by_period(daily, date(2026, 3, 25)),
        }
    found["chats"] = list_chats(log, limit=8)
    found["branch"] = find_branch(log, "chat-1")
    found["turns"] = [turn.turn_id for turn in list_chat_turns(log, "chat-1")]
    check_numbers("log-days", found)


def test_figures_of_single_turns() -> None:
    turns = build_turns(60)
    costs = [
        TurnCost(3.0, 100, 9.0, 20, "counter"),
        TurnCost(2.0, 50, 12.0, 31, "counter", shared=True),
        TurnCost(1.0, 9, 7.0, 40, "counter", batched=True),
        TurnCost(4.0, 70, 22.0, 44, "estimate"),
        TurnCost(6.0, 70, 21.0, 41, "counter"),
    ]
    found = {
        "records": [build_energy_record(turn) for turn in turns[:6]],
        "costs": [mean_token_cost(costs[at:]) for at in range(6)],
        "accuracy": compute_accuracy(
            "m",
            [
                PredictionOutcome("m", "quick", "counter", predicted, measured, None)
                for predicted, measured in ((10.0, 8.0), (8.0, 10.0), (50.0, 40.0))
            ],
        ),
    }
    check_numbers("log-turns", found)
