"""The text of a running turn in batches, and how a turn ends.

A thread only posts facts: it never touches a widget and never waits for the screen, so that a slow
terminal cannot lengthen a turn and falsify its joules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from etui.events import Answer, Loaded, Prefilled, Prefilling, Thought, Unloaded, Vote
from etui.text import FenceTracker
from etui.tui.pacing import USUAL, Pace
from etui.turn.events import (
    Decided,
    HopEnded,
    HopStarted,
    RoundStarted,
    ToolEnded,
    ToolStarted,
    TurnEvent,
    TurnFinished,
)

LIVE_LINES = 16  # Most lines of a fence that is highlighted and laid out again with each new line


CONTINUED = "+"  # Word in the first line of a fence that goes on with the one before it


class ShortFences:
    """A growing text in which a long fence is closed and opened again every few lines.

    Each append lays out the whole block that it belongs to, so a fence of a thousand lines would
    cost more and more while it grows, and keys would wait for it. With short fences only the last
    few lines are laid out again; those before them are blocks of their own.
    """

    def __init__(self, most_lines: int = LIVE_LINES) -> None:
        self._most_lines = most_lines
        self._tracker = FenceTracker()
        self._line = ""
        self._opener = ""
        self._lines = 0

    def feed(self, text: str) -> str:
        *ended, unended = text.split("\n")
        out: list[str] = []
        for end in ended:
            out.append(f"{end}\n")
            out.append(self._end_line(self._line + end))
            self._line = ""
        self._line += unended
        return "".join([*out, unended])

    def _end_line(self, line: str) -> str:
        before = self._tracker.marker
        self._tracker.feed(f"{line}\n")
        marker = self._tracker.marker
        if marker is None:
            return ""
        if before is None:
            self._opener, self._lines = line, 0
            return ""
        self._lines += 1
        if self._lines < self._most_lines:
            return ""
        self._lines = 0
        indent = self._opener[: len(self._opener) - len(self._opener.lstrip(" "))]
        return f"{indent}{marker}\n{self._opener} {CONTINUED}\n"


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Text decoded since the last batch; the thinking comes before the answer."""

    thinking: str
    answer: str
    thinking_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The last fact of every turn."""

    what: str = ""
    fix: str = ""
    engine_lost: bool = False  # Whether the engine's process ended as well, and its models with it


ShownEvent = (
    Decided | HopStarted | Loaded | Unloaded | Prefilling | Prefilled | Vote | HopEnded
    | ToolStarted | ToolEnded | RoundStarted | TurnFinished
)  # fmt: skip
TurnFact = ShownEvent | TextBatch | TurnEnded


def batch_events(
    events: Iterable[TurnEvent],
    clock_ns: Callable[[], int] = time.monotonic_ns,
    pace: Callable[[], Pace] = lambda: USUAL,
) -> Iterator[TurnFact]:
    """Yield the events of a turn with their text in batches; no text is lost, however it ends.

    Text is held for at most one more event: a token after a pause is shown at once.
    """
    fence = FenceTracker()
    thinking: list[str] = []
    answer: list[str] = []
    thinking_tokens = answer_tokens = 0
    flushed_ns = clock_ns() - pace().flush_ns  # the first token is shown at once

    def flush() -> Iterator[TextBatch]:
        nonlocal thinking_tokens, answer_tokens, flushed_ns
        if thinking or answer:
            batch = TextBatch("".join(thinking), "".join(answer), thinking_tokens, answer_tokens)
            thinking.clear()
            answer.clear()
            thinking_tokens = answer_tokens = 0
            flushed_ns = clock_ns()
            yield batch

    try:
        for event in events:
            match event:
                case Thought(text=text, tokens=tokens):
                    if answer:  # the model thinks again: keep the order
                        yield from flush()
                    thinking.append(text)
                    thinking_tokens += tokens
                case Answer(text=text, tokens=tokens):
                    answer.append(text)
                    answer_tokens += tokens
                    fence.feed(text)
                case _:
                    if isinstance(event, ShownEvent):
                        yield from flush()
                        yield event
                    continue
            wait_ns = pace().fence_flush_ns if fence.inside else pace().flush_ns
            if clock_ns() - flushed_ns >= wait_ns:
                yield from flush()
    except Exception:  # show the text that came before the failure
        yield from flush()
        raise
    yield from flush()
