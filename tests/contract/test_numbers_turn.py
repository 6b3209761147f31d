"""What a turn with several arms, with drafted tokens or with a budget costs, and its lines."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from benchmarks.attribution import CurveMeter
from etui.errors import EngineFailed
from etui.events import Verified
from etui.routing.decision import Agreement, PredictedAgreement, TurnBudget
from etui.turn.accounting import TimeInterval
from etui.turn.record import TurnRecord
from etui.turn.speculation import account_speculation, sum_speculation
from etui.turn.text import energy_line, forecast_text, hops_text, price_facts, speculation_text
from tests.contract.numbers import check_numbers
from tests.contract.test_numbers_log import build_turns
from tests.support.power_curves import steps
from tests.turn.stage import CHOICE, LARGE, QUICK, THINK, Known, Part, Stage, decided, play

S = 1_000_000_000


def figures(record: TurnRecord) -> dict[str, Any]:
    """The figures of a turn, without its id and its time."""
    return {
        "arm": (record.arm, record.model, record.reasoning, record.status, record.why),
        "energy": record.energy,
        "tokens": record.tokens,
        "seconds": record.seconds,
        "hops": record.hops,
        "confidence": record.confidence,
        "predicted": (record.predicted_joules, record.predicted_accuracy),
        "lines": (energy_line(record), price_facts(record), hops_text(record)),
    }


def test_cascades_and_their_hops() -> None:
    meter = CurveMeter(steps([(101, 20.0), (2, 180.0), (3, 90.0), (4, 240.0), (500, 35.0)]))
    other = replace(QUICK, name="other")
    odds = PredictedAgreement(0.8, 0.7, 0.9, 40, (0.3, 0.4), True, 0.95)
    agree = decided(
        QUICK, other, LARGE, agreements=(Agreement(("quick", "other"), 0.7, odds),)
    )  # fmt: skip
    known = Known({"quick": 30.0, "large": 90.0}, load=12.0, odds={("quick", "other"): odds})
    parts = {
        "quick": Part("B) Mars", 0.6, tokens=7, cached=3),
        "other": Part("B) Mars", 0.7, prefill=0.5),
        "think": Part("B) Mars", 0.9, prefill=0.25, decode=3.5, tokens=90),
        "large": Part("B) Mars", 0.9, load=2.0, unload=0.4, decode=4.0, tokens=12),
    }
    cases = {
        "one": decided(QUICK),
        "up": decided(QUICK, LARGE),
        "three": decided(QUICK, THINK, LARGE, accept_at=0.5),
        "most hops": decided(QUICK, THINK, LARGE, max_hops=2),
        "most joules": decided(QUICK, LARGE, max_joules=100.0),
        "budget": decided(QUICK, LARGE, budget=TurnBudget(joules=150.0)),
        "agree": agree,
    }
    found: dict[str, Any] = {}
    for name, decision in cases.items():
        for heads in (known, Known(calibrates=False), None):
            kind = "none" if heads is None else f"calibrates {heads.calibrates}"
            played = play(Stage(dict(parts)), decision, query=CHOICE, predictor=heads, meter=meter)
            found[f"{name}, {kind}"] = figures(played.record)
    broken = Stage({**parts, "quick": Part(failure=EngineFailed("it ended", "try again"))})
    played = play(broken, decided(QUICK, LARGE), query=CHOICE, predictor=known, meter=meter)
    found["failed"] = [figures(record) for record in played.saved.turns]
    check_numbers("turn-cascades", found)


def test_drafted_tokens() -> None:
    rng = random.Random(7)
    meter = CurveMeter(steps([(11.5, 10.0), (0.7, 140.0), (1.1, 60.0), (2.0, 200.0), (9, 12.0)]))
    records = []
    for method in ("lookup", "draft", "lookup+draft"):
        events, now = [], 11 * S
        while now < 15 * S:
            draft = round(rng.uniform(0, 0.02) * S) if "draft" in method else 0
            length = round(rng.uniform(0.01, 0.3) * S)
            drafted = rng.randrange(0, 6)
            start = now + draft
            events.append(
                Verified(start, start + length, now, method, drafted + 1, drafted,
                         rng.randrange(drafted + 1))
            )  # fmt: skip
            now = start + length + round(rng.uniform(0, 0.05) * S)
        for decode in (
            (TimeInterval(11 * S, 15 * S),),
            (TimeInterval(11 * S, 12 * S), TimeInterval(13 * S, 14 * S)),
        ):
            records.append(account_speculation(events, decode, meter.energy))
    found = {
        "records": records,
        "sums": [sum_speculation(records[:count]) for count in (0, 1, 3, 6)],
        "per token": [
            (one.joules_per_accepted_token, one.joules_per_accepted_token_uncertainty)
            for one in records
            if one is not None
        ],
        "lines": [speculation_text(one, "counter") for one in records if one is not None],
    }
    check_numbers("turn-drafts", found)


def test_lines_about_turns() -> None:
    lines = [
        (energy_line(turn), price_facts(turn), hops_text(turn), forecast_text(turn))
        for turn in build_turns(80)
    ]
    check_numbers("turn-lines", lines)
