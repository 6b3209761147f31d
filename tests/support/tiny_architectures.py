"""Models of a megabyte with random weights, of the architectures whose caches cannot roll back.

Their texts mean nothing, but llama.cpp runs them as it does the real ones: a Gemma 3 with sliding
windows, hybrids (LFM2 with short convolutions, with and without a window, and Granite with Mamba-2
layers), and Mamba. All logits depend on all tokens that the architecture can see.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WINDOW = 32
WIDTH = 64
LAYERS = 6
HEADS = 2
HEAD = 32
CONTEXT = 8192
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CONTROL = ("<|im_start|>", "<|im_end|>", "<|end|>")
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9

Tensors = dict[str, NDArray[np.float32]]
Keys = dict[str, object]
Draw = Callable[..., NDArray[np.float32]]
"""Draws a matrix; shapes are given as GGUF does, the fastest dimension first."""


def write_architecture(path: Path, kind: str, width: int = WIDTH) -> Path:
    """Write a model: ``gemma3``, ``lfm2``, ``lfm2-window``, ``granitehybrid`` or ``mamba``."""
    random = np.random.default_rng(7)

    def draw(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        spread = scale / np.sqrt(shape[0])
        return random.normal(0, spread, shape[::-1]).astype(np.float32)

    arch, keys, tensors = _BUILDERS[kind](draw, width)
    vocabulary = _tokens()
    output = draw(width, len(vocabulary), scale=4.0)
    output[-len(_CONTROL) :] = 0.0  # no answer ends
    tensors |= {
        "token_embd.weight": draw(width, len(vocabulary), scale=np.sqrt(width)),
        "output.weight": output,
    }
    keys |= {
        "context_length": CONTEXT,
        "embedding_length": width,
        "block_count": LAYERS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": len(vocabulary),
    }
    metadata: Keys = {"general.architecture": arch, "general.name": f"tiny {kind}"}
    metadata |= {f"{arch}.{key}": value for key, value in keys.items()}
    _write(path, metadata | _tokenizer(vocabulary), tensors)
    return path


def _gemma3(draw: Draw, width: int) -> tuple[str, Keys, Tensors]:
    tensors: Tensors = {"output_norm.weight": _ones(width)}
    for at in range(LAYERS):
        tensors |= _attention(draw, at, width) | _feed_forward(draw, at, width)
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            tensors[f"blk.{at}.{name}.weight"] = _ones(width)
    return "gemma3", _heads(HEADS) | {"attention.sliding_window": WINDOW}, tensors


def _lfm2(draw: Draw, width: int) -> tuple[str, Keys, Tensors]:
    tensors: Tensors = {"token_embd_norm.weight": _ones(width)}
    kv_heads = [HEADS if at % 3 == 2 else 0 for at in range(LAYERS)]
    for at, heads in enumerate(kv_heads):
        tensors |= _feed_forward(draw, at, width)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{at}.{name}.weight"] = _ones(width)
        if heads:
            tensors |= _attention(draw, at, width)
        else:
            tensors |= {
                f"blk.{at}.shortconv.conv.weight": draw(3, width),
                f"blk.{at}.shortconv.in_proj.weight": draw(width, 3 * width),
                f"blk.{at}.shortconv.out_proj.weight": draw(width, width),
            }
    return "lfm2", _heads(kv_heads) | {"shortconv.l_cache": 3}, tensors


def _lfm2_window(draw: Draw, width: int) -> tuple[str, Keys, Tensors]:
    arch, keys, tensors = _lfm2(draw, width)
    return arch, keys | {"attention.sliding_window": WINDOW}, tensors


def _granite(draw: Draw, width: int) -> tuple[str, Keys, Tensors]:
    tensors: Tensors = {"output_norm.weight": _ones(width)}
    kv_heads = [HEADS if at % 3 == 2 else 0 for at in range(LAYERS)]
    inner, state, groups, ranks = 2 * width, 16, 1, 4
    for at, heads in enumerate(kv_heads):
        tensors |= _feed_forward(draw, at, width)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{at}.{name}.weight"] = _ones(width)
        if heads:
            tensors |= _attention(draw, at, width, normed=False)
            continue
        channels = inner + 2 * groups * state
        tensors |= {
            f"blk.{at}.ssm_in.weight": draw(width, inner + channels + ranks),
            f"blk.{at}.ssm_conv1d.weight": draw(4, channels),
            f"blk.{at}.ssm_conv1d.bias": np.zeros(channels, dtype=np.float32),
            f"blk.{at}.ssm_dt.bias": np.full(ranks, -3.0, dtype=np.float32),
            f"blk.{at}.ssm_a": -np.linspace(0.2, 2, ranks, dtype=np.float32).reshape(ranks, 1),
            f"blk.{at}.ssm_d": np.ones((ranks, 1), dtype=np.float32),
            f"blk.{at}.ssm_norm.weight": np.ones((groups, inner // groups), dtype=np.float32),
            f"blk.{at}.ssm_out.weight": draw(inner, width),
        }
    return "granitehybrid", _heads(kv_heads) | _ssm(inner, state, ranks, groups), tensors


def _mamba(draw: Draw, width: int) -> tuple[str, Keys, Tensors]:
    tensors: Tensors = {"output_norm.weight": _ones(width)}
    inner, state, rank = 2 * width, 16, 4
    for at in range(LAYERS):
        decay = np.tile(np.linspace(-0.2, -2, state, dtype=np.float32), (inner, 1))
        tensors |= {
            f"blk.{at}.attn_norm.weight": _ones(width),
            f"blk.{at}.ssm_in.weight": draw(width, 2 * inner),
            f"blk.{at}.ssm_conv1d.weight": draw(4, inner),
            f"blk.{at}.ssm_conv1d.bias": np.zeros(inner, dtype=np.float32),
            f"blk.{at}.ssm_x.weight": draw(inner, rank + 2 * state),
            f"blk.{at}.ssm_dt.weight": draw(rank, inner),
            f"blk.{at}.ssm_dt.bias": np.full(inner, -3.0, dtype=np.float32),
            f"blk.{at}.ssm_a": decay,
            f"blk.{at}.ssm_d": _ones(inner),
            f"blk.{at}.ssm_out.weight": draw(inner, width),
        }
    keys = _ssm(inner, state, rank) | {"feed_forward_length": 0, "attention.head_count": 0}
    return "mamba", keys, tensors


_BUILDERS: Mapping[str, Callable[[Draw, int], tuple[str, Keys, Tensors]]] = {
    "gemma3": _gemma3,
    "lfm2": _lfm2,
    "lfm2-window": _lfm2_window,
    "granitehybrid": _granite,
    "mamba": _mamba,
}
KINDS = tuple(_BUILDERS)


def _heads(kv_heads: int | list[int]) -> Keys:
    return {
        "feed_forward_length": 2 * WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "rope.dimension_count": HEAD,
    }


def _ssm(inner: int, state: int, rank: int, groups: int | None = None) -> Keys:
    keys: Keys = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    return keys if groups is None else keys | {"ssm.group_count": groups}


def _attention(draw: Draw, at: int, width: int, *, normed: bool = True) -> Tensors:
    wide = HEADS * HEAD
    tensors = {
        f"blk.{at}.attn_q.weight": draw(width, wide),
        f"blk.{at}.attn_k.weight": draw(width, wide),
        f"blk.{at}.attn_v.weight": draw(width, wide),
        f"blk.{at}.attn_output.weight": draw(wide, width),
    }
    if normed:
        tensors |= {f"blk.{at}.attn_{each}_norm.weight": _ones(HEAD) for each in "qk"}
    return tensors


def _feed_forward(draw: Draw, at: int, width: int) -> Tensors:
    hidden = 2 * WIDTH
    return {
        f"blk.{at}.ffn_gate.weight": draw(width, hidden),
        f"blk.{at}.ffn_up.weight": draw(width, hidden),
        f"blk.{at}.ffn_down.weight": draw(hidden, width),
    }


def _ones(count: int) -> NDArray[np.float32]:
    return np.ones(count, dtype=np.float32)


def _tokens() -> list[str]:
    """All bytes as GPT-2 spells them, and control tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in spelled]
    spelled |= {byte: chr(256 + at) for at, byte in enumerate(hidden)}
    return [*(spelled[byte] for byte in range(256)), *_CONTROL]


def _tokenizer(vocabulary: list[str]) -> dict[str, object]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.merges": ["Ġ Ġ"],
        "tokenizer.ggml.token_type": [3 if each in _CONTROL else 1 for each in vocabulary],
        "tokenizer.ggml.bos_token_id": vocabulary.index(_CONTROL[2]),
        "tokenizer.ggml.eos_token_id": vocabulary.index(_CONTROL[2]),
        "tokenizer.chat_template": TEMPLATE,
    }


def _write(path: Path, metadata: Mapping[str, object], tensors: Tensors) -> None:
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        kind, data = _encode(value)
        head += _text(key) + struct.pack("<I", kind) + data
    offset = 0
    body = bytearray()
    for name, numbers in tensors.items():
        shape = numbers.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", 0, offset)
        body += numbers.tobytes() + bytes(-numbers.nbytes % 32)
        offset = len(body)
    path.write_bytes(head + bytes(-len(head) % 32) + body)


def _encode(value: object) -> tuple[int, bytes]:
    if isinstance(value, str):
        return _STRING, _text(value)
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    if isinstance(value, int):
        return _UINT32, struct.pack("<I", value)
    assert isinstance(value, list)
    if isinstance(value[0], str):
        return _ARRAY, struct.pack("<IQ", _STRING, len(value)) + b"".join(map(_text, value))
    return _ARRAY, struct.pack(f"<IQ{len(value)}i", _INT32, len(value), *value)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
