"""Draft with heads of the hidden states: the model's own, or an EAGLE-3 head trained for it.

A head for multi-token prediction (MTP, "nextn" layers of the GGUF) is one more layer: from the
hidden state h(p-1) that the model computed before a token, and the token at p itself, it predicts
the token at p+1 and a hidden state to go on from. It has a KV cache of its own, in a second context
over the same weights. That cache begins with the answer: the prompt would cost a batch of the head
for each of the model's, and the hidden states carry most of what it says.

An EAGLE-3 head is a file of its own with one layer. It reads what enters three layers of the model:
an encoder joins them to one state for each token, and a decoder predicts the next token from the
state at p and the token at p + 1, and gives a state to go on from. So it drafts as the others do,
one position earlier: at p is what these have at p + 1.

The functions are experimental in llama.cpp (``llama-ext.h``) and in the bindings
(``llama_cpp_ext``), which do not name those that read the input of a layer: they are found by the
name that a C++ compiler gives them. No file with trained heads was at hand when this was written:
MTP is tested against a fake of these functions, EAGLE-3 with random weights.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etui.engine.context import DECODED, Context
from etui.engine.library import Library
from etui.engine.model import Model
from etui.engine.speculation.batch_cost import average
from etui.errors import EngineFailed

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

        EngineFailed if llama.cpp kept none.
        """
        return self._copy(self._ext.llama_get_embeddings_nextn(self._target.handle), rows)

    def decode(
        self, tokens: Sequence[int], states: NDArray[np.float32], position: int
    ) -> tuple[int, NDArray[np.float32]] | None:
        """Compute tokens, each with the hidden state before it (rows x width).

        Returns the most likely token after the last one, and the hidden state to go on from; None
        if llama.cpp failed.
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


EAGLE = "eagle3"
"""``general.architecture`` of a file with an EAGLE-3 head."""

_CONTEXT, _MODEL = "PEAUllama_context@@", "PEBUllama_model@@"
_SET_INPUTS = "llama_set_embeddings_layer_inp", "P13llama_contextjb", f"X{_CONTEXT}I_N@Z"
_GET_INPUTS = "llama_get_embeddings_layer_inp", "P13llama_contextj", f"PEAM{_CONTEXT}I@Z"
_LAYERS = "llama_model_target_layer_ids", "PK11llama_model", f"PEBH{_MODEL}@Z"
_COUNT_LAYERS = "llama_model_target_layer_ids_n", "PK11llama_model", f"I{_MODEL}@Z"
"""Names of functions, with their types as other compilers and that of Microsoft write them."""


def _find_function(
    api: Any, written: tuple[str, str, str], result: Any, arguments: list[Any]
) -> Any:
    name, types, microsoft_types = written
    for symbol in (name, f"_Z{len(name)}{name}{types}", f"?{name}@@YA{microsoft_types}"):
        try:
            found = api._lib[symbol]  # not the cached attribute, whose types others may set
        except AttributeError:
            continue
        found.argtypes, found.restype = arguments, result
        return found
    raise AttributeError(name)


class EagleHeads(LlamaHeads):
    """An EAGLE-3 head over the batches of a model; it owns its weights.

    Args:
        layers: Those of the model whose inputs it reads.
        functions: Let the model keep the input of a layer, and return it.
    """

    def __init__(
        self,
        ext: Any,
        model: Model,
        target: Context,
        context: Context,
        layers: Sequence[int],
        functions: tuple[Any, Any],
    ) -> None:
        super().__init__(ext, model, target, context)
        self._model = model
        self._layers = layers
        self._input_width = int(model.metadata("eagle3.target_hidden_size") or 0)
        self._keep_input, self._find_input = functions

    def watch(self, on: bool) -> None:
        """Let the model keep what enters the layers, or no longer."""
        for layer in self._layers:
            self._keep_input(self._target.handle, layer, on)

    def model_states(self, rows: int) -> NDArray[np.float32]:
        """Return the joined states of the model's last batch: rows x width of the head."""
        features = self._read_inputs(rows)
        size = self._context.batch.capacity
        parts = [self._encode(features[at : at + size]) for at in range(0, rows, size)]
        return np.concatenate(parts)

    def _read_inputs(self, rows: int) -> NDArray[np.float32]:
        width = self._input_width
        kind, inputs = ctypes.c_float * (rows * width), []
        for layer in self._layers:
            address = self._find_input(self._target.handle, layer)
            if not address:
                raise EngineFailed("llama.cpp has no input of a layer for the last batch")
            raw: Any = kind.from_address(address)
            part: NDArray[np.float32] = np.frombuffer(raw, dtype=np.float32)
            inputs.append(part.reshape(rows, width))
        return np.concatenate(inputs, axis=1)

    def _encode(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        api, handle = self._context.api, self._context.handle
        # The encoder has no positions, but llama.cpp refuses any but the next one.
        position = int(api.llama_memory_seq_pos_max(api.llama_get_memory(handle), 0)) + 1
        batch = self._context.batch
        batch.clear()
        batch.add(0, [0] * len(features), position, with_logits=True)
        rows = np.ascontiguousarray(features)
        batch.attach_embeddings(rows.ctypes.data)
        struct = batch.struct()
        # The features take the place of the tokens; a copy, for the field itself is a view.
        tokens = ctypes.cast(struct.token, type(struct.token))
        struct.token = None
        code = int(api.llama_encode(handle, struct))
        struct.token = tokens
        if code != DECODED:
            raise EngineFailed(f"llama.cpp failed to encode the states of a model (code {code})")
        return self._copy(self._ext.llama_get_embeddings_nextn(handle), len(features))

    def decode(
        self, tokens: Sequence[int], states: NDArray[np.float32], position: int
    ) -> tuple[int, NDArray[np.float32]] | None:
        """Compute tokens, each at the position of the state before it.

        The result is right for one token: of several, llama.cpp gives the row of the first.
        """
        return super().decode(tokens, states, position - 1)

    def remove(self, position: int) -> None:
        """Remove the tokens from ``position`` on."""
        super().remove(max(0, position - 1))

    def free(self) -> None:
        """Free the context and the weights."""
        super().free()
        self._model.free()


def load_eagle(library: Library, model: Model, target: Model, cache: Context) -> MtpDrafter | str:
    """Open an EAGLE-3 head for a model; return why it cannot be used.

    The head owns ``model`` if it is returned.

    Raises:
        EngineFailed: llama.cpp could not create its context.
    """
    api, ext = library.api, find_extension()
    try:
        handle = [ctypes.c_void_p]
        count = _find_function(api, _COUNT_LAYERS, ctypes.c_uint32, handle)(model.handle)
        find_layers = _find_function(api, _LAYERS, ctypes.POINTER(ctypes.c_int32), handle)
        layers = list(find_layers(model.handle)[:count])
        place = [ctypes.c_void_p, ctypes.c_uint32]
        keep = _find_function(api, _SET_INPUTS, None, [*place, ctypes.c_bool])
        find = _find_function(api, _GET_INPUTS, ctypes.c_void_p, place)
    except AttributeError:
        ext = None
    if ext is None or not hasattr(api.llama_context_params, "ctx_other"):
        return "this build of llama.cpp does not give an EAGLE-3 head the states of another model"
    width = int(model.metadata("eagle3.target_hidden_size") or 0)
    if width != target.width or not all(0 <= layer < target.layers for layer in layers):
        numbers = ", ".join(map(str, layers))
        return (
            f"it reads layers {numbers} of a model of width {width}, and this one has "
            f"{target.layers} layers of width {target.width}"
        )
    options = replace(cache.options, sequences=1, donors=0, verify_rows=cache.options.batch_tokens)
    context = Context(library, model, options, cache.threads, drafts=True, other=cache)
    heads = EagleHeads(ext, model, cache, context, layers, (keep, find))
    return MtpDrafter(heads, method="draft")
