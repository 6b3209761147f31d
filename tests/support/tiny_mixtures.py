"""Mixtures of experts of a megabyte with random weights, which llama.cpp runs as any other GGUF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

Architecture = Literal["qwen3moe", "qwen2moe", "gpt-oss"]

BLOCKS, EXPERTS, EXPERTS_USED = 6, 8, 2
WIDTH, HEADS, KV_HEADS, HEAD_WIDTH = 64, 4, 2, 16
EXPERT_WIDTH, CONTEXT, WINDOW = 96, 2048, 128
END = "<|end|>"
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
_NORMAL, _CONTROL = 1, 3

Tensors = Iterator[tuple[str, tuple[int, ...]]]
"""Names and shapes, the slowest dimension first."""


def write_mixture(
    path: Path, architecture: Architecture = "qwen3moe", *, expert_width: int = EXPERT_WIDTH
) -> Path:
    """Write a mixture of experts; its weights are the same each time."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny mixture")
    writer.add_file_type(0)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(expert_width)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(EXPERTS_USED)
    writer.add_expert_feed_forward_length(expert_width)
    if architecture == "qwen2moe":
        writer.add_expert_shared_feed_forward_length(expert_width)
    if architecture == "gpt-oss":
        writer.add_sliding_window(WINDOW)
    tokens = _add_vocabulary(writer)
    random = np.random.default_rng(0)
    for name, shape in _list_tensors(architecture, tokens, expert_width):
        writer.add_tensor(name, _draw(random, name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Add a vocabulary of the bytes, as GPT-2 spells them, and an end token; return its size."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in spelled]
    spelled |= {byte: chr(256 + at) for at, byte in enumerate(hidden)}
    tokens = [*(spelled[byte] for byte in range(256)), END]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_NORMAL] * 256 + [_CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    writer.add_chat_template(TEMPLATE)
    return len(tokens)


def _list_tensors(architecture: Architecture, tokens: int, expert_width: int) -> Tensors:
    yield "token_embd.weight", (tokens, WIDTH)
    yield "output_norm.weight", (WIDTH,)
    yield "output.weight", (tokens, WIDTH)
    for block in range(BLOCKS):
        for name, shape in _list_block(architecture, expert_width):
            yield f"blk.{block}.{name}", shape


def _list_block(architecture: Architecture, expert_width: int) -> Tensors:
    queries, keys = HEADS * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH
    yield "attn_norm.weight", (WIDTH,)
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        yield f"attn_{name}.weight", (rows, WIDTH)
        if architecture != "qwen3moe":
            yield f"attn_{name}.bias", (rows,)
    yield "attn_output.weight", (WIDTH, queries)
    yield "ffn_gate_inp.weight", (EXPERTS, WIDTH)
    for name in ("gate", "up"):
        yield f"ffn_{name}_exps.weight", (EXPERTS, expert_width, WIDTH)
    yield "ffn_down_exps.weight", (EXPERTS, WIDTH, expert_width)
    if architecture == "qwen3moe":
        yield "attn_q_norm.weight", (HEAD_WIDTH,)
        yield "attn_k_norm.weight", (HEAD_WIDTH,)
    if architecture == "qwen2moe":
        yield "ffn_gate_inp_shexp.weight", (WIDTH,)
        for name in ("gate", "up"):
            yield f"ffn_{name}_shexp.weight", (expert_width, WIDTH)
        yield "ffn_down_shexp.weight", (WIDTH, expert_width)
    if architecture == "gpt-oss":
        yield "post_attention_norm.weight", (WIDTH,)
        yield "attn_sinks.weight", (HEADS,)
        yield "attn_output.bias", (WIDTH,)
        yield "ffn_gate_inp.bias", (EXPERTS,)
        for name in ("gate", "up"):
            yield f"ffn_{name}_exps.bias", (EXPERTS, expert_width)
        yield "ffn_down_exps.bias", (EXPERTS, WIDTH)
    else:
        yield "ffn_norm.weight", (WIDTH,)


def _draw(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw weights large enough that the next token depends on every block."""
    if "norm" in name:
        return np.ones(shape, dtype=np.float32)
    return random.normal(0, 1.5 / np.sqrt(shape[-1]), shape).astype(np.float32)
