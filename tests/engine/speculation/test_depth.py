"""The depth with the most tokens for a unit of cost, and a limit to what drafts may lose."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine.speculation.batch_cost import CPU_CURVE, GPU_CURVE, BatchCost
from etui.engine.speculation.speculator import (
    MARGIN,
    Acceptance,
    Balance,
    Credit,
    Speculation,
    Speculator,
    Verification,
    choose_depth,
)

CPU = BatchCost(CPU_CURVE, learns=False)
GPU = BatchCost(GPU_CURVE, learns=False)


def expected_tokens(probabilities: list[float], depth: int) -> float:
    """By enumeration: how many tokens a batch gives, over all outcomes of the drafted ones."""
    total = 0.0
    for outcome in itertools.product((True, False), repeat=depth):
        chance, accepted, going = 1.0, 0, True
        for good, probability in zip(outcome, probabilities, strict=False):
            chance *= probability if good else 1 - probability
            going = going and good
            accepted += going
        total += chance * (1 + accepted)
    return total


@pytest.mark.parametrize("seed", range(30))
def test_no_other_depth_has_a_better_rate(seed):
    rng = random.Random(seed)
    probabilities = [rng.uniform(0.2, 1.0) for _ in range(7)]
    cost, draft = rng.choice((CPU, GPU)), rng.choice((0.0, 0.1, 0.6))
    depth = choose_depth(probabilities, cost.relative, draft_cost=draft)
    rates = [1.0] + [
        expected_tokens(probabilities, k) / (cost.relative(k + 1) + k * draft) for k in range(1, 8)
    ]
    assert depth.rate == pytest.approx(max(rates)) or (
        depth.tokens == 0 and max(rates) <= 1 + MARGIN
    )
    assert depth.rate == pytest.approx(rates[depth.tokens])


@pytest.mark.parametrize(
    ("probability", "cost", "draft_cost", "least", "most"),
    [
        (0.99, CPU, 0.0, 15, 15),  # copied text: as deep as a batch allows
        (0.5, CPU, 0.0, 0, 0),  # two rows cost 1.8, and give 1.5
        (0.5, GPU, 0.0, 2, 7),
        (0.8, CPU, 0.6, 0, 0),  # a draft model of more than half the size never pays on a CPU
        (0.8, GPU, 0.1, 3, 8),
        (0.0, GPU, 0.0, 0, 0),
    ],
)
def test_depth_follows_acceptance_and_cost(probability, cost, draft_cost, least, most):
    depth = choose_depth([probability] * 15, cost.relative, draft_cost=draft_cost)
    assert least <= depth.tokens <= most


def test_a_drafter_that_is_behind_must_catch_up_first():
    assert choose_depth([0.9] * 4, GPU.relative, start_cost=0.2).tokens
    assert not choose_depth([0.9] * 4, GPU.relative, start_cost=9.0).tokens


def test_joules_by_rows_decide_where_they_are_given():
    flat = BatchCost({1: 1.0, 2: 1.0, 16: 1.0}, learns=False)
    steep = BatchCost({1: 1.0, 2: 2.0, 16: 16.0}, learns=False)
    for cost in (flat, steep):
        cost.observe(1, 100)
        cost.observe(8, 5_000)
    assert choose_depth([0.9] * 15, flat.relative).tokens == 15
    assert choose_depth([0.9] * 15, steep.relative).tokens == 0


@pytest.mark.parametrize("seed", range(10))
def test_what_is_lost_stays_within_the_credit(seed):
    rng = random.Random(seed)
    credit, tokens, spent = Credit(), 0, 0.0
    for _ in range(600):
        depth = choose_depth([rng.random()] * 15, GPU.relative, credit=credit.left)
        accepted = min(depth.tokens, rng.choice((0, 0, 0, 1, 15)))
        if depth.tokens:
            credit.spend(0, depth.cost)
            credit.spend(accepted + 1, 0.0)
            credit.judge(accepted)
        else:
            credit.resume()
            credit.spend(1, 1.0)
        tokens += accepted + 1 if depth.tokens else 1
        spent += depth.cost
        assert spent <= (1 + Credit.SHARE) * tokens + Credit.START + 1e-9


def test_pauses_double_after_each_draft_of_which_nothing_was_accepted():
    credit = Credit()
    pauses = []
    for _ in range(9):
        credit.judge(0)
        pauses.append(0)
        while not credit.left:
            credit.resume()
            pauses[-1] += 1
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    credit.judge(2)
    assert credit.left > 0
    credit.judge(0)
    credit.resume()
    assert credit.left > 0


def test_costs_are_learned_and_never_decrease_with_the_rows():
    cost = BatchCost(CPU_CURVE)
    for _ in range(30):
        cost.observe(1, 10_000)
        assert cost.observe(8, 20_000) >= 2.0
    assert cost.relative(8) == pytest.approx(2.0, rel=0.1)
    assert cost.relative(16) < CPU_CURVE[16]  # batches of nearly as many rows cost less too
    assert cost.relative(2) > cost.relative(1) == 1.0
    curve = [cost.relative(rows) for rows in range(1, 40)]
    assert curve == sorted(curve)


def test_a_pause_of_the_process_counts_little():
    cost = BatchCost(CPU_CURVE)
    cost.observe(1, 10_000)
    cost.observe(1, 90_000_000)
    assert cost.one_row_ns is not None
    assert cost.one_row_ns < 20_000
    assert cost.observe(4, 10**12) <= 2 * CPU_CURVE[4]


def test_acceptance_follows_the_trials_and_forgets():
    acceptance = Acceptance([0.5, 0.5])
    for _ in range(60):
        acceptance.observe([0, 1, 1], 1, rejected=True)
    assert acceptance.probability(0) > 0.9
    assert acceptance.probability(1) < 0.1
    assert acceptance.probability(7) == acceptance.probability(1)
    acceptance.relax(1.0)
    assert acceptance.probability(0) == 0.5


def test_a_draft_cut_short_does_not_count_as_rejected():
    acceptance = Acceptance([0.5])
    acceptance.observe([0, 0], 1, rejected=False)
    assert acceptance.probability(0) > 0.5


class Costly:
    """A drafter that costs as much as the model, and is always right."""

    method = "draft"

    def __init__(self, token_cost: float, start_cost: float = 0.0) -> None:
        self._token_cost, self._start_cost = token_cost, start_cost

    def start_cost(self, tokens: object, one_row_ns: float) -> float:
        return self._start_cost

    def token_cost(self, one_row_ns: float) -> float:
        return self._token_cost

    def propose(self, tokens: list[int], count: int) -> list[int]:
        return [7] * count

    def free(self) -> None:
        pass


@pytest.mark.parametrize(
    ("drafter", "tokens", "method"),
    [
        (Costly(0.05), [1, 2, 3, 4, 5, 6], "draft"),  # nothing to look up
        (Costly(0.9), [1, 2, 3, 4, 5, 6], None),
        (Costly(0.05), [5, 6] + [1, 2, 3, 4, 5, 6, 7, 8, 9] * 5, "lookup"),  # free and as good
        (Costly(0.05, 1_000.0), [1, 2, 3, 4, 5, 6], None),  # a long prompt to compute first
    ],
)
def test_auto_takes_the_drafter_of_the_largest_gain(drafter, tokens, method):
    speculator = Speculator(BatchCost(GPU_CURVE, learns=False))
    speculator.add(drafter)  # type: ignore[arg-type]
    own = speculator.start("auto")
    speculator.observe_single(own, 1_000_000)
    proposal = speculator.propose(own, tokens, 15)
    assert (proposal.method if proposal else None) == method


@pytest.mark.parametrize("curve", [CPU_CURVE, GPU_CURVE], ids=["cpu", "gpu"])
@pytest.mark.parametrize("words", [3, 8, 40, 1_000])
@pytest.mark.parametrize("answers", [1, 5])
def test_auto_costs_at_most_three_percent_on_unpredictable_text(curve, words, answers):
    """Random tokens of few words match all the time, and are never what follows."""
    rng = random.Random(words)
    speculator = Speculator(BatchCost(curve, learns=False))
    tokens_drawn, cost = 0, 0.0
    for _ in range(answers):
        own = speculator.start("auto")
        tokens = [rng.randrange(words) for _ in range(400)]
        for _ in range(300):
            proposal = speculator.propose(own, tokens, 15)
            follows = rng.randrange(words)
            if proposal is None:
                speculator.observe_single(own, 1_000_000)
                cost += 1.0
            else:
                follows = (proposal.tokens[0] + 1) % words  # the worst case
                proposal.judge(follows)
                proposal.end_ns = round(speculator.cost.relative(proposal.rows) * 1e6)
                speculator.observe_batch(own, proposal)
                speculator.settle(own, proposal)
                cost += speculator.cost.relative(proposal.rows)
            tokens.append(follows)
            tokens_drawn += 1
    assert cost <= 1.03 * tokens_drawn


def test_auto_copies_at_full_depth_within_a_few_batches():
    text = list(range(100, 500))
    speculator = Speculator(BatchCost(CPU_CURVE, learns=False))
    own = speculator.start("auto")
    tokens = [*text, 1, 2, *text[:4]]
    batches = 0
    speculator.observe_single(own, 1_000_000)
    while len(tokens) < len(text) + 300:
        batches += 1
        at = len(tokens) - len(text) - 2
        proposal = speculator.propose(own, tokens, 15)
        if proposal is None:
            speculator.observe_single(own, 1_000_000)
            tokens.append(text[at])
            continue
        proposal.end_ns = round(speculator.cost.relative(proposal.rows) * 1e6)
        speculator.observe_batch(own, proposal)
        for token in text[at : at + len(proposal.tokens)]:
            assert proposal.judge(token)
        speculator.settle(own, proposal)
        tokens += text[at : at + len(proposal.tokens) + 1]
    assert batches < 300 / 5


@pytest.mark.parametrize("always", [False, True])
def test_a_fixed_depth_is_chosen_or_none(always):
    for probability, cost in ((0.99, CPU), (0.5, CPU), (0.5, GPU)):
        chances = [probability] * 15
        free = choose_depth(chances, cost.relative)
        fixed = choose_depth(chances, cost.relative, only=4, always=always)
        assert fixed.tokens in ((4,) if always else (0, 4))
        if free.tokens == 0 and not always:
            assert fixed.tokens == 0
        if fixed.tokens:
            rate = expected_tokens(chances, 4) / cost.relative(5)
            assert fixed.rate == pytest.approx(rate)
    assert choose_depth([0.9] * 3, GPU.relative, only=4, always=True).tokens == 0  # no room
    assert choose_depth([0.9] * 15, CPU.relative, only=9, credit=0.5).tokens == 0


@pytest.mark.parametrize("method", ["lookup", "draft"])
@pytest.mark.parametrize("depth", [1, 3, 15])
def test_a_named_method_drafts_the_fixed_number_though_it_never_pays(method, depth):
    speculator = Speculator(BatchCost(CPU_CURVE, learns=False))
    speculator.add(Costly(2.0))  # type: ignore[arg-type]
    speculator.draft_tokens = depth
    own = speculator.start(method)
    tokens = [*range(20, 60), *range(20, 24)]
    for attempt in range(20):
        proposal = speculator.propose(own, tokens, 15)
        assert (proposal.method, len(proposal.tokens)) == (method, depth)
        proposal.judge(proposal.tokens[0] + 1)
        speculator.observe_batch(own, proposal)
        speculator.settle(own, proposal)
        if attempt == 10:
            speculator.observe_single(own, 1_000_000)
    shorter = speculator.propose(own, tokens, 2)  # the context is nearly full
    assert len(shorter.tokens) == min(depth, 2)


def test_auto_drafts_the_fixed_number_only_where_it_pays():
    speculator = Speculator(BatchCost(CPU_CURVE, learns=False))
    speculator.add(Costly(2.0))  # type: ignore[arg-type]
    speculator.draft_tokens = 2
    own = speculator.start("auto")
    speculator.observe_single(own, 1_000_000)
    assert speculator.propose(own, [1, 2, 3, 4, 5, 6], 15) is None


def test_a_method_that_is_named_is_the_only_one():
    speculator = Speculator(BatchCost(GPU_CURVE, learns=False))
    speculator.add(Costly(0.05))  # type: ignore[arg-type]
    own = speculator.start("lookup")
    assert isinstance(own, Speculation)
    speculator.observe_single(own, 1_000_000)
    assert own.credit is None
    assert speculator.propose(own, [1, 2, 3, 4, 5, 6], 15) is None


def verified(accepted: int, cost: float, *, rejected: bool = True) -> Verification:
    tokens = tuple(range(accepted + rejected))
    found = Verification("draft", tokens, tokens, 0, 0, accepted=accepted, rejected=rejected)
    found.cost = cost
    return found


@given(
    gains=st.lists(st.tuples(st.integers(0, 8), st.floats(1, 8)), max_size=80),
    bonus=st.integers(0, 5),
)
def test_drafts_that_save_what_they_cost_are_never_stopped(gains, bonus):
    balance = Balance()
    for accepted, cost in gains:
        balance.add(verified(accepted, min(cost, accepted + 1.0)))
        assert not balance.loses
    for _ in range(bonus):  # a draft cut short says nothing
        balance.add(Verification("draft", (1, 2), (0, 1), 0, 0, cost=90.0))
    assert not balance.loses


@given(accepted=st.integers(0, 3), loss=st.floats(0.01, 5), batches=st.integers(1, 40))
def test_drafts_that_always_lose_are_stopped_after_sixteen_batches(accepted, loss, batches):
    balance = Balance()
    for _ in range(batches):
        balance.add(verified(accepted, accepted + 1 + loss))
    assert balance.loses == (batches >= 16)


def test_chance_stops_few_drafts_that_pay():
    rng, stopped = random.Random(1), 0
    for _ in range(200):  # cost 0.5 and save 0 or 2, 0.7 of them on average
        balance = Balance()
        lost = [balance.loses for _ in range(200) if not balance.add(_draw(rng, 0.35))]
        stopped += any(lost)
    assert stopped <= 20


def _draw(rng: random.Random, chance: float) -> Verification:
    return verified(2 * (rng.random() < chance), 1.5)


def lose(speculator: Speculator, own: Speculation, batches: int) -> list[str]:
    """What is said of drafts that are rejected, each at the cost of a curve."""
    said = []
    for _ in range(batches):
        found = Verification("lookup", (1, 2), (0, 0), 0, 0, end_ns=2_900_000)
        speculator.observe_batch(own, found)
        found.judge(9)
        said.append(speculator.settle(own, found))
    return said


@pytest.mark.parametrize(
    ("method", "draft_tokens", "stops"),
    [("lookup", None, True), ("lookup", 2, False), ("auto", None, False)],
)
def test_a_named_method_is_stopped_where_it_loses_and_not_used_again(method, draft_tokens, stops):
    speculator = Speculator(BatchCost(CPU_CURVE, learns=False))
    speculator.draft_tokens = draft_tokens
    own = speculator.start(method)
    speculator.observe_single(own, 1_000_000)
    said = lose(speculator, own, 16)
    assert not any(said[:-1])
    why = "drafts by lookup cost the time of 22 tokens and saved that of 0" if stops else ""
    assert said[-1] == speculator.refuse(method) == why
    assert speculator.refuse("draft") == ""


def test_a_method_that_lost_in_one_answer_and_paid_in_others_is_used_again():
    speculator = Speculator(BatchCost(CPU_CURVE, learns=False))
    speculator._balances["lookup"].add(verified(400, 20.0))
    own = speculator.start("lookup")
    assert lose(speculator, own, 16)[-1]
    assert speculator.refuse("lookup") == ""
