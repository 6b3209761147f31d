"""What reasoning needs of an engine: sequences over one model's context.

Reasoning is written against this protocol, so it is pure and runs on a fake session in tests; the
session over llama.cpp is ``engine/llama_session.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from etui.arm import Sampling
from etui.chat import Message


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What reasoning may know of the loaded model.

    Attributes:
        name: Name in models.yaml.
        context_tokens: Tokens one sequence may hold.
        think_open, think_close: Tags around a thought (``<think>``), None for a plain model.
        thinking_switch: Name of the template variable that turns thinking on or off
            (``enable_thinking``), None where there is none.
        stop: Strings that end an answer, beside the end tokens of the vocabulary.
        has_template: Whether the GGUF carries a chat template.
        batch_tokens: Most tokens of one batch, which is how prompts are cut into chunks: another
            size changes the last bits of their logits. None where it is not known.
    """

    name: str
    context_tokens: int
    think_open: str | None
    think_close: str | None
    thinking_switch: str | None
    stop: tuple[str, ...]
    has_template: bool
    batch_tokens: int | None = None


class TokenSequence(Protocol):
    """One sequence: the tokens in its cache and those queued to be computed."""

    @property
    def id(self) -> int: ...

    @property
    def tokens(self) -> Sequence[int]:
        """Every token of the sequence, computed and queued."""

    @property
    def pending(self) -> int:
        """Tokens queued and not yet computed."""

    @property
    def cached(self) -> int:
        """Tokens that were reused from the KV cache when the sequence was opened."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token drawn for one sequence; it is queued on the sequence already.

    ``ends`` is True for an end-of-generation token, which is not queued. ``logprob`` is the
    log-probability under the full softmax before sampling, in nats.
    """

    sequence_id: int
    token: int
    piece: bytes
    logprob: float
    ends: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One batch through the model.

    Attributes:
        start_ns, end_ns: Monotonic clock around the decode.
        computed: sequence id -> tokens of it in this batch.
        sampled: One token for every sequence whose queue ran empty in this batch.
    """

    start_ns: int
    end_ns: int
    computed: dict[int, int]
    sampled: tuple[Sampled, ...]


class Session(Protocol):
    """One model in memory with a context of several sequences."""

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that open sequences do not hold; shared prefixes count once."""

    @property
    def free_sequences(self) -> int:
        """Sequences that can still be opened or forked."""

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        """Prompt text up to and including the assistant's header, from the chat template.

        ``thinking`` sets the template's switch where the model has one; None leaves its default.
        """

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Tokens of a text; ``bos`` adds the begin token where the model wants one, once."""

    def open(self, tokens: Sequence[int], sampling: Sampling) -> TokenSequence:
        """Start a sequence; the longest common token prefix in the cache is reused.

        Raises:
            ContextOverflow: More tokens than the context holds.
        """

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> TokenSequence:
        """A second sequence sharing everything computed so far; queued tokens are copied."""

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw (a hand-over sentence, a probe)."""

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Take the last ``count`` tokens back; False where the model refuses partial removal."""

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute one batch of what is queued, and draw a token wherever a queue ran empty.

        Single tokens go first, then prompts in the order given, up to the size of a batch; what
        does not fit waits for the next step. A sequence with nothing queued draws again from its
        last logits, or computes its last token again where they are gone: forks of a sequence
        whose drawn token was rolled back each draw their own. Without ``draw`` nothing is drawn,
        and ``logprobs`` tells of the sequences whose queue ran empty.

        Raises:
            ContextOverflow: A sequence has outgrown the context.
            CacheFull: The open sequences fill the cache.
            EngineFailed: llama.cpp gave up.
        """

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Log-probabilities (nats, full softmax) of the given next tokens after the last step.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are gone.
        """

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Give the sequence up; with ``keep`` its tokens stay as a prefix for later ones.

        Votes and probes are closed without ``keep``: nobody continues them.
        """
