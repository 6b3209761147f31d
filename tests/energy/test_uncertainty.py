"""Half widths of several channels: what is shared adds up."""

from __future__ import annotations

import pytest

from etui.energy.types import HalfWidths, combine


def test_shared_parts_add_up_and_own_parts_do_not() -> None:
    assert combine([HalfWidths(shared=2.0)] * 8) == 16
    assert combine([HalfWidths(own=2.0)] * 4) == 4
    assert combine([HalfWidths(stated=3.0), HalfWidths(stated=1.0)]) == 4
    assert combine([HalfWidths(unknown=3.0), HalfWidths(unknown=1.0)]) == 4


def test_one_channel_keeps_its_half_width() -> None:
    part = HalfWidths(shared=3.0, own=4.0, stated=12.0, unknown=1.0)
    assert part.total == 14
    assert combine([part]) == part.total


@pytest.mark.parametrize("count", [1, 2, 8, 32])
def test_a_total_is_between_quadrature_and_the_sum(count: int) -> None:
    part = HalfWidths(shared=1.0, own=2.0)
    assert count**0.5 * part.total <= combine([part] * count) * 1.000001
    assert combine([part] * count) <= count * part.total
