"""Prefixes that several clients reuse: never across owners, and none is computed twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Sampling
from etui.engine.batch_decoder import LlamaSequence
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import Donor, choose_evicted, choose_reuse
from tests.engine.batching.fakes import make_session

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


def test_another_owner_reuses_nothing() -> None:
    session, _ = make_session()
    session.share_among_clients()
    _answer(session, SYSTEM + "one", "anna")
    live = _open(session, SYSTEM + "two", "anna")
    session.step([live])
    assert live.cached == len(SYSTEM)
    assert _open(session, SYSTEM + "one", "bert").cached == 0
    assert _open(session, SYSTEM + "one", "").cached == 0


def test_another_owner_reuses_nothing_with_one_user() -> None:
    session, _ = make_session()
    _answer(session, SYSTEM + "one", "anna")
    assert _answer(session, SYSTEM + "one", "bert").cached == 0
    assert _answer(session, SYSTEM + "one", "bert").cached == len(SYSTEM) + 2


def test_the_chat_of_each_client_is_kept() -> None:
    session, _ = make_session()
    session.share_among_clients()
    for owner in ("anna", "bert"):
        _answer(session, f"a chat of {owner} " * 3, owner, count=4)
    for owner in ("anna", "bert"):
        text = f"a chat of {owner} " * 3
        assert _answer(session, text + "goes on", owner).cached >= len(text)


def test_with_one_user_other_chats_are_evicted() -> None:
    session, _ = make_session()
    _answer(session, "x" * 40)
    _answer(session, "y" * 40)
    assert _answer(session, "x" * 40).cached == 0


def test_requests_of_one_agent_compute_their_system_prompt_once() -> None:
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


def test_a_follower_goes_on_when_its_leader_leaves() -> None:
    session, _ = make_session(batch_tokens=32)
    session.share_among_clients()
    leader, follower = _open(session, SYSTEM + "one"), _open(session, SYSTEM + "two")
    step = session.step_mixed([(leader, True), (follower, True)], prompt_limit=16)
    assert step.computed == {leader.id: 32}
    session.close(leader)
    step = session.step_mixed([(follower, True)], prompt_limit=16)
    assert follower.cached == 32
    assert step.computed == {follower.id: 32}


def test_a_follower_does_not_wait_for_a_leader_that_is_not_stepped() -> None:
    session, _ = make_session(batch_tokens=32)
    session.share_among_clients()
    _open(session, SYSTEM + "one")
    follower = _open(session, SYSTEM + "two")
    assert session.step_mixed([(follower, True)], prompt_limit=16).computed == {follower.id: 32}


def test_a_donor_of_another_chat_is_copied_if_there_is_a_slot() -> None:
    donor = Donor(0, [1, 2, 3, *range(50)], True)

    def choose(free: int) -> bool:
        reuse = choose_reuse(
            [donor], [1, 2, 3, 99], whole_only=False, free_slots=free, several_clients=True
        )
        assert reuse is not None
        assert reuse.length == 3
        return reuse.take_over

    assert not choose(1)
    assert choose(0)


@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_the_newest_donor_of_each_owner_is_kept_longest(owners: list[str]) -> None:
    remaining = list(enumerate(owners))
    while len(remaining) > len(set(owners)):
        del remaining[choose_evicted([owner for _, owner in remaining])]
    newest = {owner: index for index, owner in enumerate(owners)}
    assert {owner: index for index, owner in remaining} == newest
