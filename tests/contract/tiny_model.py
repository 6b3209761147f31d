"""A language model of 1.5 MB whose next token depends on the last one alone.

llama.cpp runs it as any other GGUF. Attention and feed-forward weights are zero, embeddings are
one-hot, and the output matrix holds the next token of every token with a margin that no rounding
of any processor reaches. Its answers are therefore the same on every machine.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from pathlib import Path

WIDTH = 288
HEADS = 9
HIDDEN = 32
CONTEXT = 4096
LETTERS = "ABCD"
END = "<|end|>"
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)

_UINT32, _FLOAT32, _STRING, _ARRAY, _INT32 = 4, 6, 8, 9, 5
_NORMAL_TOKEN, _CONTROL_TOKEN = 1, 3


def write_tiny_model(
    path: Path, letter: str = "B", changes: Mapping[str, tuple[int, bytes]] | None = None
) -> Path:
    """Write the model; it answers every question with ``letter``.

    ``changes`` replaces metadata by (type, bytes), for models that no one should load.
    """
    tokens = _tokens()
    next_of = _next_tokens(tokens, letter)
    _write(path, _metadata(tokens) | dict(changes or {}), _tensors(tokens, next_of))
    return path


def write_split_model(
    folder: Path, name: str, changes: Mapping[str, tuple[int, bytes]] | None = None
) -> tuple[Path, Path]:
    """Write the model in two files, as llama.cpp splits one; the first has the metadata."""
    tokens = _tokens()
    tensors = _tensors(tokens, _next_tokens(tokens, "B"))
    paths = []
    for number, part in enumerate((tensors[:2], tensors[2:])):
        keys = {
            "split.no": (2, struct.pack("<H", number)),
            "split.count": (2, struct.pack("<H", 2)),
            "split.tensors.count": (_INT32, struct.pack("<i", len(tensors))),
        }
        keys = _metadata(tokens) | keys | dict(changes or {}) if number == 0 else keys
        paths.append(folder / f"{name}-{number + 1:05}-of-00002.gguf")
        _write(paths[-1], keys, part)
    return paths[0], paths[1]


def _write(
    path: Path,
    keys: Mapping[str, tuple[int, bytes]],
    tensors: list[tuple[str, tuple[int, ...], array[float]]],
) -> None:
    header = bytearray(b"GGUF")
    header += struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, (kind, value) in keys.items():
        header += _text(key) + struct.pack("<I", kind) + value
    offset = 0
    for name, shape, numbers in tensors:
        header += _text(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, offset)
        offset += len(numbers) * 4
    header += b"\0" * (-len(header) % 32)
    with path.open("wb") as file:
        file.write(header)
        for _, _, numbers in tensors:
            file.write(numbers.tobytes())


def _tokens() -> list[str]:
    """All bytes as GPT-2 spells them, the letters behind a space, and the end token."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in spelled]
    spelled |= {byte: chr(256 + at) for at, byte in enumerate(hidden)}
    return [*(spelled[byte] for byte in range(256)), *(f"Ġ{x}" for x in LETTERS), END]


def _next_tokens(tokens: list[str], letter: str) -> dict[int, dict[int, float]]:
    """Token -> tokens that may follow, with weights: ``: B.`` and then the end."""
    end, stop = tokens.index(END), tokens.index(".")
    letters = {tokens.index(f"Ġ{x}"): 0.5 for x in LETTERS}
    letters[tokens.index(f"Ġ{letter}")] = 1.5
    following = {token: dict(letters) for token in range(len(tokens))}
    following |= {tokens.index(f"Ġ{x}"): {stop: 1.5} for x in LETTERS}
    following |= {tokens.index(x): {stop: 1.5} for x in LETTERS}
    return following | {stop: {end: 1.5}, end: {end: 1.5}}


def _tensors(
    tokens: list[str], next_of: dict[int, dict[int, float]]
) -> list[tuple[str, tuple[int, ...], array[float]]]:
    embedding = _zeros(len(tokens) * WIDTH)
    output = _zeros(len(tokens) * WIDTH)
    for token in range(len(tokens)):
        embedding[token * WIDTH + token] = 1.0
        for following, weight in next_of[token].items():
            output[following * WIDTH + token] = weight
    ones = array("f", [1.0]) * WIDTH
    head = WIDTH // HEADS
    return [
        ("token_embd.weight", (WIDTH, len(tokens)), embedding),
        ("output_norm.weight", (WIDTH,), ones),
        ("output.weight", (WIDTH, len(tokens)), output),
        ("blk.0.attn_norm.weight", (WIDTH,), ones),
        ("blk.0.attn_q.weight", (WIDTH, WIDTH), _zeros(WIDTH * WIDTH)),
        ("blk.0.attn_k.weight", (WIDTH, head), _zeros(WIDTH * head)),
        ("blk.0.attn_v.weight", (WIDTH, head), _zeros(WIDTH * head)),
        ("blk.0.attn_output.weight", (WIDTH, WIDTH), _zeros(WIDTH * WIDTH)),
        ("blk.0.ffn_norm.weight", (WIDTH,), ones),
        ("blk.0.ffn_gate.weight", (WIDTH, HIDDEN), _zeros(WIDTH * HIDDEN)),
        ("blk.0.ffn_up.weight", (WIDTH, HIDDEN), _zeros(WIDTH * HIDDEN)),
        ("blk.0.ffn_down.weight", (HIDDEN, WIDTH), _zeros(WIDTH * HIDDEN)),
    ]


def _metadata(tokens: list[str]) -> dict[str, tuple[int, bytes]]:
    kinds = [_CONTROL_TOKEN if token == END else _NORMAL_TOKEN for token in tokens]
    merges = [f"Ġ {x}" for x in LETTERS]
    numbers = {
        "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": HIDDEN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": 1,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "general.file_type": 0,
        "tokenizer.ggml.bos_token_id": tokens.index(END),
        "tokenizer.ggml.eos_token_id": tokens.index(END),
    }
    texts = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.chat_template": TEMPLATE,
    }
    return {
        **{key: (_STRING, _text(text)) for key, text in texts.items()},
        **{key: (_UINT32, struct.pack("<I", number)) for key, number in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": (_FLOAT32, struct.pack("<f", 1e-5)),
        "tokenizer.ggml.tokens": (_ARRAY, _texts(tokens)),
        "tokenizer.ggml.merges": (_ARRAY, _texts(merges)),
        "tokenizer.ggml.token_type": (
            _ARRAY,
            struct.pack(f"<IQ{len(kinds)}i", _INT32, len(kinds), *kinds),
        ),
    }


def _zeros(count: int) -> array[float]:
    return array("f", bytes(4 * count))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _texts(texts: list[str]) -> bytes:
    return struct.pack("<IQ", _STRING, len(texts)) + b"".join(map(_text, texts))
