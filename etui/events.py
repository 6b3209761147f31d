"""Events of a running answer: frozen dataclasses with monotonic timestamps.

They cross the process boundary as JSON lines (:mod:`etui.backends.wire`), so every field is a plain
value. Times are ``time.monotonic_ns()``, one clock for the whole machine, so that the recorder in
another process can compute the energy between any two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["complete", "stopped", "truncated", "budget", "error"]
VoteStatus = Literal["answered", "no_answer", "truncated", "uncounted", "abandoned"]
UnloadReason = Literal["room", "idle", "changed", "asked"]
Tier = Literal["context", "memory", "disk"]
"""Where a KV cache was kept."""
Ended = Literal["", "repeats", "thinking_repeats"]
"""Which part was ended because it repeats itself: the answer, or the thinking before it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model was loaded for this answer (absent if it was in memory already).

    If the engine's process had to be started first, ``start_ns`` is the start of that.
    """

    model: str
    start_ns: int
    end_ns: int
    gpu_layers: int
    size_bytes: int
    cpu_moe: int = 0  # Blocks whose experts are in RAM although the block may be on a GPU


@dataclass(frozen=True, slots=True)
class Unloaded:
    """A model was unloaded; its memory is free at ``end_ns``."""

    model: str
    model_sha256: str | None
    start_ns: int
    end_ns: int
    reason: UnloadReason
    """``room`` made for another model (comes before that model's ``Loaded``), ``idle`` after its
    ``keep_warm`` time without an answer (between answers), ``changed`` if its entry in models.yaml
    changed and it is loaded again, ``asked`` if the user unloaded it."""
    freed_bytes: int  # Estimated size in memory: weights, KV cache and buffers


@dataclass(frozen=True, slots=True)
class Prefilling:
    """One batch of the prompt was computed; ``done_tokens`` of ``total_tokens`` are cached."""

    t_ns: int
    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt is in the cache; prompt = cached (reused) + computed.

    ``dropped_messages`` counts the oldest messages of the chat, left out because they do not fit;
    ``batch_tokens`` is the size of the chunks it was computed in, None if unknown. Of the computed
    tokens, ``recomputed_tokens`` had been computed before; ``recomputed_why`` says from where on
    they were computed again, and why.
    """

    start_ns: int
    end_ns: int
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    dropped_messages: int = 0
    batch_tokens: int | None = None
    recomputed_tokens: int = 0
    recomputed_why: str = ""


@dataclass(frozen=True, slots=True)
class Thought:
    """Thinking text, as it is decoded.

    ``tokens`` may be 0 for text that was held back. Running votes report their tokens only, with
    an empty text: the text follows in their ``Vote``.
    """

    t_ns: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer text, as it is decoded."""

    t_ns: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of one token of the answer, if the client asks for it.

    It follows the ``Answer`` event of its token. Texts are bytes, since a token may be a part of a
    character.
    """

    t_ns: int
    piece: tuple[int, ...]
    logprob: float | None
    """Its log-probability in nats, under the full softmax before sampling; None for the first token
    of a prompt."""
    top: tuple[tuple[tuple[int, ...], float], ...] = ()
    """The most likely tokens at its place, as pairs of bytes and log-probability, best first."""
    index: int = 0  # Number of the answer, from 0, if several are drawn


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of the prompt in order, if the client asks for them; it comes after ``Prefilled``."""

    t_ns: int
    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A part of a tool call, as it is decoded; its tokens are counted by ``Answer`` events."""

    t_ns: int
    index: int  # Number of the call within the answer, from 0
    call_id: str
    name: str  # Name of the tool; only the first part has it, others have an empty text
    arguments: str  # Text to append to the arguments, which are a JSON object in the end


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote of a majority vote has ended, or one of several answers that a client asked for."""

    t_ns: int
    index: int  # Its number, from 0; its seed is the arm's plus this
    answer: str
    thinking: str
    tokens: int  # Decoded tokens; `Thought` and `Answer` events have reported them already
    weight: float  # Weight in the count, 0..1
    choice: str | None = None
    """The answer it counts for (a letter, a number, words); None without an answer."""
    status: VoteStatus = "answered"
    """``no_answer`` ended without one, ``truncated`` was cut off before one; ``uncounted`` ended
    after the vote was decided, ``abandoned`` was dropped unfinished."""
    ended: Ended = ""  # As in `Finished`, like the four that follow
    raw_answer: str = ""
    raw_thinking: str = ""
    saved_tokens: int = 0
    tool_calls: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch shared by several votes: pairs of vote index and its tokens in the batch.

    A batch begins where the previous one ended, so that batches tile the decode without a gap.
    """

    start_ns: int
    end_ns: int
    tokens: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of the answer in the middle of the thinking."""

    t_ns: int
    thinking_tokens: int  # Thinking tokens so far
    probabilities: tuple[tuple[str, float], ...]
    """Pairs of option letter (or the answer in words) and probability."""
    tokens: int = 0  # Tokens the probe computed and decoded; they are not part of the output


@dataclass(frozen=True, slots=True)
class ThreadsChanged:
    """The number of llama.cpp's threads has changed, between two batches.

    It is also sent at the start of an answer whose counts are not those of the settings. Without
    one, the whole answer ran with the turn's setting ``threads``.
    """

    t_ns: int
    decode_threads: int  # Of the batches that follow
    prefill_threads: int
    why: str  # Reason, in a few words


@dataclass(frozen=True, slots=True)
class Reused:
    """Where the tokens come from that an answer need not compute, and what keeping them took.

    It comes before ``Prefilled``. Without one, tokens that are cached were still in the context.
    """

    start_ns: int  # Start of bringing them back into the context
    end_ns: int  # End of it; equal to `start_ns` for the tier `context`
    tier: Tier
    tokens: int  # Reused tokens of the prompt
    size_bytes: int  # Size of the saved state; 0 for the tier `context`
    keep_seconds: float
    """Seconds spent on saving states of any chat since the answer before."""


@dataclass(frozen=True, slots=True)
class PictureEncoded:
    """The projector encoded a picture, or a part of it; it comes before ``Prefilled``."""

    start_ns: int
    end_ns: int
    tokens: int  # Tokens of the prompt that it takes


@dataclass(frozen=True, slots=True)
class Verified:
    """One batch verified drafted tokens."""

    start_ns: int  # Of the verification
    end_ns: int
    draft_start_ns: int  # Start of the drafting; equal to `start_ns` if it took no model
    method: str  # `lookup`, `draft` or `mtp`
    rows: int  # Tokens in the batch: the last token and the drafted ones
    drafted: int
    accepted: int  # Drafted tokens that the model drew too
    stopped: str = ""  # Why nothing more is drafted in this answer; empty if drafting goes on


@dataclass(frozen=True, slots=True)
class Embedded:
    """One batch of texts was embedded, or ranked; they come in the order in which they were asked.

    ``pooling`` says how one vector was made of those of all tokens: ``mean``, ``cls``, ``last``, or
    ``rank`` for scores.
    """

    t_ns: int
    vectors: tuple[str, ...]
    """One of each text, 32-bit floats, little endian, in base64; a score is one number."""
    tokens: tuple[int, ...]  # Tokens of each text
    pooling: str
    is_chat_model: bool = False
    """Whether the file names no pooling: it is no embedding model, and the mean was taken."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every answer, however it ended."""

    start_ns: int  # Start of the answer, loading excluded
    prefill_end_ns: int  # Time of the first token (equal to `end_ns` without tokens)
    thinking_end_ns: int
    """End of the thinking, for votes that of the last one; equal to ``prefill_end_ns`` without
    thinking."""
    end_ns: int  # Time of the last token
    first_token_ns: int | None  # Time of the first decoded token; None without tokens
    status: Status
    why: str
    """One sentence on what ended the answer or its thinking, if that was not the model itself
    (which budget, which stop rule, which error)."""
    answer: str
    thinking: str
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    thinking_tokens: int
    output_tokens: int  # Of thinking and answer
    confidence: float | None = None
    """Raw confidence in 0..1: the probability of the answer's letter, the geometric mean
    probability of its tokens, or the agreement of votes; None if not available."""
    margin: float | None = None
    """Lead of the first option or answer over the second, 0..1; None without two."""
    ended: Ended = ""
    """Which part was ended because it repeats itself; its text is cut after the first round."""
    raw_answer: str = ""  # The text with all decoded rounds; empty where nothing was cut
    raw_thinking: str = ""
    saved_tokens: int = 0  # Tokens that were not decoded because of it, up to the limits of the arm
    tool_calls: str = ""
    """The tools that the answer calls, a JSON array in the OpenAI form; empty without any."""
    stop: str = ""  # The client's stop string that ended it; empty if none did, or if unknown


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The tokens of one answer in a shared batch."""

    number: int  # Number of the answer, unique within its backend
    prompt_tokens: int  # Tokens computed before the first token of the answer
    decode_tokens: int
    """Tokens computed after it: drawn ones, those of a hand-over, of votes, probes."""


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """One batch in which the answers of several requests may take part.

    While answers are running, batches follow one another without a gap: each starts where the
    previous one ended, or where the first answer after a pause began. So the time in which the
    engine works for anybody is the union of its batches and of its loads and unloads.
    """

    model: str
    start_ns: int
    end_ns: int
    shares: tuple[BatchShare, ...]
    """One for each answer with tokens in the batch; for a failed batch those that it should have
    computed. A span without a batch (a fault before the first one) has the answers that were
    running, with 0 tokens."""


Residence = Loaded | Unloaded
"""Loads and unloads, before an answer or between answers."""

Event = (
    Residence
    | Prefilling
    | Prefilled
    | Thought
    | Answer
    | TokenLogprob
    | PromptTokens
    | ToolCall
    | Vote
    | Batch
    | Probe
    | ThreadsChanged
    | Reused
    | PictureEncoded
    | Embedded
    | Finished
    | Verified
)
