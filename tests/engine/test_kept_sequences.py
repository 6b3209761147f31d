"""The starter model's KV cache from memory and from disk: the same answers, whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.engine.kv_folder import KvFolder
from etui.engine.kv_store import KvStore
from etui.engine.llama_session import LlamaSession
from tests.engine.driving import GREEDY, drawn, generate, prompt

KEY = "k" * 64
TEXT = "A river rises in the hills, gathers the streams of its valleys, and ends in the sea. " * 6
TOKENS = 12


def make_store(path: Path, memory_bytes: int = 1 << 30) -> KvStore:
    return KvStore(lambda _held: memory_bytes, KvFolder(path, 1 << 30))


def start(make_session, store: KvStore | None) -> LlamaSession:
    session = make_session()
    if store is not None:
        session.keep_in(store, KEY)
    return session


def run_chat(session: LlamaSession, count: int = TOKENS) -> list[int]:
    """Ask once; return prompt and answer, which the next prompt begins with."""
    tokens = prompt(session, TEXT)
    sequence = session.open(tokens, GREEDY, label="turn")
    said = generate(session, sequence, count)
    session.close(sequence)
    return [*tokens, *said]


def go_on(session: LlamaSession, history: list[int]) -> tuple[list[tuple[int, float]], str, int]:
    """Ask again; return the tokens with their log-probabilities, the tier, and what was cached."""
    tokens = [*history, *session.tokenize(" And where does it begin?")]
    sequence = session.open(tokens, GREEDY, label="next")
    found = []
    while len(found) < TOKENS:
        found += [(each.token, each.logprob) for each in session.step([sequence]).sampled]
    session.close(sequence)
    tier = "context" if sequence.reused is None else sequence.reused.tier
    return found, tier, sequence.cached


def leave(session: LlamaSession, store: KvStore) -> None:
    """End the process: the context is gone, and all of it is on disk."""
    while session._sequences.evict():
        pass
    store.spill(60)


def test_every_tier_gives_the_very_answer_of_the_context(make_session, tmp_path):
    stayed = start(make_session, None)
    history = run_chat(stayed)
    expected = go_on(stayed, history)

    store = make_store(tmp_path)
    session = start(make_session, store)
    assert run_chat(session) == history
    other = session.open(session.tokenize("Another chat.", bos=True), GREEDY)
    session.step([other])
    session.close(other)
    memory = go_on(session, history)
    assert memory[1:] == ("memory", expected[2])
    assert memory[0] == expected[0]  # to the last bit

    store = make_store(tmp_path)
    session = start(make_session, store)
    run_chat(session)
    leave(session, store)
    disk = go_on(start(make_session, make_store(tmp_path)), history)
    assert disk[1:] == ("disk", expected[2])
    assert disk[0] == expected[0]


def test_a_branch_of_a_chat_keeps_what_is_before_it(make_session, tmp_path):
    store = make_store(tmp_path)
    session = start(make_session, store)
    history = run_chat(session)
    leave(session, store)
    session = start(make_session, make_store(tmp_path))
    tokens = [*history[:-6], *session.tokenize(" Or not?")]
    sequence = session.open(tokens, GREEDY)
    assert sequence.cached == len(history) - 6
    said = generate(session, sequence, 1)
    assert said == [each.token for each in drawn(start(make_session, None), tokens, 1)]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "model", "state"])
def test_a_damaged_file_is_computed_again(make_session, tmp_path, damage: str):
    store = make_store(tmp_path)
    session = start(make_session, store)
    history = run_chat(session)
    leave(session, store)
    (file,) = tmp_path.glob("*.kv")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage in ("cut", "empty"):
        del content[len(content) // 2 if damage == "cut" else 0 :]
    file.write_bytes(content)
    key = KEY
    if damage == "gone":
        file.unlink()
    elif damage == "model":
        key = "x" * 64
    elif damage == "state":  # right in every byte, and yet not a state of this context
        file.unlink()
        folder = KvFolder(tmp_path, 1 << 30)
        (saved,) = store._saved
        assert saved.state is not None
        saved.state = saved.state[: len(saved.state) // 2].copy()
        saved.size_bytes = saved.state.size
        assert folder.write(saved)
    session = make_session()
    session.keep_in(make_store(tmp_path), key)
    found, _, cached = go_on(session, history)
    assert cached == 0
    fresh, _, _ = go_on(start(make_session, None), history)
    assert found == fresh
    if damage not in ("model", "gone"):
        assert not file.exists()


def test_an_answer_that_was_cut_off_goes_on_after_a_restart(make_session, tmp_path):
    store = make_store(tmp_path)
    session = start(make_session, store)
    history = run_chat(session)
    leave(session, store)
    session = start(make_session, make_store(tmp_path))
    recalled = session.recall("turn")
    assert recalled is not None
    assert list(recalled.tokens) == history
    sequence = session.open(recalled.tokens, GREEDY)
    assert sequence.cached == len(history) - 1
