"""KV caches that have left the context: what is kept, what goes first, and what is brought back."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.arm import Sampling
from etui.engine import kv_folder
from etui.engine.kv_folder import KvFolder
from etui.engine.kv_store import (
    LEAST_TOKENS,
    MEMORY_HALF_LIFE_S,
    KvStore,
    SavedSequence,
)
from etui.engine.llama_session import LlamaSession
from tests.engine.batching.fakes import make_session

GREEDY = Sampling(temperature=0)
KEY = "k" * 64


@pytest.fixture(autouse=True)
def short_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_folder, "LEAST_FILE_TOKENS", 1)


def saved(
    tokens: list[int],
    *,
    owner: str = "",
    label: str = "turn",
    joules: float | None = None,
    key: str = KEY,
    whole: bool = False,
    size_bytes: int = 0,
    used_seconds: float = 0.0,
) -> SavedSequence:
    """A sequence whose state is its tokens, as those of the fake context are."""
    state = np.array(tokens, dtype=np.int32).view(np.uint8)
    if size_bytes:
        state = np.resize(state, size_bytes)
    cost = float(len(tokens)) if joules is None else joules
    return SavedSequence(
        key, owner, label, array("i", tokens), (), whole, cost, state.size, used_seconds, state
    )


def chat(seed: int, length: int = 100) -> list[int]:
    return [(seed * 7919 + place * 31) % 60 + 32 for place in range(length)]


def make_store(budget_bytes: int = 1 << 30, now: float = 0.0) -> KvStore:
    return KvStore(lambda _held: budget_bytes, now_seconds=lambda: now)


def test_the_longest_common_prefix_is_found():
    store, text = make_store(), chat(1, 300)
    for length in (100, 200, 150):
        store.put(saved([*text[:length], *chat(length, 10)]))
    found = store.find(KEY, "", text, 0)
    assert found is not None
    assert found.gives(array("i", text)) == 200


@pytest.mark.parametrize(("owner", "key"), [("anna", KEY), ("", "x" * 64)])
def test_nothing_is_found_for_another_owner_or_context(owner: str, key: str):
    store, text = make_store(), chat(1)
    store.put(saved(text))
    assert store.find(KEY, "", [*text, 1], 0) is not None
    assert store.find(key, owner, [*text, 1], 0) is None


@pytest.mark.parametrize(
    ("length", "known", "found"),
    [
        (LEAST_TOKENS, 0, True),
        (LEAST_TOKENS - 1, 0, False),
        (LEAST_TOKENS + 9, 10, False),  # the context has the beginning itself
        (LEAST_TOKENS + 10, 10, True),
    ],
)
def test_a_short_gain_is_computed_and_not_copied(length: int, known: int, found: bool):
    store, text = make_store(), chat(1, length)
    store.put(saved(text))
    assert (store.find(KEY, "", [*text, 1], known) is not None) is found


def test_a_long_sequence_is_not_copied_for_a_small_part_of_it():
    store, text = make_store(), chat(1, 2000)
    store.put(saved(text))
    assert store.find(KEY, "", [*text[:249], 1], 0) is None
    assert store.find(KEY, "", [*text[:250], 1], 0) is not None


def test_a_sequence_that_cannot_be_cut_is_found_only_as_a_whole():
    store, text = make_store(), chat(1)
    store.put(saved(text, whole=True))
    assert store.find(KEY, "", [*text[:-1], 1, 2], 0) is None
    assert store.find(KEY, "", text, 0) is None  # one token is left to compute
    assert store.find(KEY, "", [*text, 1], 0) is not None


def test_a_chat_that_went_on_replaces_its_earlier_state():
    store, text = make_store(), chat(1, 200)
    store.put(saved(text[:100]))
    store.put(saved(text))
    store.put(saved(text[:150]))
    assert store.memory_bytes == 4 * 200


def test_states_that_cannot_be_cut_are_all_kept():
    store, text = make_store(), chat(1, 200)
    store.put(saved(text[:100], whole=True))
    store.put(saved(text, whole=True))
    assert store.memory_bytes == 4 * 300


def test_a_sequence_goes_back_to_a_checkpoint():
    store, text = make_store(), chat(1, 300)
    one = saved(text, whole=True)
    one.lengths = (80, 200)
    store.put(one)
    found = store.find(KEY, "", [*text[:250], 1, 2], 0)
    assert found is one
    assert one.gives(array("i", [*text[:250], 1, 2])) == 200
    assert one.gives(array("i", [*text[:100], 1, 2])) == 80
    assert store.find(KEY, "", [*text[:79], 1, 2], 0) is None
    later = saved([*text, *chat(2, 50)], whole=True)
    later.lengths = (290,)
    store.put(later)
    assert store.memory_bytes == 4 * 350


def test_least_joules_per_byte_go_first():
    store = make_store(budget_bytes=800)
    store.put(saved(chat(1), joules=5.0))
    store.put(saved(chat(2), joules=1.0))
    store.put(saved(chat(3), joules=3.0))
    assert store.memory_bytes == 800
    assert [bool(store.find(KEY, "", [*chat(each), 1], 0)) for each in (1, 2, 3)] == [
        True,
        False,
        True,
    ]


def test_what_was_not_used_for_a_half_life_is_worth_half():
    store = make_store(budget_bytes=800, now=MEMORY_HALF_LIFE_S)
    store.put(saved(chat(1), joules=5.0))
    store.put(saved(chat(2), joules=3.0, used_seconds=MEMORY_HALF_LIFE_S))
    store.put(saved(chat(3), joules=3.0, used_seconds=MEMORY_HALF_LIFE_S))
    assert store.find(KEY, "", [*chat(1), 1], 0) is None


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 5000), st.floats(0, 1e7)), max_size=20),
    st.integers(0, 20_000),
)
def test_memory_holds_no_more_than_its_budget(
    states: list[tuple[float, int, float]], budget_bytes: int
):
    store = make_store(budget_bytes, now=1e7)
    for number, (joules, size_bytes, used) in enumerate(states):
        one = saved(chat(number), joules=joules, size_bytes=size_bytes, used_seconds=used)
        store.put(one)
        assert store.memory_bytes <= budget_bytes


def test_what_leaves_memory_goes_to_disk(tmp_path: Path):
    folder = KvFolder(tmp_path / "kv", 1 << 30)
    store = KvStore(lambda _held: 400, folder, lambda: 0.0)
    for seed in (1, 2):
        store.put(saved(chat(seed), joules=float(seed)))
    assert store.memory_bytes == 400
    found = store.find(KEY, "", [*chat(1), 1], 0)
    assert found is not None
    assert found.path is not None
    assert found.state is None
    loaded = store.load(found)
    assert loaded is not None
    assert loaded[0].view(np.int32).tolist() == chat(1)


def test_the_end_writes_what_is_worth_most_within_its_time(tmp_path: Path):
    folder = KvFolder(tmp_path / "kv", 1 << 30)
    store = KvStore(lambda _held: 1 << 20, folder)
    for seed in (1, 2, 3):
        store.put(saved(chat(seed)))
    store.spill(-1.0)
    assert folder.find(KEY, "") == []
    store.spill(60.0)
    assert len(folder.find(KEY, "")) == 3
    store.spill(60.0)
    assert len(folder.find(KEY, "")) == 3  # none is written twice


def test_the_time_of_saving_is_counted_once():
    store = make_store()
    store.add_keep_ns(2_000_000)
    assert store.take_keep_seconds() >= 0.002
    assert store.take_keep_seconds() == 0
    store.add_keep_ns(900_000)
    assert store.take_keep_seconds() == 0
    store.add_keep_ns(900_000)
    assert store.take_keep_seconds() >= 0.0018


def _session(store: KvStore, *, several: bool = False, **options: int) -> LlamaSession:
    session, _ = make_session(**options)
    if several:
        session.share_among_clients()
    session.keep_in(store, KEY)
    return session


def _answer(
    session: LlamaSession, tokens: list[int], owner: str = "", label: str = "t", count: int = 3
) -> tuple[list[int], str, int]:
    """Return what is drawn, the tier the prompt comes from, and how much of it."""
    sequence = session.open(tokens, GREEDY, owner=owner, label=label)
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += [each.token for each in session.step([sequence]).sampled]
    reused = sequence.reused
    session.close(sequence)
    tier = "context" if reused is None or not reused.size_bytes else reused.tier
    return drawn, tier, sequence.cached


def test_a_chat_that_one_returns_to_comes_from_memory():
    session = _session(make_store())
    first, second = chat(1), chat(2)
    _answer(session, first)
    assert _answer(session, second)[2] == 0
    drawn, tier, cached = _answer(session, [*first, 65])
    assert (tier, cached) == ("memory", len(first))
    fresh, _ = make_session()
    assert drawn == _answer(fresh, [*first, 65])[0]


def test_a_chat_comes_back_after_a_restart(tmp_path: Path):
    session = _session(KvStore(lambda _held: 1 << 20, KvFolder(tmp_path, 1 << 30)))
    _answer(session, chat(1), label="turn")
    session.free()
    session._sequences.keeper.store.spill(60)
    again = _session(KvStore(lambda _held: 1 << 20, KvFolder(tmp_path, 1 << 30)))
    assert _answer(again, [*chat(1), 65])[1:] == ("disk", 100)


def test_an_answer_is_recalled_after_a_restart(tmp_path: Path):
    session = _session(KvStore(lambda _held: 1 << 20, KvFolder(tmp_path, 1 << 30)))
    drawn, _, _ = _answer(session, chat(1), label="turn", owner="anna")
    session.free()
    session._sequences.keeper.store.spill(60)
    again = _session(KvStore(lambda _held: 1 << 20, KvFolder(tmp_path, 1 << 30)))
    assert again.recall("turn", "bert") is None
    found = again.recall("turn", "anna")
    assert found is not None
    assert list(found.tokens) == [*chat(1), *drawn]


def test_a_client_reuses_nothing_of_another_from_any_tier(tmp_path: Path):
    store = KvStore(lambda _held: 500, KvFolder(tmp_path, 1 << 30))
    session = _session(store, several=True, sequences=2)
    for owner in ("anna", "bert", "carl", ""):
        assert _answer(session, chat(1), owner)[2] == 0
    assert _answer(session, chat(1), "anna")[2] > 0


def test_a_system_prompt_comes_back_for_another_task():
    session = _session(make_store(), several=True, sequences=2)
    system = chat(1, 200)
    for seed in (2, 3):
        _answer(session, [*system, *chat(seed, 40)])
    for seed in (4, 5, 6, 7):
        _answer(session, chat(seed))
    _, tier, cached = _answer(session, [*system, 65, 66])
    assert (tier, cached) == ("memory", 200)


@pytest.mark.parametrize(("keeps", "tier"), [(True, "memory"), (False, "context")])
def test_beside_other_clients_a_cpu_keeps_few_idle_cells(
    monkeypatch: pytest.MonkeyPatch, keeps: bool, tier: str
):
    monkeypatch.setattr("etui.engine.sequence_cache.IDLE_CELLS", 150)
    session = _session(make_store(), several=True)
    if not keeps:  # nothing could bring them back
        session._sequences.keeper = None
    owners = ("anna", "bert", "carl")
    together = [session.open(chat(seed), GREEDY, owner=owner) for seed, owner in enumerate(owners)]
    while any(sequence.pending for sequence in together):
        session.step(together)
    for sequence in together:
        session.close(sequence)
    kept = [each.owner for each in session._sequences.closed]
    assert kept == (["bert", "carl"] if keeps else ["anna", "bert", "carl"])
    assert _answer(session, [*chat(0), 65], "anna")[1:] == (tier, 100)


@pytest.mark.parametrize(("length", "owners"), [(100, ["bert"]), (5, ["bert", "anna"])])
def test_a_long_prompt_of_another_chat_moves_the_idle_one_to_memory(length: int, owners: list[str]):
    session = _session(make_store(), several=True)
    _answer(session, chat(1), "anna")
    session.open(chat(2, length), GREEDY, owner="bert")
    cache = session._sequences
    assert [each.owner for each in (*cache.live.values(), *cache.closed)] == owners
    assert cache.keeper is not None
    assert _answer(session, [*chat(1), 65], "anna")[2] == 100


def test_a_prompt_that_goes_on_moves_nothing():
    session = _session(make_store(), several=True)
    _answer(session, chat(1), "anna")
    assert _answer(session, [*chat(1), *chat(2, 80)], "anna")[1:] == ("context", 100)


def test_a_state_without_room_is_computed():
    session = _session(make_store(), several=True, context_tokens=400, capacity=250)
    _answer(session, chat(1, 150))
    _answer(session, chat(2, 150))
    live = session.open(chat(3, 150), GREEDY)
    while not session.step([live]).sampled:
        pass
    sequence = session.open([*chat(1, 150), 65], GREEDY)
    assert sequence.cached == 0


def test_forgetting_ends_the_saving():
    session = _session(make_store())
    _answer(session, chat(1))
    _answer(session, chat(2))
    session.forget()
    assert _answer(session, [*chat(1), 65])[2] == 0
    assert _answer(session, [*chat(2), 65])[2] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from(["", "anna"])),
        min_size=1,
        max_size=14,
    ),
    st.integers(0, 4000),
    st.integers(0, 20_000),
    st.booleans(),
    st.booleans(),
)
def test_answers_are_those_of_a_session_without_tiers(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[int, int, str]],
    memory_bytes: int,
    disk_bytes: int,
    several: bool,
    whole: bool,
):
    """Chats that go on, branch and return, with any budget, draw what a fresh session draws."""
    path = tmp_path_factory.mktemp("kv")
    chats: dict[tuple[int, str], list[int]] = {}
    session = None
    for number, (which, cut, owner) in enumerate(asked):
        if session is None or number % 5 == 4:  # a restart
            if session is not None:
                keeper = session._sequences.keeper
                session.free()
                keeper.store.spill(60)
            session, context = make_session(sequences=3)
            if several:
                session.share_among_clients()
            context.refuses_removal = whole
            session._sequences.checkpoints.kind = "state" if whole else ""
            session.keep_in(KvStore(lambda _held: memory_bytes, KvFolder(path, disk_bytes)), KEY)
        text = chats.get((which, owner)) or chat(which, 70 + 10 * which)
        text = [*text[: len(text) - 9 * cut], 65 + cut]
        drawn, _, cached = _answer(session, text, owner)
        fresh, _ = make_session()
        assert drawn == _answer(fresh, text)[0]
        assert cached < len(text)
        chats[which, owner] = [*text, *drawn]
