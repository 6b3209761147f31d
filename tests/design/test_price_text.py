"""The price of a plan in words."""

from __future__ import annotations

import pytest

from etui.design.dry_run import PlanPrice, _count_tokens, format_price
from etui.design.price import DesignPrice


def test_a_finished_run_has_nothing_left_to_price() -> None:
    left = DesignPrice(0, (), None, None, None, None, 0.0, 0.0, ())
    lines = format_price(PlanPrice("quick", "sample", left, None), None)
    assert lines[-1] == "in all: every arm has answered every question"


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(2940.0, "2,940 tokens"), (99_999.0, "99,999 tokens"), (1.234e6, "1.23 million tokens")],
)
def test_few_tokens_are_counted_and_many_are_rounded(tokens: float, text: str) -> None:
    assert _count_tokens(tokens) == text
