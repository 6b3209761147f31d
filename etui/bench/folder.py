"""The folder of one run: ``config.json``, and the append-only ``samples.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from etui.bench.config import RunConfig, parse_run_config
from etui.bench.sample import Sample, parse_sample
from etui.config.config import Config
from etui.errors import InvalidFile
from etui.measure.folder import (
    CONFIG,
    Folder,
    FolderKind,
    find_folder,
    find_seal_problem,
    make_id,
    read_lines,
    wrong_folder_error,
)


def runs_dir(config: Config) -> Path:
    """Return the default folder of runs."""
    return config.home / "runs"


def new_run_id(suite: str, format_name: str, names: Sequence[str], now: datetime) -> str:
    """Make an id like ``20260131-142530-mmlu-letters-smollm2-135m-3f9a``; ids sort by time."""
    what = names[0] if len(names) == 1 else f"{len(names)}-arms"
    return make_id(f"{suite}-{format_name}-{what}", now)


def find_run(text: str, config: Config) -> Path:
    """Find the folder of a run by its path, its id or a prefix of it; ``last`` is the newest."""
    return find_folder(text, runs_dir(config), "run")


SAMPLES = "samples.jsonl"
SUMMARY = "summary.json"
PER_SUBJECT = "per_subject.csv"
REPORT = "report.html"
MARKDOWN = "report.md"
CURVES = "curves.jsonl"
"""Points of operating curves that a design measures on the way; other runs have none."""
RUN = FolderKind(
    "run", "etui bench", "start a run with: etui bench --suite", SAMPLES, "samples.seal"
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The content of a run folder."""

    config: RunConfig
    samples: tuple[Sample, ...]  # The answers, in the order they were given
    good_bytes: Mapping[str, int]  # File -> length of its complete lines
    edited: tuple[str, ...] = ()  # Changes made outside etui; empty if there are none
    folder: Path = Path()


def read_run(folder: Path) -> Recorded:
    """Read a run folder, finished or not.

    UsageError if the folder is not a run folder; InvalidFile if a file in it is unreadable or
    invalid.
    """
    config, edited = _read_config(folder)
    fix = "the file was changed outside etui; remove the line, or start a new run"
    lines = read_lines(folder / SAMPLES, parse_sample, "a valid answer", fix)
    broken = find_seal_problem(folder, RUN, lines.raw)
    strays = _find_strays(lines.values, config)
    changed = (*edited, *([broken] if broken else []), *strays)
    return Recorded(config, lines.values, {SAMPLES: lines.good_bytes}, changed, folder)


class RunFolder(Folder):
    """A run folder, locked for writing by this process until it is closed."""

    @classmethod
    def start(cls, folder: Path, config: RunConfig) -> Self:
        """Create the folder of a new run; errors as in :meth:`Folder.create`."""
        return cls.create(folder, RUN, _build_document(config))

    @classmethod
    def resume(cls, folder: Path) -> tuple[Self, Recorded]:
        """Open the folder of a run to resume it; errors as in :meth:`Folder.reopen`."""
        return cls.reopen(folder, RUN, _read_unedited)

    def add_machines(self, config: RunConfig) -> None:
        """Record a configuration that differs only in further machines."""
        self.replace_config(_build_document(config))

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Append answers and flush them to the disk; errors as in :meth:`Folder.append`."""
        self.append(SAMPLES, (sample.to_json() for sample in samples))


def _read_unedited(folder: Path) -> Recorded:
    recorded = read_run(folder)
    if recorded.edited:
        raise InvalidFile(
            f"{folder} was changed outside etui: {'; '.join(recorded.edited)}",
            "its results would mix two runs; start a new run",
        )
    return recorded


def _build_document(config: RunConfig) -> dict[str, Any]:
    return {**config.to_json(), "config_sha256": config.sha256}


def _read_config(folder: Path) -> tuple[RunConfig, tuple[str, ...]]:
    path = folder / CONFIG
    if not path.is_file():
        raise wrong_folder_error(folder, RUN)
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = parse_run_config(document)
        known = document["config_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidFile(
            f"{path} is not a valid run configuration: {error}", "start a new run"
        ) from error
    return config, () if known == config.sha256 else (f"{CONFIG} does not match its hash",)


def _find_strays(samples: Iterable[Sample], config: RunConfig) -> tuple[str, ...]:
    """Find answers that cannot belong to the run."""
    seen: set[tuple[str, str, int]] = set()
    for sample in samples:
        key = (config.contender(sample.arm), sample.subject, sample.row)
        where = f"{sample.arm}, {sample.subject} {sample.row}"
        if sample.arm not in config.arms or sample.subject not in config.drawn:
            return (f"{SAMPLES} contains an answer that is not part of the run ({where})",)
        if key in seen:
            return (f"{SAMPLES} contains an answer twice ({where})",)
        seen.add(key)
    return ()
