"""Which model a first run recommends, on tables of machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.models import recommend
from etui.models.catalogue import load_catalogue
from etui.models.recommend import (
    LEAST_TOKENS_PER_SECOND,
    Candidate,
    estimate_need_bytes,
    find_fit,
    load_recommended,
    recommend_model,
    recommended_file,
    save_recommended,
)
from etui.models.spec import STARTER, ModelSpec

GB = 1e9


def shipped(config, bytes_per_second):
    """The shipped entries on CPUs with a memory of this speed."""
    found = []
    for spec in load_catalogue(config):
        need = estimate_need_bytes(spec)
        assert spec.file_bytes is not None
        assert need is not None
        speed = None if bytes_per_second is None else bytes_per_second / spec.file_bytes
        found.append(Candidate(spec.name, spec.file_bytes, need, speed, spec.recommend))
    return found


@pytest.mark.parametrize(
    ("memory_gb", "gpu_gb", "speed_gb", "name"),
    [
        (0.3, None, 20, None),  # nothing that may be recommended fits
        (0.9, None, 20, "qwen3.5-0.8b"),
        (1.3, None, 20, "gemma-3-1b"),
        (2, None, 20, "qwen3.5-2b"),
        (22, None, 20, "smollm3-3b"),  # a larger one is too slow
        (22, None, 26, "qwen3-4b"),
        (64, None, 200, "gemma-4-26b-a4b"),
        (64, None, None, None),  # nothing was measured
        (64, None, 2, "qwen3.5-0.8b"),  # none is fast enough: the fastest
        (16, 24, None, "gemma-4-26b-a4b"),
        (16, 4.5, None, "gemma-4-e2b"),
        (16, 2, None, "qwen3.5-2b"),
        (None, None, 20, None),
    ],
)
def test_the_recommendation_on_a_table_of_machines(config, memory_gb, gpu_gb, speed_gb, name):
    candidates = shipped(config, None if speed_gb is None else speed_gb * GB)
    memory = None if memory_gb is None else memory_gb * GB
    gpu = None if gpu_gb is None else gpu_gb * GB
    assert recommend_model(candidates, memory, gpu) == name


SOME = {"qwen2.5-coder-1.5b", "qwen3-0.6b", "qwen3-4b", "qwen3-8b", "gemma-3-1b"}
SOME |= {"llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "gemma-3-4b"}


@pytest.mark.parametrize(
    ("memory_gb", "speed_gb", "kept", "name"),
    [
        (22, 21, "llama-3.2-1b", "llama-3.2-1b"),  # the 3b writes 10.4 tokens/s: near-equal
        (22, 25, "llama-3.2-1b", "llama-3.2-3b"),
        (22, 25, None, "qwen3-4b"),
        (22, 25, "llama-3.2-3b", "llama-3.2-3b"),  # the 4b writes 10.01
        (2.5, 21, "llama-3.2-3b", "llama-3.2-1b"),  # it does not fit any more
        (3.1, 17, "llama-3.2-3b", "llama-3.2-3b"),  # 8.4 tokens/s, and it fits without spare room
        (22, 15, "llama-3.2-3b", "llama-3.2-1b"),  # it has become too slow
        (22, 2, "gemma-3-1b", "qwen3-0.6b"),  # none is fast, and it is 1.26 times as fast
        (22, 2, "llama-3.2-1b", "qwen3-0.6b"),
        (22, 20, "qwen2.5-coder-1.5b", "llama-3.2-1b"),  # recommended by an older version
        (22, 20, "gone", "llama-3.2-1b"),
        (22, None, "llama-3.2-1b", None),
        (0.3, 20, "llama-3.2-1b", None),
    ],
)
def test_what_was_recommended_stays_unless_another_is_clearly_better(
    config, memory_gb, speed_gb, kept, name
):
    speed = None if speed_gb is None else speed_gb * GB
    candidates = [each for each in shipped(config, speed) if each.name in SOME]
    assert recommend_model(candidates, memory_gb * GB, None, kept) == name


def test_what_was_recommended_is_kept_for_each_machine(config, monkeypatch):
    assert load_recommended(config) is None
    save_recommended(config, "a")
    monkeypatch.setattr(recommend, "machine_name", lambda: "another")
    assert load_recommended(config) is None
    save_recommended(config, "b")
    assert load_recommended(config) == "b"
    monkeypatch.undo()
    assert load_recommended(config) == "a"
    for text in ("", "[]", "{", '{"' + recommend.machine_name() + '": 1}'):
        recommended_file(config).write_text(text)
        assert load_recommended(config) is None
    save_recommended(config, "c")
    assert load_recommended(config) == "c"


def test_the_demo_and_the_base_model_are_never_recommended(config):
    catalogue = load_catalogue(config)
    assert not catalogue.get(STARTER).recommend
    assert not catalogue.get("gemma-3-270m").recommend
    assert all(spec.good_for for spec in catalogue)
    assert "tiny demo" in catalogue.get(STARTER).good_for


candidates = st.builds(
    Candidate,
    st.text("abc", min_size=1, max_size=3),
    st.integers(1, 10**11),
    st.integers(1, 10**11),
    st.none() | st.floats(0.01, 1e4),
    st.booleans(),
)


@given(
    st.lists(candidates, unique_by=lambda c: c.name),
    st.floats(0, 1e11),
    st.none() | st.floats(0, 1e11),
)
def test_what_is_recommended_fits_and_no_larger_one_is_fast_enough(models, memory, gpu):
    name = recommend_model(models, memory, gpu)
    fitting = [
        c
        for c in models
        if c.recommend and find_fit(c.need_bytes, memory, gpu) in ("gpu", "memory")
    ]
    if name is None:
        assert all(c.tokens_per_second is None for c in fitting)
        assert all(find_fit(c.need_bytes, memory, gpu) == "memory" for c in fitting)
        return
    chosen = next(c for c in fitting if c.name == name)
    larger = [c for c in fitting if c.weight_bytes > chosen.weight_bytes]
    assert all(
        (c.tokens_per_second or 0) < LEAST_TOKENS_PER_SECOND for c in larger if c.tokens_per_second
    )


@given(st.integers(1, 10**11), st.floats(0, 1e12), st.none() | st.floats(0, 1e12))
def test_more_memory_never_fits_worse(need, memory, gpu):
    if find_fit(need, memory, gpu) in ("gpu", "memory"):
        assert find_fit(need, memory * 2, gpu) in ("gpu", "memory")
    assert find_fit(None, memory, gpu) == "unknown"


@pytest.mark.parametrize(
    ("kv", "kv_type", "limit", "expected"),
    [
        (1000, "f16", None, 100_000_000 + 8192 * 1000 + 128_000_000),
        (1000, "f16", 4096, 100_000_000 + 4096 * 1000 + 128_000_000),
        (1024, "q8_0", None, 100_000_000 + 8192 * 544 + 128_000_000),
        (None, "f16", None, 100_000_000 + 25_000_000 + 128_000_000),
    ],
)
def test_the_memory_of_a_model_before_its_header_is_there(kv, kv_type, limit, expected):
    spec = ModelSpec(
        "m", "m", (), file_bytes=100_000_000, context=8192, kv_type=kv_type,
        kv_bytes_per_token=kv,
    )  # fmt: skip
    assert estimate_need_bytes(spec, limit) == expected
    assert estimate_need_bytes(ModelSpec("m", "m", ())) is None
