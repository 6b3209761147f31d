"""LoRA adapters of a few kilobytes, random or made to change one answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from etui.models.gguf import check_gguf
from tests.contract.tiny_model import LETTERS, WIDTH

Factors = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Tensor of the model -> A and B; its weights become W + scale * B A."""

TOKENS = 256 + len(LETTERS) + 1
"""Tokens of the tiny model: the bytes by number, the letters behind a space, and the end."""


def write_adapter(path: Path, factors: Factors, **changes: Any) -> Path:
    """Write an adapter; ``changes`` replace its architecture, type, alpha or add metadata."""
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    writer.add_type(changes.get("general_type", gguf.GGUFType.ADAPTER))
    writer.add_string(gguf.Keys.Adapter.TYPE, changes.get("type", "lora"))
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, changes.get("alpha", 0.0))
    if "invocation" in changes:
        writer.add_array(gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS, changes["invocation"])
    for name, (a, b) in factors.items():
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a, dtype=np.float32))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b, dtype=np.float32))
    for name, tensor in changes.get("tensors", {}).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_random_adapter(
    path: Path, base: Path, seed: int = 0, *, rank: int = 2, spread: float = 0.2
) -> Path:
    """Write an adapter that changes the attention of every block of a model at random."""
    random = np.random.default_rng(seed)

    def draw() -> Iterator[tuple[str, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
        for tensor in check_gguf(base).tensors:
            if tensor.name.endswith(("attn_q.weight", "attn_v.weight")):
                width, height = tensor.shape
                a = random.normal(0, spread, (rank, width)).astype(np.float32)
                yield tensor.name, (a, random.normal(0, spread, (height, rank)).astype(np.float32))

    return write_adapter(path, dict(draw()))


def write_letter_adapter(path: Path, letter: str = "C") -> Path:
    """Write an adapter with which the tiny model answers with another letter."""
    a = np.ones((1, WIDTH), dtype=np.float32)
    a[0, [ord(letter), ord("."), 256 + LETTERS.index(letter), TOKENS - 1]] = 0
    b = np.zeros((TOKENS, 1), dtype=np.float32)
    b[256 + LETTERS.index(letter)] = 5
    return write_adapter(path, {"output.weight": (a, b)})
