"""What a turn reused of earlier prompts: tokens, the joules saved by the curve, and the cost."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import TokenCost
from etui.codec import from_document
from etui.energy.types import Energy, Kind
from etui.events import Finished, Reused
from etui.turn.accounting import LegSpans, TimeInterval
from etui.turn.build_record import account_reuse
from etui.turn.record import CacheRecord
from etui.turn.text import cache_lines, cache_text

SECOND = 1_000_000_000
PRICE = TokenCost(
    1.0,
    joules_per_prompt_token=0.01,
    joules_per_prompt_token_per_context=1e-5,
    prompt_uncertainty=0.1,
    source="operating curve",
)


def energy_of(watts: float | None) -> Any:
    def energy(start_ns: int, end_ns: int) -> Energy:
        seconds = (end_ns - start_ns) / 1e9
        joules = None if watts is None else watts * seconds
        return Energy(
            start_ns, end_ns, joules, 0.0, Kind.COUNTER, 1.0, mean_watts=watts, peak_watts=watts
        )

    return energy


def attempt(
    cached: int,
    event: Reused | None = None,
    price: TokenCost | None = PRICE,
    *,
    watts: float | None = 50.0,
    is_local: bool = True,
) -> Any:
    end = Finished(
        0, SECOND, SECOND, 2 * SECOND, SECOND, "complete", "", "", "", 900, cached, 0, 0, 9
    )
    return SimpleNamespace(
        end=end,
        seen=SimpleNamespace(reused=event),
        price=price,
        is_local=is_local,
        meter=SimpleNamespace(energy=energy_of(watts)),
    )


SPANS = LegSpans((TimeInterval(0, SECOND),), (TimeInterval(SECOND, 2 * SECOND),))
DISK = Reused(0, SECOND // 10, "disk", 800, 40_000_000, 0.2)


def account(*attempts: Any) -> CacheRecord | None:
    return account_reuse(attempts, [SPANS] * len(attempts))


def test_joules_are_saved_by_the_curve_less_the_cost_of_keeping():
    record = account(attempt(800, DISK))
    assert record is not None
    assert (record.tier, record.tokens, record.size_bytes) == ("disk", 800, 40_000_000)
    assert record.saved_joules == pytest.approx(800 * 0.01 + 1e-5 * 800**2 / 2)
    assert record.saved_uncertainty == pytest.approx(0.1 * record.saved_joules)
    assert record.cost_joules == pytest.approx(50 * 0.1 + 50 * 0.2)
    assert record.net_joules == pytest.approx(record.saved_joules - record.cost_joules)


def test_tokens_that_stayed_in_the_context_cost_nothing():
    record = account(attempt(800))
    assert record is not None
    assert (record.tier, record.cost_joules, record.restore_seconds) == ("context", 0.0, 0.0)


def test_saving_other_chats_is_a_cost_without_any_gain():
    record = account(attempt(0, Reused(5, 5, "context", 0, 0, 0.2)))
    assert record is not None
    assert (record.saved_joules, record.cost_joules) == (0.0, pytest.approx(10.0))
    assert cache_text(record) == ""


@pytest.mark.parametrize("price", [None, TokenCost(1.0)])
def test_without_a_curve_the_joules_saved_are_unknown_and_not_zero(price: TokenCost | None):
    record = account(attempt(800, DISK, price))
    assert record is not None
    assert record.saved_joules is record.net_joules is None
    assert "unknown" in "\n".join(cache_lines(record))


def test_without_a_meter_the_cost_is_unknown_and_not_zero():
    record = account(attempt(800, DISK, watts=None))
    assert record is not None
    assert record.cost_joules is record.net_joules is None
    assert cache_text(record) == "800 prompt tokens from the disk, saved ≈11 J"


def test_nothing_reused_is_no_record():
    assert account(attempt(0)) is None
    assert account(attempt(800, is_local=False)) is None


def test_several_arms_are_summed_and_named_by_the_largest():
    record = account(attempt(10), attempt(800, DISK), attempt(0))
    assert record is not None
    assert (record.tier, record.tokens) == ("disk", 810)
    assert account(attempt(10, price=None), attempt(800, DISK)).saved_joules is None  # type: ignore[union-attr]


@given(st.integers(0, 10_000), st.floats(1e-6, 1e3), st.floats(0, 1e-2))
def test_a_prompt_in_two_parts_costs_what_it_costs_as_a_whole(
    tokens: int, slope: float, bend: float
):
    cost = TokenCost(1.0, 0.0, slope, joules_per_prompt_token_per_context=bend)
    whole = sum(slope + bend * (place + 0.5) for place in range(tokens))
    assert math.isclose(cost.prompt_joules(tokens), whole, rel_tol=1e-6, abs_tol=1e-9)


def test_a_record_is_read_as_it_was_written():
    record = account(attempt(800, DISK))
    assert record is not None
    assert from_document(CacheRecord, record.to_json(), extra="ignore") == record
    assert replace(record, tokens=0).tokens == 0


def test_the_details_say_what_was_saved_and_what_it_cost():
    record = account(attempt(800, DISK))
    assert record is not None
    lines = cache_lines(replace(record, saved_joules=20.0, saved_uncertainty=2.0))
    assert lines[0] == "800 prompt tokens from the disk, saved ≈5.0 J"
    assert "20" in lines[1]
    assert "operating curve" in lines[1]
    assert "40.0 MB" in lines[2]
    assert cache_text(record) == "800 prompt tokens from the disk, at a loss of ≈3.8 J"
