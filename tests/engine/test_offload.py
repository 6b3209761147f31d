"""Memory a model needs, and the layers that fit on a GPU."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine.context import Context, ContextOptions
from etui.engine.library import Device, Library
from etui.engine.model import Model
from etui.engine.offload import (
    Needs,
    Placement,
    PlacementSpeed,
    choose_placement,
    choose_sequences,
    fit_placement,
    fits_on_gpus,
    gpu_bytes,
    needs,
    ram_bytes,
    split_layers,
    step_down,
    usable_bytes,
)
from etui.models.cache_size import CacheSize, cache_size
from etui.models.gguf import Array, Gguf, Tensor, check_gguf
from etui.models.spec import ModelSpec
from tests.support.tiny_architectures import KINDS, write_architecture

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


@pytest.mark.parametrize("kind", KINDS)
def test_caches_take_what_llama_cpp_says(kind, tmp_path):
    path = write_architecture(tmp_path / "tiny.gguf", kind)
    size = cache_size(check_gguf(path))
    assert size is not None
    library = Library(tmp_path)
    model = Model(library, path)
    context = Context(library, model, ContextOptions(4096, 1, sequences=6, batch_tokens=64))
    context.free()
    model.free()
    library.close()
    found = re.findall(r"(?:KV|RS) buffer size = +([0-9.]+) MiB", library.log_path.read_text())
    assert found
    assert sum(map(float, found)) * (1 << 20) == pytest.approx(
        size.total_bytes(4096, 6, 64), abs=len(found) * 0.005 * (1 << 20)
    )


def windowed(architecture: str, layers: int, **keys: object) -> Gguf:
    """A header of a model with one KV head of 8 bytes a token in each layer."""
    numbers = {
        "block_count": layers,
        "embedding_length": 2,
        "attention.head_count": 1,
        "attention.sliding_window": 512,
        **{key.replace("__", "."): value for key, value in keys.items()},
    }
    metadata = {f"{architecture}.{key}": value for key, value in numbers.items()}
    return Gguf(
        Path("m.gguf"),
        3,
        0,
        {"general.architecture": architecture, **metadata},
        (),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("gguf", "full", "short"),
    [
        (windowed("gemma3", 18), 3, 15),
        (windowed("gpt-oss", 24), 12, 12),
        (windowed("smallthinker", 8), 2, 6),
        (windowed("unheard-of", 8), 8, 0),
        (windowed("gemma3", 8, attention__sliding_window_pattern=2), 4, 4),
        (
            windowed("gemma4", 4, attention__sliding_window_pattern=Array(4, (1, 1, 0, 1))),
            1,
            3,
        ),
    ],
)
def test_layers_with_a_window_are_found_as_llama_cpp_does(gguf, full, short):
    size = cache_size(gguf)
    assert (size.token_bytes, size.window_bytes) == (full * 8, short * 8)
    assert size.bytes_per_token == (full + short) * 8


def test_a_long_context_of_a_windowed_model_needs_little_more():
    gguf = windowed("gemma3", 18)
    short, long = (needs(gguf, tokens, "f16").kv_bytes for tokens in (8192, 32768))
    assert long - short == 3 * 8 * (32768 - 8192)


def test_states_and_windows_limit_the_sequences():
    size = CacheSize(100, 0, 0, 0)
    assert choose_sequences(None, 1) == choose_sequences(size, 1) == 16
    assert choose_sequences(replace(size, window_bytes=1, window_tokens=512), 1) == 8
    assert choose_sequences(replace(size, window_bytes=1, window_tokens=512), 8) == 16
    assert choose_sequences(replace(size, state_bytes=75_000_000), 4) == 6
    assert choose_sequences(replace(size, state_bytes=400_000_000), 4) == 4
    assert choose_sequences(replace(size, state_bytes=100), 1) == 16


def test_tied_embeddings_count_as_the_output():
    need = needs(header(("token_embd.weight", 400), ("blk.0.a", 80)), 100, "f16")
    assert need.output_bytes == 400


@pytest.mark.parametrize(
    ("free", "layers"), [(0, 0), (1, 0), (2.2, 1), (5, 3), (11.8, 10), (14, 11), (80, 11)]
)
def test_layers_fit_by_free_memory(free, layers):
    need = Needs(10, GB // 2, GB, 7 * GB, 5 * GB, GB)
    assert fit_placement(need, int(free * GB)) == Placement(layers)


@pytest.mark.parametrize(
    ("free", "layers"), [(3.9, 0), (4.3, 1), (5.2, 1), (5.3, 2), (9, 5), (14.7, 10), (14.8, 11)]
)
def test_the_output_matrix_goes_first(free, layers):
    """As llama.cpp does: a vocabulary of 3 GB needs room before any block of 1 GB has it."""
    need = Needs(10, GB // 2, 3 * GB, 9 * GB, 5 * GB, GB)
    assert fit_placement(need, int(free * GB)) == Placement(layers)
    assert ram_bytes(need, Placement(0)) == 15 * GB
    assert ram_bytes(need, Placement(1)) == 12 * GB
    assert ram_bytes(need, Placement(3)) == 10 * GB


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
    placement = fit_placement(need, free)
    assert 0 <= placement.gpu_layers <= need.layers + 1
    assert placement.cpu_moe == 0
    assert fit_placement(need, free + more).gpu_layers >= placement.gpu_layers


@given(NEEDS, st.integers(0, 101))
def test_what_goes_to_the_gpu_leaves_ram(need, layers):
    assert ram_bytes(need, Placement(0)) == need.total_bytes
    more, fewer = (ram_bytes(need, Placement(n)) for n in (layers + 1, layers))
    assert need.compute_bytes <= more <= fewer


def test_the_input_embeddings_stay_in_ram():
    need = Needs(10, GB, 2 * GB, weight_bytes=13 * GB, kv_bytes=10 * GB, compute_bytes=GB)
    assert ram_bytes(need, Placement(4)) == (24 - 8) * GB
    assert ram_bytes(need, Placement(10)) == (24 - 20) * GB
    assert ram_bytes(need, Placement(11)) == (24 - 22) * GB


@pytest.mark.parametrize(
    ("gpu_layers", "gpus", "expected"),
    [("all", 1, 11), ("auto", 1, 4), (3, 1, 3), (99, 1, 11), ("all", 0, 0), (3, 0, 0)],
)
def test_the_layers_are_those_of_the_model_or_what_fits(gpu_layers, gpus, expected):
    need = Needs(10, GB, GB, 11 * GB, 10 * GB, GB)
    found = [Device("GPU0", "fake", 9 * GB, 24 * GB)] * gpus
    spec = ModelSpec("m", "7B", (), gpu_layers=gpu_layers, cpu_moe=3)
    assert choose_placement(found, spec, need) == Placement(expected)


MIXTURE = Needs(10, 2 * GB, GB, 21 * GB, GB, GB, (15 * GB // 10,) * 10, 15 * GB // 10)
"""Blocks of 0.6 GB with their KV cache and 1.5 GB of experts in one tensor; 23 GB of memory."""


@st.composite
def mixtures(draw: st.DrawFn) -> Needs:
    """Needs of mixtures, some of whose first blocks have no experts."""
    dense, blocks = draw(st.integers(0, 3)), draw(st.integers(1, 60))
    experts = [0] * dense + draw(st.lists(SIZES, min_size=blocks, max_size=blocks))
    rest, output, kv, compute = (draw(SIZES) for _ in range(4))
    layers = dense + blocks
    layer_bytes = -(-sum(experts) // layers) + rest
    weights = layers * layer_bytes + output
    copied = draw(st.integers(0, max(experts)))
    return Needs(layers, layer_bytes, output, weights, kv, compute, tuple(experts), copied)


def gpus_with(*free: int) -> list[Device]:
    return [Device(f"GPU{at}", "fake", bytes_, 80 * GB) for at, bytes_ in enumerate(free)]


@pytest.mark.parametrize(
    ("free", "layers", "cpu_moe"),
    [
        (25, 11, 0),
        (24, 11, 2),  # those of one block would only change places with the copy
        (20, 11, 4),
        (12, 11, 9),
        (10, 11, 10),
        (8, 7, 10),  # attention and cache of the last blocks; the experts of none
        (3, 0, 0),
    ],
)
def test_experts_leave_the_gpu_before_layers(free, layers, cpu_moe):
    assert fit_placement(MIXTURE, free * GB) == Placement(layers, cpu_moe)


@given(st.one_of(mixtures(), NEEDS), st.integers(0, 1500 * GB))
def test_a_chosen_placement_fits(need, free):
    placement = fit_placement(need, free)
    assert fits_on_gpus(need, placement, free)
    # Nothing more would: neither the experts of one block more, nor a layer more.
    if placement.cpu_moe and placement.gpu_layers == need.layers + 1:
        assert not fits_on_gpus(need, Placement(need.layers + 1, placement.cpu_moe - 1), free)
    elif placement.gpu_layers <= need.layers:
        more = Placement(placement.gpu_layers + 1, len(need.expert_bytes))
        assert not fits_on_gpus(need, more, free)


@given(mixtures(), st.integers(0, 1500 * GB), st.integers(0, 100 * GB))
def test_more_memory_never_holds_fewer_experts_or_layers(need, free, more):
    before, after = (fit_placement(need, each) for each in (free, free + more))
    assert after.gpu_layers >= before.gpu_layers
    assert need.experts_on_gpu(after) >= need.experts_on_gpu(before)


@given(NEEDS, SIZES, st.integers(0, 120), st.integers(0, 120))
def test_a_dense_model_has_no_experts_to_place(need, free, layers, cpu_moe):
    assert fit_placement(need, free) == fit_placement(need, free, cpu_moe=cpu_moe)
    top = min(layers, need.layers + 1)
    assert fit_placement(need, free, layers, cpu_moe) == Placement(top)


@given(mixtures(), st.integers(0, 60), st.integers(0, 60))
def test_every_byte_of_the_weights_is_somewhere(need, layers, cpu_moe):
    placement = Placement(min(layers, need.layers + 1), min(cpu_moe, need.layers))
    on_gpu, in_ram = gpu_bytes(need, placement), ram_bytes(need, placement)
    assert in_ram >= need.compute_bytes
    twice = need.copied_bytes + 2 * need.compute_bytes
    assert need.total_bytes <= on_gpu + in_ram <= need.total_bytes + twice


@pytest.mark.parametrize(
    ("gpu_layers", "cpu_moe", "expected"),
    [
        ("auto", "auto", Placement(11, 4)),
        ("all", "auto", Placement(11, 4)),
        (6, "auto", Placement(6, 0)),
        ("auto", "all", Placement(11, 10)),
        ("auto", 0, Placement(8, 0)),  # whole layers alone
        ("all", 0, Placement(11, 0)),  # as asked for, although it does not fit
        (4, 99, Placement(4, 10)),
        (0, "all", Placement()),
    ],
)
def test_settings_fix_layers_or_experts(gpu_layers, cpu_moe, expected):
    spec = ModelSpec("m", "30B-A3B", (), gpu_layers=gpu_layers, cpu_moe=cpu_moe)
    assert choose_placement(gpus_with(20 * GB), spec, MIXTURE) == expected
    assert choose_placement([], spec, MIXTURE) == Placement()


def speeds(*measured: tuple[int, int, float]) -> list[PlacementSpeed]:
    return [PlacementSpeed(Placement(layers, experts), rate) for layers, experts, rate in measured]


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ([], Placement(11, 4)),
        ([(11, 4, 10.0)], Placement(11, 4)),
        ([(8, 0, 20.0)], Placement(11, 4)),  # that of the rule is not known
        ([(11, 4, 10.0), (8, 0, 10.5)], Placement(11, 4)),  # no clear difference
        ([(11, 4, 10.0), (8, 0, 12.0)], Placement(8, 0)),
        ([(11, 4, 10.0), (0, 0, 12.0)], Placement()),  # a GPU slower than the CPUs
        ([(11, 4, 10.0), (11, 0, 90.0)], Placement(11, 4)),  # too large now
        ([(11, 1, 10.0), (8, 0, 12.0)], Placement(8, 0)),  # more on the GPUs was no faster
        ([(11, 1, 30.0), (11, 4, 10.0), (8, 0, 12.0)], Placement(8, 0)),  # the nearest counts
        ([(11, 6, 10.0), (8, 0, 12.0)], Placement(11, 4)),  # less on the GPUs says nothing
    ],
)
def test_a_placement_measured_to_be_faster_is_preferred(measured, expected):
    spec = ModelSpec("m", "30B-A3B", ())
    assert choose_placement(gpus_with(20 * GB), spec, MIXTURE, speeds(*measured)) == expected
    fixed = ModelSpec("m", "30B-A3B", (), cpu_moe=5)
    assert choose_placement(gpus_with(20 * GB), fixed, MIXTURE, speeds(*measured)).cpu_moe == 5


@given(mixtures(), st.integers(0, 500 * GB), st.data())
def test_what_is_preferred_fits_too(need, free, data):
    layers, experts = st.integers(0, need.layers + 1), st.integers(0, need.layers)
    places = st.builds(Placement, layers, experts)
    measured = data.draw(
        st.lists(st.builds(PlacementSpeed, places, st.floats(0.1, 1e4)), max_size=6)
    )
    chosen = choose_placement(gpus_with(free), ModelSpec("m", "s", ()), need, measured)
    assert fits_on_gpus(need, chosen, free)


@pytest.mark.parametrize(
    ("gpu_layers", "cpu_moe"), [("auto", "auto"), ("all", "auto"), ("auto", 0), ("all", 0)]
)
@given(st.one_of(mixtures(), NEEDS))
def test_stepping_down_takes_experts_first_and_ends(gpu_layers, cpu_moe, need):
    spec = ModelSpec("m", "s", (), gpu_layers=gpu_layers, cpu_moe=cpu_moe)
    tried = [need.whole]
    while (lower := step_down(tried[-1], spec, need)) is not None:
        tried.append(lower)
    assert len(tried) < 50
    on_gpu = [(place.gpu_layers, need.layers - place.cpu_moe) for place in tried]
    if gpu_layers == "auto":
        assert tried[-1] == Placement()
        layers = [layers for layers, _ in on_gpu]
        assert layers == sorted(layers, reverse=True)
    if need.expert_bytes and cpu_moe == "auto":
        whole = [experts for layers, experts in on_gpu if layers == need.layers + 1]
        assert whole == sorted(set(whole), reverse=True)
        assert whole[-1] == 0  # before the first layer leaves
    if (gpu_layers, cpu_moe) == ("all", 0):
        assert tried == [need.whole]


@given(mixtures(), st.lists(st.integers(GB, 80 * GB), min_size=2, max_size=4), st.data())
def test_layers_are_divided_by_bytes_where_experts_are_in_ram(need, free, data):
    experts = data.draw(st.integers(0, need.layers))
    placement = Placement(need.layers + 1, experts)
    counts = split_layers(need, placement, free)
    if not experts:
        assert counts == ()
        return
    assert len(counts) == len(free)
    assert sum(counts) == need.layers + 1
    sizes = [need.block_bytes] * experts
    sizes += [need.block_bytes + size for size in need.expert_bytes[experts:]]
    sizes.append(need.output_bytes)
    at = 0
    for count, bytes_ in zip(counts, free, strict=True):
        taken = sum(sizes[at : at + int(count)])
        assert taken <= sum(sizes) * bytes_ / sum(free) + max(sizes) + 1
        at += int(count)


def test_two_gpus_get_equal_bytes_and_not_equal_layers():
    """With the experts of 6 blocks in RAM, 6 small blocks and a large one are half of it all."""
    placement = Placement(11, 6)
    assert split_layers(MIXTURE, placement, [20 * GB, 20 * GB]) == (7.0, 4.0)
    assert split_layers(MIXTURE, placement, [20 * GB]) == ()
    assert split_layers(MIXTURE, Placement(5, 6), [GB, GB]) == ()  # those blocks are in RAM whole
