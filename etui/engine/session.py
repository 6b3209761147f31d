"""The interface between reasoning and an engine: sequences in the context of one model.

Reasoning uses only these protocols, so it is pure and runs on a fake session in tests; the session
over llama.cpp is :mod:`etui.engine.llama_session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from etui.arm import Sampling, Speculate
from etui.chat import Message
from etui.engine.chat_formats import PLAIN_FORMAT, ChatFormat
from etui.events import PictureEncoded, TokenLogprob, Verified

NO_TOKEN = -1
"""Number in place of a token where none could be drawn."""


@dataclass(frozen=True, slots=True)
class FillTokens:
    """The tokens with which a model fills in the middle of a text; None where it has none."""

    prefix: int
    suffix: int
    middle: int
    project: int | None = None  # Before the name of a project
    file: int | None = None  # Before the name of each file


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Properties of the loaded model that reasoning may use."""

    name: str
    context_tokens: int  # Maximum length of a sequence in tokens
    stop: tuple[str, ...]  # Strings that end an answer, in addition to the vocabulary's end tokens
    batch_tokens: int | None = None
    """Maximum number of tokens in one batch. Prompts are computed in chunks of this size, and
    another size changes the last bits of their logits. None if unknown."""
    vocabulary_tokens: int | None = None  # Number of tokens in the vocabulary; None if unknown
    format: ChatFormat = PLAIN_FORMAT  # How it thinks and calls tools
    cache_limit: str = ""
    """Why a prompt that differs from an earlier one may be computed from before the difference, as
    a sentence; empty if it never is."""
    fill: FillTokens | None = None  # None if it cannot fill in the middle


@dataclass(frozen=True, slots=True)
class OutputGrammar:
    """A grammar that constrains what a sequence draws."""

    text: str  # its rules in llguidance's dialect of Lark; the rule ``start`` is the whole text
    param: str = "response_format"  # the part of the request that asks for it, for errors


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """One of the most likely tokens at a place."""

    token: int
    piece: bytes  # Its bytes; those of its name for a control token
    logprob: float  # Its log-probability under the full softmax before sampling, in nats


@dataclass(frozen=True, slots=True)
class RecalledSequence:
    """The tokens of an answer that ended, which are still in the cache."""

    tokens: tuple[int, ...]  # Prompt and answer. All but the last are computed, or all of them.
    tail: bytes  # Bytes of its last tokens


@dataclass(slots=True)
class PromptScores:
    """The log-probabilities of a prompt's tokens, which the session fills in as it computes them.

    Such a prompt reuses nothing of the cache: logits are not kept there.
    """

    tokens: Sequence[int]  # The whole prompt
    alternatives: int  # Number of the most likely tokens that are reported with each
    found: list[TokenLogprob] = field(default_factory=list)


class TokenSequence(Protocol):
    """One sequence: the tokens in its cache and those queued to be computed."""

    @property
    def id(self) -> int:
        """Number of the sequence, unique within its session."""

    @property
    def tokens(self) -> Sequence[int]:
        """All tokens of the sequence, computed and queued."""

    @property
    def pending(self) -> int:
        """Number of queued tokens."""

    @property
    def cached(self) -> int:
        """Number of tokens reused from the KV cache when the sequence was opened."""

    @property
    def lost(self) -> int:
        """Number of leading tokens that were computed before, and could not be reused."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token drawn for one sequence, on which it is queued already."""

    sequence_id: int
    token: int
    piece: bytes
    logprob: float  # Log-probability under the full softmax before sampling, in nats
    ends: bool  # Whether it ends the text; then it is not queued
    stuck: bool = False  # The grammar allows no token of the vocabulary: the answer ends without
    fault: str = ""  # Why its answer cannot go on: an error of the request; empty if it can


@dataclass(frozen=True, slots=True)
class Step:
    """One batch computed by the model."""

    start_ns: int  # Start of the decode on the monotonic clock
    end_ns: int
    computed: dict[int, int]  # Number of tokens in this batch, by sequence id
    sampled: tuple[Sampled, ...]  # One for each sequence whose queue became empty in this batch
    verified: tuple[Verified, ...] = ()
    """Verifications whose last drafted token was drawn or dropped since the previous step."""
    verified_ids: tuple[int, ...] = ()  # Sequence id of each of them


class Session(Protocol):
    """One model in memory with a context of several sequences."""

    @property
    def facts(self) -> ModelFacts:
        """Properties of the model that reasoning may use."""

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache not held by open sequences; shared prefixes count once."""

    @property
    def free_sequences(self) -> int:
        """Number of sequences that can still be opened or forked."""

    def render(
        self, messages: Sequence[Message], *, think_tokens: int | None = None, tools: str = ""
    ) -> str:
        """Render the chat template, up to and including the assistant's header.

        If the last message is the assistant's, the text ends with it, so that the answer continues
        it. ``tools`` is a JSON array of tools in the OpenAI form; empty for none.

        Only what the template writes may become special tokens: an engine may replace characters of
        the messages by others, which ``tokenize`` puts back. ``think_tokens`` is the budget of
        the thinking, by which the template's switch and effort are set if it has them: 0 switches
        it off, None keeps their defaults.

        Raises:
            InvalidRequest: The template has no place for the tools, or for their calls.
        """

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Tokenize a text; ``bos`` prepends the begin token, once, if the model uses one.

        ``special`` reads special tokens, for texts from ``render`` and for etui's own.
        """

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        scores: PromptScores | None = None,
    ) -> TokenSequence:
        """Open a sequence, reusing the longest common token prefix in the cache.

        With ``scores``, nothing is reused, and steps fill them in.

        With ``script``, steps draw its tokens one after another, whatever the logits say, and an
        end token in it does not end the sequence; after its last token, steps draw freely. The work
        is that of drawing freely: logits are computed, and drafts are verified, against the script.

        Raises:
            ContextOverflow: The tokens do not fit into the context.
        """

    def recall(self, label: str) -> RecalledSequence | None:
        """Return the answer with this label, to open a sequence that goes on with its tokens.

        A text that is tokenized again need not give the tokens that were drawn. None if the cache
        no longer has it.
        """

    def encode(
        self, sequence: TokenSequence, cancelled: Callable[[], bool]
    ) -> Iterator[PictureEncoded]:
        """Encode the pictures of a prompt, whose tokens are below ``NO_TOKEN``; steps decode them.

        It ends early if ``cancelled``.
        """

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> TokenSequence:
        """Fork a sequence: computed tokens are shared, queued tokens and a script are copied."""

    def constrain(self, sequence: TokenSequence, grammar: OutputGrammar) -> None:
        """Let steps draw only tokens that the grammar allows, from the next token on.

        Tokens after this call are read by the grammar; a fork has a copy of its state, and a
        rollback takes it back. An end token is drawn only where the grammar can end. The sequence
        does not speculate. A script is drawn whatever the grammar says.

        Raises:
            InvalidRequest: The grammar is too large.
        """

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Let steps of this sequence alone verify drafted tokens; what it draws is unchanged.

        A step still draws one token; tokens that a batch has verified are drawn by the next steps,
        which compute nothing. Returns why there will be no speculation; empty if there will be.
        """

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Drop the drafted tokens not drawn yet; return the verifications not yet reported."""

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens that the model did not draw (a hand-over sentence, a probe)."""

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last ``count`` tokens.

        Where the model cannot take back computed tokens, those since its last checkpoint are queued
        again. False if that is all of them; then nothing is removed.
        """

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute one batch of queued tokens, and draw a token for each queue that became empty.

        Single tokens are computed first, then prompts in the given order, up to the size of a
        batch; the remaining tokens wait for the next step. A sequence with an empty queue draws
        again from its last logits, or recomputes its last token if they were overwritten: forks of
        a sequence whose drawn token was rolled back each draw their own. Without ``draw`` nothing
        is drawn, and ``logprobs`` works for the sequences whose queue is empty.

        Raises:
            ContextOverflow: A sequence has outgrown the context.
            CacheFull: The open sequences fill the cache.
            EngineFailed: llama.cpp failed.
        """

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return log-probabilities (nats, full softmax) of next tokens after the last step.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are overwritten.
        """

    def top_logprobs(self, sequence: TokenSequence, count: int) -> tuple[LikelyToken, ...]:
        """Return the most likely tokens where the last step drew a token, best first.

        They are those of the full softmax before sampling, whatever a grammar allows.

        Raises:
            ValueError: The sequence was not in the last batch, so its logits are overwritten.
        """

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Close a sequence; with ``keep`` its tokens stay cached as a prefix for later ones.

        Votes and probes are closed without ``keep``: they are never continued.
        """

    def forget(self) -> None:
        """Forget closed sequences and what was drafted for any, so that nothing is reused."""
