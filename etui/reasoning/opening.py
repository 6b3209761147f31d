"""The beginning and the end that every single answer shares: its prefill and its last word."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass

from etui.arm import Arm
from etui.engine.events import Event, Finished, Prefilled, Status
from etui.engine.session import Session, TokenSequence
from etui.reasoning.control import BUDGET, Control
from etui.reasoning.decoding import Decoded, Ending, Primed, prefill
from etui.reasoning.fitting import Prompt


@dataclass(frozen=True, slots=True)
class Opened:
    """A prompt on its way into the cache.

    Attributes:
        sequence: The sequence that holds it.
        prompt: What was asked for.
        start_ns: When work on the answer began.
        end_ns: When the prefill ended, or was cancelled.
        first: The first token; None when the prefill was cancelled.
    """

    sequence: TokenSequence
    prompt: Prompt
    start_ns: int
    end_ns: int
    first: Primed | None


def open_prompt(
    prompt: Prompt,
    arm: Arm,
    session: Session,
    control: Control,
    start_ns: int,
    *,
    to_fork: bool = False,
) -> Generator[Event, None, Opened]:
    """Prefill the prompt; the sequence is the caller's to close.

    With ``to_fork`` the prompt's last token is left queued for each fork to compute itself. So
    every fork draws its own first token, on models that refuse to take a token back as well.
    """
    total = len(prompt.tokens)
    held = prompt.tokens[-1:] if to_fork and total > 1 else []
    sequence = session.open(prompt.tokens[: total - len(held)], arm.sampling)
    first = yield from prefill(session, sequence, control)
    if first is None:
        return Opened(sequence, prompt, start_ns, time.monotonic_ns(), None)
    if to_fork:
        if not first.next.ends:
            session.rollback(sequence, 1)
        session.extend(sequence, held)
    yield Prefilled(
        start_ns=start_ns,
        end_ns=first.at_ns,
        prompt_tokens=total,
        cached_tokens=sequence.cached,
        computed_tokens=total - sequence.cached,
        dropped_messages=prompt.dropped_messages,
        batch_tokens=session.facts.batch_tokens,
    )
    return Opened(sequence, prompt, start_ns, first.at_ns, first)


def finished(
    opened: Opened,
    thought: Decoded | None,
    reply: Decoded | None,
    *,
    status: Status,
    why: str,
) -> Finished:
    """The last event of an answer, from the runs of tokens it consists of."""
    runs = [run for run in (thought, reply) if run is not None]
    firsts = [run.first_ns for run in runs if run.first_ns is not None]
    lasts = [run.last_ns for run in runs if run.last_ns is not None]
    thinking_end_ns = opened.end_ns
    if thought is not None:
        followed = reply.first_ns if reply is not None else None
        thinking_end_ns = followed or thought.last_ns or opened.end_ns
    total = len(opened.prompt.tokens)
    cached = opened.sequence.cached
    computed = total - cached
    if opened.first is None:
        computed = max(0, len(opened.sequence.tokens) - opened.sequence.pending - cached)
    thinking_tokens = thought.tokens if thought else 0
    return Finished(
        start_ns=opened.start_ns,
        prefill_end_ns=opened.end_ns,
        thinking_end_ns=thinking_end_ns,
        end_ns=max([opened.end_ns, *lasts]),
        first_token_ns=firsts[0] if firsts else None,
        status=status,
        why=why,
        answer=reply.text.strip() if reply else "",
        thinking=thought.text.strip() if thought else "",
        prompt_tokens=opened.sequence.cached + computed,
        cached_tokens=opened.sequence.cached,
        computed_tokens=computed,
        thinking_tokens=thinking_tokens,
        output_tokens=thinking_tokens + (reply.tokens if reply else 0),
        confidence=mean_probability(reply),
    )


def how_reply_ended(reply: Decoded, arm: Arm) -> tuple[Status, str]:
    """Status and reason of an answer from the way its last run ended."""
    match reply.ending:
        case Ending.CANCELLED:
            return "stopped", "stopped while answering"
        case Ending.BUDGET:
            return "budget", f"{BUDGET} ended the answer after {reply.tokens} tokens"
        case Ending.LIMIT:
            limit = "max tokens" if reply.tokens >= arm.max_tokens else "the context"
            return "truncated", f"{limit} cut the answer after {reply.tokens} tokens"
        case _:
            return "complete", ""


def mean_probability(run: Decoded | None) -> float | None:
    """Geometric mean of the tokens' probabilities, 0..1; None without tokens."""
    if run is None or run.logprob_sum is None:
        return None
    return math.exp(run.logprob_sum / run.tokens)
