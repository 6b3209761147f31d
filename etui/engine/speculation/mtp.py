"""Draft with the model's own heads for multi-token prediction (MTP, "nextn" layers of the GGUF).

A head is one more layer: from the hidden state h(p-1) that the model computed before a token, and
the token at p itself, it predicts the token at p+1 and a hidden state to go on from. It has a KV
cache of its own, in a second context over the same weights. That cache begins with the answer: the
prompt would cost a batch of the head for each of the model's, and the hidden states carry most of
what it says.

The functions are experimental in llama.cpp (``llama-ext.h``) and in the bindings
(``llama_cpp_ext``); :func:`load_heads` uses them only if all of them are there and the file has
heads. No file with heads was at hand when this was written: the module is tested against a fake of
these functions.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.engine.context import DECODED, Context
from etui.engine.library import Library
from etui.engine.model import Model
from etui.engine.speculation.batch_cost import average
from etui.errors import EngineFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NEVER = 1e9
"""Cost of drafting without a hidden state to start from, in batches of one row."""

_FUNCTIONS = (
    "llama_set_embeddings_nextn",
    "llama_get_embeddings_nextn",
    "llama_get_embeddings_nextn_ith",
)


class MtpDrafter:
    """Drafts with the heads; it follows the batches of one sequence of the model."""

    def __init__(
        self,
        heads: LlamaHeads,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        *,
        method: str = "mtp",
    ) -> None:
        self.method = method
        self._heads = heads
        self._clock_ns = clock_ns
        self._end = 0  # the cache of the heads holds the positions before it
        self._first = 0  # position of the first of ``_states``
        self._states: NDArray[np.float32] | None = None  # of the last batch: rows x width
        self._followed: list[int] = []  # tokens of that batch
        self._token_ns: float | None = None
        self._follow_ns: float | None = None

    def start(self) -> None:
        """Begin with another sequence."""
        self.stop()
        self._heads.watch(True)

    def stop(self) -> None:
        """Forget the sequence."""
        self._heads.watch(False)
        self._heads.remove(0)
        self._end, self._states, self._followed = 0, None, []

    def forget(self) -> None:
        """Do nothing: :meth:`start` forgets earlier sequences."""

    def follow(self, tokens: Sequence[int], position: int) -> None:
        """Take in a batch of the model."""
        start_ns = self._clock_ns()
        try:
            states = self._heads.model_states(len(tokens))
        except EngineFailed:  # nothing is drafted after this batch; the answer needs no states
            self._states = None
            return
        before = self._state_before(position)
        if before is None:  # the first batch, or one that was not followed came between
            self._heads.remove(0)
            fresh, inputs, first = list(tokens[1:]), states[:-1], position + 1
        else:
            import numpy as np

            self._heads.remove(position)
            fresh, first = list(tokens), position
            inputs = np.concatenate([before[None, :], states[:-1]])
        self._end = first
        if fresh and self._heads.decode(fresh, inputs, first) is None:
            self._states = None
            return
        self._end += len(fresh)
        self._first, self._states, self._followed = position, states, list(tokens)
        self._follow_ns = average(self._follow_ns, self._clock_ns() - start_ns)

    def start_cost(self, tokens: Sequence[int], one_row_ns: float) -> float:
        """Return the cost of following a batch, or a prohibitive one if it was not followed."""
        if not self._is_ready(tokens):
            return _NEVER
        return (self._follow_ns or 0.0) / one_row_ns

    def token_cost(self, one_row_ns: float) -> float:
        """Return the cost of one token of the heads: before it is measured, a tenth of a batch."""
        return 0.1 if self._token_ns is None else self._token_ns / one_row_ns

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Draft at most ``count`` tokens after ``tokens``, greedily; empty if it cannot."""
        if count <= 0 or not self._is_ready(tokens):
            return []
        start_ns = self._clock_ns()
        position = len(tokens) - 1
        state = self._state_before(position)
        assert state is not None
        self._heads.remove(position)
        drafted: list[int] = []
        token = tokens[-1]
        while len(drafted) < count:
            found = self._heads.decode([token], state[None, :], position + len(drafted))
            if found is None:
                break
            token, state = found
            drafted.append(token)
        self._heads.remove(position)  # the model's own states replace those of the heads
        self._end = position
        if drafted:
            each = (self._clock_ns() - start_ns) / len(drafted)
            self._token_ns = average(self._token_ns, each)
        return drafted

    def free(self) -> None:
        """Free the memory."""
        self._heads.free()

    def _is_ready(self, tokens: Sequence[int]) -> bool:
        """Return whether the batch with the token before the last one was followed."""
        position = len(tokens) - 1
        at = position - 1 - self._first
        return (
            self._state_before(position) is not None
            and self._end >= position
            and self._followed[at] == tokens[position - 1]
        )

    def _state_before(self, position: int) -> NDArray[np.float32] | None:
        at = position - 1 - self._first
        if self._states is None or not 0 <= at < len(self._followed):
            return None
        state: NDArray[np.float32] = self._states[at]
        return state


class LlamaHeads:
    """The heads of a model in llama.cpp.

    Args:
        ext: The module with the experimental functions.
        target: Its context, whose batches are followed.
        context: A context of type MTP over the same model.
    """

    def __init__(self, ext: Any, model: Model, target: Context, context: Context) -> None:
        import numpy as np

        self._ext = ext
        self._target = target
        self._context = context
        self._width = model.width
        self._embeddings = np.zeros((context.batch.capacity, self._width), dtype=np.float32)
        ext.llama_set_embeddings_nextn(context.handle, True, True)

    def watch(self, on: bool) -> None:
        """Let the model keep the hidden states of its batches, or no longer."""
        self._ext.llama_set_embeddings_nextn(self._target.handle, on, False)

    def model_states(self, rows: int) -> NDArray[np.float32]:
        """Return the hidden states of the model's last batch: rows x width, copied.

        Raises:
            EngineFailed: llama.cpp kept none.
        """
        return self._copy(self._ext.llama_get_embeddings_nextn(self._target.handle), rows)

    def decode(
        self, tokens: Sequence[int], states: NDArray[np.float32], position: int
    ) -> tuple[int, NDArray[np.float32]] | None:
        """Compute tokens, each with the hidden state before it (rows x width).

        Returns:
            The most likely token after the last one, and the hidden state to go on from; None if
            llama.cpp failed.
        """
        batch = self._context.batch
        row = 0
        for start in range(0, len(tokens), batch.capacity):
            part = tokens[start : start + batch.capacity]
            self._embeddings[: len(part)] = states[start : start + len(part)]
            batch.clear()
            row = batch.add(0, part, position + start, with_logits=True)
            batch.attach_embeddings(self._embeddings.ctypes.data)
            if self._context.decode() != DECODED:
                return None
        token = int(self._context.logits(row).argmax())
        # Only rows with logits have one ("masked"), and they are numbered as in the batch.
        found = self._ext.llama_get_embeddings_nextn_ith(self._context.handle, row)
        return (token, self._copy(found, 1)[0]) if found else None

    def remove(self, position: int) -> None:
        """Remove the positions from ``position`` on."""
        self._context.remove(0, position)

    def free(self) -> None:
        """Free the context; the model belongs to the session."""
        self._context.free()

    def _copy(self, pointer: Any, rows: int) -> NDArray[np.float32]:
        import numpy as np

        if not pointer:
            raise EngineFailed("llama.cpp has no hidden states for the last batch")
        kind = ctypes.c_float * (rows * self._width)
        raw: Any = kind.from_address(ctypes.addressof(pointer.contents))
        states: NDArray[np.float32] = np.frombuffer(raw, dtype=np.float32)
        return states.reshape(rows, self._width).copy()


def find_extension() -> Any:
    """Return the module with the experimental functions; None if this build lacks one."""
    try:
        from llama_cpp import llama_cpp_ext as ext
    except (ImportError, AttributeError):  # an older build lacks a symbol
        return None
    return ext if all(hasattr(ext, name) for name in _FUNCTIONS) else None


def load_heads(library: Library, model: Model, target: Context) -> MtpDrafter | None:
    """Open the heads of a model; None if the file has none, or the bindings lack a function."""
    ext = find_extension() if model.heads else None
    if ext is None:
        return None
    options = replace(target.options, sequences=1, donors=0, verify_rows=1)
    try:
        context = Context(library, model, options, target.threads, drafts=True, heads=True)
    except EngineFailed:
        return None  # this architecture has no graph for its heads
    return MtpDrafter(LlamaHeads(ext, model, target, context))
