"""Memory a model needs, and the layers that fit on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine.library import Device
from etui.engine.offload import (
    Needs,
    choose_layers,
    fewer_layers,
    layers_that_fit,
    needs,
    ram_bytes,
    usable_bytes,
)
from etui.models.gguf import Gguf, Tensor
from etui.models.spec import ModelSpec

GB = 1_000_000_000
SIZES = st.integers(0, 20 * GB)
NEEDS = st.builds(
    Needs,
    layers=st.integers(1, 100),
    layer_bytes=SIZES,
    output_bytes=SIZES,
    weight_bytes=SIZES,
    kv_bytes=SIZES,
    compute_bytes=SIZES,
)


def header(*tensors: tuple[str, int]) -> Gguf:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
    }
    table = tuple(Tensor(name, (size // 4,), "F32", 0, size) for name, size in tensors)
    return Gguf(Path("m.gguf"), 3, 0, metadata, table)


def test_weights_cache_and_buffers_are_added_up():
    need = needs(
        header(
            ("token_embd.weight", 400), ("output.weight", 400), ("blk.0.a", 80), ("blk.1.a", 120)
        ),
        context_tokens=100,
        kv_type="f16",
    )
    assert (need.layers, need.layer_bytes, need.output_bytes) == (2, 100, 400)
    assert need.weight_bytes == 1000
    assert need.kv_bytes == 100 * 2 * 2 * (16 + 16) * 2
    assert need.total_bytes == need.weight_bytes + need.kv_bytes + need.compute_bytes


def test_tied_embeddings_count_as_the_output():
    need = needs(header(("token_embd.weight", 400), ("blk.0.a", 80)), 100, "f16")
    assert need.output_bytes == 400


@pytest.mark.parametrize(
    ("free", "layers"), [(0, 0), (1, 0), (2.2, 1), (5, 3), (11.8, 10), (14, 11), (80, 11)]
)
def test_layers_fit_by_free_memory(free, layers):
    need = Needs(10, GB // 2, GB, 7 * GB, 5 * GB, GB)
    assert layers_that_fit(need, int(free * GB)) == layers


@pytest.mark.parametrize(
    ("free", "layers"), [(3.9, 0), (4.3, 1), (5.2, 1), (5.3, 2), (9, 5), (14.7, 10), (14.8, 11)]
)
def test_the_output_matrix_goes_first(free, layers):
    """As llama.cpp does: a vocabulary of 3 GB needs room before any block of 1 GB has it."""
    need = Needs(10, GB // 2, 3 * GB, 9 * GB, 5 * GB, GB)
    assert layers_that_fit(need, int(free * GB)) == layers
    assert ram_bytes(need, 0) == 15 * GB
    assert ram_bytes(need, 1) == 12 * GB
    assert ram_bytes(need, 3) == 10 * GB


@pytest.mark.parametrize(
    ("split", "main_gpu", "shares", "usable"),
    [
        ("layer", 0, (), 32),
        ("row", 1, (), 32),
        ("none", 0, (), 24),
        ("none", 1, (), 8),
        ("none", 2, (), 0),
        ("layer", 0, (3, 1), 32),
        ("layer", 0, (1, 1), 16),  # the second one bounds both
        ("layer", 0, (1,), 24),
        ("layer", 0, (0, 5), 8),
        ("layer", 0, (0, 0, 1), 0),
    ],
)
def test_a_split_bounds_what_may_be_taken(split, main_gpu, shares, usable):
    assert usable_bytes([24 * GB, 8 * GB], split, main_gpu, shares) == usable * GB


@given(st.lists(SIZES, min_size=1, max_size=4), st.lists(st.integers(0, 100), max_size=4))
def test_shares_never_take_more_than_a_gpu_has(free, shares):
    usable = usable_bytes(free, "layer", 0, shares)
    for size, share in zip(free, shares, strict=False):
        assert usable * share / max(1, sum(shares)) <= size * (1 + 1e-9)


@given(NEEDS, SIZES, SIZES)
def test_more_memory_never_holds_fewer_layers(need, free, more):
    layers = layers_that_fit(need, free)
    assert 0 <= layers <= need.layers + 1
    assert layers_that_fit(need, free + more) >= layers


@given(st.integers(1, 1000))
def test_stepping_down_ends_on_the_cpu(layers):
    steps = 0
    while layers:
        assert fewer_layers(layers) < layers
        layers = fewer_layers(layers)
        steps += 1
    assert steps < 25


@given(NEEDS, st.integers(0, 101))
def test_what_goes_to_the_gpu_leaves_ram(need, layers):
    assert ram_bytes(need, 0) == need.total_bytes
    assert need.compute_bytes <= ram_bytes(need, layers + 1) <= ram_bytes(need, layers)


def test_the_input_embeddings_stay_in_ram():
    need = Needs(10, GB, 2 * GB, weight_bytes=13 * GB, kv_bytes=10 * GB, compute_bytes=GB)
    assert ram_bytes(need, 4) == (24 - 8) * GB
    assert ram_bytes(need, 10) == (24 - 20) * GB
    assert ram_bytes(need, 11) == (24 - 22) * GB


@pytest.mark.parametrize(
    ("gpu_layers", "gpus", "expected"),
    [("all", 1, 11), ("auto", 1, 4), (3, 1, 3), (99, 1, 11), ("all", 0, 0), (3, 0, 0)],
)
def test_the_layers_are_those_of_the_model_or_what_fits(gpu_layers, gpus, expected):
    need = Needs(10, GB, GB, 11 * GB, 10 * GB, GB)
    found = [Device("GPU0", "fake", 9 * GB, 24 * GB)] * gpus
    spec = ModelSpec("m", "7B", (), gpu_layers=gpu_layers)
    assert choose_layers(found, spec, need) == expected
