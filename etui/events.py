"""What an answer in progress says, as frozen facts with monotonic timestamps.

They cross the process boundary as JSON lines (``engine/wire.py``), so each field is a plain value.
Times are ``time.monotonic_ns()``: one clock for the whole machine, so that the recorder in another
process can tell the energy of any interval between two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["complete", "stopped", "truncated", "budget", "error"]
VoteStatus = Literal["answered", "no_answer", "truncated", "uncounted", "abandoned"]
UnloadReason = Literal["room", "idle", "changed", "asked"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model was brought into memory for this answer (absent when it was resident)."""

    model: str
    start_ns: int
    end_ns: int
    gpu_layers: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Unloaded:
    """A model was given up; its memory is free at ``end_ns``.

    Attributes:
        reason: ``room`` for another model (told before that one's ``Loaded``), ``idle`` when it
            had been kept warm for long enough (between answers), ``changed`` when its entry in
            models.yaml had, so that it is loaded anew, ``asked`` when the user gave it up.
        freed_bytes: What it was reckoned to take: weights, KV cache and buffers.
    """

    model: str
    model_sha256: str | None
    start_ns: int
    end_ns: int
    reason: UnloadReason
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Prefilling:
    """One batch of the prompt is computed; ``done_tokens`` of ``total_tokens`` are in the cache."""

    t_ns: int
    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt is in the cache; prompt = cached (reused) + computed.

    ``dropped_messages`` counts the oldest messages of the chat that no longer fit;
    ``batch_tokens`` is the size of the chunks it was computed in, None where it is not known.
    """

    start_ns: int
    end_ns: int
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    dropped_messages: int = 0
    batch_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of the thought, as it is decoded.

    ``tokens`` may be 0 for text that was held back. Votes under way tell their tokens alone, with
    an empty text: what they say follows with their ``Vote``.
    """

    t_ns: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Text of the answer, as it is decoded."""

    t_ns: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote of a majority is in.

    Attributes:
        index: Its number, from 0; its seed is the arm's plus this.
        tokens: Tokens it decoded; ``Thought`` and ``Answer`` events have told them already.
        weight: What it counts, 0..1.
        choice: The answer it counts for (a letter, a number, words); None if it gave none.
        status: ``no_answer`` ended without one, ``truncated`` was cut before one; ``uncounted``
            came to its end after others had decided, ``abandoned`` was dropped under way.
    """

    t_ns: int
    index: int
    answer: str
    thinking: str
    tokens: int
    weight: float
    choice: str | None = None
    status: VoteStatus = "answered"


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch that several votes shared: vote index -> its tokens in the batch.

    It begins where the batch before it ended, so that batches tile the decode without a gap.
    """

    start_ns: int
    end_ns: int
    tokens: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A look at the answer from the middle of a thought.

    Attributes:
        thinking_tokens: Tokens of the thought at that moment.
        probabilities: Option letter, or the answer in words -> probability.
        tokens: Tokens the look took, computed and decoded; they are no part of the output.
    """

    t_ns: int
    thinking_tokens: int
    probabilities: tuple[tuple[str, float], ...]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every answer, whatever way it ended.

    Attributes:
        start_ns: When the answer began, loading excluded.
        prefill_end_ns: When the first token was there (equal to ``end_ns`` if none came).
        thinking_end_ns: When the thought ended, of several votes the last; equal to
            ``prefill_end_ns`` without a thought.
        end_ns: When the last token was there.
        first_token_ns: When the first decoded token was there; None if none came.
        status: How it ended.
        why: One sentence on what ended it or its thought, where that was not the model itself
            (which budget, which stop rule, which error).
        prompt_tokens, cached_tokens, computed_tokens: prompt = cached + computed.
        thinking_tokens, output_tokens: Output counts thinking and answer.
        confidence: Raw confidence in 0..1: the probability of the answer's letter, the geometric
            mean probability of its tokens, or the agreement of votes; None where there is none.
        margin: What the first option or answer is ahead of the second, 0..1; None without two.
    """

    start_ns: int
    prefill_end_ns: int
    thinking_end_ns: int
    end_ns: int
    first_token_ns: int | None
    status: Status
    why: str
    answer: str
    thinking: str
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    thinking_tokens: int
    output_tokens: int
    confidence: float | None = None
    margin: float | None = None


Residence = Loaded | Unloaded
"""What changes in memory before an answer, or between answers."""

Event = Residence | Prefilling | Prefilled | Thought | Answer | Vote | Batch | Probe | Finished
