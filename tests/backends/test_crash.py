"""The whole chain when the engine's process goes: turn, child, log, and the question after it."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.backends.process import ProcessBackend
from etui.chat import Query
from etui.config.config import Config
from etui.energy.types import ChannelEnergy, Energy, Kind
from etui.errors import EngineFailed
from etui.events import Answer
from etui.log.writer import TurnWriter
from etui.models.spec import ModelSpec
from etui.routing.decision import Decision
from etui.turn.events import TurnEvent, TurnFinished
from tests.metering import Sliced
from tests.turn.play import run_turn, serve_one_model

SPEC = ModelSpec("starter", "135M", (), context=2048)
LAST_WORDS = "the last line before it went"


class Meter10W(Sliced):
    """Ten watts, always."""

    def settle(self, end_ns: int) -> None: ...

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        joules = 10.0 * (end_ns - start_ns) / 1e9
        channel = ChannelEnergy("gpu:0", Kind.COUNTER, joules, 0.5, 1.0, 10.0)
        return Energy(start_ns, end_ns, joules, 0.5, Kind.COUNTER, 1.0, channels=(channel,))


def killed(child: ProcessBackend) -> None:
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)


def stopped(child: ProcessBackend) -> None:
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    child._silent_seconds = 3  # only now: a busy machine may hold it up for as long


def pipe_closed(child: ProcessBackend) -> None:
    child._child.process.stdin.close()


@pytest.fixture
def child(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ProcessBackend]:
    """A child that has written to its log before anything happens to it."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys; print({LAST_WORDS!r}, file=sys.stderr)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = ProcessBackend(replace(config, threads=1))
    yield child
    child.close()


def turn(
    child: ProcessBackend, writer: TurnWriter, path: Path, text: str, tokens: int
) -> Iterator[TurnEvent]:
    return run_turn(
        Query(text),
        Decision(Arm("quick", "starter", max_tokens=tokens), "frugal", "default", "nothing else"),
        serve=serve_one_model(SPEC, path),
        answerer=child,
        meter=Meter10W(),
        writer=writer,
    )


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (killed, "was killed by SIGKILL"),
        (stopped, "did not respond for 3 s and was stopped"),
        (pipe_closed, "exited with code 0"),
    ],
)
def test_a_turn_whose_engine_goes_is_told_saved_and_followed_by_the_next(
    child, config, starter_model, harm, says
):
    seen: list[str] = []
    ended: list[TurnEvent] = []
    harmed = False

    def half_a_story() -> None:
        nonlocal harmed
        for event in turn(child, writer, starter_model, "Tell me a long story.", 1500):
            ended.append(event)
            if isinstance(event, Answer):
                seen.append(event.text)
                if not harmed and len(seen) == 5:
                    harmed = True
                    harm(child)

    with closing(TurnWriter(config)) as writer:
        with pytest.raises(EngineFailed) as caught:
            half_a_story()
        assert says in caught.value.what
        assert caught.value.what.endswith(f"; end of its log: {LAST_WORDS}")
        assert "ask again" in caught.value.fix
        assert isinstance(ended[-1], TurnFinished)  # the front end has the record before the error
        *_, last = turn(child, writer, starter_model, "What is a joule?", 8)
        assert isinstance(last, TurnFinished)
        assert (last.record.status, last.record.tokens.output) == ("truncated", 8)

    with closing(sqlite3.connect(config.database)) as log:
        rows = log.execute(
            "select status, error, answer, tokens_output, energy_joules from turns order by rowid"
        ).fetchall()
    (status, error, answer, tokens, joules), (second, _, _, _, after) = rows
    assert (status, error) == ("error", caught.value.what)
    assert answer == "".join(seen)
    assert len(seen) <= tokens + 1
    assert 5 <= tokens < 1500
    assert joules > 0
    assert (second, after > 0) == ("truncated", True)
