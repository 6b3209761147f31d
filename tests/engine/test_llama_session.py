"""The session over the real llama.cpp, on the starter model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etui.arm import Sampling
from etui.engine.context import Context
from etui.engine.llama_session import LlamaSequence, LlamaSession
from etui.engine.model import Model
from etui.engine.session import Sampled, TokenSequence
from etui.errors import CacheFull, ContextOverflow, EngineFailed
from etui.query import Message

from .conftest import MakeSession

GREEDY = Sampling(temperature=0)
QUESTION = "Write two sentences about the sea."


def prompt(session: LlamaSession, *texts: str) -> list[int]:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text) for i, text in enumerate(texts)]  # type: ignore[arg-type]
    return session.tokenize(session.render(messages), bos=True)


def prefill(session: LlamaSession, sequence: TokenSequence) -> list[int]:
    """Compute what is queued; the sizes of the batches it took."""
    sizes = []
    while True:
        step = session.step([sequence])
        sizes.append(step.computed.get(sequence.id, 0))
        if step.sampled:
            return sizes


def generate(session: LlamaSession, sequence: TokenSequence, count: int) -> list[int]:
    """The next ``count`` tokens, fewer if the model ends."""
    tokens: list[int] = []
    while len(tokens) < count:
        step = session.step([sequence])
        for sampled in step.sampled:
            if sampled.ends:
                return tokens
            tokens.append(sampled.token)
    return tokens


def answer(session: LlamaSession, tokens: list[int], count: int, sampling: Sampling) -> list[int]:
    sequence = session.open(tokens, sampling)
    try:
        return generate(session, sequence, count)
    finally:
        session.close(sequence)


def drawn(session: LlamaSession, tokens: list[int], count: int) -> list[Sampled]:
    """What a sequence of its own draws, prefilled whole."""
    sequence = session.open(tokens, GREEDY)
    prefill(session, sequence)
    session.rollback(sequence, 1)
    found = [session.step([sequence]).sampled[0] for _ in range(count)]
    assert not any(sampled.ends for sampled in found)
    return found


def assert_follow(
    session: LlamaSession, sequences: list[LlamaSequence], expected: list[list[Sampled]]
) -> None:
    """The sequences give each expected token the probability it was drawn with.

    Kernels add up in another order for a batch of another size, so near-ties may fall otherwise:
    probabilities are compared, and the expected token is what goes on.
    """
    for draws in zip(*expected, strict=True):
        session.step(sequences)
        for sequence, draw in zip(sequences, draws, strict=True):
            logprob = session.logprobs(sequence, [draw.token])[0]
            assert logprob == pytest.approx(draw.logprob, abs=0.3)
        for sequence, draw in zip(sequences, draws, strict=True):
            session.rollback(sequence, sequence.pending)
            session.extend(sequence, [draw.token])


def test_greedy_output_is_that_of_llama_cpp(session: LlamaSession, starter_model: Path) -> None:
    from llama_cpp import Llama

    tokens = prompt(session, QUESTION)
    ours = answer(session, tokens, 32, GREEDY)
    theirs: list[int] = []
    llama = Llama(
        str(starter_model), n_ctx=1024, n_threads=1, n_threads_batch=1, n_batch=128, verbose=False
    )
    for token in llama.generate(tokens, temp=0):
        if token == llama.token_eos() or len(theirs) == 32:
            break
        theirs.append(token)
    llama.close()
    assert len(ours) == 32
    assert ours == theirs


def test_the_same_seed_gives_the_same_answer(make_session: MakeSession) -> None:
    warm = Sampling(temperature=0.9, seed=7)
    first, second = make_session(), make_session()
    tokens = prompt(first, QUESTION)
    once = answer(first, tokens, 24, warm)
    assert answer(second, tokens, 24, warm) == once
    assert answer(make_session(), tokens, 24, Sampling(temperature=0.9, seed=8)) != once


def test_a_second_turn_reuses_the_first(make_session: MakeSession) -> None:
    session, fresh = make_session(), make_session()
    first = prompt(session, QUESTION)
    said = answer(session, first, 24, GREEDY)
    text = b"".join(session._model.piece(token)[0] for token in said).decode()
    second = prompt(session, QUESTION, text, "And one about rivers.")

    sequence = session.open(second, GREEDY)
    assert len(first) <= sequence.cached < len(second)
    computed = len(second) - sequence.cached
    assert session.step([sequence]).computed == {sequence.id: computed}
    session.rollback(sequence, 1)
    assert_follow(session, [sequence], [drawn(fresh, second, 12)])


def test_chats_that_take_turns_keep_their_prefixes(session: LlamaSession) -> None:
    stories = [prompt(session, f"Tell me about {what} at length.") for what in ("cats", "iron")]
    for tokens in stories:
        answer(session, tokens, 40, GREEDY)
    for tokens in stories:
        again = session.open(tokens, GREEDY)
        assert again.cached == len(tokens) - 1
        session.close(again)


def test_a_prompt_is_computed_in_batches(session: LlamaSession) -> None:
    tokens = session.tokenize("one two three four " * 80, bos=True)
    sequence = session.open(tokens, GREEDY)
    sizes = prefill(session, sequence)
    assert sizes[:-1] == [128] * (len(tokens) // 128)
    assert sum(sizes) == len(tokens)
    assert sequence.pending == 1  # the token that was drawn


def test_stopping_in_a_prefill_costs_one_batch(session: LlamaSession) -> None:
    tokens = session.tokenize("one two three four " * 80, bos=True)
    sequence = session.open(tokens, GREEDY)
    step = session.step([sequence])
    session.close(sequence)
    assert step.computed == {sequence.id: 128}
    assert not step.sampled
    # What was computed is not lost: the same prompt goes on from there.
    assert session.open(tokens, GREEDY).cached == 128


def test_timestamps_enclose_the_batch(session: LlamaSession) -> None:
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    steps = [session.step([sequence]) for _ in range(3)]
    assert all(step.start_ns < step.end_ns for step in steps)
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(steps))


def test_logprobs_are_a_softmax_over_the_vocabulary(session: LlamaSession) -> None:
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    step = session.step([sequence])
    everything = session.logprobs(sequence, range(session._model.vocabulary))
    drawn = step.sampled[0]
    assert math.fsum(map(math.exp, everything)) == pytest.approx(1, abs=1e-4)
    assert drawn.logprob == pytest.approx(max(everything), abs=1e-5)
    assert everything[drawn.token] == pytest.approx(max(everything), abs=1e-5)


def test_logprobs_of_an_older_step_are_refused(session: LlamaSession) -> None:
    first = session.open(prompt(session, QUESTION), GREEDY)
    second = session.open(prompt(session, "Why?"), GREEDY)
    session.step([first])
    session.step([second])
    with pytest.raises(ValueError, match="next step"):
        session.logprobs(first, [1])


def test_a_rolled_back_probe_leaves_no_trace(make_session: MakeSession) -> None:
    session = make_session()
    tokens = prompt(session, QUESTION)
    undisturbed = answer(make_session(), tokens, 12, GREEDY)
    sequence = session.open(tokens, GREEDY)
    before = generate(session, sequence, 6)
    probe = session.tokenize(" The answer is")
    session.extend(sequence, probe)
    step = session.step([sequence])
    assert session.rollback(sequence, len(probe) + len([s for s in step.sampled if not s.ends]))
    assert before + generate(session, sequence, 6) == undisturbed


def test_a_probe_on_a_fork_leaves_no_trace(make_session: MakeSession) -> None:
    session = make_session()
    tokens = prompt(session, QUESTION)
    undisturbed = answer(make_session(), tokens, 12, GREEDY)
    sequence = session.open(tokens, GREEDY)
    before = generate(session, sequence, 6)
    probe = session.fork(sequence, GREEDY)
    session.extend(probe, session.tokenize(" The answer is"))
    step = session.step([probe])
    assert step.computed[probe.id] == 1 + 3  # the drawn token and the probe, nothing again
    session.close(probe, keep=False)
    assert before + generate(session, sequence, 6) == undisturbed


def test_forks_draw_from_one_prefill(session: LlamaSession) -> None:
    parent = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, parent)
    session.rollback(parent, 1)  # each fork draws its own first token
    forks = [session.fork(parent, Sampling(temperature=1.2, seed=seed)) for seed in range(4)]
    step = session.step(forks)
    assert step.computed == {}  # drawn from the logits of the prompt
    assert len(step.sampled) == 4
    step = session.step(forks)
    assert step.computed == {fork.id: 1 for fork in forks}
    for _ in range(8):
        session.step(forks)
    assert len({tuple(fork.tokens) for fork in forks}) > 1


def test_rolling_back_into_the_prompt_computes_one_token_again(session: LlamaSession) -> None:
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    expected = generate(session, sequence, 5)
    assert session.rollback(sequence, 5)
    assert sequence.pending == 0
    step = session.step([sequence])
    assert step.computed == {sequence.id: 1}
    assert step.sampled[0].token == expected[0]


def test_prefill_and_decode_share_a_batch(session: LlamaSession) -> None:
    talking = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, talking)
    newcomer = session.open(session.tokenize("one two three four " * 80, bos=True), GREEDY)
    step = session.step([newcomer, talking])
    assert step.computed == {talking.id: 1, newcomer.id: 127}
    assert [sampled.sequence_id for sampled in step.sampled] == [talking.id]


def test_a_batch_gives_each_sequence_its_own_answer(make_session: MakeSession) -> None:
    session = make_session()
    prompts = [prompt(session, text) for text in ("Name a colour.", "Count to ten.", QUESTION)]
    alone = [drawn(make_session(), tokens, 6) for tokens in prompts]
    sequences = [session.open(tokens, GREEDY) for tokens in prompts]
    assert_follow(session, sequences, alone)


def test_free_tokens_count_shared_cells_once(session: LlamaSession) -> None:
    free = session.free_tokens
    parent = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, parent)
    held = len(parent.tokens) - 1
    assert session.free_tokens == free - held
    fork = session.fork(parent, GREEDY)
    assert session.free_tokens == free - held
    session.step([parent, fork])
    assert session.free_tokens == free - held - 2
    session.close(parent)
    session.close(fork)
    assert session.free_tokens == free


def test_donors_give_way_when_the_cache_is_full(make_session: MakeSession) -> None:
    session = make_session(context_tokens=256)
    for word in ("alpha", "beta", "gamma"):
        tokens = session.tokenize(f"{word} and more " * 40, bos=True)[:150]
        sequence = session.open(tokens, GREEDY)
        sizes = prefill(session, sequence)
        assert sum(sizes) == len(tokens) - sequence.cached
        session.close(sequence)


def test_open_sequences_that_fill_the_cache_are_told(make_session: MakeSession) -> None:
    session = make_session(context_tokens=256)
    parent = session.open(session.tokenize("one two three four " * 40, bos=True)[:200], GREEDY)
    prefill(session, parent)
    shared = parent.computed
    forks = [session.fork(parent, Sampling(temperature=1, seed=seed)) for seed in range(5)]
    room = session.free_tokens

    def fill() -> None:
        for _ in range(56):
            session.step(forks)

    with pytest.raises(CacheFull) as caught:
        fill()
    assert caught.value.sequences == 6
    # Every cell was used before it was refused: the last steps served fewer sequences.
    assert sum(fork.computed - shared for fork in forks) == room
    # Giving sequences up makes room for the others.
    for fork in forks[1:]:
        session.close(fork, keep=False)
    assert session.step(forks[:1]).sampled


def test_a_failed_decode_says_what_to_do_and_harms_nothing(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    prompt = session.tokenize("Once upon a time in a small village", bos=True)
    expected = [s.token for s in session.step([session.open(prompt, Sampling())]).sampled]
    session = make_session()
    decode = session._context.decode

    def out_of_memory() -> int:
        decode()  # what it computed is in the cache all the same
        return -2

    monkeypatch.setattr(session._context, "decode", out_of_memory)
    sequence = session.open(prompt, Sampling())
    with pytest.raises(EngineFailed, match=r"failed to decode a batch \(code -2\)") as caught:
        session.step([sequence])
    assert "lower `context` or `gpu_layers`" in caught.value.fix
    assert sequence.pending == len(prompt)
    monkeypatch.undo()
    assert [s.token for s in session.step([sequence]).sampled] == expected


def test_more_sequences_than_the_context_holds_are_refused(make_session: MakeSession) -> None:
    session = make_session(sequences=2)
    tokens = prompt(session, QUESTION)
    first, second = session.open(tokens, GREEDY), session.open(tokens, GREEDY)
    assert session.free_sequences == 0
    with pytest.raises(EngineFailed, match="2 sequences are open"):
        session.fork(first, GREEDY)
    session.close(second)
    assert session.fork(first, GREEDY).tokens == first.tokens


def test_a_prompt_longer_than_the_context_says_by_how_much(session: LlamaSession) -> None:
    tokens = [session.tokenize(" sea")[0]] * 1030
    with pytest.raises(ContextOverflow, match="6 tokens too long"):
        session.open(tokens, GREEDY)


def test_the_begin_token_comes_once(model: Model) -> None:
    for text in ("Hello", f"{model.bos_text}Hello"):
        tokens = model.tokenize(text, bos=True)
        assert tokens.count(model.bos) == (1 if model.adds_bos or model.bos_text in text else 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=["C"])))
def test_any_text_survives_tokenisation(model: Model, text: str) -> None:
    tokens = model.tokenize(text, special=False)
    raw = b"".join(model.piece(token)[0] for token in tokens)
    assert raw.decode() == text


class RefusingContext(Context):
    """A context that refuses partial removal, as recurrent and hybrid models do."""

    def remove(self, sequence: int, start: int) -> bool:
        return start <= 0 and super().remove(sequence, start)


@pytest.fixture
def refusing(make_session: MakeSession) -> Iterator[LlamaSession]:
    session = make_session()
    session._context.__class__ = RefusingContext
    session._model.recurrent = True
    yield session
    session._model.recurrent = False


def test_a_refused_rollback_changes_nothing(refusing: LlamaSession) -> None:
    sequence = refusing.open(prompt(refusing, QUESTION), GREEDY)
    generate(refusing, sequence, 3)
    before = list(sequence.tokens)
    assert not refusing.rollback(sequence, 2)
    assert sequence.tokens == before
    assert refusing.rollback(sequence, 1)  # the queued token needs no removal
    assert refusing.step([sequence]).sampled[0].token == before[-1]


def test_a_refusing_model_computes_a_changed_prompt_whole(refusing: LlamaSession) -> None:
    answer(refusing, prompt(refusing, QUESTION), 4, GREEDY)
    other = prompt(refusing, QUESTION + " Please.")
    sequence = refusing.open(other, GREEDY)
    assert sequence.cached == 0
    assert sum(prefill(refusing, sequence)) == len(other)


def test_a_refusing_model_goes_on_from_a_whole_sequence(refusing: LlamaSession) -> None:
    first = refusing.open(prompt(refusing, QUESTION), GREEDY)
    generate(refusing, first, 3)
    computed = first.tokens[: first.computed]
    refusing.close(first)
    more = [*computed, *refusing.tokenize(" And then?")]
    assert refusing.open(more, GREEDY).cached == len(computed)


def test_a_refusing_model_computes_all_again_for_lost_logits(refusing: LlamaSession) -> None:
    first = refusing.open(prompt(refusing, QUESTION), GREEDY)
    prefill(refusing, first)
    drawn_first = first.tokens[-1]
    refusing.rollback(first, 1)
    other = refusing.open(prompt(refusing, "Why?"), GREEDY)
    prefill(refusing, other)
    step = refusing.step([first])
    assert step.computed == {first.id: len(first.tokens) - 1}
    assert step.sampled[0].token == drawn_first
