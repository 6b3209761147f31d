"""The most threads of a model: its own before those of config.yaml, and never more than CPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine import thread_count as thread_limits
from etui.engine.thread_count import ThreadLimits, choose_thread_limits
from etui.models.spec import ModelSpec

SPEC = ModelSpec("one", "135M", ())
CORES, CPUS = 4, 8
Asked = st.none() | st.integers(1, 1024)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores with two CPUs each."""
    monkeypatch.setattr(
        thread_limits,
        "choose_threads",
        lambda threads, _: CORES if threads is None else min(threads, CPUS),
    )


@pytest.mark.parametrize(
    ("config_threads", "threads", "prefill", "limits"),
    [
        (None, None, None, (4, 4, True)),
        (2, None, None, (2, 2, False)),
        (None, 3, None, (3, 3, True)),  # adapts below the model's own number
        (2, 3, None, (3, 3, False)),  # the model's number is more specific
        (2, 1, 4, (1, 4, False)),
        (2, None, 4, (2, 4, False)),
        (None, None, 1, (4, 1, True)),
        (None, 8, None, (8, 8, True)),  # more than cores, where there are CPUs
    ],
)
def test_the_number_of_the_model_comes_first(config, config_threads, threads, prefill, limits):
    spec = replace(SPEC, threads=threads, prefill_threads=prefill)
    found = choose_thread_limits(spec, replace(config, threads=config_threads))
    assert found == ThreadLimits(*limits)


@pytest.mark.parametrize(
    ("config_threads", "threads", "prefill", "note"),
    [
        (99, None, None, "8 of the 99 CPUs that `threads` needs"),
        (None, 9, None, "8 of the 9 CPUs that `threads` needs"),
        (None, 2, 16, "8 of the 16 CPUs that `prefill_threads` needs"),
        (99, 2, None, ""),  # the number of config.yaml is not used
    ],
)
def test_more_threads_than_cpus_are_noted(config, config_threads, threads, prefill, note):
    spec = replace(SPEC, threads=threads, prefill_threads=prefill)
    found = choose_thread_limits(spec, replace(config, threads=config_threads))
    assert found.note == (f"this process may run on {note}" if note else "")


def test_nothing_adapts_with_layers_on_a_gpu(config):
    spec = replace(SPEC, threads=3)
    assert not choose_thread_limits(spec, config, on_gpu=True).adapt


@given(config_threads=Asked, threads=Asked, prefill=Asked)
def test_limits_are_never_above_the_cpus(config, config_threads, threads, prefill):
    spec = replace(SPEC, threads=threads, prefill_threads=prefill)
    found = choose_thread_limits(spec, replace(config, threads=config_threads))
    assert 1 <= found.decode <= CPUS
    assert 1 <= found.prefill <= CPUS
    asked = [n for n in (threads or config_threads, prefill) if n is not None]
    assert bool(found.note) == (max(asked, default=0) > CPUS)
    assert found.adapt == (config_threads is None)
