"""Verified answers are those without speculation, whatever was drafted and whatever interrupts."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from etui.arm import Sampling
from etui.engine import sequence_cache
from etui.engine.llama_session import LlamaSession
from etui.engine.sequence_cache import LlamaSequence
from etui.engine.session import Sampled
from etui.engine.speculation import draft_verifier
from etui.errors import ContextOverflow, EngineFailed
from etui.events import Verified
from tests.engine.speculation.fakes import FakeContext, FakeDrafter, FakeSampler, make_fake_session

SAMPLED = Sampling(temperature=1.0, seed=7)
PROMPT = [1, 2, 0, 2, 1, 2, 0]
V = 5


def logits_of(tokens: tuple[int, ...]) -> list[float]:
    """Logits that depend on the last three tokens and on how many there are."""
    return _mixed(tokens[-3:], len(tokens) % 4)


@cache
def _mixed(last: tuple[int, ...], phase: int) -> list[float]:
    mixed = random.Random(str((last, phase)))
    return [mixed.uniform(-2, 2) for _ in range(V)]


def best(tokens: Sequence[int]) -> int:
    return int(np.argmax(logits_of(tuple(tokens))))


def draft_best(tokens: Sequence[int], count: int) -> list[int]:
    """What a greedy model would write."""
    own = list(tokens)
    for _ in range(count):
        own.append(best(own))
    return own[len(tokens) :]


def draft_half(tokens: Sequence[int], count: int) -> list[int]:
    """Right or wrong by turns."""
    return [
        t if (len(tokens) + i) % 3 else (t + 1) % V for i, t in enumerate(draft_best(tokens, count))
    ]


def draft_wrong(tokens: Sequence[int], count: int) -> list[int]:
    return [(t + 1) % V for t in draft_best(tokens, count)]


DRAFTS = {"right": draft_best, "half": draft_half, "wrong": draft_wrong}


@pytest.fixture(autouse=True)
def fake_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_cache, "Sampler", FakeSampler)


def opened(
    sampling: Sampling, drafts: Callable[[Sequence[int], int], list[int]] | None, **options: int
) -> tuple[LlamaSession, FakeContext, LlamaSequence]:
    """A sequence after its prefill and first token; with drafts it speculates."""
    session, context = make_fake_session(logits_of, V, **options)  # type: ignore[arg-type]
    sequence = session.open(PROMPT, sampling)
    session.step([sequence])
    if drafts is not None:
        session.speculator.add(FakeDrafter(drafts))
        assert session.speculate(sequence, "draft") == ""
    return session, context, sequence


def go_on(session: LlamaSession, sequence: LlamaSequence, count: int) -> list[Sampled]:
    return [session.step([sequence]).sampled[0] for _ in range(count)]


def computed_of(context: FakeContext, sequence: LlamaSequence) -> list[int]:
    return context.slots[sequence.slot]


@pytest.mark.parametrize("drafts", DRAFTS)
@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_the_answer_is_that_without_speculation(drafts, sampling):
    plain, undrafted, alone = opened(sampling, None)
    expected = go_on(plain, alone, 120)
    session, context, sequence = opened(sampling, DRAFTS[drafts])
    drawn = go_on(session, sequence, 120)
    assert drawn == expected  # tokens, pieces and log-probabilities
    assert sequence.tokens == alone.tokens
    if drafts == "right" and sampling.temperature == 0:
        assert len(context.decodes) < len(undrafted.decodes) / 8


def test_lookup_draws_the_same_as_no_speculation():
    plain, undrafted, alone = opened(Sampling(), None)
    expected = go_on(plain, alone, 200)
    session, context, sequence = opened(Sampling(), None)
    assert session.speculate(sequence, "lookup") == ""
    assert go_on(session, sequence, 200) == expected
    assert len(context.decodes) < len(undrafted.decodes) / 2  # the little model repeats itself


@pytest.mark.parametrize("drafts", DRAFTS)
def test_the_probability_of_every_answer_is_the_models(drafts, monkeypatch):
    """Exact, by enumeration: each answer of four tokens is forced once, and its probability read.

    The sampler is handed a row, draws the next token of the answer, and multiplies the probability
    which that row gives it. The product must be the model's own; all of them add up to 1.
    """
    length, total = 4, 0.0
    for answer in itertools.product(range(V), repeat=length):
        forced = Forced(answer)
        monkeypatch.setattr(sequence_cache, "Sampler", lambda *_, own=forced: own)
        session, _ = make_fake_session(logits_of, V)
        session.speculator.add(FakeDrafter(DRAFTS[drafts]))
        sequence = session.open(PROMPT, SAMPLED)
        session.speculator.cost.observe(1, 1_000)
        session.speculate(sequence, "draft")
        drawn = [session.step([sequence]).sampled[0].token for _ in range(length)]
        assert tuple(drawn) == answer
        assert forced.draws == length  # every draw is kept: nothing is drawn from void rows
        expected = 1.0
        for position in range(length):
            row = logits_of((*PROMPT, *answer[:position]))
            expected *= softmax(row)[answer[position]]
        assert forced.probability == pytest.approx(expected, rel=1e-6)
        total += forced.probability
    assert total == pytest.approx(1.0, rel=1e-6)


class Forced:
    """A sampler that draws a given answer and multiplies its probabilities."""

    greedy = False

    def __init__(self, answer: Sequence[int]) -> None:
        self._answer = answer
        self.draws = 0
        self.probability = 1.0

    def draw(self, context: FakeContext, row: int, *_: object) -> int:
        token = self._answer[self.draws]
        self.draws += 1
        self.probability *= softmax(context.logits(row).tolist())[token]
        return token

    def free(self) -> None:
        pass


def softmax(logits: Sequence[float]) -> list[float]:
    total = math.fsum(map(math.exp, logits))
    return [math.exp(each) / total for each in logits]


@pytest.mark.parametrize("drafts", DRAFTS)
@pytest.mark.parametrize("change", ["extend", "rollback", "fork", "other", "close"])
def test_whatever_interrupts_finds_the_sequence_as_without_speculation(drafts, change):
    for at in range(12):
        check_interruption(drafts, at, change)


def check_interruption(drafts, at, change):
    results = []
    for own in (None, DRAFTS[drafts]):
        session, context, sequence = opened(SAMPLED, own)
        go_on(session, sequence, at)
        extra: list[int] = []
        if change == "extend":
            session.extend(sequence, [3, 3, 1])
        elif change == "rollback":
            assert session.rollback(sequence, 2)
        elif change == "fork":
            child = session.fork(sequence, Sampling())
            session.extend(child, [4, 4])
            extra = [session.step([child]).sampled[0].token for _ in range(3)]
            assert computed_of(context, child) == child.tokens[: child.computed]
            session.close(child, keep=False)
        elif change == "other":
            other = session.open([2, 2, 2], Sampling())
            extra = [session.step([other]).sampled[0].token for _ in range(2)]
            session.close(other, keep=False)
        else:
            session.close(sequence)
            assert computed_of(context, sequence) == sequence.tokens
            sequence = session.open([*PROMPT, 4], SAMPLED)
            session.step([sequence])
        assert (
            computed_of(context, sequence)[: sequence.computed]
            == (sequence.tokens[: sequence.computed])
        )
        assert len(sequence.cells) == sequence.computed
        drawn = [each.token for each in go_on(session, sequence, 20)]
        results.append((extra, drawn, sequence.tokens))
    assert results[0] == results[1], at


def test_each_batch_is_reported_once_with_what_was_accepted():
    session, context, sequence = opened(Sampling(), draft_half)
    before = len(context.decodes)
    reported: list[Verified] = []
    drawn = 0
    for _ in range(60):
        step = session.step([sequence])
        drawn += len(step.sampled)
        reported += step.verified
    reported += session.settle(sequence)
    batches = [rows for rows in context.decodes[before:] if rows > 1]
    assert [each.rows for each in reported] == batches
    assert all(each.drafted == each.rows - 1 for each in reported)
    assert all(0 <= each.accepted <= each.drafted for each in reported)
    assert all(each.start_ns <= each.end_ns for each in reported)
    assert all(each.draft_start_ns <= each.start_ns for each in reported)
    singles = sum(rows == 1 for rows in context.decodes[before:])
    # Every token comes from a single row, is accepted, or is the one that each batch adds.
    assert drawn in range(
        singles + sum(each.accepted + 1 for each in reported) - 1,
        singles + sum(each.accepted + 1 for each in reported) + 1,
    )
    assert session.settle(sequence) == ()


def test_an_answer_cut_in_the_middle_of_a_batch_reports_what_was_drawn():
    session, context, sequence = opened(Sampling(), draft_best)
    go_on(session, sequence, 1)  # one single row, to compare with
    go_on(session, sequence, 4)
    (cut,) = session.settle(sequence)
    assert (cut.drafted, cut.accepted) == (15, 4)
    assert computed_of(context, sequence) == sequence.tokens[: sequence.computed]
    assert sequence.pending == 0


def test_an_end_token_in_the_middle_of_a_batch_ends_the_answer_there():
    results = []
    for drafts in (None, draft_best):
        session, context, sequence = opened(Sampling(), drafts)
        go_on(session, sequence, 1)
        end = draft_best(sequence.tokens, 6)[-1]  # drawn within the next batch
        session._model.end = end  # type: ignore[attr-defined]
        drawn, verified = [], []
        while not drawn or not drawn[-1].ends:
            step = session.step([sequence])
            drawn += step.sampled
            verified += step.verified
        if drafts is not None:
            (batch,) = verified
            assert batch.accepted == len(drawn) < batch.drafted
        session.close(sequence)
        assert end not in sequence.tokens[len(PROMPT) + 2 :]
        assert computed_of(context, sequence) == sequence.tokens
        results.append([each.token for each in drawn])
    assert results[0] == results[1]


def test_a_context_that_fills_in_the_middle_of_a_batch_ends_where_it_would():
    results = []
    for drafts in (None, draft_best):
        session, _, sequence = opened(Sampling(), drafts, context_tokens=40)
        results.append([each.token for each in go_on(session, sequence, 33)])
        assert len(sequence.tokens) == 41  # the last one has no place
        with pytest.raises(ContextOverflow):
            session.step([sequence])
    assert results[0] == results[1]


def test_a_draft_gives_way_where_the_cache_has_no_room_for_it():
    plain, _, alone = opened(Sampling(), None)
    expected = go_on(plain, alone, 20)
    session, context, sequence = opened(Sampling(), draft_best, capacity=30)
    donor = session.open([4, 4, 4], Sampling())
    session.step([donor])
    session.close(donor)
    held = len(context.slots[donor.slot])
    assert go_on(session, sequence, 18) == expected[:18]
    assert len(context.slots[donor.slot]) == held  # the other chat's prefix is still there
    assert context.decodes[-1] == 1


def test_a_failure_of_a_verification_leaves_nothing_in_the_cache():
    session, context, sequence = opened(Sampling(), draft_best)
    go_on(session, sequence, 1)
    context.fails_at = {len(context.decodes) + 1}
    with pytest.raises(EngineFailed):
        session.step([sequence])
    assert computed_of(context, sequence) == sequence.tokens[: sequence.computed]
    plain, _, alone = opened(Sampling(), None)
    expected = [each.token for each in go_on(plain, alone, 20)]
    go_on(session, sequence, 19)
    assert sequence.tokens[len(PROMPT) + 1 :] == expected


def test_a_cache_that_refuses_to_remove_a_part_ends_the_speculation():
    plain, _, alone = opened(Sampling(), None)
    expected = go_on(plain, alone, 60)
    session, context, sequence = opened(Sampling(), draft_half)
    context.refuses_removal = True
    assert [each.token for each in go_on(session, sequence, 60)] == [
        each.token for each in expected
    ]
    assert "cannot remove" in session.speculate(sequence, "draft")
    assert context.decodes[-1] == 1


def test_a_model_with_a_state_is_left_alone(monkeypatch):
    session, _ = make_fake_session(logits_of, V)
    assert draft_verifier.refuse_speculation(session._model) == ""
    monkeypatch.setattr(session._model, "recurrent", True)
    assert "recurrent" in draft_verifier.refuse_speculation(session._model)


def test_a_model_without_a_drafter_says_so():
    session, _, sequence = opened(Sampling(), None)
    assert "draft" in session.speculate(sequence, "draft")
    assert "multi-token" in session.speculate(sequence, "mtp")
    session.drafts.missing_draft = "it does not fit"
    assert session.speculate(sequence, "draft") == "it does not fit"
    assert session.speculate(sequence, "off") == ""


def test_drafters_are_freed_with_the_session():
    session, _, _ = opened(Sampling(), None)
    drafter = FakeDrafter(draft_best)
    session.speculator.add(drafter)
    session.free()
    assert drafter.freed
