"""Batches of tokens, so that the screen redraws ten times a second and not once per token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from etui.events import (
    Answer,
    Batch,
    Finished,
    Probe,
    Thought,
    ThreadsChanged,
    TokenLogprob,
    ToolCall,
    Verified,
)
from etui.tui.chat.messages import TextBatch, TurnFact
from etui.tui.pacing import USUAL, Pace
from etui.tui.widgets.code_fences import FenceTracker
from etui.turn.events import TurnEvent


def batch_events(
    events: Iterable[TurnEvent],
    clock_ns: Callable[[], int] = time.monotonic_ns,
    pace: Callable[[], Pace] = lambda: USUAL,
) -> Iterator[TurnFact]:
    """Yield the events of a turn with their text in batches; no text is lost, however it ends.

    Text is held for at most one more event: a token after a pause is shown at once.

    Args:
        pace: Returns how often the screen is drawn; called before each batch.
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
                case (
                    Probe()
                    | Batch()
                    | ThreadsChanged()
                    | Finished()
                    | Verified()
                    | TokenLogprob()
                    | ToolCall()
                ):
                    continue
                case _:
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
