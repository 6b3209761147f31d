"""Turns to log, with every field set to something that can be told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from etui.log.records import ProbeRecord, Seconds, Tokens, TurnEnergy, TurnRecord, VoteRecord

ENERGY = TurnEnergy(
    joules=12.34,
    uncertainty=0.41,
    net_joules=8.5,
    idle_watts=3.2,
    kind="counter",
    coverage=0.98,
    mean_watts=41.0,
    peak_watts=77.0,
    joules_per_token=0.6,
    phases={"load": 30.0, "prefill": 2.34, "decode": 10.0},
    thinking_joules=4.0,
    channels={"gpu:GPU-1": 12.34},
    unmeasured=("package:0",),
    flags=("coarse",),
    start_ns=1_000,
    end_ns=2_000_000_000_000,
    shared=True,
    own_joules=9.87,
)
TURN = TurnRecord(
    turn_id="aaaa00000001",
    created_at="2026-11-24T10:00:00.000+00:00",
    chat_id=None,
    query="What is a joule?",
    system="Be brief.",
    answer="A watt for a second.",
    thinking="Units…",
    status="complete",
    error=None,
    model="smollm2-135m",
    model_sha256="b179",
    arm="think",
    reasoning="cot",
    policy="balanced",
    rule="math-thinks",
    why="math-thinks: calc (1 keyword)",
    tokens=Tokens(prompt=40, cached=30, computed=10, thinking=8, output=20),
    seconds=Seconds(load=1.5, prefill=0.1, decode=0.5, total=0.6, ttft=0.12),
    energy=ENERGY,
    predicted_joules=11.0,
    predicted_accuracy=0.7,
    confidence=0.9,
    votes=(VoteRecord(0, "A", "so", 5, 1.0), VoteRecord(1, "B", "", 6, 0.5)),
    probes=(ProbeRecord(48, {"A": 0.7, "B": 0.3}, 6),),
    settings={"seed": 7, "build": {"threads": 2}},
    trace={"rules": [{"name": "math-thinks", "matched": True}]},
)
UNMEASURED = replace(
    ENERGY,
    joules=None,
    uncertainty=None,
    net_joules=None,
    kind=None,
    joules_per_token=None,
    phases={"load": None, "prefill": None, "decode": None},
    thinking_joules=None,
    channels={},
)

MakeTurn = Callable[..., TurnRecord]


@pytest.fixture
def make_turn() -> MakeTurn:
    """A turn; ``number`` gives its id and minute, ``joules`` None an unmeasured one."""

    def make(number: int = 1, *, joules: float | None = 12.34, **changes: Any) -> TurnRecord:
        energy = UNMEASURED if joules is None else replace(ENERGY, joules=joules)
        numbered: dict[str, Any] = {
            "turn_id": f"aaaa{number:08x}",
            "created_at": f"2026-11-24T10:{number:02d}:00.000+00:00",
            "energy": energy,
        }
        return replace(TURN, **(numbered | changes))

    return make
