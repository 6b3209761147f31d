"""The GGUF reader: what it says of real headers, and that nothing else than refusal can happen."""

from __future__ import annotations

import contextlib
import ctypes
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine.offload import needs
from etui.errors import ModelUnavailable
from etui.models.cache_size import cache_size
from etui.models.gguf import (
    TENSOR_TYPES,
    Array,
    Gguf,
    Tensor,
    check_gguf,
    check_usable,
    parse,
)
from etui.models.spec import ModelSampling
from tests.contract.tiny_model import write_tiny_model
from tests.support.tiny_mixtures import BLOCKS, EXPERTS, write_mixture


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def tiny_gguf(*more):
    """A whole GGUF: two layers, a vocabulary of three, two tensors (one quantised)."""
    keys: list[tuple[str, int, bytes]] = [
        ("general.architecture", 8, string("llama")),
        ("general.name", 8, string("Tiny")),
        ("general.file_type", 4, struct.pack("<I", 15)),
        ("llama.context_length", 4, struct.pack("<I", 2048)),
        ("llama.block_count", 4, struct.pack("<I", 2)),
        ("llama.embedding_length", 4, struct.pack("<I", 64)),
        ("llama.attention.head_count", 4, struct.pack("<I", 4)),
        ("llama.attention.head_count_kv", 9, struct.pack("<IQII", 4, 2, 2, 1)),
        ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + string("a") + string("b") * 2),
        ("tokenizer.ggml.add_bos_token", 7, b"\1"),
        ("tokenizer.chat_template", 8, string("{{ messages }}")),
        *more,
    ]
    tensors = [("token_embd.weight", (64, 3), 0, 0), ("blk.0.w", (32, 2), 8, 768)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, kind, value in keys:
        head += string(key) + struct.pack("<I", kind) + value
    for name, shape, kind, offset in tensors:
        head += string(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset)
    head += b"\0" * (-len(head) % 32)
    return head + b"\0" * (64 * 3 * 4) + b"\0" * (2 * 34)


TINY = tiny_gguf()


def test_header_is_read(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TINY)
    gguf = check_gguf(path)
    assert (gguf.architecture, gguf.name, gguf.quantisation) == ("llama", "Tiny", "Q4_K_M")
    assert (gguf.context_tokens, gguf.layers, gguf.vocabulary) == (2048, 2, 3)
    assert gguf.parameters == 64 * 3 + 32 * 2
    assert gguf.chat_template == "{{ messages }}"
    assert gguf.metadata["llama.attention.head_count_kv"] == Array(2, (2, 1))
    assert gguf.metadata["tokenizer.ggml.tokens"] == Array(3, None)
    assert gguf.metadata["tokenizer.ggml.add_bos_token"] is True
    assert gguf.tensors[1].offset + (gguf.tensors[1].size_bytes or 0) == len(TINY)


def bytes_per_token(gguf: Gguf, kv_type: str) -> int:
    size = cache_size(gguf, kv_type)
    assert size is not None
    return size.bytes_per_token


def test_kv_bytes_are_summed_over_uneven_layers():
    gguf = parse(Path("tiny.gguf"), TINY, len(TINY))
    assert bytes_per_token(gguf, "f16") == (2 + 1) * (16 + 16) * 2
    assert bytes_per_token(gguf, "q8_0") == (2 + 1) * (16 + 16) * 34 // 32


@given(st.integers(0, len(TINY) - 1))
def test_every_truncation_is_refused(length):
    with pytest.raises(ModelUnavailable) as caught:
        parse(Path("tiny.gguf"), TINY[:length], length)
    assert "truncated" in caught.value.what


@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_are_read_or_refused(tail):
    data = b"GGUF" + tail
    with contextlib.suppress(ModelUnavailable):  # any other error fails the test
        parse(Path("any.gguf"), data, len(data))


@given(st.lists(st.tuples(st.integers(0, len(TINY) - 1), st.integers(0, 255)), max_size=6))
def test_damage_anywhere_is_read_or_refused(damage):
    data = bytearray(TINY)
    for at, byte in damage:
        data[at] = byte
    try:
        gguf = parse(Path("tiny.gguf"), bytes(data), len(data))
    except ModelUnavailable:
        return
    ask_everything(gguf)


def ask_everything(gguf):
    """What was accepted can be asked everything without another failure."""
    assert gguf.architecture
    assert gguf.quantisation
    assert gguf.parameters >= 0
    cache_size(gguf)
    gguf.find_fault()
    need = needs(gguf, 4096, "f16")
    assert isinstance(need.total_bytes, int)


EXTREMES = [0, 1, 2**7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
FIELDS = {1: "B", 2: "H", 4: "I", 8: "Q"}


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(TINY) - 8), st.sampled_from([*FIELDS]), st.sampled_from(EXTREMES)
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 64),
)
def test_extreme_numbers_anywhere_are_read_or_refused(fields, cut):
    data = bytearray(TINY)
    for at, width, number in fields:
        struct.pack_into(f"<{FIELDS[width]}", data, at, number & (256**width - 1))
    whole = bytes(data[: len(data) - cut])
    try:
        gguf = parse(Path("tiny.gguf"), whole, len(whole))
    except ModelUnavailable:
        return
    ask_everything(gguf)


def test_every_number_of_the_header_may_be_extreme():
    """All 8-byte fields in turn: the counts, the lengths of strings and arrays, the shapes."""
    end = TINY.index(b"blk.0.w") + 64
    for at in range(4, end):
        for number in EXTREMES:
            data = bytearray(TINY)
            struct.pack_into("<Q", data, at, number)
            try:
                gguf = parse(Path("tiny.gguf"), bytes(data), len(data))
            except ModelUnavailable:
                continue
            ask_everything(gguf)


@pytest.mark.parametrize("length", [2**63 - 1, 2**63, 2**64 - 1])
def test_a_string_longer_than_the_file_is_refused(length):
    at = TINY.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 4 + 4 + 8
    data = bytearray(TINY)
    struct.pack_into("<Q", data, at, length)
    with pytest.raises(ModelUnavailable, match="truncated"):
        parse(Path("tiny.gguf"), bytes(data), len(data))


def test_the_memory_of_a_header_is_bounded():
    key_count = 1 << 16
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, key_count)
    key = string("general.x") + struct.pack("<IIQ", 9, 0, 1024) + bytes(1024)
    data = head + key.replace(b"general.x", b"general.y") + key * 2
    with pytest.raises(ModelUnavailable, match=f"claims {key_count} metadata keys"):
        parse(Path("large.gguf"), data, len(data))


def number(value):
    return 4, struct.pack("<I", value)


def real(value):
    return 6, struct.pack("<f", value)


UNUSABLE = {
    "no vocabulary": ({"tokenizer.ggml.model": (8, string("no_vocab"))}, "no vocabulary"),
    "none": ({"tokenizer.ggml.model": (8, string("none"))}, "no vocabulary"),
    "no layers": ({"llama.block_count": number(0)}, "block_count' is 0"),
    "too many layers": ({"llama.block_count": number(2**31)}, "block_count"),
    "nan": ({"llama.attention.layer_norm_rms_epsilon": real(math.nan)}, "no usable number"),
    "infinite": ({"llama.attention.layer_norm_rms_epsilon": real(math.inf)}, "no usable number"),
    "negative": ({"llama.attention.layer_norm_rms_epsilon": real(-1.0)}, "no usable number"),
    "rope nan": ({"llama.rope.freq_base": real(math.nan)}, "no usable number"),
    "context": ({"llama.context_length": number(0)}, "context_length' is 0"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_headers_that_abort_llama_cpp_are_refused(tmp_path, name):
    changes, says = UNUSABLE[name]
    path = write_tiny_model(tmp_path / "bad.gguf", changes=changes)
    ask_everything(check_gguf(path))
    with pytest.raises(ModelUnavailable) as caught:
        check_usable(path)
    assert says in caught.value.what
    assert caught.value.what.isprintable()


def test_a_good_model_is_usable(tmp_path):
    assert check_usable(write_tiny_model(tmp_path / "good.gguf")).find_fault() == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 and more", "is not a GGUF file"),
        (b"<!DOCTYPE html><html>", "error page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
        (b"GGUF\x03", "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "claims"),
    ],
)
def test_what_is_no_model_is_refused_clearly(tmp_path, content, says):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable) as caught:
        check_gguf(path)
    assert says in caught.value.what
    assert "model.gguf" in caught.value.what
    assert "\n" not in caught.value.what


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelUnavailable, match="cannot read the model file"):
            check_gguf(path)


def test_tensor_types_are_those_of_llama_cpp():
    from llama_cpp import llama_cpp

    lib = llama_cpp._lib
    lib.ggml_type_name.restype = ctypes.c_char_p
    lib.ggml_blck_size.restype = ctypes.c_int64
    lib.ggml_type_size.restype = ctypes.c_size_t
    theirs = {
        kind: (
            lib.ggml_type_name(kind).decode().upper(),
            lib.ggml_blck_size(kind),
            lib.ggml_type_size(kind),
        )
        for kind in TENSOR_TYPES
    }
    assert theirs == TENSOR_TYPES


def asks(name, kind, value):
    return (f"general.sampling.{name}", kind, value)


def f32(value):
    return struct.pack("<f", value)


def test_the_sampling_that_a_file_asks_for(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(
        tiny_gguf(
            asks("temp", 6, f32(0.6)),
            asks("top_p", 6, f32(0.95)),
            asks("top_k", 5, struct.pack("<i", 20)),
            asks("min_p", 6, f32(0.0)),
            asks("penalty_repeat", 6, f32(1.05)),
            asks("penalty_last_n", 5, struct.pack("<i", -1)),
            asks("mirostat", 5, struct.pack("<i", 2)),
            asks("sequence", 8, string("kpt")),
        )
    )
    assert check_gguf(path).sampling == ModelSampling(0.6, 0.95, 20, 0.0, 1.05, -1)


def test_values_that_cannot_be_used_are_as_if_they_were_not_there(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TINY)
    assert check_gguf(path).sampling is None
    path.write_bytes(
        tiny_gguf(
            asks("temp", 6, f32(math.nan)),
            asks("top_p", 6, f32(0.0)),
            asks("top_k", 5, struct.pack("<i", -3)),
            asks("min_p", 7, b"\1"),
            asks("penalty_repeat", 8, string("1.1")),
        )
    )
    assert check_gguf(path).sampling is None


@pytest.mark.parametrize("architecture", ["qwen3moe", "qwen2moe", "gpt-oss"])
def test_the_experts_of_a_mixture(tmp_path, architecture):
    """Routers and shared experts are read for every token, so that they are not among them."""
    gguf = check_usable(write_mixture(tmp_path / "m.gguf", architecture))
    assert (gguf.experts, gguf.experts_used) == (EXPERTS, 2)
    names = [t.name for t in gguf.tensors if "_exps." in t.name]
    assert len(names) == BLOCKS * (6 if architecture == "gpt-oss" else 3)
    weights = sum(math.prod(t.shape) for t in gguf.tensors if t.name in names)
    assert gguf.expert_bytes == (4 * weights // BLOCKS,) * BLOCKS
    assert gguf.active_parameters == gguf.parameters - weights * 6 // 8
    assert gguf.active_bytes == gguf.size_bytes - 4 * weights * 6 // 8
    assert gguf.find_fault() == ""


def test_a_dense_model_uses_all_of_its_weights(tmp_path):
    gguf = check_usable(write_tiny_model(tmp_path / "m.gguf"))
    assert (gguf.experts, gguf.experts_used, gguf.expert_bytes) == (0, 0, ())
    assert gguf.active_parameters == gguf.parameters
    assert gguf.active_bytes == gguf.size_bytes


def test_a_table_that_is_looked_up_is_not_read():
    table = (
        Tensor("per_layer_token_embd.weight", (256, 100), "F32", 0, 102_400),
        Tensor("blk.0.ffn_up.weight", (256, 10), "F32", 102_400, 10_240),
    )
    gguf = Gguf(Path("m"), 3, 112_640, {"general.architecture": "gemma4"}, table)
    assert (gguf.active_bytes, gguf.active_parameters) == (10_240, 2560)
    metadata = {
        "general.architecture": "gemma4",
        "gemma4.block_count": 30,
        "gemma4.embedding_length_per_layer_input": 256,
    }
    start = Gguf(Path("m"), 3, 3 * 10**9, metadata, (), stated_parameters=5_100_000_000)
    assert start.active_parameters == pytest.approx(5.1e9 - 30 * 256 * 2**18, rel=0.001)
    assert start.active_bytes / start.size_bytes == pytest.approx(0.605, abs=0.001)


@given(st.integers(-5, 40), st.integers(-5, 40), st.integers(-1, 10))
def test_damaged_counts_of_experts_are_no_error(experts, used, block):
    """A header may claim anything; what is shown stays between nothing and the whole file."""
    metadata = {
        "general.architecture": "m",
        "m.block_count": 2,
        "m.expert_count": experts,
        "m.expert_used_count": used,
    }
    table = (Tensor(f"blk.{block}.ffn_up_exps.weight", (8, 8, 4), "F32", 0, 1024),)
    gguf = Gguf(Path("m"), 3, 2048, metadata, table)
    assert 0 <= gguf.active_parameters <= gguf.parameters
    assert 0 <= gguf.active_bytes <= gguf.size_bytes
    assert sum(gguf.expert_bytes) <= 1024
