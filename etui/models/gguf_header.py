"""What the header of a GGUF file says of its model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etui.models.gguf_types import FILE_TYPES, KV_TYPES
from etui.models.spec import ModelSampling

Scalar = int | float | bool | str

_MOST_LAYERS = 1 << 12  # llama.cpp is compiled for 512
_NUMBER_RANGES = {
    "block_count": (1, _MOST_LAYERS),
    "context_length": (1, 1 << 31),
    "embedding_length": (1, 1 << 20),
    "attention.head_count": (0, 1 << 16),
    "attention.head_count_kv": (0, 1 << 16),
    "attention.key_length": (1, 1 << 20),
    "attention.value_length": (1, 1 << 20),
}
"""Key below the architecture -> least and largest number that a model can have.

Layers without attention (recurrent ones of hybrid models) have no heads.
"""

_SAMPLING_KEYS = {
    "temperature": ("temp", 0, 5),
    "top_p": ("top_p", 1e-6, 1),
    "top_k": ("top_k", 0, 1_000_000),
    "min_p": ("min_p", 0, 1),
    "repeat_penalty": ("penalty_repeat", 1e-6, 10),
    "repeat_last_n": ("penalty_last_n", -1, 10_000_000),
}
"""Name in models.yaml -> key below ``general.sampling`` (gguf-py's constants.py) and range."""

_NO_TOKENIZERS = ("none", "no_vocab")
"""Values of ``tokenizer.ggml.model`` of files without a vocabulary; llama.cpp aborts on a text."""


@dataclass(frozen=True, slots=True)
class Array:
    """A metadata array; ``values`` is None for arrays of strings and for long ones."""

    count: int
    values: tuple[Scalar, ...] | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the tensor table."""

    name: str
    shape: tuple[int, ...]  # Elements along each dimension, fastest first
    type: str  # Name of the tensor type; `type N` for an unknown type
    offset: int  # Position of its first byte in the file
    size_bytes: int | None  # Size of its data in bytes; None for an unknown type


@dataclass(frozen=True, slots=True)
class Gguf:
    """The header of a GGUF file."""

    path: Path
    version: int
    size_bytes: int
    metadata: Mapping[str, Scalar | Array]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as ``llama`` or ``qwen2``; ``unknown`` if missing."""
        return self._get_text("general.architecture") or "unknown"

    @property
    def name(self) -> str | None:
        """``general.name``, the model's name as given by its maker."""
        return self._get_text("general.name")

    @property
    def parameters(self) -> int:
        """Number of weights, summed over the tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def quantisation(self) -> str:
        """Name of the file's quantisation, or of the tensor type with the most bytes."""
        stated = self.metadata.get("general.file_type")
        if isinstance(stated, int) and stated in FILE_TYPES:
            return FILE_TYPES[stated]
        totals: dict[str, int] = {}
        for tensor in self.tensors:
            totals[tensor.type] = totals.get(tensor.type, 0) + (tensor.size_bytes or 0)
        return max(totals, key=lambda kind: totals[kind]) if totals else "unknown"

    @property
    def context_tokens(self) -> int | None:
        """Context length the model was trained with, in tokens."""
        return self._get_number("context_length")

    @property
    def layers(self) -> int | None:
        """Number of transformer blocks."""
        return self._get_number("block_count")

    @property
    def nextn_layers(self) -> int:
        """Number of layers for multi-token prediction; 0 for most models."""
        return self._get_number("nextn_predict_layers") or 0

    @property
    def embedding_length(self) -> int | None:
        """Width of the hidden state."""
        return self._get_number("embedding_length")

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens in the vocabulary."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, Array) else self._get_number("vocab_size")

    @property
    def tokenizer(self) -> str | None:
        """Kind of tokenizer, as llama.cpp names it (``gpt2``, ``llama``)."""
        return self._get_text("tokenizer.ggml.model") or None

    @property
    def chat_template(self) -> str | None:
        """Jinja chat template; None for most base models."""
        return self._get_text("tokenizer.chat_template") or None

    @property
    def sampling(self) -> ModelSampling | None:
        """How the model asks to be sampled (``general.sampling.*``, as llama.cpp reads it).

        Keys of samplers that etui does not have (mirostat, xtc, the order of the chain) and
        values outside their range are ignored. None without any value.
        """
        values: dict[str, Any] = {
            name: value
            for name, (key, least, most) in _SAMPLING_KEYS.items()
            if (value := self.metadata.get(f"general.sampling.{key}")) is not None
            and isinstance(value, int | float)
            and not isinstance(value, bool)
            and least <= value <= most
        }
        for name, value in values.items():
            is_count = name in ("top_k", "repeat_last_n")
            # A float32 has seven digits: 0.6 is stored as 0.6000000238.
            values[name] = int(value) if is_count else float(f"{value:.7g}")
        return ModelSampling(**values) if values else None

    def kv_bytes_per_token(self, kv_type: str = "f16") -> int | None:
        """Compute the KV cache bytes of one token over all layers; None if the header lacks facts.

        Each layer has 2 matrices x heads x head width. This is an upper bound: sliding windows and
        recurrent layers take less.
        """
        layers, width = self.layers, self.embedding_length
        heads = self._get_per_layer("attention.head_count")
        if not layers or not heads:
            return None
        kv_heads = self._get_per_layer("attention.head_count_kv") or heads
        head_width = (width or 0) // max(heads[0], 1)
        key = self._get_number("attention.key_length") or head_width
        value = self._get_number("attention.value_length") or head_width
        all_heads = sum(kv_heads[:layers]) if len(kv_heads) > 1 else kv_heads[0] * layers
        element = KV_TYPES.get(kv_type, KV_TYPES["f16"])[1]
        return math.ceil(all_heads * (key + value) * element)

    def find_fault(self) -> str:
        """Find a value with which llama.cpp aborts the process or no model works.

        Returns:
            Why the model cannot run, after its name: ``is ...``, ``has ...``; empty if nothing
            speaks against it.
        """
        tokenizer = self._get_text("tokenizer.ggml.model")
        if tokenizer in _NO_TOKENIZERS:
            return f"has no vocabulary (tokenizer.ggml.model is {tokenizer!r}), so it cannot answer"
        prefix = f"{self.architecture}."
        for key, (least, most) in _NUMBER_RANGES.items():
            for number in self._get_per_layer(key):
                if not least <= number <= most:
                    return f"is damaged: {prefix[:80] + key!r} is {number}, not {least} to {most}"
        for name, value in self.metadata.items():
            if name.startswith(prefix) and not _are_usable(name, value):
                return f"is damaged: {name[:80]!r} is no usable number"
        return ""

    def _get_text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _get_number(self, key: str) -> int | None:
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def _get_per_layer(self, key: str) -> tuple[int, ...]:
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, Array):
            numbers = value.values or ()
        else:
            numbers = () if value is None else (value,)
        return tuple(number for number in numbers if isinstance(number, int))


def _are_usable(key: str, value: Scalar | Array) -> bool:
    """Check that no number is NaN and no epsilon negative or infinite."""
    numbers = (value.values or ()) if isinstance(value, Array) else (value,)
    floats = [number for number in numbers if isinstance(number, float)]
    if key.endswith("epsilon"):
        return all(0 <= number < math.inf for number in floats)
    return not any(map(math.isnan, floats))
