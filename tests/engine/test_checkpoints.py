"""Models whose caches cannot roll back: what they draw never depends on what was reused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine import checkpoints as module
from etui.engine.chat_prompt import ChatTemplate
from etui.engine.checkpoints import MOST_PER_SEQUENCE, Checkpoint, _drop_closest
from etui.engine.context import Context, ContextOptions
from etui.engine.kv_folder import KvFolder
from etui.engine.kv_store import KvStore
from etui.engine.library import Library
from etui.engine.llama_session import LlamaSession
from etui.engine.model import Model
from etui.engine.session import ModelFacts, TokenSequence
from etui.engine.speculation.batch_cost import BatchCost
from etui.engine.template_process import TemplateProcess
from tests.engine.driving import GREEDY, answer, generate, prefill
from tests.engine.speculation.fakes import FakeDrafter
from tests.support.tiny_architectures import KINDS, WINDOW, write_architecture

OPTIONS = ContextOptions(context_tokens=2048, threads=1, sequences=4, batch_tokens=64)
WORDS = [97 + (7 * at + at // 11) % 26 for at in range(2000)]
"""Letters."""

TURN, ENDS = 256, 257
"""Tokens before and after a message of a chat."""

LONG = [TURN, *WORDS[:290], ENDS, TURN, *WORDS[:8]]
"""A prompt much longer than the window; the answer's header begins at 292."""

Open = Callable[..., LlamaSession]


@pytest.fixture(scope="module", params=KINDS)
def tiny(
    request: pytest.FixtureRequest, library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    model = Model(library, write_architecture(path, request.param))
    yield model
    model.free()


@pytest.fixture
def open_session(library: Library, tiny: Model) -> Iterator[Open]:
    contexts: list[Context] = []
    templates = TemplateProcess()

    def make(**changes: int) -> LlamaSession:
        context = Context(library, tiny, replace(OPTIONS, **changes))
        contexts.append(context)
        facts = ModelFacts("tiny", OPTIONS.context_tokens, ())
        template = ChatTemplate(templates, "tiny", None, tiny.bos_text, tiny.eos_text)
        return LlamaSession(tiny, context, facts, template)

    yield make
    templates.close()
    for context in contexts:
        context.free()


def continued(session: LlamaSession, sequence: TokenSequence, count: int) -> list[int]:
    """The next tokens, whatever has to be computed before."""
    before = len(sequence.tokens)
    prefill(session, sequence)
    generate(session, sequence, count - 1)
    return list(sequence.tokens[before : before + count])


def expected(open_session: Open, tokens: list[int], count: int) -> list[int]:
    """What a session that has computed nothing before draws."""
    return answer(open_session(), tokens, count, GREEDY)


def kind_of(session: LlamaSession) -> str:
    return session._sequences.checkpoints.kind


def test_a_rolled_back_answer_goes_on_as_if_it_had_not_been_drawn(open_session):
    session = open_session()
    sequence = session.open(LONG, GREEDY)
    first = continued(session, sequence, 100)
    for count in (1, 3, 50, 99):
        assert session.rollback(sequence, count)
        assert sequence.tokens == [*LONG, *first[: 100 - count]]
        assert continued(session, sequence, count) == first[100 - count :]


def test_a_rollback_to_before_every_checkpoint_changes_nothing(open_session):
    session = open_session(sequences=1)
    sequence = session.open(LONG, GREEDY)
    continued(session, sequence, 100)
    before = list(sequence.tokens)
    assert not session.rollback(sequence, len(before) - 20)
    assert sequence.tokens == before
    assert sequence.pending == 1


def test_a_second_turn_goes_on_from_a_checkpoint(open_session):
    """The answer's header is another one, as of a template that leaves out the thinking."""
    session = open_session(sequences=1)
    answer(session, LONG, 80, GREEDY)
    changed = [*LONG[:296], *b" and then, what else was there?"]
    sequence = session.open(changed, GREEDY)
    assert sequence.lost == 296 - sequence.cached
    assert sequence.cached == (292 if kind_of(session) == "state" else 296)
    limit = "state" if kind_of(session) == "state" else f"window of {WINDOW} tokens"
    assert limit in session.facts.cache_limit
    assert continued(session, sequence, 40) == expected(open_session, changed, 40)


def test_a_turn_goes_back_further_than_the_window(open_session):
    session = open_session(sequences=1)
    answer(session, LONG, 250, GREEDY)  # which takes all cells of the window's cache
    changed = [*LONG[:296], *b" and then, what else was there?"]
    sequence = session.open(changed, GREEDY)
    assert (sequence.cached, sequence.lost) == (292, 4)
    assert continued(session, sequence, 40) == expected(open_session, changed, 40)


def test_a_second_turn_with_all_tokens_of_the_first_loses_none(open_session):
    session = open_session()
    first = session.open(LONG, GREEDY)
    continued(session, first, 30)
    known = list(first.tokens[: first.computed])
    session.close(first)
    sequence = session.open([*known, *WORDS[:20]], GREEDY)
    assert (sequence.cached, sequence.lost) == (len(known), 0)
    tokens = list(sequence.tokens)
    assert continued(session, sequence, 30) == expected(open_session, tokens, 30)


def test_forks_draw_what_a_sequence_alone_would(open_session):
    session = open_session()
    parent = session.open(LONG[:-1], GREEDY)
    prefill(session, parent)
    session.rollback(parent, 1)
    session.extend(parent, LONG[-1:])
    forks = [session.fork(parent, GREEDY) for _ in range(3)]
    for at, fork in enumerate(forks):
        session.extend(fork, [65 + at])
    starts = [list(fork.tokens) for fork in forks]
    for _ in range(100):
        session.step(forks)
    for start, fork in zip(starts, forks, strict=True):
        drawn = list(fork.tokens[len(start) :])[:100]
        assert drawn == expected(open_session, start, 100)
    tokens = list(parent.tokens)
    assert continued(session, parent, 60) == expected(open_session, tokens, 60)


def test_a_fork_rolls_back_with_the_checkpoints_of_its_parent(open_session):
    session = open_session()
    parent = session.open(LONG, GREEDY)
    first = continued(session, parent, 10)
    fork = session.fork(parent, GREEDY)
    continued(session, fork, 60)
    assert session.rollback(fork, len(fork.tokens) - len(LONG))
    assert continued(session, fork, 10) == first
    assert continued(session, parent, 20)[:5] == expected(open_session, LONG, 16)[10:15]


def test_chats_branch_at_a_shared_prompt(open_session):
    session = open_session(sequences=8)
    session.share_among_clients()
    prompts = [[*LONG[:200], 65 + at, *WORDS[at : at + 60]] for at in range(3)]
    sequences = [session.open(prompt, GREEDY) for prompt in prompts]
    while any(len(each.tokens) - len(p) < 40 for each, p in zip(sequences, prompts, strict=True)):
        session.step_mixed([(each, True) for each in sequences], prompt_limit=64)
    assert [each.cached for each in sequences] == [0, 200, 200]
    for prompt, sequence in zip(prompts, sequences, strict=True):
        drawn = list(sequence.tokens[len(prompt) :])[:40]
        assert drawn == expected(open_session, prompt, 40)


def test_logits_that_were_overwritten_are_computed_again(open_session):
    session = open_session()
    first = session.open(LONG, GREEDY)
    prefill(session, first)
    drawn = first.tokens[-1]
    session.rollback(first, 1)
    other = session.open(WORDS[500:600], GREEDY)
    prefill(session, other)
    step = session.step([first])
    assert step.computed[first.id] <= len(LONG) - 292
    while not step.sampled:
        step = session.step([first])
    assert step.sampled[0].token == drawn


def test_a_crowded_window_cache_is_compacted_before_anything_is_evicted(open_session, tiny):
    session = open_session(sequences=4, batch_tokens=32)
    if kind_of(session) != "window":
        pytest.skip("no window")
    parent = session.open(WORDS[:250], GREEDY)  # the cache of windows has 256 cells
    prefill(session, parent)
    forks = [session.fork(parent, GREEDY) for _ in range(3)]
    for at, fork in enumerate(forks):
        session.extend(fork, [65 + at])
    starts = [list(fork.tokens) for fork in forks]
    for _ in range(60):
        session.step(forks)
    for start, fork in zip(starts, forks, strict=True):
        assert list(fork.tokens[len(start) :])[:60] == expected(open_session, start, 60)


def test_checkpoints_stay_within_their_number_and_bytes(open_session):
    session = open_session(sequences=2, context_tokens=4096)
    kept = session._sequences.checkpoints
    sequence = session.open(WORDS[:1500], GREEDY)
    prefill(session, sequence)
    assert 1 <= len(sequence.checkpoints) <= MOST_PER_SEQUENCE
    size = sequence.checkpoints[-1].data.nbytes
    kept.budget_bytes = 2 * size
    other = session.open(WORDS[100:1600], GREEDY)
    prefill(session, other)
    assert kept.held_bytes() <= 2 * size + size // 2
    assert other.checkpoints


def test_rejected_drafts_leave_a_window_whole(open_session):
    """A batch takes the cells outside the window before it, so that all of it can be taken back."""
    session = open_session(sequences=1)
    right = expected(open_session, LONG, 120)

    def draft(tokens: Sequence[int], count: int) -> list[int]:
        at = len(tokens) - len(LONG)
        return [t if i < 3 else t ^ 1 for i, t in enumerate(right[at : at + count])]

    session.speculator.cost = BatchCost({1: 1.0, 2: 1.0, 16: 1.0}, learns=False)
    session.speculator.add(FakeDrafter(draft))
    sequence = session.open(LONG, GREEDY)
    prefill(session, sequence)
    refused = session.speculate(sequence, "draft")
    verified = []
    while len(sequence.tokens) < len(LONG) + 120:
        verified += session.step([sequence]).verified
    assert list(sequence.tokens[len(LONG) :])[:120] == right
    if kind_of(session) == "window":
        assert not refused
        assert sum(each.accepted for each in verified) > 20
        assert any(each.accepted < each.drafted for each in verified)
    else:
        assert "recurrent" in refused


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=12, unique=True))
def test_the_newest_checkpoint_is_dropped_last(lengths):
    kept = [Checkpoint(length, None) for length in sorted(lengths)]  # type: ignore[arg-type]
    newest = kept[-1]
    while len(kept) > 1:
        _drop_closest(kept)
        assert kept[-1] is newest
    _drop_closest(kept)
    assert not kept


@pytest.mark.parametrize("tier", ["memory", "disk"])
def test_a_chat_that_left_the_context_comes_back_with_checkpoints(open_session, tmp_path, tier):
    store = KvStore(lambda _held: 1 << 30, KvFolder(tmp_path, 1 << 30))
    session = open_session()
    session.keep_in(store, "k" * 64)
    sequence = session.open(LONG, GREEDY, label="turn")
    prefill(session, sequence)
    generate(session, sequence, 20)
    session.close(sequence)
    if tier == "disk":
        while session._sequences.evict():
            pass
        store.spill(60)
        session = open_session()
        session.keep_in(KvStore(lambda _held: 1 << 30, KvFolder(tmp_path, 1 << 30)), "k" * 64)
    else:
        answer(session, WORDS[500:560], 1, GREEDY)
    following = [*LONG[:292], *WORDS[900:930]]  # the template writes another header
    again = session.open(following, GREEDY)
    assert again.reused is not None
    assert again.reused.tier == tier
    assert 292 - 64 <= again.cached <= 292
    assert continued(session, again, 8) == expected(open_session, following, 8)


def test_a_checkpoint_that_finds_no_room_costs_a_whole_prefill(open_session, monkeypatch):
    session = open_session(sequences=1)
    sequence = session.open(LONG, GREEDY)
    first = continued(session, sequence, 80)
    monkeypatch.setattr(session._context, "load_part", lambda *_: False)
    assert session.rollback(sequence, 80)
    assert continued(session, sequence, 80) == first


def test_steps_follow_the_size_of_a_state(open_session, monkeypatch):
    session = open_session()
    monkeypatch.setattr(module, "SHORT_STEP_BYTES", 0)
    if kind_of(session) != "state":
        pytest.skip("no states")
    sequence = session.open(WORDS[:1000], GREEDY)
    prefill(session, sequence)
    lengths = [each.length for each in sequence.checkpoints]
    assert lengths == [128, 640, 996]


@pytest.mark.slow
def test_gemma_computes_a_twentieth_of_a_second_turn(library):
    folder = Path(os.environ.get("ETUI_TEST_MODELS") or ".models")
    path = folder / "gemma-3-270m.gguf"
    if not path.is_file():
        pytest.skip(
            f"no {path.name} in {folder}: ETUI_MODELS={folder} etui models pull {path.stem}"
        )
    model = Model(library, path)
    # One sequence: its windows hold 768 tokens, so that the answer overwrites those of the prompt.
    options = replace(OPTIONS, sequences=1, batch_tokens=128)
    contexts = [Context(library, model, options) for _ in range(2)]
    facts = ModelFacts("gemma", 2048, ())
    template = ChatTemplate(TemplateProcess(), "gemma", None, model.bos_text, model.eos_text)
    session, fresh = (LlamaSession(model, each, facts, template) for each in contexts)
    text = " ".join(f"The {n}th ship left at noon with {n * 7 % 13} sailors." for n in range(90))
    prompt = session.tokenize(text, bos=True)[:1200]
    first = session.open(prompt, GREEDY)
    generate(session, first, 300)
    assert session.rollback(first, len(first.tokens) - len(prompt))
    session.extend(first, session.tokenize(" How many sailors were there in all?"))
    computed = first.pending
    assert computed <= len(prompt) / 20
    again = fresh.open(list(first.tokens), GREEDY)
    prefill(session, first)
    prefill(fresh, again)
    # Other batches and other cells change the last bits, so that a near tie may fall otherwise.
    tokens = [each.token for each in fresh.top_logprobs(again, 4)]
    assert session.logprobs(first, tokens) == pytest.approx(fresh.logprobs(again, tokens), abs=0.3)
    for context in contexts:
        context.free()
    model.free()
