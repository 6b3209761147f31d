"""Several answers on one session: each says what it says alone, and batches tile the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, EarlyExit, Sampling
from etui.engine.batching.admission import Reservation, Room
from etui.engine.batching.shared_session import AnswerCancelled, RequestSession, SharedSession
from etui.errors import CacheFull, ContextOverflow, EngineFailed
from etui.events import Finished, SharedBatch
from tests.engine.batching.fakes import (
    CHAT,
    WAIT_SECONDS,
    Flags,
    Held,
    SteppedContext,
    ask,
    find_text,
    make_session,
    outcome,
    threads,
)

GREEDY = Sampling(temperature=0)
ARMS = (
    Arm("direct", "fake", max_tokens=24),
    Arm("cot", "fake", reasoning="cot", think_tokens=20, max_tokens=12),
    Arm("probed", "fake", reasoning="cot", think_tokens=30, max_tokens=8,
        early_exit=EarlyExit(every=8, min_p=0.999)),
    Arm("vote", "fake", reasoning="vote", think_tokens=0, votes=4, batch=3, max_tokens=8),
    Arm("thinking vote", "fake", reasoning="vote", think_tokens=8, votes=3, batch=2, max_tokens=8),
)  # fmt: skip
TEXTS = ("one", "another question, and a longer one", "x" * 90, "Which?\nA) this\nB) that")


def share(
    **options: int,
) -> tuple[SharedSession, SteppedContext, list[SharedBatch]]:
    session, context = make_session(**options)
    session.share_among_clients()
    batches: list[SharedBatch] = []
    return SharedSession(session, "fake", batches.append, prompt_limit=16), context, batches


def answer_alone(text: str, arm: Arm) -> tuple[object, ...]:
    session, _ = make_session(thinking=False)
    return outcome(ask(session, text, arm))


def assert_tiled(batches: list[SharedBatch]) -> None:
    """Batches follow each other without a gap, except after a closing span."""
    for before, after in pairwise(batches):
        assert before.start_ns < before.end_ns <= after.start_ns
        is_closing = [(each.prompt_tokens, each.decode_tokens) for each in before.shares] == [
            (0, 0)
        ]
        assert before.end_ns == after.start_ns or is_closing
    for batch in batches:
        numbers = [each.number for each in batch.shares]
        assert len(set(numbers)) == len(numbers)


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(TEXTS),
        st.sampled_from(ARMS),
        st.sampled_from(("", "anna", "bert")),
        st.integers(0, 60),  # the batch before which it begins
        st.none() | st.none() | st.integers(0, 120),  # the batch before which it is cancelled
    ),
    min_size=1,
    max_size=6,
)


@given(REQUESTS, st.sets(st.integers(1, 150), max_size=2))
def test_any_schedule_gives_each_answer_what_it_says_alone(requests, faults):
    shared, context, batches = share()
    context.fails_at = set(faults)
    begins = [threading.Event() for _ in requests]
    flags = [Flags() for _ in requests]
    sessions: list[RequestSession | None] = [None] * len(requests)
    results: list[tuple[object, ...] | EngineFailed | None] = [None] * len(requests)
    decodes = 0

    def before_decode(_: object) -> None:
        nonlocal decodes
        decodes += 1
        for index, (_, _, _, begin, cancel) in enumerate(requests):
            if begin <= decodes:
                begins[index].set()
            if cancel is not None and cancel <= decodes:
                flags[index].stopped = True
                if (session := sessions[index]) is not None:
                    # From another thread: this one is in the middle of a batch.
                    threading.Thread(target=session.cancel, daemon=True).start()

    context.before_decode = before_decode

    def work(index: int) -> Callable[[], None]:
        def run() -> None:
            text, arm, owner, _, _ = requests[index]
            assert begins[index].wait(WAIT_SECONDS)
            session = sessions[index] = shared.join(index, owner, Reservation(50, 50, 2))
            try:
                results[index] = outcome(ask(session, text, arm, flags[index]))
            except EngineFailed as error:
                results[index] = error
            except AnswerCancelled:
                assert arm.early_exit is not None  # in a probe
                results[index] = ("stopped",)
            finally:
                session.leave()
                for begin in begins[index + 1 :]:  # should no batch let it begin
                    if not begin.is_set():
                        begin.set()
                        break

        return run

    begins[0].set()
    with threads(*(work(index) for index in range(len(requests)))):
        pass
    failed = 0
    for (text, arm, *_), flag, result in zip(requests, flags, results, strict=True):
        if isinstance(result, EngineFailed):
            failed += 1
            assert faults
        elif result is None or not flag.stopped:
            assert result == answer_alone(text, arm)
        else:
            alone = answer_alone(text, arm)
            assert result == alone or result[0] == "stopped"
            if result != alone and arm.reasoning == "direct":
                assert str(alone[1]).startswith(str(result[1]))
    if not context.fails_at & set(range(1, decodes + 1)):
        assert not failed
        counted = sum(
            share.prompt_tokens + share.decode_tokens for batch in batches for share in batch.shares
        )
        assert counted == len(context.computed)
    assert_tiled(batches)
    assert len(shared.requests) == 0
    assert shared.session.free_tokens == context.capacity
    assert shared.session.free_sequences == 16


def test_requests_meet_in_one_batch():
    shared, context, batches = share()
    text = find_text(30)
    meeting = threading.Barrier(4)
    sizes: list[int] = []
    context.before_decode = lambda rows: sizes.append(len(rows))

    def run(number: int) -> None:
        session = shared.join(number)
        sequence = session.open([ord(each) for each in text], GREEDY)
        meeting.wait(WAIT_SECONDS)
        drawn = 0
        while drawn < 20:
            drawn += len(session.step([sequence]).sampled)
        session.close(sequence)
        session.leave()

    with threads(*(lambda number=number: run(number) for number in range(4))):
        pass
    # The prompt is computed once, then each batch has a token of each request.
    assert sizes[-19:] == [4] * 19
    assert [len(batch.shares) for batch in batches[-20:-1]] == [4] * 19
    assert batches[-2].shares[0].prompt_tokens == 0
    assert_tiled(batches)


def test_prompt_and_decoded_tokens_are_counted_apart():
    shared, _, batches = share()
    session = shared.join(7)
    events = ask(session, find_text(30, CHAT), Arm("direct", "fake", max_tokens=20))
    session.leave()
    last = events[-1]
    assert isinstance(last, Finished)
    shares = [each for batch in batches for each in batch.shares]
    assert {each.number for each in shares} == {7}
    assert sum(each.prompt_tokens for each in shares) == last.prompt_tokens
    # The last token is drawn and not computed.
    assert sum(each.decode_tokens for each in shares) == last.output_tokens - 1


def test_a_cancel_wakes_a_request_that_waits_for_another():
    shared, _, _ = share()
    waiting, idle = shared.join(1), shared.join(2)
    text = [ord(each) for each in find_text(9)]
    own = waiting.open(text, GREEDY)
    held_up_by = idle.open(text, GREEDY)  # takes part, and does not step
    steps = []

    def step() -> None:
        steps.append(waiting.step([own]))

    with threads(step):
        waiting.cancel()
    assert (steps[0].computed, steps[0].sampled) == ({}, ())
    idle.close(held_up_by)
    idle.leave()
    with pytest.raises(AnswerCancelled):  # it did not poll its control
        waiting.step([own])


def test_a_cancel_ends_a_prefill_within_one_batch():
    shared, context, _ = share()
    held = Held(context, at=2)
    flags = Flags()
    session = shared.join(1)
    events = []

    def run() -> None:
        events.extend(ask(session, "x" * 400, ARMS[0], flags))

    with threads(run):
        assert held.reached.wait(WAIT_SECONDS)
        flags.stopped = True
        session.cancel()
        held.released.set()
    session.leave()
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.status == "stopped"
    assert len(context.decodes) == 2


def test_others_go_on_while_one_renders_its_prompt():
    shared, _, _ = share()
    busy, renders = shared.join(1), shared.join(2)
    sequence = busy.open([97, 98], GREEDY)
    assert busy.step([sequence]).sampled  # the other has joined, and holds up nobody
    assert renders.tokenize("abc") == [97, 98, 99]
    assert busy.step([sequence]).computed == {sequence.id: 1}


def test_another_requests_sequence_cannot_be_reached():
    shared, _, _ = share()
    first, second = shared.join(1), shared.join(2)
    sequence = first.open([97, 98], GREEDY)
    uses: tuple[Callable[[], object], ...] = (
        lambda: second.step([sequence]),
        lambda: second.fork(sequence, GREEDY),
        lambda: second.extend(sequence, [1]),
        lambda: second.rollback(sequence, 1),
        lambda: second.logprobs(sequence, [1]),
        lambda: second.settle(sequence),
        lambda: second.speculate(sequence, "lookup"),
    )
    for use in uses:
        with pytest.raises(ValueError, match="of another request"):
            use()
    second.close(sequence)
    assert first.step([sequence]).sampled


def test_a_full_cache_strikes_the_youngest():
    shared, context, _ = share(context_tokens=256)
    context.capacity = 60
    old, young = shared.join(1), shared.join(2)
    texts = (find_text(60), find_text(60, "{}?") + "?")
    sequences = [
        session.open([ord(each) for each in text], GREEDY)
        for session, text in zip((old, young), texts, strict=True)
    ]
    struck: list[int] = []
    drawn = [0, 0]

    def run(index: int, session: RequestSession) -> None:
        try:
            while drawn[index] < 40:
                drawn[index] += len(session.step([sequences[index]]).sampled)
        except CacheFull:
            struck.append(index)
        finally:
            session.close(sequences[index])
            session.leave()

    with threads(lambda: run(0, old), lambda: run(1, young)):
        pass
    assert struck == [1]
    assert drawn[0] == 40


def test_a_failed_batch_reaches_all_of_its_members_and_is_reported():
    shared, context, batches = share()
    context.fails_at = {1}
    sessions = [shared.join(number) for number in (1, 2)]
    sequences = [session.open([97, 98, number], GREEDY) for number, session in enumerate(sessions)]
    errors: list[EngineFailed] = []

    def run(index: int) -> None:
        with pytest.raises(EngineFailed, match="failed to decode a batch") as caught:
            sessions[index].step([sequences[index]])
        errors.append(caught.value)

    with threads(lambda: run(0), lambda: run(1)):
        pass
    assert errors[0] is not errors[1]
    assert errors[0].fix == errors[1].fix
    assert [(each.number, each.prompt_tokens) for each in batches[0].shares] == [(1, 3), (2, 3)]
    steps = []
    with threads(*(
        lambda index=index: steps.append(sessions[index].step([sequences[index]]))
        for index in (0, 1)
    )):  # fmt: skip
        pass
    assert all(step.sampled for step in steps)  # the session stays usable


def test_a_bug_in_a_batch_reaches_all_of_its_members():
    shared, context, _ = share()

    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    context.before_decode = fail
    sessions = [shared.join(number) for number in (1, 2)]
    sequences = [session.open([97, 98, number], GREEDY) for number, session in enumerate(sessions)]
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            sessions[index].step([sequences[index]])
        except (RuntimeError, EngineFailed) as error:
            errors.append(error)

    with threads(lambda: run(0), lambda: run(1)):
        pass
    assert sorted(type(error).__name__ for error in errors) == ["EngineFailed", "RuntimeError"]
    assert all("a bug" in str(error) for error in errors)


def test_a_sequence_that_outgrows_the_context_fails_alone():
    shared, _, _ = share(context_tokens=64)
    first, second = shared.join(1), shared.join(2)
    long = first.open([97] * 60, GREEDY)
    short = second.open([97, 98], GREEDY)
    first.extend(long, [98] * 5)
    with pytest.raises(ContextOverflow):
        first.step([long])
    first.close(long)
    assert second.step([short]).sampled


def test_what_others_reserved_is_not_free():
    shared, context, _ = share(sequences=8, context_tokens=512)
    context.capacity = 512
    shared = SharedSession(shared.session, "fake")
    first = shared.join(1, "", Reservation(10, 90, 3))
    second = shared.join(2, "", Reservation(10, 40, 1))
    assert (first.free_tokens, first.free_sequences) == (512 - 50, 7)
    assert (second.free_tokens, second.free_sequences) == (512 - 100, 5)
    sequence = first.open([97] * 20, GREEDY)  # the prompt is longer than its estimate
    first.step([sequence])
    assert second.free_tokens == 512 - 110
    assert second.free_sequences == 5
    assert shared.measure_room([97] * 30, "anna") == Room(2, 512 - 110 - 50, 4)
    common = 21 if sequence.tokens[-1] == 97 else 20
    assert shared.measure_room([97] * 30, "") == Room(2, 512 - 110 - 50 + common, 4)
    first.leave()
    assert second.free_tokens == 512


def test_without_requests_time_is_nobodys():
    shared, _, batches = share()
    for number in (1, 2):
        session = shared.join(number)
        session.leave()
        session.leave()
    assert [batch.shares[0].number for batch in batches] == [1, 2]
    assert_tiled(batches)
    assert all(not each.decode_tokens for batch in batches for each in batch.shares)


def test_a_request_that_cannot_close_its_sequences_leaves_all_the_same(monkeypatch):
    shared, _, _ = share()
    leaving, staying = shared.join(1), shared.join(2)
    leaving.open([1, 2, 3], GREEDY)
    sequence = staying.open([1, 2, 3], GREEDY)

    def fail(_sequence, *, keep):
        raise EngineFailed("the cache is broken", "ask again")

    with monkeypatch.context() as broken:
        broken.setattr(shared.session, "close", fail)
        with pytest.raises(EngineFailed):
            leaving.leave()
    assert len(shared.requests) == 1
    assert staying.step([sequence]).sampled  # it waits for nobody
    staying.leave()


def test_an_answer_is_recalled_by_its_owner_alone():
    shared, _, _ = share()
    first = shared.join(1, "anna", label="a")
    ask(first, "one", ARMS[0])
    first.leave()
    anna, bert = shared.join(2, "anna"), shared.join(3, "bert")
    recalled = anna.recall("a")
    assert bytes(recalled.tokens[:6]) == b"[user]"
    assert bert.recall("a") is None
    assert anna.recall("b") is None


def test_a_single_request_is_a_batch_of_one_without_limits():
    session, context = make_session(batch_tokens=32)
    shared = SharedSession(session, "fake", prompt_limit=None)
    member = shared.join(1)
    assert outcome(ask(member, "x" * 90, ARMS[3])) == answer_alone("x" * 90, ARMS[3])
    member.leave()
    alone, steps = make_session(batch_tokens=32)
    ask(alone, "x" * 90, ARMS[3])
    assert context.computed == steps.computed
