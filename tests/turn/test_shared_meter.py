"""A turn's part of a machine: by its share of each batch, in every interval, with its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.attribution import IDLE_WATTS, CurveMeter
from etui.arm import TokenCost
from etui.energy.types import Energy
from etui.events import SharedBatch
from etui.turn.interfaces import PartMeter
from etui.turn.record import Attribution
from etui.turn.shared_meter import (
    BatchCost,
    BatchLedger,
    compute_shares,
    find_batch_cost,
    split_by_weights,
    weigh_requests,
)
from tests.turn.sharing import COST, S, any_curve, batch, ledger_of, meter_of, watts

JOULES = st.floats(0.0, 1e6, allow_nan=False)

COSTS = st.builds(BatchCost, st.floats(0.0, 1e3), st.floats(1e-6, 1e3))

TOKENS = st.lists(st.integers(0, 4096), min_size=1, max_size=6)


def shapley(tokens: Sequence[int], cost: BatchCost) -> list[float]:
    """The mean of what each request adds to the batch, over every order in which they may come."""

    def joules(members: Sequence[int]) -> float:
        computed = sum(tokens[index] for index in members)
        return cost.fixed + cost.per_token * computed if computed else 0.0

    added: list[list[float]] = [[] for _ in tokens]
    for order in permutations(range(len(tokens))):
        for place, index in enumerate(order):
            added[index].append(joules(order[: place + 1]) - joules(order[:place]))
    return [math.fsum(each) / len(each) for each in added]


@given(TOKENS.filter(any), COSTS)
def test_weights_are_the_shapley_values_of_an_affine_batch(
    tokens: list[int], cost: BatchCost
) -> None:
    weights = weigh_requests(tokens, cost)
    assert weights == pytest.approx(shapley(tokens, cost), rel=1e-9, abs=1e-9)
    whole = cost.fixed + cost.per_token * sum(tokens)
    assert math.fsum(weights) == pytest.approx(whole, rel=1e-12)


@given(JOULES, TOKENS, COSTS | st.none())
def test_parts_sum_to_the_batch_and_none_is_negative(
    joules: float, tokens: list[int], cost: BatchCost | None
) -> None:
    parts = split_by_weights(joules, weigh_requests(tokens, cost))
    assert math.fsum(parts) == pytest.approx(joules, rel=1e-15, abs=0.0)
    assert min(parts) >= -1e-12 * joules
    assert all(
        part == 0 for part, count in zip(parts, tokens, strict=True) if not count and any(tokens)
    )


@given(TOKENS, COSTS | st.none(), st.data())
def test_shares_do_not_depend_on_the_order_of_the_requests(
    tokens: list[int], cost: BatchCost | None, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(tokens))))
    shares = compute_shares(tokens, cost)
    moved = compute_shares([tokens[index] for index in order], cost)
    assert moved == pytest.approx([shares[index] for index in order], abs=1e-12)


def test_a_prompt_pays_for_its_tokens_and_half_of_the_fixed_part() -> None:
    # 100 prompt tokens at 0.05 J beside one decoded token: F = 2 - 0.05 is paid by both alike.
    cost = find_batch_cost(TokenCost(2.0, joules_per_prompt_token=0.05))
    assert cost == BatchCost(1.95, 0.05)
    assert weigh_requests([100, 1], cost) == pytest.approx([0.975 + 5.0, 0.975 + 0.05])


def test_without_a_curve_tokens_decide() -> None:
    assert compute_shares([3, 1], None) == [0.75, 0.25]


@pytest.mark.parametrize("cost", [None, BatchCost(1.0, 0.1)])
def test_a_span_without_tokens_is_divided_equally(cost: BatchCost | None) -> None:
    assert compute_shares([0, 0, 0, 0], cost) == [0.25] * 4


def test_a_decoded_token_cheaper_than_one_of_a_prompt_has_no_fixed_part() -> None:
    assert find_batch_cost(TokenCost(0.1, joules_per_prompt_token=0.3)) == BatchCost(0.0, 0.3)


@pytest.mark.parametrize(
    "cost",
    [
        None,
        TokenCost(2.0),  # no joules of a prompt token were measured
        TokenCost(2.0, joules_per_prompt_token=-0.1),
        TokenCost(math.nan, joules_per_prompt_token=0.1),
        TokenCost(2.0, joules_per_prompt_token=math.inf),
        TokenCost(2.0, joules_per_prompt_token=0.1, batched=True),  # it follows from such shares
    ],
)
def test_a_cost_that_says_nothing_of_prompts_is_no_curve(cost: TokenCost | None) -> None:
    assert find_batch_cost(cost) is None


TWO = (
    batch(1, 2, (1, 4, 0)),
    batch(2, 3, (1, 0, 1), (2, 4, 0)),
    batch(3, 4, (1, 0, 1), (2, 0, 1)),
    batch(4, 5, (2, 0, 1)),
)


def at(seconds: float) -> int:
    return round(seconds * S)


def test_each_batch_is_divided_by_shapley_values() -> None:
    machine, ledger = watts((10, 100.0)), ledger_of(*TWO)
    first, second = (meter_of(machine, ledger, number) for number in (1, 2))
    # Beside a prompt of 4 tokens a decoded one weighs 0.75 + 0.5 of 0.75 + 0.5 + 0.75 + 2.
    beside = 1.25 / 4.0
    assert first.energy(at(1), at(5)).joules == pytest.approx(100 + 100 * beside + 50)
    assert second.energy(at(1), at(5)).joules == pytest.approx(100 * (1 - beside) + 50 + 100)
    assert first.energy(at(2), at(3)).joules == pytest.approx(100 * beside)


def test_a_part_of_a_batch_has_the_same_share_and_time_outside_costs_nothing() -> None:
    machine, ledger = watts((2.5, 40.0), (10, 200.0)), ledger_of(*TWO)
    first = meter_of(machine, ledger, 1)
    assert first.energy(at(3.5), at(9)).joules == pytest.approx(0.5 * 200 * 0.5)
    assert first.energy(at(2), at(2.5)).joules == pytest.approx(20 * 1.25 / 4)
    outside = first.energy(at(4), at(9))
    assert (outside.joules, outside.uncertainty, outside.flags) == (0.0, 0.0, ())
    assert outside.idle_watts == 0.0
    assert first.energy(at(2), at(2)).joules == 0.0


def test_idle_watts_half_width_and_channels_are_divided_as_the_joules() -> None:
    machine, ledger = watts((10, 100.0)), ledger_of(*TWO)
    second = meter_of(machine, ledger, 2)
    energy, whole = second.energy(at(2), at(5)), machine.energy(at(2), at(5))
    assert energy.joules is not None
    assert whole.joules is not None
    share = energy.joules / whole.joules
    assert energy.uncertainty == pytest.approx(share * (whole.uncertainty or 0.0))
    assert [part.joules for part in energy.channels] == pytest.approx([energy.joules])
    # At constant power, idle power is divided in the same proportion.
    assert energy.idle_watts == pytest.approx(share * IDLE_WATTS)
    assert energy.net_joules == pytest.approx(share * (whole.net_joules or 0.0))
    assert energy.mean_watts == pytest.approx(energy.joules / 3)
    assert energy.peak_watts is None  # that of a part is not known
    assert (energy.kind, energy.coverage) == (whole.kind, whole.coverage)


def test_half_widths_of_two_separate_times_add_up() -> None:
    ledger = ledger_of(batch(1, 2, (1, 0, 1)), batch(2, 5, (2, 0, 1)), batch(5, 6, (1, 0, 1)))
    machine = watts((10, 100.0))
    energy = meter_of(machine, ledger, 1).energy(0, at(9))
    each = machine.energy(at(1), at(2)).uncertainty
    assert energy.joules == pytest.approx(200)
    assert energy.uncertainty == pytest.approx(2 * (each or 0.0))


def test_the_curve_is_in_watts_of_its_own_part() -> None:
    machine, ledger = watts((2, 50.0), (10, 100.0)), ledger_of(*TWO)
    second = meter_of(machine, ledger, 2)
    curve = second.power_curve(at(1), at(6), 5)
    assert [middle for middle, _ in curve] == [at(each + 0.5) for each in range(1, 6)]
    assert [each for _, each in curve] == pytest.approx([0, 100 * 2.75 / 4, 50, 100, 0])
    assert second.power_curve(at(2), at(1), 3) == []


@dataclass
class Blind(CurveMeter):
    """A meter that has no reading of some time."""

    blind: tuple[int, int] = (0, 0)

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        low, high = max(start_ns, self.blind[0]), min(end_ns, self.blind[1])
        if (high - low) * 2 > end_ns - start_ns:
            return Energy(start_ns, end_ns, None, None, None, 0.0, flags=("unmeasured",))
        return super().energy(start_ns, end_ns)


def test_one_unmeasured_batch_makes_the_turn_unmeasured() -> None:
    machine = Blind(any_curve(), blind=(at(2), at(3)))
    ledger = ledger_of(*TWO)
    first, second = (meter_of(machine, ledger, number) for number in (1, 2))
    energy = second.energy(at(1), at(5))
    assert energy.joules is energy.uncertainty is energy.kind is energy.net_joules is None
    assert energy.channels == ()
    assert second.energy(at(3), at(5)).joules is not None
    assert second.attribution() == Attribution("shapley", None, None, None, 3, 5 / 3)
    assert second.power_curve(at(2), at(4), 2)[0][1] is None
    assert first.joules_of([(at(2), at(3)), (at(3), at(4)), (at(7), at(8))])[0] is None


def test_nothing_measured_is_none_and_not_zero_outside_of_batches_too() -> None:
    machine = Blind(any_curve(), blind=(0, at(99)))
    energy = meter_of(machine, ledger_of(*TWO), 1).energy(at(7), at(8))
    assert energy.joules is None
    assert "unmeasured" in energy.flags


def test_attribution_says_how_much_of_the_batches_was_its_own() -> None:
    machine, ledger = watts((10, 100.0)), ledger_of(*TWO)
    first = meter_of(machine, ledger, 1)
    first.settle(at(4))
    own = 100 + 100 * 1.25 / 4 + 50
    by_tokens = 100 + 100 / 5 + 50
    found = first.attribution()
    assert (found.method, found.batches) == ("shapley", 3)
    assert found.share == pytest.approx(own / 300)
    assert found.batch_joules == pytest.approx(300)
    assert found.spread == pytest.approx(own - by_tokens)
    assert found.mean_requests == pytest.approx(5 / 3)


def test_without_a_curve_tokens_divide_and_no_spread_is_known() -> None:
    found = meter_of(watts((10, 100.0)), ledger_of(*TWO), 1, cost=None).attribution()
    assert (found.method, found.spread) == ("tokens", None)
    assert found.share == pytest.approx((100 + 20 + 50) / 300)


def test_a_turn_alone_is_exclusive() -> None:
    machine = watts((10, 100.0))
    alone = meter_of(machine, ledger_of(batch(1, 2, (1, 3, 0)), batch(2, 3, (1, 0, 1))), 1)
    assert alone.attribution() == Attribution("exclusive", 1.0, 200.0, 0.0, 2, 1.0)
    both = meter_of(machine, ledger_of(batch(1, 2, (1, 3, 0), (2, 0, 1))), 1, 2)
    assert both.attribution().method == "exclusive"
    assert meter_of(machine, BatchLedger(), 1).attribution() == Attribution("exclusive")


def test_a_fault_divides_its_span_equally() -> None:
    machine, ledger = watts((10, 100.0)), ledger_of(batch(1, 2, (1, 0, 1), (2, 0, 1)))
    ledger.add(batch(2, 6, (1, 0, 0), (2, 0, 0)))  # a crash
    for number in (1, 2):
        assert meter_of(machine, ledger, number).energy(at(1), at(7)).joules == pytest.approx(250)


def test_members_agree_although_the_curve_changes_while_they_settle() -> None:
    machine, ledger, costs = watts((10, 100.0)), ledger_of(TWO[1]), [COST, None]
    meters = [meter_of(machine, ledger, n, cost=c) for n, c in zip((1, 2), costs, strict=True)]
    joules = [meter.energy(at(2), at(3)).joules or 0.0 for meter in meters]
    assert math.fsum(joules) == pytest.approx(100, rel=1e-15)
    assert meters[1].attribution().method == "shapley"


def test_forgotten_batches_are_not_taken_for_nothing() -> None:
    machine, ledger = watts((10, 100.0)), ledger_of(*TWO)
    second = meter_of(machine, ledger, 2)
    second.mark(at(2))
    ledger.forget_before(at(3))
    assert second.energy(at(2), at(5)).joules is None
    assert second.attribution().batch_joules is None
    assert second.energy(at(3), at(5)).joules == pytest.approx(150)


def test_the_newest_energies_are_asked_again_until_they_have_settled() -> None:
    machine, ledger = Late(any_curve()), ledger_of(*TWO)
    second = meter_of(machine, ledger, 2)
    assert second.energy(at(1), at(5)).joules == 0.0
    machine.seen = True
    second.settle(at(5))
    expected = meter_of(CurveMeter(any_curve()), ledger, 2).energy(at(1), at(5)).joules
    assert second.energy(at(1), at(5)).joules == expected
    asked = machine.asked
    second.energy(at(1), at(5))
    assert machine.asked == asked + 1  # the whole; its batches are kept
    ledger.add(batch(5, 6, (2, 0, 1)))
    more = second.energy(at(1), at(6)).joules
    assert more == pytest.approx((expected or 0.0) + (machine.energy(at(5), at(6)).joules or 0.0))


@dataclass
class Late(CurveMeter):
    """A meter that has read nothing yet, and counts how often it is asked."""

    seen: bool = False
    asked: int = 0

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        self.asked += 1
        energy = super().energy(start_ns, end_ns)
        return energy if self.seen else replace(energy, joules=0.0)


def test_only_steps_of_the_machine_are_marked_on_its_meter() -> None:
    machine = Marked(any_curve())
    ledger = BatchLedger()
    first, second = (meter_of(machine, ledger, number) for number in (1, 2))
    first.mark(at(1))  # the machine rested
    ledger.add(TWO[0])
    first.mark(at(2))  # alone
    second.mark(at(2.01))  # joins
    ledger.add(TWO[1])
    ledger.add(TWO[2])
    first.mark(at(4))  # the other goes on
    ledger.add(TWO[3])
    second.mark(at(5))  # the last one
    first.mark(at(5.2))  # after a pause
    assert machine.marks == [at(1), at(2), at(5), at(5.2)]


@dataclass
class Marked(CurveMeter):
    """A meter that keeps its marks."""

    marks: list[int] = field(default_factory=list)

    def mark(self, t_ns: int, phase: str = "") -> None:
        if phase != "shared":
            self.marks.append(t_ns)


def test_a_turn_that_follows_at_once_is_marked() -> None:
    """The one before has ended, and its last mark keeps its joules."""
    machine = Marked(any_curve())
    ledger = BatchLedger()
    first, second = (meter_of(machine, ledger, number) for number in (1, 2))
    first.mark(at(1), "prefill")
    ledger.add(TWO[0])
    first.mark(TWO[0].end_ns, "idle")
    second.mark(TWO[0].end_ns + 50_000_000, "prefill")
    assert machine.marks == [at(1), TWO[0].end_ns, TWO[0].end_ns + 50_000_000]


def test_it_is_a_part_meter_with_the_whole_machine_behind_it() -> None:
    machine, ledger = watts((10, 100.0)), ledger_of(*TWO)
    second = meter_of(machine, ledger, 2)
    assert isinstance(second, PartMeter)
    assert not isinstance(machine, PartMeter)
    assert second.machine is machine
    span = second.work_span()
    assert span is not None
    assert (span.start_ns, span.end_ns) == (at(2), at(5))
    assert meter_of(machine, ledger, 9).work_span() is None


@st.composite
def histories(draw: st.DrawFn) -> list[SharedBatch]:
    """Batches of up to four requests, with pauses."""
    found, now = [], 0.0
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.sampled_from((0.0, 0.0, 0.3)))
        end = now + draw(st.sampled_from((0.05, 0.2, 0.45)))
        numbers = draw(st.sets(st.integers(1, 4), min_size=1))
        shares = [(n, draw(st.integers(0, 9)), draw(st.integers(0, 2))) for n in sorted(numbers)]
        found.append(batch(now, end, *shares))
        now = end
    return found


@given(histories(), st.booleans(), st.lists(st.floats(0, 6), max_size=6))
def test_shares_sum_to_the_batches_and_parts_to_the_whole(
    batches: Sequence[SharedBatch], known: bool, cuts: Sequence[float]
) -> None:
    machine, ledger = CurveMeter(any_curve()), ledger_of(*batches)
    meters = [meter_of(machine, ledger, n, cost=COST if known else None) for n in range(1, 5)]
    edges = [0, *sorted(at(cut) for cut in cuts), at(7)]
    whole = 0.0
    for meter in meters:
        parts = [meter.energy(low, high) for low, high in pairwise(edges)]
        energy = meter.energy(0, at(7))
        assert energy.joules is not None
        joules = [part.joules or 0.0 for part in parts]
        assert math.fsum(joules) == pytest.approx(energy.joules, abs=1e-9)
        assert math.fsum(x or 0.0 for x in meter.joules_of(list(pairwise(edges)))) == pytest.approx(
            energy.joules, abs=1e-9
        )
        net = math.fsum(part.net_joules or 0.0 for part in parts)
        assert net == pytest.approx(energy.net_joules or 0.0, abs=1e-9)
        whole += energy.joules
    busy = math.fsum(machine.energy(b.start_ns, b.end_ns).joules or 0.0 for b in batches)
    assert whole == pytest.approx(busy, abs=1e-9)
