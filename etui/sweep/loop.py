"""The main loop of a sweep: measure block after block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from etui.sweep.blocks import Block
from etui.sweep.design import SweepDesign
from etui.sweep.rig import Rig


def measure_blocks(design: SweepDesign, rig: Rig, blocks: Sequence[Block]) -> Iterator[Block]:
    """Measure the blocks that are missing, and yield each when it is complete.

    Args:
        design: What to measure.
        rig: Measures the settings.
        blocks: Blocks measured before an interruption.

    Raises:
        Stopped: The sweep cannot go on now; it can be resumed.
        EtuiError: The engine or the meter failed, or no block could be measured undisturbed.
    """
    raise NotImplementedError
