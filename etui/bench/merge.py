"""Join the runs of one plan into a new run: parts, other machines, other days."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from etui.bench.config import BenchMachine, RunConfig, plan_differences
from etui.bench.difficulty import DIFFICULTY
from etui.bench.folder import CURVES, RUN, Recorded, RunFolder
from etui.bench.machines import is_comparison, list_machines
from etui.bench.results import write_results
from etui.bench.run import answer_record, run_record
from etui.bench.sample import Sample
from etui.errors import EtuiError, InvalidFile, Stopped, UsageError
from etui.measure.folder import LOCK, check_new
from etui.units import count_text, energy_text

if TYPE_CHECKING:
    from etui.bench.summary import Summary
    from etui.config.config import Config
    from etui.log.writer import TurnWriter


_MOST_DIFFERENCES = 12
_FOLLOWING = frozenset({"sizes", "drawn"})
"""Settings with a value for each subject, which are named in one line."""


@dataclass(frozen=True, slots=True)
class NamedRun:
    """A run that is merged: its folder, and its content."""

    folder: Path
    recorded: Recorded

    @property
    def name(self) -> str:
        """Its name in messages."""
        return str(self.folder)

    @property
    def config(self) -> RunConfig:
        """The configuration of the run."""
        return self.recorded.config


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Answers that were left out, since an earlier run has the same question."""

    answers: int
    joules: float | None  # Their joules; None if those of one are unknown
    kinds: frozenset[str]  # How the joules are known


@dataclass(frozen=True, slots=True)
class MergedRun:
    """The joined run."""

    runs: tuple[NamedRun, ...]  # The runs that were joined, in their order
    config: RunConfig
    samples: tuple[Sample, ...]  # Its answers, in the order of the runs, each with its machine
    keys: tuple[Mapping[str | None, str], ...]
    """For each of the runs, the key of a machine in it -> its key here; a run of one machine has
    None as the key."""
    duplicates: Duplicates  # The answers that were left out
    notes: tuple[str, ...]  # What the reader should know, one sentence each


def merge_runs(runs: Sequence[NamedRun], run_id: str) -> MergedRun:
    """Join runs of one plan.

    A question that several runs answered counts once, with the answer of the run that was given
    first. Machines that answered nothing in the joined run are left out.

    Args:
        runs: At least two, in the order in which their answers count.

    Raises:
        UsageError: There are fewer than two runs, one is there twice, or they are not of one plan.
        InvalidFile: A run was changed outside etui.
    """
    _check_runs(runs)
    machines, keys = _number_machines(runs)
    samples, dropped = _join_samples(runs, keys)
    used = {sample.machine for sample in samples}
    kept = tuple(machine for machine in machines if machine.key in used) or tuple(machines[:1])
    first = next(
        run.config
        for run, mapping in zip(runs, keys, strict=True)
        if kept[0].key in mapping.values()
    )
    config = replace(
        first,
        run_id=run_id,
        started_at=min(run.config.started_at for run in runs),
        part=None,
        models=kept[0].models,
        threads=kept[0].threads,
        versions=kept[0].versions,
        energy=kept[0].energy,
        idle=kept[0].idle,
        machine=_describe(kept[0]),
        machines=kept,
        merged=tuple(name for run in runs for name in run.config.merged or (run.config.run_id,)),
    )
    duplicates = _count_duplicates(dropped)
    notes = [*_note_versions(kept), *_note_duplicates(duplicates)]
    notes += [
        f"{run.name} adds no answer"
        for run, mapping in zip(runs, keys, strict=True)
        if not used & set(mapping.values())
    ]
    return MergedRun(tuple(runs), config, samples, keys, duplicates, tuple(notes))


def _check_runs(runs: Sequence[NamedRun]) -> None:
    if len(runs) < 2:
        raise UsageError("there is only one run", "give at least two runs: etui bench merge A B")
    for run in runs:
        if run.recorded.edited:
            raise InvalidFile(
                f"{run.name} was changed outside etui: {'; '.join(run.recorded.edited)}",
                "restore it from a copy, or merge without it",
            )
        if is_comparison(run.config):
            raise UsageError(
                f"{run.name} compares machines: its systems are arms on one machine each",
                "resume it where questions are left; `etui bench compare` takes it as it is",
            )
    for one, other in combinations(runs, 2):
        if one.config.run_id == other.config.run_id:
            raise UsageError(
                f"{one.name} and {other.name} are the same run, {one.config.run_id}",
                "give it once; of an unfinished and a finished copy, the finished one",
            )
    lines = [line for other in runs[1:] for line in _list_plan_differences(runs[0], other)]
    if lines:
        more = len(lines) - _MOST_DIFFERENCES
        shown = lines[:_MOST_DIFFERENCES] + ([f"and {more:,} more"] if more > 0 else [])
        raise UsageError(
            "these runs are not of one plan:\n" + "\n".join(f"  {line}" for line in shown),
            "merge runs of the same questions, format, arms and model files; "
            "use `etui bench compare` for others",
        )


def _list_plan_differences(first: NamedRun, other: NamedRun) -> list[str]:
    if first.config.plan_sha256 == other.config.plan_sha256:
        return []
    differing = plan_differences(first.config, other.config)
    found = {
        path: values
        for path, values in differing.items()
        if path.partition(".")[0].partition(" ")[0] not in _FOLLOWING
    }
    lines = [
        f"{path}: {first.name} has {_short(one)}, {other.name} has {_short(two)}"
        for path, (one, two) in found.items()
    ]
    if len(found) < len(differing):
        lines.append(_compare_questions(first, other))
    return lines or [f"models (order): {first.name} and {other.name} have them in another order"]


def _compare_questions(first: NamedRun, other: NamedRun) -> str:
    one, two = (
        f"{sum(run.config.drawn.values()):,} of {sum(run.config.sizes.values()):,}"
        for run in (first, other)
    )
    if one == two:
        return f"questions: {first.name} and {other.name} drew them in another way"
    return f"questions: {first.name} has {one}, {other.name} has {two}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _number_machines(
    runs: Sequence[NamedRun],
) -> tuple[list[BenchMachine], tuple[Mapping[str | None, str], ...]]:
    """Give every machine of every run a key: m1, m2, ... in the order of the runs."""
    machines: list[BenchMachine] = []
    keys: list[Mapping[str | None, str]] = []
    for run in runs:
        mapping: dict[str | None, str] = {}
        for machine in list_machines(run.config):
            key = f"m{len(machines) + 1}"
            mapping[machine.key or None] = key
            machines.append(replace(machine, key=key))
        keys.append(mapping)
    return machines, tuple(keys)


def _join_samples(
    runs: Sequence[NamedRun], keys: Sequence[Mapping[str | None, str]]
) -> tuple[tuple[Sample, ...], list[Sample]]:
    """Return the samples that count, and those that an earlier run has."""
    seen: set[tuple[str, str, int]] = set()
    kept: list[Sample] = []
    dropped: list[Sample] = []
    for run, mapping in zip(runs, keys, strict=True):
        for sample in run.recorded.samples:
            if sample.machine not in mapping:
                raise InvalidFile(
                    f"{run.name} has an answer of a machine that its configuration does not list: "
                    f"{sample.machine}",
                    "merge without it",
                )
            key = (run.config.contender(sample.arm), sample.subject, sample.row)
            if key in seen:
                dropped.append(sample)
                continue
            seen.add(key)
            kept.append(replace(sample, machine=mapping[sample.machine]))
    return tuple(kept), dropped


def _describe(machine: BenchMachine) -> dict[str, Any]:
    """Return a machine in the form of a configuration's ``machine``."""
    found: dict[str, Any] = {"name": machine.name, "memory_bytes": machine.memory_bytes}
    return found | ({"devices": list(machine.devices)} if machine.devices else {})


def _count_duplicates(dropped: Sequence[Sample]) -> Duplicates:
    known = [sample.joules for sample in dropped if sample.joules is not None]
    return Duplicates(
        len(dropped),
        math.fsum(known) if len(known) == len(dropped) else None,
        frozenset(sample.kind for sample in dropped if sample.kind is not None),
    )


def _note_duplicates(duplicates: Duplicates) -> Iterator[str]:
    if duplicates.answers:
        kind = "estimate" if "estimate" in duplicates.kinds else None
        joules = energy_text(duplicates.joules, None, kind)
        yield (
            f"{count_text(duplicates.answers, 'answer')} to questions that an earlier run "
            f"answered too were left out ({joules})"
        )


def _note_versions(machines: Sequence[BenchMachine]) -> Iterator[str]:
    names = dict.fromkeys(name for machine in machines for name in machine.versions)
    for name in names:
        values: dict[str, list[str]] = {}
        for machine in machines:
            values.setdefault(str(machine.versions.get(name)), []).append(machine.key)
        if len(values) > 1:
            shown = ", ".join(f"{value} ({' '.join(keys)})" for value, keys in values.items())
            yield f"{name} differs between machines: {shown}"


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
