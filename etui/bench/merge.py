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
from typing import Any

from etui.bench.config import BenchMachine, RunConfig, plan_differences
from etui.bench.difficulty import DIFFICULTY
from etui.bench.folder import CURVES, RUN, Recorded, RunFolder
from etui.bench.machines import is_comparison, list_machines
from etui.bench.results import write_results
from etui.bench.run import answer_record, run_record
from etui.bench.sample import Sample
from etui.bench.summary import Summary
from etui.config.config import Config
from etui.errors import EtuiError, InvalidFile, Stopped, UsageError, writing
from etui.log.writer import TurnWriter
from etui.measure.folder import LOCK, check_new, format_value
from etui.units import count_text, energy_text

_MOST_DIFFERENCES = 12
_FOLLOWING = frozenset({"sizes", "drawn"})
"""Settings with a value for each subject, which are named in one line."""
Keys = Mapping[str | None, str]
"""Key of a machine in a run -> its key in the joined run; None in a run of one machine."""


@dataclass(frozen=True, slots=True)
class MergedRun:
    """The joined run."""

    runs: tuple[tuple[Recorded, Keys], ...]  # The runs that were joined, in their order
    config: RunConfig
    samples: tuple[Sample, ...]  # Its answers, in the order of the runs, each with its machine
    dropped: tuple[Sample, ...]  # Answers to questions that an earlier run has
    notes: tuple[str, ...]  # What the reader should know, one sentence each


def merge_runs(runs: Sequence[Recorded], run_id: str) -> MergedRun:
    """Join runs of one plan, at least two.

    A question that several runs answered counts once, with the answer of the run that was given
    first. Machines that answered nothing in the joined run are left out. UsageError if there are
    fewer than two runs, one is there twice, or they are not of one plan; InvalidFile if a run was
    changed outside etui.
    """
    _check_runs(runs)
    machines, keyed = _number_machines(runs)
    samples, dropped = _join_samples(keyed)
    used = {sample.machine for sample in samples}
    kept = tuple(machine for machine in machines if machine.key in used) or tuple(machines[:1])
    here = kept[0]
    first = next(run.config for run, keys in keyed if here.key in keys.values())
    config = replace(
        first,
        run_id=run_id,
        started_at=min(run.config.started_at for run in runs),
        part=None,
        models=here.models,
        threads=here.threads,
        versions=here.versions,
        energy=here.energy,
        idle=here.idle,
        machine={
            "name": here.name,
            "memory_bytes": here.memory_bytes,
            **({"devices": list(here.devices)} if here.devices else {}),
        },
        machines=kept,
        merged=tuple(name for run in runs for name in run.config.merged or (run.config.run_id,)),
    )
    notes = [*_note_versions(kept), *_note_dropped(dropped)]
    notes += [
        f"{run.folder} adds no answer" for run, keys in keyed if not used & set(keys.values())
    ]
    return MergedRun(tuple(keyed), config, tuple(samples), tuple(dropped), tuple(notes))


def _check_runs(runs: Sequence[Recorded]) -> None:
    if len(runs) < 2:
        raise UsageError("there is only one run", "give at least two runs: etui bench merge A B")
    for run in runs:
        if run.edited:
            raise InvalidFile(
                f"{run.folder} was changed outside etui: {'; '.join(run.edited)}",
                "restore it from a copy, or merge without it",
            )
        if is_comparison(run.config):
            raise UsageError(
                f"{run.folder} compares machines: its systems are arms on one machine each",
                "resume it where questions are left; `etui bench compare` takes it as it is",
            )
    for one, other in combinations(runs, 2):
        if one.config.run_id == other.config.run_id:
            raise UsageError(
                f"{one.folder} and {other.folder} are the same run, {one.config.run_id}",
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


def _list_plan_differences(first: Recorded, other: Recorded) -> list[str]:
    if first.config.plan_sha256 == other.config.plan_sha256:
        return []
    differing = plan_differences(first.config, other.config)
    lines = [
        f"{path}: {first.folder} has {format_value(one, 40)}, "
        f"{other.folder} has {format_value(two, 40)}"
        for path, (one, two) in differing.items()
        if path.partition(".")[0].partition(" ")[0] not in _FOLLOWING
    ]
    if len(lines) < len(differing):
        one, two = (
            f"{sum(run.config.drawn.values()):,} of {sum(run.config.sizes.values()):,}"
            for run in (first, other)
        )
        lines.append(
            f"questions: {first.folder} and {other.folder} drew them in another way"
            if one == two
            else f"questions: {first.folder} has {one}, {other.folder} has {two}"
        )
    unordered = f"models (order): {first.folder} and {other.folder} have them in another order"
    return lines or [unordered]


def _number_machines(
    runs: Sequence[Recorded],
) -> tuple[list[BenchMachine], list[tuple[Recorded, Keys]]]:
    """Give every machine of every run a key: m1, m2, ... in the order of the runs."""
    machines: list[BenchMachine] = []
    keyed: list[tuple[Recorded, Keys]] = []
    for run in runs:
        keys: dict[str | None, str] = {}
        for machine in list_machines(run.config):
            key = f"m{len(machines) + 1}"
            keys[machine.key or None] = key
            machines.append(replace(machine, key=key))
        keyed.append((run, keys))
    return machines, keyed


def _join_samples(keyed: Sequence[tuple[Recorded, Keys]]) -> tuple[list[Sample], list[Sample]]:
    """Return the samples that count, and those that an earlier run has."""
    seen: set[tuple[str, str, int]] = set()
    kept: list[Sample] = []
    dropped: list[Sample] = []
    for run, keys in keyed:
        for sample in run.samples:
            if sample.machine not in keys:
                raise InvalidFile(
                    f"{run.folder} has an answer of a machine that its configuration does not "
                    f"list: {sample.machine}",
                    "merge without it",
                )
            key = (run.config.contender(sample.arm), sample.subject, sample.row)
            if key in seen:
                dropped.append(sample)
                continue
            seen.add(key)
            kept.append(replace(sample, machine=keys[sample.machine]))
    return kept, dropped


def _note_dropped(dropped: Sequence[Sample]) -> Iterator[str]:
    if dropped:
        known = [sample.joules for sample in dropped if sample.joules is not None]
        joules = math.fsum(known) if len(known) == len(dropped) else None
        kind = "estimate" if any(sample.kind == "estimate" for sample in dropped) else None
        yield (
            f"{count_text(len(dropped), 'answer')} to questions that an earlier run "
            f"answered too were left out ({energy_text(joules, None, kind)})"
        )


def _note_versions(machines: Sequence[BenchMachine]) -> Iterator[str]:
    for name in dict.fromkeys(name for machine in machines for name in machine.versions):
        values: dict[str, list[str]] = {}
        for machine in machines:
            values.setdefault(str(machine.versions.get(name)), []).append(machine.key)
        if len(values) > 1:
            shown = ", ".join(f"{value} ({' '.join(keys)})" for value, keys in values.items())
            yield f"{name} differs between machines: {shown}"


def write_merged(merged: MergedRun, to: Path, config: Config, log: TurnWriter) -> Summary:
    """Write the folder of a joined run, and its rows in the log, which is then closed.

    ``config`` gives the places where the questions and their labels may be. UsageError if the
    folder is not empty; EtuiError if it cannot be written.
    """
    check_new(to, RUN)
    # The data that are on this machine; else those of the first run.
    places = [run.config.data_path for run, _ in merged.runs]
    data = next((place for place in places if place and Path(place).exists()), places[0])
    run = replace(merged.config, data_path=data)
    others = {CURVES: "".join(_join_curves(merged)), DIFFICULTY: _read_difficulty(merged)}
    with _make_whole(to) as place, RunFolder.start(place, run) as folder:
        folder.add_samples(merged.samples)
        summary = write_results(folder, run, merged.samples, config)
        for name, text in others.items():
            if text:
                folder.write(name, text)
    status = "complete" if summary.complete else "stopped"
    with suppress(EtuiError):  # all is in the folder, and a log error was reported
        log.save_rows("runs", [run_record(run, to, merged.samples, status, summary)])
        log.save_rows("answers", [answer_record(run.run_id, each) for each in merged.samples])
        log.close()
    return summary


@contextmanager
def _make_whole(to: Path) -> Iterator[Path]:
    """Give a place to write a folder, which appears at ``to`` once it is whole.

    A merged run cannot be resumed, so a part of one would be taken for all that was answered. The
    place is two levels deep, where no list of runs finds it.
    """
    try:
        with writing(to, "use another folder with --out"):
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


def _read_difficulty(merged: MergedRun) -> str:
    """Read the table of difficulties of the first run that has one; empty without."""
    for run, _ in merged.runs:
        with suppress(OSError, UnicodeDecodeError):
            return (run.folder / DIFFICULTY).read_text(encoding="utf-8")
    return ""


def _join_curves(merged: MergedRun) -> Iterator[str]:
    """Yield the curve points of all runs as lines, each with the key of its machine here.

    A line that a crash cut off, or of a machine that the run does not list, is left out.
    """
    for run, keys in merged.runs:
        try:
            lines = (run.folder / CURVES).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            with suppress(ValueError):
                point: Any = json.loads(line)
                if isinstance(point, dict) and point.get("machine") in keys:
                    point["machine"] = keys[point["machine"]]
                    yield json.dumps(point, ensure_ascii=True) + "\n"
