"""One batch for several owners: who draws, whose prompt is computed, what may be read after it."""

from __future__ import annotations

import pytest

from etui.arm import Sampling
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import LlamaSequence
from etui.errors import CacheFull
from tests.engine.batching.fakes import draw_token, find_text, make_session

GREEDY = Sampling(temperature=0)


def _open(session: LlamaSession, text: str, owner: str = "") -> LlamaSequence:
    return session.open([ord(each) for each in text], GREEDY, owner=owner)


def _prefill(session: LlamaSession, sequence: LlamaSequence) -> None:
    while not session.step([sequence]).sampled:
        pass


def test_each_sequence_has_its_own_flag():
    session, _ = make_session()
    first, second = _open(session, "first"), _open(session, "second")
    step = session.step_mixed([(first, True), (second, False)], prompt_limit=None)
    assert step.computed == {first.id: 5, second.id: 6}
    assert [each.sequence_id for each in step.sampled] == [first.id]
    assert second.tokens == [ord(each) for each in "second"]
    after = draw_token(tuple(second.tokens))
    best, other = session.logprobs(second, [after, after + 1])
    assert best > other


def test_logits_can_be_read_after_the_step_of_a_sequence_that_computed_nothing():
    session, _ = make_session()
    first, second = _open(session, "first"), _open(session, "second")
    session.step_mixed([(first, False)], prompt_limit=None)
    letters = list(range(97, 123))
    before = session.logprobs(first, letters)
    step = session.step_mixed([(first, True), (second, True)], prompt_limit=None)
    assert step.computed == {second.id: 6}
    assert {each.sequence_id for each in step.sampled} == {first.id, second.id}
    assert session.logprobs(first, letters) == before
    assert session.logprobs(second, letters) != before
    session.step_mixed([(second, True)], prompt_limit=None)
    with pytest.raises(ValueError, match="overwritten"):
        session.logprobs(first, [97])


def test_a_prompt_is_computed_in_chunks_while_another_decodes():
    session, _ = make_session(batch_tokens=32)
    talking = _open(session, find_text(40))
    _prefill(session, talking)
    long, longer = _open(session, "x" * 50), _open(session, "y" * 60)
    wanted = [(long, True), (talking, True), (longer, True)]
    chunks = []
    while long.pending > 1 or longer.pending > 1:
        step = session.step_mixed(wanted, prompt_limit=8)
        # Nobody's next token waits for more than one chunk.
        assert step.computed.pop(talking.id) == 1
        assert talking.id in [each.sequence_id for each in step.sampled]
        prompts = {id_: count for id_, count in step.computed.items() if count > 1}
        assert sum(prompts.values()) <= 8
        chunks += sorted(prompts)
    assert chunks == sorted(chunks), "the prompt that came first is not computed first"


def test_on_a_cpu_prompts_and_tokens_take_turns_by_time(monkeypatch):
    session, _ = make_session(batch_tokens=32)
    session.share_among_clients()
    talking = _open(session, find_text(40))
    _prefill(session, talking)
    prompt = _open(session, "x" * 200)
    wanted = [(talking, True), (prompt, True)]
    monkeypatch.setattr("etui.engine.llama_session.PROMPT_TURN_NS", 10**12)
    assert session.step_mixed(wanted, prompt_limit=16).computed == {prompt.id: 32}
    assert session.step_mixed(wanted, prompt_limit=16).computed == {prompt.id: 32}
    monkeypatch.setattr("etui.engine.llama_session.PROMPT_TURN_NS", 1)
    for _ in range(2):  # a turn of prompts is a batch at least
        assert session.step_mixed(wanted, prompt_limit=16).computed == {talking.id: 1}
        assert session.step_mixed(wanted, prompt_limit=16).computed == {prompt.id: 32}


def test_without_a_decoder_a_prompt_takes_the_whole_batch():
    session, _ = make_session(batch_tokens=32)
    prompt = _open(session, "x" * 50)
    assert session.step_mixed([(prompt, True)], prompt_limit=8).computed == {prompt.id: 32}


def test_a_full_cache_loses_no_drawn_token():
    session, context = make_session(context_tokens=64)
    first = _open(session, "first")
    session.step_mixed([(first, False)], prompt_limit=None)
    second = _open(session, "second")
    context.capacity = 5
    step = session.step_mixed([(first, True), (second, True)], prompt_limit=None)
    assert [each.sequence_id for each in step.sampled] == [first.id]
    assert step.computed == {}
    with pytest.raises(CacheFull):
        session.step_mixed([(first, True), (second, True)], prompt_limit=None)
    context.capacity = 50
    step = session.step_mixed([(first, True), (second, True)], prompt_limit=None)
    assert step.computed == {first.id: 1, second.id: 6}


def test_what_a_failed_batch_should_have_computed_is_known():
    session, context = make_session()
    first = _open(session, "first")
    context.fails_at = {1}
    with pytest.raises(Exception, match="failed to decode"):
        session.step_mixed([(first, True)], prompt_limit=None)
    assert session.planned == {first.id: 5}
