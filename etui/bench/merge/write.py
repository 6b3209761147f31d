"""Write a joined run as a run folder, with the reports and the rows of the log of any run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from etui.bench.merge.join import MergedRun, NamedRun
from etui.bench.report.files import write_results
from etui.bench.report.log_rows import answer_record, run_record
from etui.bench.store.difficulty_table import DIFFICULTY
from etui.bench.store.run_folder import CURVES, RUN, RunFolder
from etui.errors import EtuiError, Stopped
from etui.measure.folder import LOCK, check_new

if TYPE_CHECKING:
    from etui.bench.analysis.summary import Summary
    from etui.config.config import Config
    from etui.log.writer import TurnWriter


@dataclass(frozen=True, slots=True)
class WrittenRun:
    """The folder of a joined run, and its summary."""

    folder: Path
    summary: Summary


def write_merged(merged: MergedRun, to: Path, config: Config, log: TurnWriter) -> WrittenRun:
    """Write the folder of a joined run.

    Args:
        config: Gives the places where the questions and their labels may be.
        log: Receives the row of the run and of each answer, and is closed.

    Raises:
        UsageError: The folder is not empty.
        EtuiError: It cannot be written.
    """
    check_new(to, RUN)
    run = replace(merged.config, data_path=_find_data_path(merged.runs))
    others = {CURVES: "".join(_join_curves(merged)), DIFFICULTY: _read_difficulty(merged.runs)}
    with _make_whole(to) as place, RunFolder.start(place, run) as folder:
        folder.add_samples(merged.samples)
        summary = write_results(folder, run, merged.samples, config)
        for name, text in others.items():
            if text:
                folder.write(name, text)
    status = "complete" if summary.complete else "stopped"
    with suppress(EtuiError):  # all is in the folder, and a log error was reported
        log.save_run(run_record(run, to, merged.samples, status, summary))
        log.save_answers([answer_record(run.run_id, sample) for sample in merged.samples])
        log.close()
    return WrittenRun(to, summary)


@contextmanager
def _make_whole(to: Path) -> Iterator[Path]:
    """Give a place to write a folder, which appears at ``to`` once it is whole.

    A merged run cannot be resumed, so a part of one would be taken for all that was answered. The
    place is two levels deep, where no list of runs finds it.
    """
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{to.name[:40]}.", dir=to.parent) as above:
            place = Path(above) / "run"
            yield place
            if to.is_dir():
                (to / LOCK).unlink(missing_ok=True)
                to.rmdir()
            os.replace(place, to)
    except Stopped as error:
        raise EtuiError(f"the disk of {to} is full", "free some space, and merge again") from error
    except OSError as error:
        raise EtuiError(
            f"cannot write {to}: {error.strerror or error}", "use another folder with --out"
        ) from error


def _find_data_path(runs: Sequence[NamedRun]) -> str | None:
    """Return the place of the data that is on this machine; else that of the first run."""
    places = [run.config.data_path for run in runs]
    return next((place for place in places if place and Path(place).exists()), places[0])


def _read_difficulty(runs: Sequence[NamedRun]) -> str:
    """Read the table of difficulties of the first run that has one; empty without."""
    for run in runs:
        with suppress(OSError, UnicodeDecodeError):
            return (run.folder / DIFFICULTY).read_text(encoding="utf-8")
    return ""


def _join_curves(merged: MergedRun) -> Iterator[str]:
    """Yield the curve points of all runs as lines, each with the key of its machine here.

    A line that a crash cut off, or of a machine that the run does not list, is left out.
    """
    for run, mapping in zip(merged.runs, merged.keys, strict=True):
        try:
            lines = (run.folder / CURVES).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            try:
                point: Any = json.loads(line)
            except ValueError:
                continue
            if isinstance(point, dict) and point.get("machine") in mapping:
                point["machine"] = mapping[point["machine"]]
                yield json.dumps(point, ensure_ascii=True) + "\n"
