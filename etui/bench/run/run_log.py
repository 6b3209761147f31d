"""The rows of a run in the log, from its start to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.report.log_rows import answer_record, run_record
from etui.bench.store.run_config import RunConfig
from etui.bench.store.run_folder import read_run
from etui.bench.store.sample import Sample
from etui.errors import EtuiError, Stopped
from etui.measure.run import Ending

if TYPE_CHECKING:
    from etui.bench.analysis.summary import Summary
    from etui.log.writer import TurnWriter


@dataclass(slots=True)
class RunLog:
    """Keeps the log up to date with a run."""

    writer: TurnWriter
    config: RunConfig
    folder: Path
    status: str = "running"  # As in :func:`etui.bench.report.log_rows.run_record`
    summary: Summary | None = None  # Summary of the run; None before it has one

    def add(self, samples: Sequence[Sample]) -> None:
        """Write the rows of answers."""
        self.writer.save_answers([answer_record(self.config.run_id, each) for each in samples])

    def conclude(self, ending: Ending) -> None:
        """Note how the run ended; its row is written when the log is closed."""
        self.status = "complete" if ending in ("complete", "precise") else "stopped"

    def save(self) -> None:
        """Write the row of the run, by the answers in its folder."""
        samples = read_run(self.folder).samples
        self.writer.save_run(
            run_record(self.config, self.folder, samples, self.status, self.summary)
        )


@contextmanager
def log_run(
    writer: TurnWriter, config: RunConfig, folder: Path, before: Sequence[Sample]
) -> Iterator[RunLog]:
    """Log a run for the time of the body, and close the log.

    A run that an error ends is logged as stopped if the user stopped it, else as an error.

    Args:
        before: The answers that it has already.
    """
    log = RunLog(writer, config, folder)
    log.save()
    log.add(before)
    log.status = "error"
    try:
        yield log
    except (KeyboardInterrupt, Stopped):
        log.status = "stopped"
        raise
    except EtuiError:
        log.status = "error"
        raise
    finally:
        with suppress(EtuiError):  # all is in the folder, and a log error was reported
            log.save()
            writer.close()
