"""A llama.cpp context: parameters, one reusable batch, decoding, and KV cache operations."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etui.engine.library import Library
from etui.engine.model import Model
from etui.engine.thread_count import ThreadControl, ThreadLimits
from etui.errors import EngineFailed
from etui.models.gguf import KV_TYPES

DECODED = 0
NO_ROOM = 1
"""Return codes of ``llama_decode``: success; no free cells (the cache is unchanged)."""

Flash = Literal["auto", "on", "off"]
Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""How llama.cpp makes one vector of a sequence; with ``none`` each token keeps its own."""


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """Size and settings of a context."""

    context_tokens: int  # Cells of the KV cache; with `unified` all sequences share them
    threads: int
    """Threads of prefill and decode; the most of them where a ThreadControl adapts them."""
    sequences: int = 16  # Maximum number of sequences, prefix donors included
    batch_tokens: int = 512
    """Maximum number of tokens in one batch. Needed to repeat a result: chunking a prompt
    differently changes the last bits of its logits."""
    unified: bool = True  # One cache for all sequences, so that prefixes are shared without a copy
    donors: int = 4
    """Maximum number of closed sequences kept as prefix donors. Without flash attention each of
    their tokens, although masked, slows the other sequences down a little."""
    flash_attention: Flash = "off"
    """``auto`` lets llama.cpp decide by device. On a CPU the last bits of its logits depend on the
    position of a token in the cache, so that an answer would not repeat: hence ``off`` there,
    unless several answers share batches. It is no less exact (0.07 nats from a cache of f32 on
    average, as without), prompts take a seventh less time, and masked tokens cost nothing. A
    quantised cache needs it."""
    kv_type: str = "f16"  # Type of the KV cache (`f16`, `q8_0`, ...)
    full_window: bool = False
    """Keep all tokens of sliding-window models, not only the windows; see
    :mod:`etui.engine.checkpoints`."""
    offload_kv: bool = True  # Keep the KV cache on the GPU if layers are offloaded
    verify_rows: int = 16  # Maximum number of rows of a batch that verifies drafted tokens
    pooling: Pooling | None = None
    """What becomes one vector of a sequence, in a context that computes vectors; None for one that
    computes logits."""

    @property
    def most_outputs(self) -> int:
        """Most entries of a batch that may have logits."""
        return min(max(self.sequences, self.verify_rows), self.batch_tokens)


class Context:
    """A context of one model: the only place that calls ``llama_decode``.

    Args:
        threads: Adapts the number of threads; None keeps that of the options.
        drafts: Whether it drafts for the context that ``threads`` measures.
        heads: Whether it is one of the model's layers for multi-token prediction.
        other: The context of the model that it drafts for, if it shares weights of that model.

    Raises:
        EngineFailed: llama.cpp could not create it (out of memory, an unsupported KV type).
    """

    def __init__(
        self,
        library: Library,
        model: Model,
        options: ContextOptions,
        threads: ThreadControl | None = None,
        *,
        drafts: bool = False,
        heads: bool = False,
        other: Context | None = None,
    ) -> None:
        self.api: Any = library.api
        self.compute = library.compute
        self.options = options
        self.threads = threads or ThreadControl(
            ThreadLimits(options.threads, options.threads, adapt=False)
        )
        self._is_measured = not drafts
        self._counts = (options.threads, options.threads)
        self.vocabulary = model.vocabulary
        library.forget_errors()
        params = _build_params(self.api, options)
        if heads:
            params.ctx_type = self.api.LLAMA_CONTEXT_TYPE_MTP
        if other is not None:
            params.ctx_other = other.handle
        self.handle: Any = self.api.llama_init_from_model(model.handle, params)
        library.flush()
        if not self.handle:
            raise EngineFailed(
                f"could not create a context of {options.context_tokens} tokens for "
                f"{model.path.name}: {library.errors()}",
                "lower `context` or `gpu_layers` of the model, or close other programs",
            )
        if not heads:  # which draft without them
            self._use_adapters(model.adapters)
        self._memory: Any = self.api.llama_get_memory(self.handle)
        self.has_memory = bool(self._memory)  # of tokens between two batches; encoders have none
        self.capacity = int(self.api.llama_n_ctx(self.handle))
        self.batch = DecodeBatch(self.api, options.batch_tokens)
        self._decode = self.api.llama_decode
        self._synchronize = self.api.llama_synchronize
        self._get_logits = self.api.llama_get_logits_ith
        self._row_type = ctypes.c_float * self.vocabulary

    def _use_adapters(self, adapters: Sequence[tuple[Any, float]]) -> None:
        if not adapters:
            return
        handles, numbers = zip(*adapters, strict=True)
        pointers = (type(handles[0]) * len(handles))(*handles)
        scales = (ctypes.c_float * len(handles))(*numbers)
        code = self.api.llama_set_adapters_lora(self.handle, pointers, len(handles), scales)
        if code:
            raise EngineFailed(f"llama.cpp could not use the adapters of the model (code {code})")

    def decode(self) -> int:
        """Compute the batch, wait for the device, and return the code of ``llama_decode``.

        Call it in the compute thread.
        """
        return self.decode_by(
            lambda: self._decode(self.handle, self.batch.struct()), self.batch.size
        )

    def decode_by(self, decode: Callable[[], int], rows: int) -> int:
        """Compute rows by a function that calls ``llama_decode``; otherwise as ``decode``."""
        counts = self.threads.counts(rows)
        if counts != self._counts:
            self.api.llama_set_n_threads(self.handle, *counts)
            self._counts = counts
        if self._is_measured:
            self.threads.start_batch()
        code = int(decode())
        self._synchronize(self.handle)
        if self._is_measured:
            self.threads.end_batch(rows, failed=code != DECODED)
        return code

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return the logits of batch entry ``row``, as a view that the next decode overwrites."""
        pointer = self._get_logits(self.handle, row)
        if not pointer:
            raise EngineFailed(f"llama.cpp has no logits for batch entry {row}")
        # np.ctypeslib.as_array takes ten times as long as a view on the address.
        raw: Any = self._row_type.from_address(ctypes.addressof(pointer.contents))
        logits: NDArray[np.float32] = np.frombuffer(raw, dtype=np.float32)
        return logits

    def pooled(self, sequence: int, width: int) -> NDArray[np.float32]:
        """Return the vector of a sequence of the last batch."""
        return self._read_floats(self.api.llama_get_embeddings_seq(self.handle, sequence), width)

    def token_vectors(self, width: int) -> NDArray[np.float32]:
        """Return the vectors of all tokens of the last batch, one a row, without pooling."""
        rows = self.batch.size
        floats = self._read_floats(self.api.llama_get_embeddings(self.handle), rows * width)
        return floats.reshape(rows, width)

    def _read_floats(self, pointer: Any, count: int) -> NDArray[np.float32]:
        if not pointer:
            raise EngineFailed("llama.cpp has no vectors of the last batch")
        raw: Any = (ctypes.c_float * count).from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(raw, dtype=np.float32).copy()

    def remove(self, sequence: int, start: int) -> bool:
        """Remove positions from ``start`` on; False if the model cannot remove a part."""
        return bool(self.api.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def copy(self, source: int, target: int, end: int = -1) -> None:
        """Let ``target`` share the positions of ``source`` before ``end`` (-1: all)."""
        if self.options.unified and end >= 0:
            self.api.llama_memory_seq_cp(self._memory, source, target, 0, end)
            return
        # Separate caches and recurrent states can only be copied as a whole.
        self.api.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        if end >= 0:
            self.api.llama_memory_seq_rm(self._memory, target, end, -1)

    def state_bytes(self, sequence: int) -> int:
        """Return the size of what the cache holds of a sequence."""
        return int(self.api.llama_state_seq_get_size(self.handle, sequence))

    def save_state(self, sequence: int, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Copy what the cache holds of a sequence into a buffer that is large enough.

        Returns the used part of the buffer; empty if llama.cpp fails.
        """
        size = self.api.llama_state_seq_get_data(
            self.handle, _address(buffer), buffer.size, sequence
        )
        return buffer[: int(size)]

    def load_state(self, sequence: int, state: NDArray[np.uint8], tokens: int) -> bool:
        """Fill an empty sequence with a saved state of so many tokens; False leaves it empty."""
        api = self.api
        got = int(api.llama_state_seq_set_data(self.handle, _address(state), state.size, sequence))
        end = int(api.llama_memory_seq_pos_max(self._memory, sequence)) + 1
        if got == state.size and end == tokens:
            return True
        self.remove(sequence, 0)
        return False

    def oldest(self, sequence: int) -> int:
        """Return the first position of which every layer still has the token; -1 without any."""
        return int(self.api.llama_memory_seq_pos_min(self._memory, sequence))

    def newest(self, sequence: int) -> int:
        """Return the last position; -1 without any."""
        return int(self.api.llama_memory_seq_pos_max(self._memory, sequence))

    def save_part(self, sequence: int) -> NDArray[np.uint8] | None:
        """Copy the windows and the recurrent states of a sequence; None if llama.cpp fails."""
        part = self.api.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        size = int(self.api.llama_state_seq_get_size_ext(self.handle, sequence, part))
        data: NDArray[np.uint8] = np.empty(size, dtype=np.uint8)
        done = self.api.llama_state_seq_get_data_ext(
            self.handle, _address(data), size, sequence, part
        )
        return data if done == size > 0 else None

    def load_part(self, sequence: int, data: NDArray[np.uint8]) -> bool:
        """Replace the windows and the recurrent states of a sequence; False if there is no room.

        Whatever it has of them is lost then.
        """
        part = self.api.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        return bool(
            self.api.llama_state_seq_set_data_ext(
                self.handle, _address(data), data.nbytes, sequence, part
            )
        )

    def free(self) -> None:
        """Free the memory."""
        if self.handle is not None:
            self.api.llama_free(self.handle)
            self.handle = None


def _address(state: NDArray[np.uint8]) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class DecodeBatch:
    """One ``llama_batch`` over arrays owned by Python, refilled for every decode."""

    def __init__(self, api: Any, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._tokens = (ctypes.c_int32 * capacity)()
        self._positions = (ctypes.c_int32 * capacity)()
        self._counts = (ctypes.c_int32 * capacity)(*([1] * capacity))
        self._sequences = (ctypes.c_int32 * capacity)()
        self._with_logits = (ctypes.c_int8 * capacity)()
        base = ctypes.addressof(self._sequences)
        pointer = ctypes.POINTER(ctypes.c_int32)
        self._pointers = (pointer * capacity)(
            *(ctypes.cast(base + 4 * i, pointer) for i in range(capacity))
        )
        self._struct: Any = api.llama_batch()
        self._struct.token = ctypes.cast(self._tokens, type(self._struct.token))
        self._struct.pos = ctypes.cast(self._positions, type(self._struct.pos))
        self._struct.n_seq_id = ctypes.cast(self._counts, type(self._struct.n_seq_id))
        self._struct.seq_id = ctypes.cast(self._pointers, type(self._struct.seq_id))
        self._struct.logits = ctypes.cast(self._with_logits, type(self._struct.logits))

    def clear(self) -> None:
        """Start a new batch."""
        self.size = 0

    def add(self, sequence: int, tokens: Sequence[int], position: int, *, with_logits: bool) -> int:
        """Queue tokens of one sequence; return the batch entry of the last one."""
        start = self.size
        end = self.size = start + len(tokens)
        last = end - 1
        if end - start == 1:
            self._tokens[start] = tokens[0]
            self._positions[start] = position
            self._sequences[start] = sequence
            self._with_logits[start] = with_logits
            return last
        self._tokens[start:end] = list(tokens)
        self._positions[start:end] = list(range(position, position + end - start))
        self._sequences[start:end] = [sequence] * (end - start)
        self._with_logits[start:end] = [0] * (end - start)
        self._with_logits[last] = with_logits
        return last

    def want_logits(self, rows: int) -> int:
        """Compute the logits of the last ``rows`` entries; returns the first of them."""
        first = self.size - rows
        self._with_logits[first : self.size] = [1] * rows
        return first

    def attach_embeddings(self, address: int) -> None:
        """Give each entry a row of floats, as the heads for multi-token prediction need."""
        self._struct.embd = ctypes.cast(address, type(self._struct.embd))

    def struct(self) -> Any:
        """Return the ``llama_batch`` to pass to ``llama_decode``."""
        self._struct.n_tokens = self.size
        return self._struct


def _build_params(api: Any, options: ContextOptions) -> Any:
    if options.kv_type not in KV_TYPES:
        raise EngineFailed(
            f"unknown KV cache type: {options.kv_type}", f"choose one of {', '.join(KV_TYPES)}"
        )
    element = KV_TYPES[options.kv_type][0]
    quantised = KV_TYPES[options.kv_type][1] < 2  # a quantised V cache needs flash attention
    flash = {
        "auto": api.LLAMA_FLASH_ATTN_TYPE_AUTO,
        "on": api.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        "off": api.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }["on" if quantised else options.flash_attention]
    params = api.llama_context_default_params()
    params.n_ctx = options.context_tokens
    params.n_batch = options.batch_tokens
    params.n_ubatch = options.batch_tokens
    params.n_seq_max = options.sequences
    # One output per sequence and batch is read, or one per row of a verification; the default
    # reserves vocabulary x n_batch.
    params.n_outputs_max = options.most_outputs
    params.n_threads = options.threads
    params.n_threads_batch = options.threads
    params.flash_attn_type = flash
    params.type_k = element
    params.type_v = element
    params.kv_unified = options.unified
    params.swa_full = options.full_window
    params.offload_kqv = options.offload_kv
    params.no_perf = True
    if options.pooling is not None:
        params.embeddings = True
        params.pooling_type = getattr(api, f"LLAMA_POOLING_TYPE_{options.pooling.upper()}")
        params.n_outputs_max = 0  # every token has one
    return params
