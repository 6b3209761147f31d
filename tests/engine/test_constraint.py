"""A grammar constrains what a session draws, through forks, rollbacks and scripts."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from jsonschema import validate

from etui.arm import Sampling
from etui.engine import grammar_trial
from etui.engine import sampler as constraint
from etui.engine.batching.shared_session import SharedSession
from etui.engine.grammar import build_schema_grammar
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import LlamaSequence
from etui.engine.session import OutputGrammar, Sampled
from etui.errors import InvalidRequest
from tests.engine.driving import GREEDY, QUESTION, generate, prefill, prompt

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large"]},
        "tags": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "size", "tags"],
}
GRAMMAR = build_schema_grammar(json.dumps(SCHEMA))
WARM = Sampling(temperature=0.8, seed=3)


def begin(session: LlamaSession, sampling: Sampling = GREEDY) -> LlamaSequence:
    sequence = session.open(prompt(session, "Describe a tool as JSON."), sampling)
    session.constrain(sequence, GRAMMAR)
    return sequence


def text_of(session: LlamaSession, tokens: list[int]) -> str:
    return b"".join(session._model.piece(token)[0] for token in tokens).decode()


def assert_matches(session: LlamaSession, tokens: list[int]) -> None:
    validate(json.loads(text_of(session, tokens)), SCHEMA)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        WARM,
        Sampling(temperature=1.5, seed=9, top_p=1.0),
        Sampling(temperature=0, repeat_penalty=1.3, repeat_last_n=32),
        Sampling(temperature=0.9, seed=4, repeat_penalty=1.2, top_k=20),
    ],
)
def test_what_is_drawn_matches_the_schema_and_ends(make_session, sampling):
    session = make_session()
    tokens = generate(session, begin(session, sampling), 200)
    assert len(tokens) < 200
    assert_matches(session, tokens)
    again = make_session()
    assert generate(again, begin(again, sampling), 200) == tokens


def test_tokens_of_a_batch_with_others_are_constrained_too(session):
    first = begin(session)
    other = session.open(prompt(session, QUESTION), GREEDY)
    mixed: dict[int, list[int]] = {first.id: [], other.id: []}
    live = [first, other]
    while first in live:
        for sampled in session.step(live).sampled:
            if sampled.ends:
                live = [each for each in live if each.id != sampled.sequence_id]
            else:
                mixed[sampled.sequence_id].append(sampled.token)
    assert_matches(session, mixed[first.id])


def test_a_fork_goes_on_where_its_parent_is(session):
    parent = begin(session)
    tokens = generate(session, parent, 12)
    fork = session.fork(parent, WARM)
    assert fork.constraint is not parent.constraint
    rest = generate(session, fork, 200)
    assert_matches(session, tokens + rest)
    assert_matches(session, tokens + generate(session, parent, 200))


def test_a_fork_that_is_rolled_back_and_extended_leaves_its_parent_alone(session):
    parent = begin(session)
    tokens = generate(session, parent, 8)
    probe = session.fork(parent, GREEDY)
    session.rollback(probe, 3)
    session.extend(probe, session.tokenize("\nno JSON at all"))
    generate(session, probe, 4)  # what the grammar does not allow ends the constraint
    assert not probe.constraint.active
    session.close(probe, keep=False)
    assert_matches(session, tokens + generate(session, parent, 200))


def test_after_a_rollback_the_grammar_reads_what_is_left(session):
    sequence = begin(session)
    tokens = generate(session, sequence, 14)
    session.rollback(sequence, 9)
    assert generate(session, sequence, 9) == tokens[5:]
    assert_matches(session, tokens + generate(session, sequence, 200))


def test_the_grammar_begins_behind_tokens_that_are_queued(session):
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, sequence)
    session.extend(sequence, session.tokenize("\nAs JSON: "))
    session.constrain(sequence, GRAMMAR)
    assert_matches(session, generate(session, sequence, 200))


def test_a_script_is_drawn_whatever_the_grammar_says(session):
    script = session.tokenize('{"name": "a", "size":')
    tokens = prompt(session, QUESTION)
    allowed = session.open(tokens, GREEDY, script)
    session.constrain(allowed, GRAMMAR)
    assert_matches(session, generate(session, allowed, 200))
    assert allowed.constraint.active
    script = session.tokenize("Not JSON")
    refused = session.open(tokens, GREEDY, script)
    session.constrain(refused, GRAMMAR)
    assert generate(session, refused, len(script) + 2)[: len(script)] == script
    assert not refused.constraint.active


def test_another_grammar_replaces_the_first(session):
    sequence = begin(session)
    first = sequence.constraint
    session.constrain(sequence, build_schema_grammar('{"const": "x"}'))
    assert text_of(session, generate(session, sequence, 20)) == '"x"'
    assert not first.active


def test_a_grammar_that_is_refused_changes_nothing(session):
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    with pytest.raises(InvalidRequest, match="too large"):
        session.constrain(sequence, OutputGrammar("start: ("))
    assert sequence.constraint is None
    assert len(generate(session, sequence, 3)) == 3


def test_a_constrained_sequence_does_not_speculate(session):
    sequence = begin(session)
    assert session.speculate(sequence, "lookup") == "a grammar constrains the answer"
    other = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, other)
    assert session.speculate(other, "lookup") == ""
    session.constrain(other, GRAMMAR)
    assert other.speculation is None
    tokens = [other.tokens[-1], *generate(session, other, 30)]
    assert text_of(session, tokens[1:]).startswith("{")


def test_closing_frees_the_grammar(make_session):
    session = make_session()
    sequence = begin(session)
    fork = session.fork(sequence, GREEDY)
    session.close(sequence)
    session.close(fork, keep=False)
    assert not sequence.constraint.active
    assert not fork.constraint.active
    assert session.open(prompt(session, "Describe a tool as JSON."), GREEDY).constraint is None


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_a_grammar_that_no_token_fits_ends_its_own_sequence_alone(session, sampling):
    # The vocabulary of the starter lacks bytes of this character.
    impossible = build_schema_grammar(json.dumps({"const": "\U00040000"}))
    sequence = session.open(prompt(session, "Write it."), sampling)
    session.constrain(sequence, impossible)
    other = session.open(prompt(session, QUESTION), GREEDY)
    drawn = []
    while not drawn or not drawn[-1].ends:
        step = session.step([sequence, other])
        drawn += [sampled for sampled in step.sampled if sampled.sequence_id == sequence.id]
    assert drawn[-1].stuck
    assert not any(sampled.stuck for sampled in drawn[:-1])
    assert len(generate(session, other, 3)) == 3


# log-probabilities


def test_the_most_likely_tokens_are_in_order_and_no_more_than_certain(session):
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, sequence)
    for _ in range(4):
        (sampled,) = session.step([sequence]).sampled
        top = session.top_logprobs(sequence, 20)
        values = [each.logprob for each in top]
        assert values == sorted(values, reverse=True)
        assert len({each.token for each in top}) == 20
        assert top[0].token == sampled.token
        assert top[0].logprob == pytest.approx(sampled.logprob, abs=1e-5)
        assert top[0].piece == sampled.piece
        assert sum(map(math.exp, values)) <= 1 + 1e-6
    whole = session.top_logprobs(sequence, 10**9)
    assert len(whole) == session.vocabulary.vocabulary
    assert sum(math.exp(each.logprob) for each in whole) == pytest.approx(1.0, abs=1e-4)
    assert all(each.piece for each in whole[:1000])
    assert session.top_logprobs(sequence, 0) == ()
    again = session.logprobs(sequence, [each.token for each in top])
    assert again == pytest.approx(values, abs=1e-5)


def test_logits_of_another_batch_are_not_read(session):
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    prefill(session, sequence)
    other = session.open(prompt(session, "Another one."), GREEDY)
    session.step([other])
    with pytest.raises(ValueError, match="overwritten"):
        session.top_logprobs(sequence, 3)


def test_log_probabilities_are_those_before_the_grammar(session):
    sequence = begin(session)
    while not (sampled := session.step([sequence]).sampled):
        pass
    top = session.top_logprobs(sequence, 5)
    assert sampled[0].token not in [each.token for each in top[:1]]
    assert sampled[0].logprob < top[0].logprob


def test_a_schema_that_exceeds_a_limit_ends_its_own_answer_with_an_error(make_session, monkeypatch):
    session = make_session()
    shared = SharedSession(session, "starter", prompt_limit=64)
    first, other = shared.join(1), shared.join(2)
    constrained = first.open(prompt(session, QUESTION), GREEDY)
    monkeypatch.setattr(grammar_trial, "STATES", 20)  # reached after some tokens
    first.constrain(constrained, build_schema_grammar(json.dumps({"type": "array"})))
    monkeypatch.undo()

    def run() -> None:
        while True:
            first.step([constrained])

    with ThreadPoolExecutor(1) as pool:
        free = other.open(prompt(session, QUESTION), GREEDY)
        failed = pool.submit(run)
        failed.add_done_callback(lambda _: first.leave())
        drawn = [other.step([free]) for _ in range(60)]
        with pytest.raises(InvalidRequest, match="too complex") as found:
            failed.result()
    assert found.value.fix
    assert sum(len(step.sampled) for step in drawn) > 40
    other.leave()


def test_a_token_that_takes_a_second_ends_its_answer(make_session, monkeypatch):
    monkeypatch.setattr(constraint, "TOKEN_SECONDS", 0.0)
    session = make_session()
    sequence = begin(session)
    sampled: list[Sampled] = []
    while not sampled:
        sampled += session.step([sequence]).sampled
    assert sampled[0].ends
    assert "s of CPU for one token" in sampled[0].fault
