"""Prefixes that several clients reuse: never across owners, and none is computed twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Sampling
from etui.engine.context import ContextOptions
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import LlamaSequence, SequenceCache, common_prefix
from tests.engine.batching.fakes import make_session
from tests.engine.speculation.fakes import FakeContext, FakeModel

GREEDY = Sampling(temperature=0)
SYSTEM = "you are an agent that answers in as few words as it can. " * 2


def _open(session: LlamaSession, text: str, owner: str = "") -> LlamaSequence:
    return session.open([ord(each) for each in text], GREEDY, owner=owner)


def _answer(session: LlamaSession, text: str, owner: str = "", count: int = 1) -> LlamaSequence:
    sequence = _open(session, text, owner)
    drawn = 0
    while drawn < count:
        drawn += len(session.step([sequence]).sampled)
    session.close(sequence)
    return sequence


def test_another_owner_reuses_nothing():
    session, _ = make_session()
    session.share_among_clients()
    _answer(session, SYSTEM + "one", "anna")
    live = _open(session, SYSTEM + "two", "anna")
    session.step([live])
    assert live.cached == len(SYSTEM)
    assert _open(session, SYSTEM + "one", "bert").cached == 0
    assert _open(session, SYSTEM + "one", "").cached == 0


def test_another_owner_reuses_nothing_with_one_user():
    session, _ = make_session()
    _answer(session, SYSTEM + "one", "anna")
    assert _answer(session, SYSTEM + "one", "bert").cached == 0
    assert _answer(session, SYSTEM + "one", "bert").cached == len(SYSTEM) + 2


def test_the_chat_of_each_client_is_kept():
    session, _ = make_session()
    session.share_among_clients()
    for owner in ("anna", "bert"):
        _answer(session, f"a chat of {owner} " * 3, owner, count=4)
    for owner in ("anna", "bert"):
        text = f"a chat of {owner} " * 3
        assert _answer(session, text + "goes on", owner).cached >= len(text)


def test_with_one_user_other_chats_are_evicted():
    session, _ = make_session()
    _answer(session, "x" * 40)
    _answer(session, "y" * 40)
    assert _answer(session, "x" * 40).cached == 0


def test_requests_of_one_agent_compute_their_system_prompt_once():
    session, context = make_session(sequences=8)
    session.share_among_clients()
    tasks = [_open(session, SYSTEM + f"task {index}") for index in range(4)]
    drawn: set[int] = set()
    while len(drawn) < len(tasks):
        step = session.step_mixed([(each, True) for each in tasks], prompt_limit=16)
        drawn |= {each.sequence_id for each in step.sampled}
    shared = len(SYSTEM + "task ")
    assert [task.cached for task in tasks] == [0, shared, shared, shared]
    prefix = [slot for slot, position in context.computed if position < shared]
    assert len(prefix) == shared  # computed by one of them, once
    alone, _ = make_session()
    for index, task in enumerate(tasks):
        own = _open(alone, SYSTEM + f"task {index}")
        while not alone.step([own]).sampled:
            pass
        assert task.tokens[: len(own.tokens)] == own.tokens


def test_a_follower_goes_on_when_its_leader_leaves():
    session, _ = make_session(batch_tokens=32)
    session.share_among_clients()
    leader, follower = _open(session, SYSTEM + "one"), _open(session, SYSTEM + "two")
    step = session.step_mixed([(leader, True), (follower, True)], prompt_limit=16)
    assert step.computed == {leader.id: 32}
    session.close(leader)
    step = session.step_mixed([(follower, True)], prompt_limit=16)
    assert follower.cached == 32
    assert step.computed == {follower.id: 32}


def test_a_follower_does_not_wait_for_a_leader_that_is_not_stepped():
    session, _ = make_session(batch_tokens=32)
    session.share_among_clients()
    _open(session, SYSTEM + "one")
    follower = _open(session, SYSTEM + "two")
    assert session.step_mixed([(follower, True)], prompt_limit=16).computed == {follower.id: 32}


def make_cache(
    donors: list[tuple[list[int], bool]], free: int = 1, *, whole: bool = False
) -> SequenceCache:
    """A cache with sequences (their tokens, and whether each is closed) and so many free slots."""
    options = ContextOptions(512, threads=1, sequences=len(donors) + free)
    context = FakeContext(options, 1, lambda tokens: [0.0])
    model = FakeModel(1)
    model.recurrent = whole
    cache = SequenceCache(context, model, 512, lambda _: None)  # type: ignore[arg-type]
    for tokens, closed in donors:
        slot = cache._free_slots.pop()
        own = LlamaSequence(slot, slot, list(tokens), None, computed=len(tokens))  # type: ignore[arg-type]
        if closed:
            cache.closed.append(own)
        else:
            cache.live[slot] = own
    return cache


ONE, SHORT, LONG = [1, 2, 3], [1, 2], [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("donors", "wanted", "options", "expected"),
    [
        ([(ONE, True), ([1, 2, 3, 4], True), ([1, 9], True)], [1, 2, 3, 4, 5], {}, (1, 4, True)),
        ([(ONE, True)], ONE, {}, (0, 2, True)),  # one token is left to compute
        ([([1], True)], [1], {}, None),
        ([(ONE, False)], [*ONE, 4], {}, (0, 3, False)),  # in use: it is shared
        ([(ONE, False)], [*ONE, 4], {"free": 0}, None),
        ([(LONG, True)], [1, 2, 9], {}, (0, 2, True)),  # taken over, however little is reused
        ([(LONG, True), ([7], True)], [1, 2, 9], {"free": 0}, (0, 2, True)),
        ([(ONE, True)], [1, 2, 9, 9], {"whole": True}, None),  # no partial removal
        ([(SHORT, True)], [1, 2, 9, 9], {"whole": True}, (0, 2, True)),
        ([(SHORT, True)], SHORT, {"whole": True}, None),
    ],
)
def test_the_longest_prefix_wins(donors, wanted, options, expected):
    cache = make_cache(donors, **options)
    made = [*cache.live.values(), *cache.closed]
    donor, length, takes_over = cache.choose_donor(wanted, "")
    assert (None if donor is None else (made.index(donor), length, takes_over)) == expected


@pytest.mark.parametrize("free", [0, 1])
def test_a_donor_of_another_chat_is_copied_if_there_is_a_slot(free):
    cache = make_cache([([1, 2, 3, *range(50)], True)], free)
    cache.several_clients = True
    assert cache.choose_donor([1, 2, 3, 99], "") == (cache.closed[0], 3, not free)


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9)


@given(st.lists(st.tuples(TOKENS, st.booleans()), max_size=5), TOKENS, st.integers(0, 2))
def test_what_is_reused_is_a_prefix_of_both(donors, wanted, free):
    cache = make_cache(donors, free)
    donor, length, takes_over = cache.choose_donor(wanted, "")
    if donor is not None:
        assert 0 < length < len(wanted)
        assert donor.tokens[:length] == wanted[:length]
        assert donor in cache.closed or not takes_over


@given(TOKENS, TOKENS)
def test_a_common_prefix_ends_at_the_first_difference(first, second):
    length = common_prefix(first, second)
    assert first[:length] == second[:length]
    assert first[length : length + 1] != second[length : length + 1] or length == min(
        len(first), len(second)
    )


@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_the_newest_donor_of_each_owner_is_kept_longest(owners):
    cache = make_cache([([1], True)] * len(owners))
    for sequence, owner in zip(cache.closed, owners, strict=True):
        sequence.owner = owner
    made = list(cache.closed)
    while len(cache.closed) > len(set(owners)):
        assert cache.evict()
    newest = {owner: index for index, owner in enumerate(owners)}
    assert {each.owner: made.index(each) for each in cache.closed} == newest
