"""Several answers at a time on a LocalBackend, with models of a fake llama.cpp."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from etui.arm import Arm, EarlyExit
from etui.backends import local as concurrent_answers
from etui.backends.local import LocalBackend, choose_prompt_limit
from etui.config.config import Config
from etui.engine.batching.shared_session import RequestSession
from etui.errors import ContextOverflow, EngineFailed
from etui.events import Event, Finished, Loaded, SharedBatch, Thought, Unloaded
from etui.models.spec import ModelSpec
from tests.backends.asker import Asker
from tests.backends.fake_residency import (
    FIRST,
    PATH,
    SECOND,
    FakeResidency,
    fake_residency,
    finished,
    request,
)
from tests.engine.batching.fakes import (
    CHAT,
    WAIT_SECONDS,
    Held,
    find_text,
    outcome,
    threads,
    until,
)

QUESTIONS = tuple(
    find_text(40, f"[user]{{}} {number}[assistant]") + f" {number}" for number in "1234"
)


@pytest.fixture
def residency(monkeypatch: pytest.MonkeyPatch) -> type[FakeResidency]:
    return fake_residency(monkeypatch)


@pytest.fixture
def backend(config: Config, residency: type[FakeResidency]) -> Iterator[LocalBackend]:
    backend = LocalBackend(replace(config, parallel=4, keep_warm=0.0))
    yield backend
    backend.close()


def load(backend: LocalBackend, spec: ModelSpec = FIRST) -> None:
    for _ in backend.load(spec, PATH):
        pass


def collect(events: Iterator[Event], into: list[Event]) -> Callable[[], None]:
    return lambda: into.extend(events)


def test_a_running_answer_and_the_next_one_share_batches(backend, residency):
    load(backend)
    batches: list[SharedBatch] = []
    backend.on_batch = batches.append
    held = Held(residency.contexts["first"], at=8)
    first, second = Asker(backend), Asker(backend)
    answers: tuple[list[Event], list[Event]] = ([], [])

    def ask_second() -> None:
        assert held.reached.wait(WAIT_SECONDS)
        answers[1].extend(second.answer(request(QUESTIONS[1]), number=2))

    def release() -> None:
        assert held.reached.wait(WAIT_SECONDS)
        assert backend._shared is not None
        shared = backend._shared
        until(lambda: shared._visits)  # the second one opens its prompt
        held.released.set()

    ask_first = collect(first.answer(request(QUESTIONS[0]), number=1), answers[0])
    with threads(ask_first, ask_second, release):
        pass
    shared = [batch for batch in batches if len(batch.shares) == 2]
    decoding = [share for batch in shared for share in batch.shares if share.number == 1]
    assert shared
    assert all((share.prompt_tokens, share.decode_tokens) == (0, 1) for share in decoding)


def test_a_number_of_a_running_answer_is_refused(backend):
    answerer = Asker(backend)
    events = answerer.answer(request(QUESTIONS[0]), number=5)
    next(events)
    with pytest.raises(ValueError, match="number 5 is running"):
        next(Asker(backend).answer(request(QUESTIONS[0]), number=5))
    finished(list(events))
    finished(list(answerer.answer(request(QUESTIONS[0]), number=5)))
    assert answerer.numbers == (5, 5)


def test_another_model_waits_and_so_do_those_behind_it(backend, residency):
    load(backend)
    held = Held(residency.contexts["first"], at=3)
    order: list[str] = []
    queued = [threading.Event(), threading.Event()]

    def run(name: str, spec: ModelSpec, answerer: Asker) -> None:
        events = answerer.answer(request(QUESTIONS[0], spec))
        loads = [event for event in events if isinstance(event, Loaded | Unloaded | Finished)]
        order.extend(
            f"{name} {type(event).__name__} {getattr(event, 'name', getattr(event, 'model', ''))}"
            for event in loads
        )

    enter = backend._queue.enter

    def entered() -> Any:
        ticket = enter()
        if held.reached.is_set():
            queued[queued[0].is_set()].set()
        return ticket

    backend._queue.enter = entered  # type: ignore[method-assign]

    def second() -> None:
        assert held.reached.wait(WAIT_SECONDS)
        run("b", SECOND, Asker(backend))

    def third() -> None:
        assert queued[0].wait(WAIT_SECONDS)
        run("c", FIRST, Asker(backend))

    def release() -> None:
        assert queued[1].wait(WAIT_SECONDS)
        held.released.set()

    with threads(lambda: run("a", FIRST, Asker(backend)), second, third, release):
        pass
    assert [each.split()[:2] for each in order] == [
        ["a", "Finished"],
        ["b", "Unloaded"],
        ["b", "Loaded"],
        ["b", "Finished"],
        ["c", "Unloaded"],
        ["c", "Loaded"],
        ["c", "Finished"],
    ]


def test_a_cancel_ends_an_answer_that_waits_in_the_queue(backend, residency):
    load(backend)
    held = Held(residency.contexts["first"], at=3)
    waiting = Asker(backend)
    first: list[Event] = []
    stopped: list[Event] = []

    def wait() -> None:
        assert held.reached.wait(WAIT_SECONDS)
        events = waiting.answer(request(QUESTIONS[0], SECOND))
        threading.Thread(target=waiting.cancel, daemon=True).start()
        stopped.extend(events)
        held.released.set()  # it has ended while the other's batch ran

    with threads(collect(backend.answer(request(QUESTIONS[0])), first), wait):
        pass
    assert [type(event) for event in stopped] == [Finished]
    assert finished(stopped).status == "stopped"
    assert finished(stopped).prompt_tokens == 0
    assert finished(first).status != "stopped"
    assert "second" not in residency.contexts


def test_a_cancel_ends_an_answer_that_waits_for_the_load_of_another(backend, residency):
    loading, go_on = threading.Event(), threading.Event()

    def before_load(name: str) -> None:
        loading.set()
        assert go_on.wait(WAIT_SECONDS)

    residency.before_load = staticmethod(before_load)
    waiting = Asker(backend)
    first: list[Event] = []
    stopped: list[Event] = []

    def wait() -> None:
        assert loading.wait(WAIT_SECONDS)
        events = waiting.answer(request(QUESTIONS[0]))
        threading.Thread(target=waiting.cancel, daemon=True).start()
        stopped.extend(events)
        go_on.set()

    with threads(collect(backend.answer(request(QUESTIONS[0])), first), wait):
        pass
    assert finished(stopped).status == "stopped"
    assert finished(first).status != "stopped"


def test_a_cancel_ends_an_answer_in_a_probe_of_its_thinking(backend, residency):
    load(backend)
    context = residency.contexts["first"]
    probing = threading.Event()

    def watch(rows: Sequence[tuple[int, int, int]]) -> None:
        if not probing.is_set() and len({slot for slot, _, _ in rows} - {first_slot}) == 1:
            probing.set()
            answerer.cancel()

    early = EarlyExit(every=8, min_p=1.0, stable=9)
    arm = Arm("probed", "first", "cot", think_tokens=40, max_tokens=8, early_exit=early)
    answerer = Asker(backend)
    events: list[Event] = []
    first_slot = 0  # that of the answer; a probe takes another one
    context.before_decode = watch
    events.extend(answerer.answer(request(QUESTIONS[0], arm=arm)))
    last = finished(events)
    thoughts = [event for event in events if isinstance(event, Thought)]
    assert probing.is_set()
    assert (last.status, last.why) == ("stopped", "stopped while thinking")
    assert last.thinking == "".join(each.text for each in thoughts).strip()
    assert last.thinking_tokens == sum(each.tokens for each in thoughts) == 8
    assert (last.prompt_tokens, last.output_tokens) == (last.computed_tokens, 8)
    assert last.first_token_ns == thoughts[0].t_ns
    assert backend._queue.idle


def test_a_request_waits_for_room_beside_what_others_reserved(backend, residency):
    residency.context_tokens = 512
    load(backend)
    batches: list[SharedBatch] = []
    backend.on_batch = batches.append
    answers: list[list[Event]] = [[] for _ in QUESTIONS]
    works = [
        collect(Asker(backend).answer(request(question, max_tokens=400)), events)
        for question, events in zip(QUESTIONS, answers, strict=True)
    ]
    with threads(*works):
        pass
    assert all(finished(events).status != "stopped" for events in answers)
    assert {len(batch.shares) for batch in batches} == {1}


def test_a_request_begins_when_the_prompt_of_another_is_shorter_than_it_was_reserved(
    backend, residency, monkeypatch
):
    text = find_text(139, CHAT)
    prompt = len(CHAT.format(text))
    residency.context_tokens = 2 * (prompt + 139)
    load(backend)
    batches: list[SharedBatch] = []
    backend.on_batch = batches.append
    refused = threading.Event()
    fits, open_ = concurrent_answers._Admission.fits, RequestSession.open

    def refuse(self: Any, shared: Any) -> bool:
        found = fits(self, shared)
        if not found:
            refused.set()
        return found

    def wait(self: RequestSession, *args: Any, **options: Any) -> Any:
        if self.number == 1:
            assert refused.wait(WAIT_SECONDS)
        return open_(self, *args, **options)

    monkeypatch.setattr(concurrent_answers._Admission, "fits", refuse)
    monkeypatch.setattr(RequestSession, "open", wait)
    context = residency.contexts["first"]
    held = Held(context, at=1)
    answers: list[list[Event]] = [[], []]

    def second() -> None:
        until(lambda: backend._queue.running)
        asked = request(text, max_tokens=139)
        answers[1].extend(Asker(backend).answer(asked, number=2))

    def release() -> None:
        assert held.reached.wait(WAIT_SECONDS)
        until(lambda: backend._queue.running == 2)
        held.released.set()

    first = Asker(backend).answer(request(text, max_tokens=139), number=1)
    with threads(collect(first, answers[0]), second, release):
        pass
    assert outcome(answers[0]) == outcome(answers[1])
    assert max(len(batch.shares) for batch in batches) == 2


def test_a_prompt_that_never_fits_fails_at_once(backend, residency):
    residency.context_tokens = 512
    load(backend)
    held = Held(residency.contexts["first"], at=3)
    first: list[Event] = []

    def overflow() -> None:
        assert held.reached.wait(WAIT_SECONDS)
        with pytest.raises(ContextOverflow):
            list(Asker(backend).answer(request("x" * 600)))
        held.released.set()  # while the other one was running

    with threads(collect(backend.answer(request(QUESTIONS[0])), first), overflow):
        pass
    assert finished(first).status != "stopped"


def test_a_model_in_use_is_not_unloaded(backend, residency):
    load(backend)
    held = Held(residency.contexts["first"], at=3)
    first: list[Event] = []
    unloaded: list[Unloaded] = []
    waits = threading.Event()
    enter = backend._queue.enter

    def entered() -> Any:
        ticket = enter()
        if held.reached.is_set():
            waits.set()
        return ticket

    backend._queue.enter = entered  # type: ignore[method-assign]

    def unload() -> None:
        assert held.reached.wait(WAIT_SECONDS)
        assert backend.unload_idle() == ()  # its keep-warm time of 0 s is over
        assert backend.seconds_to_unload() is None
        with pytest.raises(EngineFailed, match="cannot be unloaded while it answers"):
            next(backend._residency.unload("first"))
        unloaded.extend(backend.unload("first"))

    def release() -> None:
        assert waits.wait(WAIT_SECONDS)
        held.released.set()

    answer = backend.answer(request(QUESTIONS[0]))
    with threads(collect(answer, first), unload, release):
        pass
    assert [each.model for each in unloaded] == ["first"]
    assert finished(first).end_ns <= unloaded[0].start_ns
    load(backend)
    assert [each.model for each in backend.unload_idle()] == ["first"]


def test_an_answer_that_nobody_reads_any_more_gives_its_place_back(backend):
    events = Asker(backend).answer(request(QUESTIONS[0]))
    while not backend._queue.running:
        next(events)
    events.close()  # type: ignore[attr-defined]
    assert backend._queue.idle
    finished(list(backend.answer(request(QUESTIONS[0], SECOND))))


def test_the_next_answer_begins_before_the_last_event_is_read_to_its_end(backend):
    events = backend.answer(request(QUESTIONS[0]))
    for event in events:
        if isinstance(event, Finished):
            break
    finished(list(Asker(backend).answer(request(QUESTIONS[0], SECOND))))


def test_closing_cancels_running_answers(config, residency):
    backend = LocalBackend(replace(config, parallel=2))
    load(backend)
    held = Held(residency.contexts["first"], at=3)
    events: list[Event] = []
    with threads(collect(Asker(backend).answer(request(QUESTIONS[0])), events)):
        assert held.reached.wait(WAIT_SECONDS)
        (control,) = backend._running.values()

        def release() -> None:
            until(control.cancelled)
            held.released.set()

        with threads(release):
            backend.close()
    assert finished(events).status == "stopped"


def test_with_one_at_a_time_answerers_take_turns_and_report_no_batch(config, residency):
    backend = LocalBackend(config)
    batches: list[SharedBatch] = []
    backend.on_batch = batches.append
    assert finished(list(backend.answer(request(QUESTIONS[0])))).status != "stopped"
    answerers = [Asker(backend) for _ in range(3)]
    spans: list[Finished] = []

    def run(index: int) -> None:
        asked = request(QUESTIONS[index], owner=f"owner {index}")
        spans.append(finished(list(answerers[index].answer(asked))))

    with threads(*(lambda index=index: run(index) for index in range(3))):
        pass
    spans.sort(key=lambda each: each.start_ns)
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(spans))
    assert [each.cached_tokens for each in spans] == [0, 0, 0]
    assert not batches
    assert sorted(number for each in answerers for number in each.numbers) == [2, 3, 4]
    backend.close()


def test_the_chunk_of_a_prompt_follows_the_size_of_a_batch():
    assert [choose_prompt_limit(tokens) for tokens in (16, 128, 512, 4096)] == [32, 64, 256, 256]
