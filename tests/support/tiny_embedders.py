"""Encoders of a megabyte with random weights, which llama.cpp runs as it does BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

BLOCKS, WIDTH, HEADS, HIDDEN, CONTEXT = 3, 64, 4, 128, 128
_CONTROL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz.,?"

Pooling = Literal["mean", "cls", "rank"]


def write_embedder(path: Path, pooling: Pooling = "cls", *, labels: int = 1) -> Path:
    """Write an encoder; its weights are the same each time, and ``rank`` has a head for scores."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("Tiny encoder")
    writer.add_file_type(0)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    tokens = _add_vocabulary(writer)
    random = np.random.default_rng(3)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, _draw(random, name, shape))

    add("token_embd.weight", tokens, WIDTH)
    add("token_types.weight", 2, WIDTH)
    add("position_embd.weight", CONTEXT, WIDTH)
    _add_norm(writer, "token_embd_norm")
    for block in range(BLOCKS):
        for name, rows, columns in (
            *((f"attn_{each}", WIDTH, WIDTH) for each in ("q", "k", "v", "output")),
            ("ffn_up", HIDDEN, WIDTH),
            ("ffn_down", WIDTH, HIDDEN),
        ):
            add(f"blk.{block}.{name}.weight", rows, columns)
            add(f"blk.{block}.{name}.bias", rows)
        _add_norm(writer, f"blk.{block}.attn_output_norm")
        _add_norm(writer, f"blk.{block}.layer_output_norm")
    if pooling == "rank":
        add("cls.weight", WIDTH, WIDTH)
        add("cls.bias", WIDTH)
        add("cls.output.weight", labels, WIDTH)
        add("cls.output.bias", labels)
        writer.add_classifier_output_labels([f"LABEL_{at}" for at in range(labels)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_norm(writer: gguf.GGUFWriter, name: str) -> None:
    writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, dtype=np.float32))


def _add_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Add the letters, at the begin of a word and within one; return the size."""
    tokens = [*_CONTROL, *(f"\u2581{letter}" for letter in _LETTERS), *_LETTERS]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(_CONTROL) + [1] * (len(tokens) - len(_CONTROL)))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    return len(tokens)


def _draw(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    spread = 0.1 if name.endswith("bias") else 1.5 / np.sqrt(shape[-1])
    return random.normal(0, spread, shape).astype(np.float32)
