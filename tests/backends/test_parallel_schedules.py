"""Random schedules of answers, cancels, leaves, faults and loads of two models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, EarlyExit
from etui.backends.local import LocalBackend
from etui.config.config import Config
from etui.errors import EngineFailed
from etui.events import Event, Finished, Loaded, SharedBatch, Unloaded
from etui.models.spec import ModelSpec
from tests.backends.asker import Asker
from tests.backends.fake_residency import FIRST, SECOND, fake_residency, finished, request
from tests.engine.batching.fakes import (
    WAIT_SECONDS,
    SteppedContext,
    ask,
    make_session,
    outcome,
    threads,
)

ARMS = (
    Arm("direct", "first", max_tokens=20),
    Arm("long", "first", max_tokens=300),
    Arm("vote", "first", "vote", think_tokens=0, votes=3, batch=2, max_tokens=8),
    Arm("probed", "first", "cot", think_tokens=24, max_tokens=8,
        early_exit=EarlyExit(every=8, min_p=0.999)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a schedule.

    Attributes:
        cancel_at: Events after which its reader cancels it; None never does.
        leave_at: Events after which its reader closes it; None reads it to its end.
    """

    text: str
    spec: ModelSpec
    arm: Arm
    owner: str
    cancel_at: int | None
    leave_at: int | None


NEVER_OFTEN = st.none() | st.none() | st.integers(0, 30)
SCHEDULES = st.lists(
    st.builds(
        Asked,
        st.sampled_from(("one", "another question, and a longer one", "x" * 90)),
        st.sampled_from((FIRST, FIRST, SECOND)),
        st.sampled_from(ARMS),
        st.sampled_from(("", "anna", "bert")),
        NEVER_OFTEN,
        NEVER_OFTEN,
    ),
    min_size=1,
    max_size=7,
)


class Played:
    """A schedule that has been played: the events of each answer, its error, and all batches."""

    def __init__(self, config: Config, asked: list[Asked], faults: set[int]) -> None:
        self.asked = asked
        self.answers: list[list[Event]] = [[] for _ in asked]
        self.errors: list[EngineFailed | None] = [None] * len(asked)
        self.batches: list[SharedBatch] = []
        self.backend = LocalBackend(replace(config, parallel=3))
        self.backend.on_batch = self.batches.append
        start = threading.Barrier(len(asked))

        def run(index: int) -> Callable[[], None]:
            def play() -> None:
                start.wait(WAIT_SECONDS)
                self._read(index)

            return play

        with threads(*(run(index) for index in range(len(asked)))):
            pass
        self.idle = self.backend._queue.idle
        self.backend.close()

    def _read(self, index: int) -> None:
        own = self.asked[index]
        answerer = Asker(self.backend)
        arm = replace(own.arm, model=own.spec.name)
        events = answerer.answer(
            request(own.text, own.spec, arm=arm, owner=own.owner), number=index
        )
        try:
            for count in range(10_000):
                if count == own.cancel_at:
                    answerer.cancel()
                if count == own.leave_at:
                    events.close()  # type: ignore[attr-defined]
                    return
                try:
                    self.answers[index].append(next(events))
                except StopIteration:
                    return
        except EngineFailed as error:
            self.errors[index] = error


@given(SCHEDULES, st.sets(st.integers(1, 200), max_size=2))
def test_any_schedule_ends_and_each_answer_is_what_it_is_alone(config, asked, faults):
    with pytest.MonkeyPatch.context() as monkeypatch:
        residency = fake_residency(monkeypatch)

        def add_faults(name: str, context: SteppedContext) -> None:
            context.fails_at = set(faults)

        residency.after_load = staticmethod(add_faults)
        residency.context_tokens = 600
        played = Played(config, asked, faults)
    assert played.idle
    for own, events, error in zip(asked, played.answers, played.errors, strict=True):
        if error is not None:
            assert faults
        elif own.leave_at is not None and not (events and isinstance(events[-1], Finished)):
            assert len(events) <= own.leave_at
        elif finished(events).status != "stopped":
            assert outcome(events) == _answer_alone(own.text, own.arm)
        else:
            assert own.cancel_at is not None
    _assert_books(played)


def _answer_alone(text: str, arm: Arm) -> tuple[object, ...]:
    session, _ = make_session(context_tokens=600)
    return outcome(ask(session, text, arm))


def _assert_books(played: Played) -> None:
    """Batches and loads never overlap, and each token of an answer is in one batch."""
    loads = [
        (event.start_ns, event.end_ns)
        for events in played.answers
        for event in events
        if isinstance(event, Loaded | Unloaded)
    ]
    spans = sorted([*loads, *((batch.start_ns, batch.end_ns) for batch in played.batches)])
    for (_, before), (after, _) in pairwise(spans):
        assert before <= after
    for index, events in enumerate(played.answers):
        if events and isinstance(events[-1], Finished) and played.errors[index] is None:
            shares = [s for batch in played.batches for s in batch.shares if s.number == index]
            prompt = sum(share.prompt_tokens for share in shares)
            last = events[-1]
            if last.status != "stopped" and played.asked[index].arm.reasoning != "vote":
                assert prompt == last.computed_tokens
