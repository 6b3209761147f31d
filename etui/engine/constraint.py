"""Constrain what a sequence draws by a grammar, with llguidance.

The token that the sampler draws is tested alone first. Only if the grammar refuses it, the sampler
draws again among the tokens that are allowed. Both draws together have the distribution of the
second alone: a token has its own probability, plus its part of the refused ones, which is its
probability divided by that of all allowed tokens. Only where one text alone can follow, the second
draw takes the tokens that the tokenizer makes of it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from etui.engine.grammar_trial import format_fault, make_limits
from etui.engine.sampler import Sampler
from etui.engine.session import OutputGrammar
from etui.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.engine.model import Model


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
        accepted: The tokens that it has read.

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
        token = self._draw(sampler, context, row, tokens, logits)
        seconds = (time.thread_time_ns() - began_ns) / 1e9
        if seconds > TOKEN_SECONDS:  # all other answers wait for it
            self.fault = f"its schema took {seconds:.1f} s of CPU for one token"
        elif self._matcher.is_error():
            why = format_fault(self._matcher.get_error())
            self.fault = f"its schema became too complex: {why}"
        return None if self.fault else token

    def _draw(
        self,
        sampler: Sampler,
        context: Any,
        row: int,
        tokens: Sequence[int],
        logits: NDArray[np.float32],
    ) -> int | None:
        greedy = sampler.greedy
        token = int(logits.argmax()) if greedy else sampler.draw(context, row, tokens)
        if self.allows(token):
            return token
        allowed = self.find_allowed()
        if not allowed.size:
            return None
        if greedy:
            return int(allowed[logits[allowed].argmax()])
        return sampler.draw_among(allowed, logits, tokens)

    def clone(self) -> Constraint:
        """Copy the state, for a fork of the sequence."""
        matcher = self._matcher.deep_copy() if self.active else None
        return Constraint(matcher, self._start, self._ends, self._accepted)

    def free(self) -> None:
        """Drop the grammar, which constrains nothing any more."""
        self._matcher = None
