"""GGUF files of a vocabulary alone: byte-level BPE and SentencePiece, with many special tokens."""

from __future__ import annotations

import struct
from pathlib import Path

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT32 = 4, 6, 7, 8, 9, 5
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6

CONTROL = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<｜User｜>",
)
MARKERS = ("<|user|>", "<|end|>", "<think>", "</think>")
"""User-defined tokens, as some vocabularies have them, that no message may forge."""

ORDINARY = ("   ", "\n\n\n", "<h1>", "<table>")
"""User-defined tokens that are part of any text."""

_WORDS = ("the", "in", "er", "he", "Hi", "user", "im", "\n\n", "  ", "us", "th", "|>", "<|", "::")


def write_bpe(path: Path, more: tuple[str, ...] = ()) -> Path:
    """Write a byte-level BPE vocabulary; its merges join pairs that cross borders of words.

    Args:
        more: Control tokens in addition to those of this module.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in spelled]
    spelled |= {byte: chr(256 + at) for at, byte in enumerate(hidden)}
    tokens = [spelled[byte] for byte in range(256)]
    merges: list[str] = []
    for word in (*_WORDS, *(f" {word}" for word in _WORDS)):
        letters = [spelled[byte] for byte in word.encode()]
        for end in range(1, len(letters)):
            first, second = "".join(letters[:end]), letters[end]
            if first + second not in tokens:
                tokens.append(first + second)
                merges.append(f"{first} {second}")
    kinds = [_NORMAL] * len(tokens)
    return _write(
        path,
        tokens,
        kinds,
        {
            "tokenizer.ggml.model": (_STRING, _text("gpt2")),
            "tokenizer.ggml.pre": (_STRING, _text("llama-bpe")),
            "tokenizer.ggml.merges": (_ARRAY, _texts(merges)),
        },
        more,
    )


def write_sentencepiece(path: Path, *, space_prefix: bool) -> Path:
    """Write a SentencePiece vocabulary, with or without a space before each text."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [_UNKNOWN] + [_BYTE] * 256
    letters = [*map(chr, range(33, 127)), "▁", "\n", "ä"]
    words = [word.replace(" ", "▁") for word in _WORDS]
    steps = {
        word[:end]
        for word in (*words, *(f"▁{word}" for word in words))
        for end in range(2, len(word) + 1)
    }
    pieces = [*letters, *sorted(steps)]
    tokens += pieces
    kinds += [_NORMAL] * len(pieces)
    return _write(
        path,
        tokens,
        kinds,
        {
            "tokenizer.ggml.model": (_STRING, _text("llama")),
            "tokenizer.ggml.add_space_prefix": (_BOOL, bytes([space_prefix])),
        },
    )


def _write(
    path: Path,
    tokens: list[str],
    kinds: list[int],
    keys: dict[str, tuple[int, bytes]],
    more: tuple[str, ...] = (),
) -> Path:
    scores = [-float(at) for at in range(len(tokens))]
    for texts, kind in (((*CONTROL, *more), _CONTROL), ((*MARKERS, *ORDINARY), _USER_DEFINED)):
        tokens = [*tokens, *texts]
        kinds = [*kinds, *[kind] * len(texts)]
        scores += [0.0] * len(texts)
    numbers = {
        "llama.context_length": 512,
        "llama.embedding_length": 32,
        "llama.block_count": 1,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": 1,
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("</s>"),
    }
    count = len(tokens)
    keys = {
        "general.architecture": (_STRING, _text("llama")),
        **{key: (_UINT32, struct.pack("<I", number)) for key, number in numbers.items()},
        "llama.attention.layer_norm_rms_epsilon": (_FLOAT32, struct.pack("<f", 1e-5)),
        **keys,
        "tokenizer.ggml.tokens": (_ARRAY, _texts(tokens)),
        "tokenizer.ggml.scores": (
            _ARRAY,
            struct.pack(f"<IQ{count}f", _FLOAT32, count, *scores),
        ),
        "tokenizer.ggml.token_type": (
            _ARRAY,
            struct.pack(f"<IQ{count}i", _INT32, count, *kinds),
        ),
    }
    data = bytearray(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)))
    for key, (type_, value) in keys.items():
        data += _text(key) + struct.pack("<I", type_) + value
    path.write_bytes(data)
    return path


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _texts(texts: list[str]) -> bytes:
    return struct.pack("<IQ", _STRING, len(texts)) + b"".join(map(_text, texts))
