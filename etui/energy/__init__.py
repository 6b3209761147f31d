"""The meter; :func:`measure` is its public API, the one import that other programs may rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.energy.spent import Spent

__all__ = ["measure"]


def measure() -> Spent:
    """Measure the energy of a ``with`` block, of all programs on this machine together.

    Blocks may be nested and run in several threads: one meter serves them all, from the start of
    the first to the end of the last. Starting the meter takes up to half a second, so that an outer
    block (of a test session) makes inner ones quick. Each block takes a moment longer than its
    body, to wait for the readings of its end; its seconds and joules are those of the body.
    EtuiError if config.yaml is not valid.
    """
    from etui.energy.spent import Spent

    return Spent()
