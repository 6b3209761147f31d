"""Draw the next token: with llama.cpp's sampler chain or the argmax, and within a grammar.

With a grammar (llguidance) the token that the sampler draws is tested alone first. Only if the
grammar refuses it, the sampler draws again among the tokens that are allowed. Both draws together
have the distribution of the second alone: a token has its own probability, plus its part of the
refused ones, which is its probability divided by that of all allowed tokens. Only where one text
alone can follow, the second draw takes the tokens that the tokenizer makes of it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from etui.arm import Sampling
from etui.engine.grammar_trial import format_fault, make_limits
from etui.engine.session import OutputGrammar
from etui.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.engine.model import Model


@dataclass(frozen=True, slots=True)
class Script:
    """The tokens that a sequence draws, whatever its logits say; after the last, it draws its own.

    The position decides which token is next, so a rolled back or forked sequence draws the same.
    """

    start: int  # Length of the sequence before the first token
    tokens: tuple[int, ...]  # The tokens; one that ends a text does not end the sequence

    def find(self, length: int) -> int | None:
        """Return the token that a sequence of this length draws; None where it draws its own."""
        at = length - self.start
        return self.tokens[at] if 0 <= at < len(self.tokens) else None


class Sampler:
    """Token sampler of one sequence.

    The chain is biases, penalties, top-k, top-p, min-p, temperature, draw, in the order of
    llama.cpp's own tools. At temperature 0 without biases and penalties there is no chain: the
    argmax of the logits is the same token, and cheaper than llama.cpp's copy of the whole
    vocabulary.

    The penalties look at the last tokens of the sequence, prompt included. They are compared with
    the sequence before each draw, so they are right after a fork, a rollback, and tokens that the
    model did not draw.

    Args:
        context_tokens: The window of the penalties for ``repeat_last_n: -1``.
    """

    def __init__(
        self, api: Any, sampling: Sampling, vocabulary: int = 0, context_tokens: int = 0
    ) -> None:
        self._api = api
        window = context_tokens if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        repeat, presence = sampling.repeat_penalty, sampling.presence_penalty
        frequency = sampling.frequency_penalty
        self._window = window if (repeat, presence, frequency) != (1, 0, 0) else 0
        self._recent: list[int] = []  # what the penalties have seen, at most a window of it
        self._penalties: Any = None
        self._chain: Any = None
        links = []
        if sampling.logit_bias:
            biases = (api.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
            links.append(api.llama_sampler_init_logit_bias(vocabulary, len(biases), biases))
        if self._window:
            self._penalties = api.llama_sampler_init_penalties(
                vocabulary, self._window, repeat, frequency, presence
            )
            links.append(self._penalties)
        if sampling.temperature > 0:
            links += _build_draw(api, sampling)
        elif links:
            links.append(api.llama_sampler_init_greedy())
        if links:
            self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for link in links:
            api.llama_sampler_chain_add(self._chain, link)

    @property
    def greedy(self) -> bool:
        """Whether the token with the highest logit is always taken."""
        return self._chain is None

    def draw(self, context: Any, row: int, tokens: Sequence[int] = ()) -> int:
        """Draw from output ``row`` of the last batch; not for a greedy sampler.

        The penalties look at the tokens of the sequence so far.
        """
        self._show(tokens)
        token = int(self._api.llama_sampler_sample(self._chain, context, row))
        self._note(token)  # llama.cpp has accepted the token already
        return token

    def draw_among(
        self, ids: NDArray[np.intp], logits: NDArray[np.float32], tokens: Sequence[int]
    ) -> int | None:
        """Draw one of these tokens instead, None if the chain leaves none.

        The logits are those of the whole vocabulary; the tokens are those of the sequence so far.
        """
        import numpy as np

        self._show(tokens)
        data = np.zeros(len(ids), [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        data["id"], data["logit"] = ids, logits[ids]
        pointer = data.ctypes.data_as(self._api.llama_token_data_p)
        candidates = self._api.llama_token_data_array(pointer, len(data), -1, False)
        self._api.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        if candidates.selected < 0:
            return None
        token = int(candidates.data[candidates.selected].id)
        self._api.llama_sampler_accept(self._chain, token)
        self._note(token)
        return token

    def _show(self, tokens: Sequence[int]) -> None:
        """Let the penalties see the last tokens, unless they have seen just these.

        Only the penalties start again: a reset of the whole chain would restart its random numbers.
        """
        last = list(tokens[-self._window :]) if self._window else []
        if last == self._recent:
            return
        self._api.llama_sampler_reset(self._penalties)
        for token in (each for each in last if each >= 0):  # no part of a picture
            self._api.llama_sampler_accept(self._penalties, token)
        self._recent = last

    def _note(self, token: int) -> None:
        if self._window:
            self._recent = [*self._recent, token][-self._window :]

    def free(self) -> None:
        """Free the chain, which owns the penalties."""
        if self._chain is not None:
            self._api.llama_sampler_free(self._chain)
            self._chain = self._penalties = None


def _build_draw(api: Any, sampling: Sampling) -> list[Any]:
    links = []
    if sampling.top_k > 0:
        links.append(api.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        links.append(api.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(api.llama_sampler_init_min_p(sampling.min_p, 1))
    links.append(api.llama_sampler_init_temp(sampling.temperature))
    # llama.cpp takes 2^32 - 1 as "random seed", hence 31 bits.
    links.append(api.llama_sampler_init_dist(sampling.seed & 0x7FFFFFFF))
    return links


TOKEN_SECONDS = 1.0
"""Most CPU time of a token, which other answers wait for; the next one would take as long."""


class Constraints:
    """Makes the constraints of the sequences of one model."""

    def __init__(self, api: Any, model: Model) -> None:
        self._api = api
        self._model = model
        self._vocabulary: Any = None
        self._ends: frozenset[int] = frozenset()
        self._reading = threading.Lock()

    def make(self, grammar: OutputGrammar, start: int) -> Constraint:
        """Make the constraint of a sequence whose next token is at position ``start``.

        The first one reads the vocabulary, which takes 0.2 s for 50,000 tokens. Several threads may
        make constraints at a time.

        Raises:
            InvalidRequest: The grammar is too large.
        """
        from llguidance import LLMatcher

        with self._reading:
            if self._vocabulary is None:
                self._vocabulary = self._read_vocabulary()
        text = LLMatcher.grammar_from_lark(grammar.text)
        matcher = LLMatcher(self._vocabulary, text, log_level=0, limits=make_limits())
        if matcher.is_error():
            raise InvalidRequest(
                "the grammar of this request is too large to be kept",
                "use a simpler schema, or fewer tools",
                grammar.param,
            )
        return Constraint(matcher, start, self._ends)

    def _read_vocabulary(self) -> Any:
        from llguidance import LLTokenizer

        tokens = self._model.pieces()
        self._ends = frozenset(token for token, (_, ends) in enumerate(tokens) if ends)
        return LLTokenizer.from_llamacpp(
            tokens=[piece for piece, _ in tokens],
            vocab_ptr=self._model.vocab,
            tokenize_fptr=ctypes.cast(self._api.llama_tokenize, ctypes.c_void_p).value,
            eos_token=sorted(self._ends),
            slices=LLTokenizer.json_slices(),
        )


class Constraint:
    """The state of a grammar after the tokens of one sequence.

    Before each draw it is compared with the sequence, as the penalties of the sampler are: a
    rollback is done here too, and tokens that were not drawn are read as if they were. A token that
    the grammar does not allow (one of a script) ends the constraint.

    Args:
        matcher: The grammar's state, owned; None once it constrains nothing.
        start: Length of the sequence where the grammar starts.
        ends: The tokens that end an answer; these are never read.

    Attributes:
        fault: Why it cannot go on; empty if it can.
    """

    def __init__(
        self, matcher: Any, start: int, ends: frozenset[int], accepted: Sequence[int] = ()
    ) -> None:
        self._matcher = matcher
        self._start = start
        self._ends = ends
        self._accepted = list(accepted)
        self.fault = ""

    @property
    def active(self) -> bool:
        """Whether it still constrains anything."""
        return self._matcher is not None

    def follow(self, tokens: Sequence[int]) -> bool:
        """Bring the grammar to the state after these tokens; False if it constrains nothing."""
        if not self.active:
            return False
        read = tokens[self._start :]
        if list(read[: len(self._accepted)]) != self._accepted:
            pairs = zip(self._accepted, read, strict=False)
            known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            self._matcher.rollback(len(self._accepted) - known)
            del self._accepted[known:]
        return all(map(self.accept, read[len(self._accepted) :]))

    def accept(self, token: int) -> bool:
        """Read a token; return False, and constrain nothing any more, if it is not allowed."""
        if token in self._ends or not self.allows(token):
            self.free()
            return False
        self._matcher.consume_token(token)
        self._accepted.append(token)
        return True

    def allows(self, token: int) -> bool:
        """Return whether the grammar allows a token; an end token only where it can end."""
        if token in self._ends:
            return bool(self._matcher.is_accepting())
        return bool(self._matcher.validate_tokens([token]))

    def find_allowed(self) -> NDArray[np.intp]:
        """Return the tokens that the grammar allows; none where it has exceeded a limit."""
        import numpy as np

        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        if allowed.size == 1 and not self.allows(int(allowed[0])):
            return allowed[:0]  # one text alone can follow, and the vocabulary lacks bytes of it
        return allowed[:0] if self._matcher.is_error() else allowed

    def draw(
        self,
        sampler: Sampler,
        context: Any,
        row: int,
        tokens: Sequence[int],
        logits: NDArray[np.float32],
    ) -> int | None:
        """Draw a token that the grammar allows, without reading it.

        Returns:
            The token; None if the grammar allows none of this vocabulary, which can lack bytes of
            rare characters, or has exceeded a limit, which is then a fault.
        """
        began_ns = time.thread_time_ns()
        greedy = sampler.greedy
        drawn = int(logits.argmax()) if greedy else sampler.draw(context, row, tokens)
        token: int | None = drawn
        if not self.allows(drawn):
            allowed = self.find_allowed()
            if not allowed.size:
                token = None
            elif greedy:
                token = int(allowed[logits[allowed].argmax()])
            else:
                token = sampler.draw_among(allowed, logits, tokens)
        seconds = (time.thread_time_ns() - began_ns) / 1e9
        if seconds > TOKEN_SECONDS:  # all other answers wait for it
            self.fault = f"its schema took {seconds:.1f} s of CPU for one token"
        elif self._matcher.is_error():
            why = format_fault(self._matcher.get_error())
            self.fault = f"its schema became too complex: {why}"
        return None if self.fault else token

    def clone(self) -> Constraint:
        """Copy the state, for a fork of the sequence."""
        matcher = self._matcher.deep_copy() if self.active else None
        return Constraint(matcher, self._start, self._ends, self._accepted)

    def free(self) -> None:
        """Drop the grammar, which constrains nothing any more."""
        self._matcher = None
