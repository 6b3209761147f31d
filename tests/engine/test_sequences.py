"""Sequences beside each other in one context: shared prefixes, forks, probes, mixed batches."""

from __future__ import annotations

from etui.arm import Sampling
from tests.engine.driving import (
    GREEDY,
    QUESTION,
    answer,
    assert_follow,
    drawn,
    generate,
    prefill,
    prompt,
)


def test_a_second_turn_reuses_the_first(make_session):
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


def test_a_rolled_back_probe_leaves_no_trace(make_session):
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


def test_forks_draw_from_one_prefill(session):
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


def test_rolling_back_into_the_prompt_computes_one_token_again(session):
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    expected = generate(session, sequence, 5)
    assert session.rollback(sequence, 5)
    assert sequence.pending == 0
    step = session.step([sequence])
    assert step.computed == {sequence.id: 1}
    assert step.sampled[0].token == expected[0]


def test_a_batch_gives_each_sequence_its_own_answer(make_session):
    session = make_session()
    prompts = [prompt(session, text) for text in ("Name a colour.", "Count to ten.", QUESTION)]
    alone = [drawn(make_session(), tokens, 6) for tokens in prompts]
    sequences = [session.open(tokens, GREEDY) for tokens in prompts]
    assert_follow(session, sequences, alone)


def test_a_session_that_forgets_reuses_nothing(session):
    tokens = session.tokenize("One two three four five six", bos=True)
    first = session.open(tokens, GREEDY)
    session.step([first])
    session.close(first)
    again = session.open(tokens, GREEDY)
    assert again.cached > 0
    session.close(again)
    free = session.free_sequences
    session.forget()
    anew = session.open(tokens, GREEDY)
    assert anew.cached == 0
    assert session.free_sequences == free - 1
