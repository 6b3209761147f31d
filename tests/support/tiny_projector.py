"""Projectors of a few kilobytes with random weights, and pictures for them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Literal

import gguf
import numpy as np

IMAGE, PATCH, MERGE, WIDTH, HEADS, HIDDEN, BLOCKS = 32, 8, 2, 32, 2, 64, 2
TOKENS = (IMAGE // PATCH // MERGE) ** 2
"""Tokens of a picture that is encoded as a whole."""

Kind = Literal["idefics3", "gemma3", "mlp"]


def write_projector(path: Path, width: int, kind: Kind = "idefics3", *, edge: int = 0) -> Path:
    """Write a projector for a model of this width; ``edge`` is that of larger pictures in parts."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(0)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.use_gelu", True)
    for name, number in {
        "image_size": IMAGE,
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "block_count": BLOCKS,
        "projection_dim": width,
        "attention.head_count": HEADS,
        "projector.scale_factor": MERGE,
        "preproc_image_size": edge,
    }.items():
        if number:
            writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    random = np.random.default_rng(5)

    def add(name: str, *shape: int) -> None:
        spread = 1.5 / np.sqrt(shape[-1])
        writer.add_tensor(name, random.normal(0, spread, shape).astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, dtype=np.float32))

    add("v.patch_embd.weight", WIDTH, 3, PATCH, PATCH)
    add("v.patch_embd.bias", WIDTH)
    add("v.position_embd.weight", (IMAGE // PATCH) ** 2 + (kind == "mlp"), WIDTH)
    add_norm("v.post_ln")
    for block in range(BLOCKS):
        for each in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add(f"v.blk.{block}.{each}.weight", WIDTH, WIDTH)
            add(f"v.blk.{block}.{each}.bias", WIDTH)
        add(f"v.blk.{block}.ffn_up.weight", HIDDEN, WIDTH)
        add(f"v.blk.{block}.ffn_up.bias", HIDDEN)
        add(f"v.blk.{block}.ffn_down.weight", WIDTH, HIDDEN)
        add(f"v.blk.{block}.ffn_down.bias", WIDTH)
        add_norm(f"v.blk.{block}.ln1")
        add_norm(f"v.blk.{block}.ln2")
    if kind == "gemma3":
        add("mm.input_projection.weight", WIDTH, width)
        writer.add_tensor("mm.soft_emb_norm.weight", np.ones(WIDTH, dtype=np.float32))
    elif kind == "mlp":
        writer.add_tensor("v.class_embd", np.zeros(WIDTH, dtype=np.float32))
        for layer, columns in ((0, WIDTH), (2, width)):
            add(f"mm.{layer}.weight", width, columns)
            add(f"mm.{layer}.bias", width)
    else:
        add("mm.model.fc.weight", width, WIDTH * MERGE * MERGE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_png(width: int = 40, height: int = 40, seed: int = 0) -> bytes:
    """Return a PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width * 3), dtype=np.uint8)
    rows = np.hstack([np.zeros((height, 1), dtype=np.uint8), pixels])
    return join_png(width, height, zlib.compress(rows.tobytes()))


def join_png(width: int, height: int, compressed: bytes, interlaced: int = 0) -> bytes:
    """Return a PNG file of RGB pixels that are compressed already."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", compressed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def make_jpeg(
    width: int = 20, height: int = 10, kind: int = 0xC0, end: bytes = b"\xff\xd9"
) -> bytes:
    """Return the parts of a JPEG file, with pixels that no decoder takes."""
    size = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    head = b"\xff\xd8\xff\xe0\x00\x04ab"
    frame = bytes((0xFF, kind)) + struct.pack(">H", len(size) + 2) + size
    return head + frame + b"\xff\xda\x00\x02pixels" + end
