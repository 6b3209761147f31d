"""Compute what the caches of a model take from its header: keys and values, windows, and states.

llama.cpp decides by architecture which layers keep all tokens, those of a sliding window, or one
state for all of them; the rules are those of its ``src/models`` and of ``llama-hparams.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.models.gguf import KV_TYPES, Array, Gguf

_MOST_LAYERS = 1 << 12
_WINDOW = "attention.sliding_window"
_CELL_PADDING = 256
"""llama.cpp rounds the cells of windows up to a multiple of it."""

_WINDOW_PERIODS = {
    "afmoe": (4, False), "cohere2": (4, False), "cohere2moe": (4, True), "exaone-moe": (4, False),
    "exaone4": (4, False), "gemma2": (2, False), "gemma3": (6, False), "gemma3n": (5, False),
    "gpt-oss": (2, False), "lfm2": (0, False), "olmo2": (4, False), "plamo3": (8, False),
    "smallthinker": (4, True),
}  # fmt: skip
"""Architecture -> every how many layers one has no window (0: never), and whether it is the first
of them, where the header does not say; from the models of llama.cpp. Of others, all tokens count.
"""
_INTERVAL_KINDS = ("qwen3next", "qwen35", "minimax-01")
_USUAL_INTERVAL = 4
"""Architectures of which each fourth layer has attention and the others a state."""
_BOTH_KINDS = ("falcon-h1",)
"""Architectures whose layers have attention and a state."""


@dataclass(frozen=True, slots=True)
class CacheSize:
    """Bytes that the caches of a model take, over all layers."""

    token_bytes: int  # Of each token, in layers that keep all tokens
    window_bytes: int  # Of each token, in layers that keep those of a window
    window_tokens: int  # Tokens of that window; 0 without one
    state_bytes: int  # Of each sequence, in recurrent layers

    def total_bytes(self, context_tokens: int, sequences: int, batch_tokens: int) -> int:
        """Compute the bytes of a context; a window has cells for every sequence and a batch."""
        cells = self.window_tokens * sequences + batch_tokens
        cells = min(context_tokens, -(-cells // _CELL_PADDING) * _CELL_PADDING)
        return (
            self.token_bytes * context_tokens
            + self.window_bytes * cells
            + self.state_bytes * sequences
        )

    def read_bytes(self, context_tokens: int) -> int:
        """Compute the bytes that one sequence reads for a token behind so many others."""
        in_window = min(context_tokens, self.window_tokens)
        return self.token_bytes * context_tokens + self.window_bytes * in_window + self.state_bytes

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token in all layers: an upper bound of what a longer context adds."""
        return self.token_bytes + self.window_bytes

    @property
    def part_bytes(self) -> int:
        """Bytes of one sequence that a checkpoint has to save."""
        return self.window_bytes * self.window_tokens + self.state_bytes


def cache_size(gguf: Gguf, kv_type: str = "f16") -> CacheSize | None:
    """Compute what the caches of all layers take; None if the header lacks facts.

    Each layer with attention has 2 matrices x heads x head width for a token.
    """
    layers, width = gguf.layers, gguf.embedding_length or 0
    heads = gguf.per_layer("attention.head_count")
    if not heads or not layers or layers > _MOST_LAYERS:
        return None
    kv_heads = gguf.per_layer("attention.head_count_kv") or heads
    kv_heads = kv_heads[:layers] if len(kv_heads) > 1 else kv_heads * layers
    recurrent = _find_recurrent(gguf, kv_heads)
    if not gguf.architecture.startswith(_BOTH_KINDS):
        pairs = zip(kv_heads, recurrent, strict=True)
        kv_heads = tuple(0 if is_recurrent else count for count, is_recurrent in pairs)
    windowed = _find_windowed(gguf, len(kv_heads))
    head_width = width // max(heads[0], 1)
    key = gguf.number("attention.key_length") or head_width
    value = gguf.number("attention.value_length") or head_width
    head_bytes = (key + value) * KV_TYPES.get(kv_type, KV_TYPES["f16"])[1]
    counts = list(zip(kv_heads, windowed, strict=True))
    return CacheSize(
        token_bytes=math.ceil(head_bytes * sum(n for n, short in counts if not short)),
        window_bytes=math.ceil(head_bytes * sum(n for n, short in counts if short)),
        window_tokens=(gguf.number(_WINDOW) or 0) if any(windowed) else 0,
        state_bytes=4 * sum(recurrent) * _count_state_numbers(gguf, max(heads)),
    )


def _find_windowed(gguf: Gguf, layers: int) -> list[bool]:
    """Find the layers with a sliding window: by flags, or by a period, as llama.cpp does."""
    if not gguf.number(_WINDOW):
        return [False] * layers
    pattern = gguf.metadata.get(f"{gguf.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, Array):
        flags = [bool(flag) for flag in pattern.values or ()]
        return (flags + [False] * layers)[:layers]
    usual, dense_first = _WINDOW_PERIODS.get(gguf.architecture, (1, False))
    period = pattern if isinstance(pattern, int) else usual
    if period == 0:
        return [True] * layers
    last = 0 if dense_first else period - 1
    return [at % period != last for at in range(layers)]


def _find_recurrent(gguf: Gguf, kv_heads: Sequence[int]) -> list[bool]:
    if not _count_state_numbers(gguf, 1):
        return [False] * len(kv_heads)
    feed_forward = gguf.per_layer("feed_forward_length")
    if gguf.architecture.startswith("nemotron_h") and len(feed_forward) >= len(kv_heads):
        # Its feed-forward layers have no other part.
        pairs = zip(kv_heads, feed_forward, strict=False)
        return [heads == width == 0 for heads, width in pairs]
    interval = gguf.number("full_attention_interval")
    if interval is None and gguf.architecture.startswith(_INTERVAL_KINDS):
        interval = _USUAL_INTERVAL
    if interval:
        return [(at + 1) % interval != 0 for at in range(len(kv_heads))]
    if gguf.architecture.startswith(_BOTH_KINDS):
        return [True] * len(kv_heads)
    return [heads == 0 for heads in kv_heads]


def _count_state_numbers(gguf: Gguf, heads: int) -> int:
    """Count the numbers of the state of a recurrent layer, as llama-hparams.cpp does."""
    width = gguf.embedding_length or 0
    if size := gguf.number("wkv.head_size"):
        return width * (size + (gguf.number("token_shift_count") or 2))
    if length := gguf.number("shortconv.l_cache"):
        return width * (length - 1)
    convolution = max(0, (gguf.number("ssm.conv_kernel") or 0) - 1)
    if size := gguf.number("kda.head_dim"):
        return heads * size * (size + 3 * (convolution or 3))
    inner = gguf.number("ssm.inner_size") or 0
    state = gguf.number("ssm.state_size") or 0
    groups = gguf.number("ssm.group_count") or 0
    return convolution * (inner + 2 * groups * state) + state * inner
