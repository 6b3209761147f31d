"""Work that a run does between the blocks of its questions, such as measuring curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from etui.bench.run.schedule import Piece
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.measure.run import work_between_blocks


class SideWork(Protocol):
    """Work between blocks, on the thread that answers."""

    @property
    def joules(self) -> float:
        """Joules that it has used so far, those before a resume included."""

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """Begin a run, or resume it after ``samples``."""

    def work(self, ended: Callable[[], bool]) -> None:
        """Do what is due between two blocks.

        Args:
            ended: Whether the run ends now; what is due is then left.

        Raises:
            EtuiError: The engine failed, or the folder cannot be written.
        """

    def finish(self) -> None:
        """Conclude the work of a run that ends, complete or not, before the log is closed."""


class NoSideWork:
    """Does nothing."""

    joules = 0.0

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """Do nothing."""

    def work(self, ended: Callable[[], bool]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def interleave(
    pieces: Iterable[Piece], side_work: SideWork, ended: Callable[[], bool]
) -> Iterator[Piece]:
    """Yield the pieces of a schedule, and work after each block before the next one is asked for.

    Args:
        ended: Whether the run ends now.
    """
    return work_between_blocks(pieces, lambda piece: piece.block, lambda: side_work.work(ended))
