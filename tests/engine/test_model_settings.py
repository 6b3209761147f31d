"""Threads, batch size and depth of drafts of a model: what is asked for is what llama.cpp gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from etui.arm import Sampling
from etui.config.config import Config
from etui.engine import thread_count as thread_limits
from etui.engine.llama_session import LlamaSession
from etui.engine.residency import Residency
from etui.models.spec import ModelSpec
from tests.engine.opened import opened

SPEC = ModelSpec("one", "135M", (), context=512, sha256="ab" * 32)


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_limits, "choose_threads", lambda threads, _: min(threads or 2, 2))


@pytest.fixture
def residency(config: Config, two_cpus: None) -> Iterator[Residency]:
    residency = Residency(replace(config, threads=1))
    yield residency
    residency.close()


def compute(session: LlamaSession, tokens: int) -> tuple[int, int]:
    """Compute a batch, and return the threads that llama.cpp has for one row and for more."""
    sequence = session.open(list(range(100, 100 + tokens)), Sampling())
    session.step([sequence], draw=False)
    session.close(sequence, keep=False)
    context = session._context
    library = context.api._lib
    return (
        library.llama_n_threads(context.handle),
        library.llama_n_threads_batch(context.handle),
    )


def test_threads_are_set_between_answers_without_a_load(residency, starter_model):
    session, loaded, _ = opened(residency, replace(SPEC, threads=2), starter_model)
    assert loaded is not None
    assert compute(session, 32) == (2, 2)
    for decode, prefill in ((1, 2), (2, 1), (1, 1), (2, None)):
        spec = replace(SPEC, threads=decode, prefill_threads=prefill)
        again, loaded, _ = opened(residency, spec, starter_model)
        assert again is session
        assert loaded is None
        assert compute(session, 32) == (decode, prefill or decode)
        assert compute(session, 1)[0] == decode
    opened(residency, SPEC, starter_model)  # those of config.yaml again
    assert compute(session, 32) == (1, 1)


def test_the_depth_of_drafts_is_set_without_a_load(residency, starter_model):
    session, _, _ = opened(residency, SPEC, starter_model)
    assert session.speculator.draft_tokens is None
    again, loaded, _ = opened(residency, replace(SPEC, draft_tokens=3), starter_model)
    assert (again, loaded) == (session, None)
    assert session.speculator.draft_tokens == 3


def test_another_batch_size_is_a_load_and_reaches_llama_cpp(residency, starter_model):
    session, _, _ = opened(residency, SPEC, starter_model)
    assert session.options.batch_tokens == 128
    session, loaded, _ = opened(residency, replace(SPEC, batch_tokens=48), starter_model)
    assert loaded is not None
    context = session._context
    sizes = context.api.llama_n_batch(context.handle), context.api.llama_n_ubatch(context.handle)
    assert sizes == (48, 48)
    assert session.facts.batch_tokens == 48
    sequence = session.open(list(range(100, 200)), Sampling())
    computed = [session.step([sequence], draw=False).computed[sequence.id] for _ in range(3)]
    assert computed == [48, 48, 4]
