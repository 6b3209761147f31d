"""The app on an engine that decodes 200 tokens a second into a code fence, and does nothing else.

``benchmarks/tui.py`` starts it in a terminal; the one chat of its log has 100 turns.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from math import sin
from typing import Any

from etui.arm import Arm
from etui.chat import Query
from etui.config.config import load_config, make_home
from etui.energy.types import Channel, ChannelPower, Energy, Kind
from etui.events import Answer, Finished, Loaded, Prefilled
from etui.log.chat_queries import ChatSummary
from etui.log.records import ChatRecord
from etui.routing.decision import Decision, PredictedJoules
from etui.runtime.forecast import ArmForecast, Forecast, TokenCount
from etui.runtime.routes import Route
from etui.tui.services import ListedModel, Services, SpendingTotals, Vitals
from etui.tui.start import EtuiApp
from etui.turn.accounting import Leg, compute_account
from etui.turn.events import Decided, TurnEvent, TurnFinished
from etui.turn.record import Seconds, Tokens, TurnEnergy, TurnRecord

MODEL = "fake"
TOKENS_PER_SECOND = 200
EARLIER_TURNS = 100
MOST_TOKENS = 20_000
CODE = ("    total", " +=", " joules", "(watts", "[", "i", "],", " 0.05", ")", "\n")
CHAT = ChatRecord("chat", "2026-01-01T00:00:00Z", "A long chat")
WATTS = 50.0


def _channel(number: int) -> Channel:
    name = "gpu:FAKE" if number == 0 else f"gpu:FAKE-{number}"
    return Channel(name, name, Kind.COUNTER, limit_watts=100.0, label="Fake GPU")


class FakeMeter:
    """Watts that go up and down, on every channel."""

    def __init__(self, channels: int = 1) -> None:
        self._channels = [_channel(number) for number in range(channels)]

    def latest(self) -> Sequence[ChannelPower]:
        """All channels."""
        now = time.monotonic_ns()
        watts = WATTS + 20.0 * sin(now / 1e9)
        return [ChannelPower(channel, now, watts, None, True) for channel in self._channels]

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Watts times seconds."""
        joules = WATTS * (end_ns - start_ns) / 1e9
        return Energy(start_ns, end_ns, joules, 0.5, Kind.COUNTER, 1.0, mean_watts=WATTS)

    def vitals(self) -> Vitals:
        """Nothing else is known."""
        return Vitals()


class FakeRunner:
    """Streams code until it is cancelled."""

    def __init__(self, meter: FakeMeter) -> None:
        self._meter = meter
        self._cancelled = threading.Event()
        self.on_unloaded: Any = None
        self.long_step = None
        self.confirm: Any = None

    def run(
        self,
        query: Query,
        route: Route,
        replaces: str | None = None,
        prompt: str | None = None,
        *,
        tools: bool = False,
    ) -> Iterator[TurnEvent]:
        """A fence that never closes."""
        self._cancelled.clear()
        yield Decided(Decision(Arm("fake", MODEL), None, None, "the only one"))
        start_ns = time.monotonic_ns()
        yield Prefilled(start_ns, start_ns, 10, 0, 10)
        yield Answer(start_ns, "```python\n", 1)
        tokens = 1
        while tokens < MOST_TOKENS:
            due_ns = start_ns + tokens * 1_000_000_000 // TOKENS_PER_SECOND
            if self._cancelled.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
                break
            yield Answer(time.monotonic_ns(), CODE[tokens % len(CODE)], 1)
            tokens += 1
        end_ns = time.monotonic_ns()
        end = Finished(
            start_ns, start_ns, start_ns, end_ns, start_ns, "stopped", "", "…", "", 10, 0, 10, 0,
            tokens,
        )  # fmt: skip
        energy, counted, seconds = compute_account([Leg(end)], self._meter.energy)
        yield TurnFinished(_record("now", query.text, energy, counted, seconds))

    def warm_up(self, route: Route, chat_id: str | None = None) -> Loaded | None:
        """It is there at once."""
        return Loaded(MODEL, 0, 0, 0, 1_000_000)

    def likely_model(self, route: Route, chat_id: str | None = None) -> str | None:
        """The only one."""
        return MODEL

    def forecast(self, query: Query, route: Route, parts: Sequence[str]) -> Forecast:
        """One joule; tokens are words."""
        counts = tuple(TokenCount(len(part.split()), exact=True) for part in parts)
        return Forecast(
            counts,
            (ArmForecast("fake", MODEL, PredictedJoules(0.0, None, None, whole=1.0)),),
            MODEL,
        )

    def count_tokens(self, text: str, model: str) -> int:
        """Words."""
        return len(text.split())

    def other_route(self, record: TurnRecord, route: Route, direction: str) -> Route | None:
        """There is none."""
        return None

    def cancel(self) -> None:
        """End the stream."""
        self._cancelled.set()

    def close(self) -> None:
        """End the stream."""
        self._cancelled.set()


class FakeShelf:
    """One model."""

    def models(self) -> Sequence[ListedModel]:
        """It is there."""
        return [ListedModel(MODEL, "no size", True)]

    def pull(self, name: str, report: Any) -> None:
        """Nothing to pull."""


class FakeChats:
    """One chat of 100 turns."""

    def chats(self, search: str) -> Sequence[ChatSummary]:
        """The one chat."""
        return [ChatSummary(CHAT, CHAT.created_at, None)]

    def turns(self, chat_id: str) -> Sequence[TurnRecord]:
        """Turns with a paragraph and a piece of code each."""
        meter = FakeMeter()
        end = Finished(0, 0, 0, 10**9, 0, "complete", "", "", "", 10, 0, 10, 0, 120)
        energy, tokens, seconds = compute_account([Leg(end)], meter.energy)
        made = (str(number) for number in range(EARLIER_TURNS))
        return [_record(name, f"Question {name}?", energy, tokens, seconds) for name in made]

    def grades(self, turn_ids: Sequence[str]) -> Mapping[str, bool]:
        """None is graded."""
        return {}

    def grade(self, turn_id: str, good: bool | None) -> None:
        """Nothing is kept."""

    def save(self, chat: ChatRecord) -> None:
        """Nothing is kept."""

    def delete(self, chat_id: str) -> None:
        """Nothing is kept."""

    def spending(self, route: Route) -> SpendingTotals:
        """Nothing was spent."""
        return SpendingTotals()


def _record(
    turn_id: str, question: str, energy: TurnEnergy, tokens: Tokens, seconds: Seconds
) -> TurnRecord:
    answer = "Some **text** before it.\n\n```python\n" + "".join(CODE) * 8 + "```\n\nAnd after it."
    return TurnRecord(
        turn_id=turn_id, created_at=CHAT.created_at, chat_id=CHAT.chat_id, query=question,
        system=None, answer=answer, thinking="", status="complete", error=None, model=MODEL,
        model_sha256=None, arm="fake", reasoning="direct", policy=None, rule=None, why="",
        tokens=tokens, seconds=seconds, energy=energy,
    )  # fmt: skip


def main() -> None:
    """Open the app."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--channels", type=int, default=1)
    channels = parser.parse_args().channels
    config = load_config()
    make_home(config)
    meter = FakeMeter(channels)
    services: Any = Services  # The fakes have what the chat calls, no more
    backend = services(FakeRunner(meter), meter, FakeShelf(), FakeChats(), ("balanced",))
    EtuiApp(config, Route("balanced", MODEL), lambda _config: backend).run()


if __name__ == "__main__":
    main()
