"""Constrain what a sequence draws by a grammar.

The token that the sampler draws is tested alone first. Only if the grammar refuses it, the grammar
is applied to all candidates and the sampler draws again among those that are left. Both draws
together have the distribution of the second alone: a token has its own probability, plus its part
of the refused ones, which is its probability divided by that of all allowed tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from etui.engine.sampler import Sampler
from etui.engine.session import OutputGrammar
from etui.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LIKELY = 256
"""Candidates that are tested together before the whole vocabulary is, where the best one wins."""


class Vocabulary(Protocol):
    """The vocabulary of a model, as far as a grammar needs it."""

    @property
    def vocab(self) -> Any:
        """The vocabulary of llama.cpp."""

    def piece(self, token: int) -> tuple[bytes, bool]:
        """Return a token's bytes and whether it ends generation."""


class Constraint:
    """The state of a grammar after the tokens of one sequence.

    Before each draw it is compared with the sequence, as the penalties of the sampler are: after a
    rollback the grammar starts again and reads what is left, and tokens that were not drawn are
    read as if they were. A token that it does not allow (one of a script) ends the constraint:
    llama.cpp would abort on it.

    Args:
        api: The bindings of llama.cpp.
        handle: A sampler of llama.cpp with the grammar; it is owned.
        start: Length of the sequence where the grammar starts.
        accepted: The tokens that it has read.
        ends: Returns whether a token ends an answer; these are never read.
    """

    def __init__(
        self,
        api: Any,
        handle: Any,
        start: int,
        ends: Callable[[int], bool],
        accepted: Sequence[int] = (),
    ) -> None:
        self._api = api
        self._handle = handle
        self._start = start
        self._ends = ends
        self._accepted = list(accepted)

    @property
    def active(self) -> bool:
        """Whether it still constrains anything."""
        return self._handle is not None

    def follow(self, tokens: Sequence[int]) -> None:
        """Bring the grammar to the state after these tokens of the sequence."""
        read = tokens[self._start :]
        known = len(self._accepted)
        if list(read[:known]) != self._accepted:
            self._api.llama_sampler_reset(self._handle)
            self._accepted.clear()
            known = 0
        for token in read[known:]:
            if not self.accept(token):
                return

    def accept(self, token: int) -> bool:
        """Read a token; return False, and constrain nothing any more, if it is not allowed."""
        if self._ends(token) or not self.allows(token):
            self.free()
            return False
        self._api.llama_sampler_accept(self._handle, token)
        self._accepted.append(token)
        return True

    def allows(self, token: int) -> bool:
        """Return whether the grammar allows a token; an end token only where it can end."""
        item = self._api.llama_token_data(token, 0.0, 0.0)
        array = self._api.llama_token_data_array(ctypes.pointer(item), 1, -1, False)
        self._api.llama_sampler_apply(self._handle, ctypes.byref(array))
        return bool(item.logit == 0.0)

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
            rare characters.
        """
        if sampler.greedy:
            return self._best(logits)
        token = sampler.draw(context, row, tokens)
        if self.allows(token):
            return token
        candidates = self._mask(logits)
        return sampler.draw_among(self._view(candidates), tokens)

    def _best(self, logits: NDArray[np.float32]) -> int | None:
        import numpy as np

        token = int(logits.argmax())
        if self.allows(token):
            return token
        for count in (_LIKELY, len(logits)):
            if count < len(logits):
                ids = np.argpartition(logits, -count)[-count:]
            else:
                ids = np.arange(len(logits))
            candidates = self._mask(logits, ids)
            if candidates.size:
                return int(candidates["id"][candidates["logit"].argmax()])
        return None

    def _mask(self, logits: NDArray[np.float32], ids: Any = None) -> Any:
        """Return the candidates that are allowed, as llama.cpp's structures."""
        import numpy as np

        ids = np.arange(len(logits)) if ids is None else ids
        kind = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        candidates = np.zeros(len(ids), dtype=kind)
        candidates["id"] = ids
        candidates["logit"] = logits[ids]
        array = self._view(candidates)
        self._api.llama_sampler_apply(self._handle, ctypes.byref(array))
        return candidates[np.isfinite(candidates["logit"])]

    def _view(self, candidates: Any) -> Any:
        pointer = candidates.ctypes.data_as(self._api.llama_token_data_p)
        return self._api.llama_token_data_array(pointer, len(candidates), -1, False)

    def clone(self) -> Constraint:
        """Copy the state, for a fork of the sequence."""
        handle = self._api.llama_sampler_clone(self._handle) if self.active else None
        return Constraint(self._api, handle, self._start, self._ends, self._accepted)

    def free(self) -> None:
        """Free the grammar, which constrains nothing any more."""
        if self._handle is not None:
            self._api.llama_sampler_free(self._handle)
            self._handle = None


def follow(constraint: Constraint | None, tokens: Sequence[int]) -> Constraint | None:
    """Bring a constraint to the state after these tokens; None if it constrains nothing (more)."""
    if constraint is None or not constraint.active:
        return None
    constraint.follow(tokens)
    return constraint if constraint.active else None


def build_constraint(
    api: Any, model: Vocabulary, grammar: OutputGrammar, start: int, replaced: Constraint | None
) -> Constraint:
    """Build the constraint of a sequence whose next token is at position ``start``.

    Args:
        api: The bindings of llama.cpp.
        start: Length of the sequence now.
        replaced: The constraint that it replaces, which is freed; None without one.

    Raises:
        InvalidRequest: llama.cpp does not accept the grammar.
    """
    handle = api.llama_sampler_init_grammar(model.vocab, grammar.text.encode(), b"root")
    if not handle:
        raise InvalidRequest(
            "llama.cpp does not accept the grammar of this request",
            "use a simpler schema",
            grammar.param,
        )
    if replaced is not None:
        replaced.free()
    return Constraint(api, handle, start, lambda token: model.piece(token)[1])
