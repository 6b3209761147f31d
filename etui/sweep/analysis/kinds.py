"""How the energy of a sweep was determined."""

from __future__ import annotations

from collections.abc import Sequence

from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.sweep.blocks import Block

_KNOWN = frozenset(kind.value for kind in Kind)


def find_weakest_kind(blocks: Sequence[Block]) -> str | None:
    """Return the least certain kind of the visits' joules; None if they are unmeasured."""
    visits = [visit for block in blocks for visit in block.visits if visit.joules is not None]
    found = weakest(Kind(visit.kind) for visit in visits if visit.kind in _KNOWN)
    return None if found is None else found.value
