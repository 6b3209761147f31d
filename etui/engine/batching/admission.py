"""The queue in front of an engine: first in, first out, and some have to be alone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from etui.arm import Arm

HAND_OVER_TOKENS = 64
"""Tokens of a hand-over from thinking to the answer, with some to spare."""

PROBE_TOKENS = 64
"""Tokens of a probe of the answer, with some to spare."""

MOST_PICTURE_TOKENS = 4096
"""Tokens that no picture takes, until they are counted."""

MESSAGE_TOKENS = 32
"""Tokens that a chat template adds to a message, with some to spare."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request may need of the context until its end."""

    prompt_tokens: int = 0  # Length of its prompt; an upper bound before that is known
    output_tokens: int = 0
    """Maximum number of tokens after the prompt, of all its sequences together."""
    sequences: int = 0  # Maximum number of sequences that are open at a time

    @property
    def tokens(self) -> int:
        """Cells of the cache that it may need."""
        return self.prompt_tokens + self.output_tokens

    def limit(self, context_tokens: int, sequences: int) -> Reservation:
        """Limit it to what the whole context has.

        Answers are cut at the context, and votes wait for each other, so that a request that asks
        for more is still answered, alone.
        """
        prompt = min(self.prompt_tokens, context_tokens)
        output = min(self.output_tokens, context_tokens - prompt)
        return Reservation(prompt, output, min(self.sequences, sequences))


NOTHING = Reservation()
"""Of a request that reserves nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a session has left for one more request."""

    running: int  # Number of running requests
    tokens: int  # Free cells, less those that the running requests may still need
    sequences: int  # Free sequences, less those that the running requests may still open

    def fits(self, need: Reservation) -> bool:
        """Return whether a request may begin; alone it always may, and uses what there is."""
        return self.running == 0 or (
            need.tokens <= self.tokens and need.sequences <= self.sequences
        )


def estimate_need(arm: Arm, prompt_tokens: int, count: int = 1) -> Reservation:
    """Estimate what a request may need from its arm."""
    output = arm.max_tokens
    if arm.reasoning == "cot" or (arm.reasoning == "vote" and arm.think_tokens > 0):
        output += arm.think_tokens + HAND_OVER_TOKENS
    width = min(arm.votes, arm.batch) if arm.reasoning == "vote" else count
    if arm.reasoning == "vote" or count > 1:
        return Reservation(prompt_tokens, width * output, 1 + width)
    probes = arm.reasoning == "cot" and (arm.early_exit is not None or arm.exchange is not None)
    return Reservation(prompt_tokens, output + probes * PROBE_TOKENS, 1 + probes)


def bound_prompt(contents: Iterable[str]) -> int:
    """Return an upper bound of the tokens of a prompt: no token is shorter than a byte."""
    return sum(len(content.encode("utf-8", "replace")) + MESSAGE_TOKENS for content in contents)


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue, then among the running ones."""

    state: str = "queued"  # `queued`, `running` or `done`
    cancelled: bool = False  # Whether it waits no longer


class AdmissionQueue:
    """Let requests begin one after another; safe from any thread.

    Attributes:
        running: Number of tickets that have begun and not left.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # a signal may cancel while its thread holds it
        self._queued: deque[Ticket] = deque()
        self.running = 0
        self._version = 0  # of what decides who begins

    @property
    def idle(self) -> bool:
        """Whether nothing has begun and nothing waits."""
        with self._changed:
            return not self.running and not self._queued

    def enter(self) -> Ticket:
        """Take the last place."""
        with self._changed:
            self._queued.append(Ticket())
            return self._queued[-1]

    def enter_if_idle(self) -> Ticket | None:
        """Take the first place if nothing runs and nothing waits, else None."""
        with self._changed:
            return self.enter() if self.idle else None

    def await_turn(
        self, ticket: Ticket, ready: Callable[[int], bool], wait_seconds: float | None = None
    ) -> bool:
        """Wait at the first place until ``ready`` is true; the ticket keeps that place.

        ``ready`` decides from the number of running tickets, which cannot grow meanwhile. It is
        asked again whenever one of them leaves and after ``ask_again``, and never while the queue
        is locked. Returns whether it is its turn; False if it was cancelled, or waited too long.
        """
        seen = -1
        end_seconds = None if wait_seconds is None else time.monotonic() + wait_seconds
        while True:
            with self._changed:
                while not ticket.cancelled and (
                    self._queued[0] is not ticket or seen == self._version
                ):
                    left = None if end_seconds is None else end_seconds - time.monotonic()
                    if not self._changed.wait(left) and left is not None:
                        return False
                if ticket.cancelled:
                    return False
                seen, running = self._version, self.running
            if ready(running):
                return not ticket.cancelled

    def begin(self, ticket: Ticket) -> None:
        """Let the first ticket run, so that the next one is first."""
        with self._changed:
            assert self._queued[0] is ticket
            self._queued.popleft()
            ticket.state = "running"
            self.running += 1
            self.ask_again()

    def leave(self, ticket: Ticket) -> None:
        """Give back a place, in the queue or among the running ones; repeatable."""
        with self._changed:
            if ticket.state == "queued":
                self._queued.remove(ticket)
            elif ticket.state == "running":
                self.running -= 1
            ticket.state = "done"
            self.ask_again()

    def cancel(self, ticket: Ticket) -> None:
        """Wake a ticket that waits; it must still leave."""
        with self._changed:
            ticket.cancelled = True
            self._changed.notify_all()

    def ask_again(self) -> None:
        """Ask the first one again whether it is ready: what the running ones need has changed."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()
