"""The result of the blocks that a sweep has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etui.sweep.blocks import Block
from etui.sweep.design import SweepDesign
from etui.sweep.result import SweepResult

Answers = Mapping[str, Sequence[bool]]
"""Key of a setting -> whether its answer to each question of the suite is correct, in one order."""


def analyse(
    design: SweepDesign,
    blocks: Sequence[Block],
    answers: Answers | None = None,
    measured_as: Mapping[str, str] | None = None,
) -> SweepResult:
    """Compute the result of the blocks measured so far.

    Args:
        design: What the sweep measures.
        blocks: Complete blocks, in order.
        answers: Answers of the suite, by setting; None without a suite.
        measured_as: Key of a setting -> the key under which its answers are, where it differs.
    """
    raise NotImplementedError
