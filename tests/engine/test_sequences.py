"""Sequences beside each other in one context: shared prefixes, forks, probes, mixed batches."""

from __future__ import annotations

from etui.arm import Sampling
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import common_prefix
from tests.engine.conftest import MakeSession
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


def test_another_chat_costs_a_new_one_no_attention(session: LlamaSession) -> None:
    first, second = (
        prompt(session, f"Tell me about {what} at length.") for what in ("cats", "iron")
    )
    answer(session, first, 40, GREEDY)
    answer(session, second, 40, GREEDY)
    again = session.open(first, GREEDY)
    # Only what the two have in common is left: the rest would lie in the way of every token.
    assert again.cached == common_prefix(first, second)
    assert again.cached < len(first) - 1


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
