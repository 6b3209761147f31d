"""A log of days of a chat, with loads, unloads and idle baselines of a simulated GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from etui.config.config import Config
from etui.energy.idle import Baselines, IdleBaseline, save_baselines
from etui.log.writer import TurnWriter
from etui.text import format_utc
from etui.turn.record import LoadRecord, Seconds, UnloadRecord
from tests.fixtures.turns import TURN
from tests.support.idle_days import ANSWER_SECONDS

MODEL = "office-model"


def stamp(seconds: float) -> str:
    """The timestamp of seconds since 1970."""
    return format_utc(datetime.fromtimestamp(seconds, UTC))


def write_turns(
    config: Config, times: Sequence[float], model: str = MODEL, chat_id: str | None = "chat"
) -> None:
    """Log one turn at each time, seconds since 1970."""
    seconds = Seconds(load=0.0, prefill=1.0, decode=9.0, total=ANSWER_SECONDS, ttft=1.0)
    with TurnWriter(config) as writer:
        for number, t in enumerate(times):
            turn = replace(
                TURN,
                turn_id=f"{model[:2]}{chat_id}{number}",
                created_at=stamp(t),
                model=model,
                chat_id=chat_id,
                seconds=seconds,
            )
            writer.save_turn(turn)


def write_residence(
    config: Config, end: float, model: str = MODEL, cold: bool = True, sha256: str | None = None
) -> None:
    """Log three loads of 290 to 310 J and an unload that went back to 10 W or to 19 W."""
    after = 10.1 if cold else 19.0
    unload = UnloadRecord(
        *(f"{model}u", stamp(end), model, sha256, None, "idle", 0.2, 6.0, 0.4, "counter", 10**8),
        *(45.2, 0.3, after, 0.2, 10.0, 0.2),
    )
    with TurnWriter(config) as writer:
        for number, joules in enumerate((290.0, 310.0, 300.0)):
            writer.save_load(
                LoadRecord(
                    *(f"{model}{number}", stamp(end - 90 + number), model, sha256, None),
                    *(2.0, joules, 6.0, "counter", 31, 98_000_000),
                )
            )
        writer.save_unload(unload)


def write_baselines(
    config: Config, model: str = MODEL, loaded: float = 45.0, channel: str = "gpu:FAKE"
) -> None:
    """Save a cold baseline of 10 W, and one with the model in memory."""

    def idle(watts: float, uncertainty: float) -> IdleBaseline:
        return IdleBaseline({channel: watts}, 1.0, 5.0, True, uncertainty)

    save_baselines(config, Baselines(idle(10.0, 0.2), {model: idle(loaded, 0.4)}))
