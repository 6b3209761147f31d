"""Several answers at a time on the starter model: each says what it says alone."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from etui.arm import Arm, Sampling
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message
from etui.config.config import Config
from etui.engine.llama_session import LlamaSession
from etui.events import Event, Finished, Residence, SharedBatch
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER, ModelSpec
from etui.reasoning.answer_plan import answer_prompt
from tests.backends.asker import Asker
from tests.engine.batching.fakes import WAIT_SECONDS, threads, until

QUESTIONS = (
    "Name a colour of the rainbow.",
    "Write two sentences about the sea.",
    "What is the capital of France?",
    "Count from one to ten.",
)
GREEDY = Sampling(temperature=0)
NEAR_TIE = 0.5
"""Nats between two tokens of which batch mates may change the order: each moves by up to 0.24."""

SYSTEM = "You are an assistant for a small library. " * 12


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    home = tmp_path_factory.mktemp("catalogue")
    config = Config(home=home, models_dir=home)
    return replace(load_catalogue(config).models[STARTER], context=4096)


@pytest.fixture(scope="module")
def backend(
    starter_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalBackend]:
    config = Config(home=tmp_path_factory.mktemp("home"), models_dir=starter_model.parent)
    with closing(LocalBackend(replace(config, threads=1, parallel=4))) as backend:
        yield backend


@pytest.fixture
def batches(backend: LocalBackend, spec: ModelSpec, starter_model: Path) -> list[SharedBatch]:
    """The batches that the backend reports from now on."""
    for _ in backend.load(spec, starter_model):
        pass
    backend.forget()
    found: list[SharedBatch] = []
    backend.on_batch = found.append
    return found


def ask_together(
    backend: LocalBackend, requests: Sequence[AnswerRequest]
) -> list[tuple[list[Event], Finished]]:
    """Answer requests at a time; the second batch waits until all of them take part."""
    report = backend.on_batch
    assert report is not None

    def hold(batch: SharedBatch) -> None:
        backend.on_batch = report
        assert backend._shared is not None
        shared = backend._shared
        until(
            lambda: (
                shared._visits + sum(bool(each.sequences) for each in shared.requests)
                == len(requests)
            )
        )
        report(batch)

    backend.on_batch = hold
    start = threading.Barrier(len(requests))
    answers: list[list[Event]] = [[] for _ in requests]

    def run(index: int) -> None:
        start.wait(WAIT_SECONDS)
        events = Asker(backend).answer(requests[index], number=100 + index)
        answers[index].extend(events)

    with threads(*(lambda index=index: run(index) for index in range(len(requests)))):
        pass
    return [_with_last(events) for events in answers]


def _with_last(events: list[Event]) -> tuple[list[Event], Finished]:
    assert isinstance(events[-1], Finished)
    return events, events[-1]


def assert_like_alone(backend: LocalBackend, request: AnswerRequest, said: Finished) -> None:
    """An answer is what the model says alone, up to the first near-tie.

    Kernels add up in another order for a batch of another size, which moves log-probabilities by
    0.02 nats at the median, and by 0.24 at most (docs/serve.md). So where the texts part, two
    tokens were about equally likely.
    """
    backend.forget()
    session = finish_load(backend.load(request.model, request.path))  # type: ignore[arg-type]
    prompt = answer_prompt(request.messages, request.arm, session)
    sequence = session.open(prompt.tokens, GREEDY)
    vocabulary = range(session.vocabulary.vocabulary)
    try:
        written = b""
        for _ in range(request.arm.max_tokens):
            while not (step := session.step([sequence])).sampled:
                pass
            if step.sampled[0].ends:
                break
            written += step.sampled[0].piece
            text = written.decode(errors="ignore").strip()
            if not said.answer.startswith(text):
                second, first = sorted(session.logprobs(sequence, vocabulary))[-2:]
                assert first - second < NEAR_TIE, (text, said.answer)
                return
        assert said.answer == text
    finally:
        session.close(sequence, keep=False)


def finish_load(events: Generator[Residence, None, LlamaSession]) -> LlamaSession:
    while True:
        try:
            next(events)
        except StopIteration as end:
            session: LlamaSession = end.value
            return session


def numbers_in(batches: Sequence[SharedBatch]) -> list[set[int]]:
    return [{share.number for share in batch.shares} for batch in batches]


def test_parallel_answers_are_those_of_one_at_a_time(backend, spec, starter_model, batches):
    arm = Arm("direct", STARTER, max_tokens=24, sampling=GREEDY)
    requests = [
        AnswerRequest(spec, starter_model, (Message("user", text),), arm) for text in QUESTIONS
    ]
    together = ask_together(backend, requests)
    assert {100, 101, 102, 103} in numbers_in(batches)
    for before, after in pairwise(batches[:-1]):
        assert before.end_ns == after.start_ns
    for index, (_, last) in enumerate(together):
        own = [share for batch in batches for share in batch.shares if share.number == 100 + index]
        assert sum(share.prompt_tokens for share in own) == last.computed_tokens
        assert sum(share.decode_tokens for share in own) >= last.output_tokens - 1
        assert_like_alone(backend, requests[index], last)


def test_the_system_prompt_of_an_agent_is_computed_once(backend, spec, starter_model, batches):
    arm = Arm("direct", STARTER, max_tokens=8, sampling=GREEDY)

    def request(text: str, owner: str = "agent") -> AnswerRequest:
        messages = (Message("system", SYSTEM), Message("user", text))
        return AnswerRequest(spec, starter_model, messages, arm, owner=owner)

    together = [last for _, last in ask_together(backend, [request(text) for text in QUESTIONS])]
    system = finish_load(backend.load(spec, starter_model)).tokenize(SYSTEM)
    cached = sorted(last.cached_tokens for last in together)
    assert cached[0] == 0
    assert all(count >= len(system) for count in cached[1:])
    computed = sum(share.prompt_tokens for batch in batches for share in batch.shares)
    assert computed == sum(last.computed_tokens for last in together)
    assert computed < 2 * len(system)
    _, next_one = _with_last(list(backend.answer(request("And the opening hours?"))))
    assert next_one.cached_tokens >= len(system)
    _, other = _with_last(list(backend.answer(request("And the opening hours?", "other"))))
    assert other.cached_tokens == 0
    _, again = _with_last(list(backend.answer(request("And the opening hours?"))))
    assert again.cached_tokens == again.prompt_tokens - 1
