"""Write an EAGLE-3 draft model with random weights for a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

WIDTH, HEADS, HEAD, FORWARD = 64, 2, 32, 32


def write_eagle_draft(
    target: Path,
    path: Path,
    layers: tuple[int, ...] = (2, 15, 27),
    *,
    own_tokens: bool = True,
    seed: int = 1,
) -> dict[str, NDArray[np.float32]]:
    """Write a draft model whose tokens are those of a model.

    Args:
        target: The file of the model that it drafts for.
        layers: Layers of that model whose inputs it reads.
        own_tokens: Whether it has embeddings and an output matrix of its own; else it has the width
            of the model, and uses those of the model.

    Returns:
        Its weights by name.
    """
    reader = gguf.GGUFReader(target)
    tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
    target_width = int(reader.fields["llama.embedding_length"].contents())
    width = WIDTH if own_tokens else target_width
    writer = gguf.GGUFWriter(path, "eagle3")
    for name, field in reader.fields.items():
        if name.startswith("tokenizer.") and name != "tokenizer.chat_template":
            _copy(writer, name, field)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    writer.add_array("eagle3.target_layers", list(layers))
    writer.add_uint32("eagle3.target_hidden_size", target_width)
    random = np.random.default_rng(seed)
    shapes = {
        "fc.weight": (width, len(layers) * target_width),
        "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.attn_norm_2.weight": (width,),
        "blk.0.ffn_norm.weight": (width,),
        "blk.0.attn_q.weight": (HEADS * HEAD, 2 * width),
        "blk.0.attn_k.weight": (HEADS * HEAD, 2 * width),
        "blk.0.attn_v.weight": (HEADS * HEAD, 2 * width),
        "blk.0.attn_output.weight": (width, HEADS * HEAD),
        "blk.0.ffn_gate.weight": (FORWARD, width),
        "blk.0.ffn_up.weight": (FORWARD, width),
        "blk.0.ffn_down.weight": (width, FORWARD),
    }
    if own_tokens:
        shapes |= {"token_embd.weight": (tokens, width), "output.weight": (tokens, width)}
    weights = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        scaled = values / np.float32(np.sqrt(shape[-1])) if len(shape) > 1 else 1 + values / 10
        weights[name] = scaled.astype(np.float32)
        writer.add_tensor(name, weights[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _copy(writer: gguf.GGUFWriter, name: str, field: Any) -> None:
    kinds = field.types
    if kinds[0] == gguf.GGUFValueType.ARRAY:
        writer.add_array(name, field.contents())
    else:
        writer.add_key_value(name, field.contents(), kinds[0])
