"""Read public folders, which anybody may have written: nothing in them is trusted.

A folder counts only if its files have the checksums that it states, no file is a link, all figures
are finite and in range, and the figures of each arm follow from its answers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from etui.bench.publish.folder import PUBLISH_VERSION, RECORD, SUMS, read_sums
from etui.bench.store.run_folder import SAMPLES, SUMMARY
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.text.codec import DocumentError, from_document
from etui.units import ESTIMATE, bytes_text

_MOST_BYTES = {RECORD: 4 << 20, SUMMARY: 16 << 20, SAMPLES: 512 << 20, SUMS: 1 << 20}
_MOST_LINE_BYTES = 1 << 20
_MOST_FOLDERS = 10_000
_MOST_NAME = 200
_MOST_ARMS = 1_000
_MOST_MACHINES = 1_000
_TOLERANCE = 1e-6
"""Relative difference of a sum of joules from the order of its terms."""

_KINDS = frozenset({"counter", "integrated", "model", "battery", ESTIMATE})


_ODD = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""What documents of an unexpected form raise where their values are used."""


class BrokenFolder(Exception):
    """A folder that cannot be ranked; the message says why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A value with its 95 % interval; an end is None if unknown."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model of a public run: its name and the hash of its file."""

    name: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PublicArm:
    """One system of a public run.

    Attributes:
        name: Name of the arm or the policy.
        models: Names of its models.
        questions, correct: Number of questions, and of right answers.
        accuracy: Share of right answers.
        kind: How the joules are known; None if they are not, or are not pooled.
        per_question, per_correct: Joules; None if unknown.
        by_machine: Whether the joules are given for each machine and are not pooled.
    """

    name: str
    models: tuple[str, ...]
    questions: int
    correct: int
    accuracy: Bounds
    kind: str | None
    per_question: Bounds | None
    per_correct: Bounds | None
    by_machine: bool


@dataclass(frozen=True, slots=True)
class PublicRun:
    """A public folder that was read.

    Attributes:
        place: Path below the folder of the board, with slashes.
        run_id, started_at, licence: As stated.
        suite, split, data_sha256, format, format_version, shots: What was asked, and how.
        selection: Which questions were drawn: ``all``, or ``limit``, ``per subject`` or the names
            of subjects.
        complete: Whether every arm answered all questions.
        machines: Names of its machines with their GPUs.
        etui: Version that measured.
        arms: Its systems.
    """

    place: str
    run_id: str
    started_at: str
    licence: str
    suite: str
    split: str
    data_sha256: str
    format: str
    format_version: int
    shots: int
    selection: str
    complete: bool
    machines: tuple[str, ...]
    etui: str
    arms: tuple[PublicArm, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A folder that was not read: its path below the folder of the board, and why."""

    place: str
    why: str


def read_folders(root: Path) -> tuple[list[PublicRun], list[Skipped]]:
    """Read all public folders below a folder; links are not followed.

    Of a run that is there twice, the first by path is read.

    Args:
        root: The folder.

    Returns:
        The runs in the order of their paths, and what was skipped.
    """
    runs: dict[str, PublicRun] = {}
    skipped: list[Skipped] = []
    for place, problem in _find_folders(root):
        name = place.relative_to(root).as_posix()
        if problem:
            skipped.append(Skipped(name, problem))
            continue
        try:
            run = read_folder(place, name)
        except BrokenFolder as error:
            skipped.append(Skipped(name, str(error)))
            continue
        if run.run_id in runs:
            skipped.append(Skipped(name, f"it has the same run as {runs[run.run_id].place}"))
        else:
            runs[run.run_id] = run
    return list(runs.values()), skipped


def read_folder(folder: Path, place: str) -> PublicRun:
    """Read a public folder.

    Args:
        folder: The folder.
        place: Its name on the board.

    Raises:
        BrokenFolder: A file is missing, too large, a link, changed or invalid, or figures do not
            follow from the answers.
    """
    try:
        sums = read_sums(_read(folder, SUMS).decode("utf-8"))
        record = _parse(_checked(folder, RECORD, sums), RECORD)
        summary = _parse(_checked(folder, SUMMARY, sums), SUMMARY)
        counts = _count_answers(folder, sums, record)
        return _build_run(place, record, summary, counts)
    except BrokenFolder:
        raise
    except DocumentError as error:
        raise BrokenFolder(f"a file is not of the expected form: {_name(str(error))}") from error
    except _ODD as error:
        reason = f"{type(error).__name__}: {error}"
        raise BrokenFolder(f"it cannot be read: {_name(reason)}") from error


def _find_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each folder with a record, and each link that leaves the root with a problem."""
    found = 0
    base = root.resolve()
    for current, folders, files in os.walk(root, followlinks=False):
        here = Path(current)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            if (here / name).is_symlink():
                folders.remove(name)
                if not (here / name).resolve().is_relative_to(base):
                    yield here / name, "it is a link to another place"
        if RECORD in files:
            found += 1
            if found > _MOST_FOLDERS:
                yield here, f"there are more than {_MOST_FOLDERS:,} folders"
                return
            yield here, ""


def _open(folder: Path, name: str) -> IO[bytes]:
    """Open a regular file of a folder; a link, a pipe or a huge file is refused."""
    path = folder / name
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise BrokenFolder(f"{name} is a link")
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise BrokenFolder(f"{name} is missing") from error
    except OSError as error:
        raise BrokenFolder(f"{name} cannot be read: {error.strerror or error}") from error
    state, most = os.fstat(descriptor), _MOST_BYTES[name]
    problem = ""
    if not stat.S_ISREG(state.st_mode):
        problem = "is not a file"
    elif state.st_size > most:
        problem = f"has {bytes_text(state.st_size)}, more than {bytes_text(most)}"
    if problem:
        os.close(descriptor)
        raise BrokenFolder(f"{name} {problem}")
    return os.fdopen(descriptor, "rb")


def _read(folder: Path, name: str) -> bytes:
    with _open(folder, name) as file:
        return file.read(_MOST_BYTES[name] + 1)


def _checked(folder: Path, name: str, sums: Mapping[str, str]) -> bytes:
    content = _read(folder, name)
    if hashlib.sha256(content).hexdigest() != sums.get(name):
        raise BrokenFolder(f"{name} differs from its checksum in {SUMS}")
    return content


def _parse(content: bytes, name: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise BrokenFolder(f"{name} contains {word}, which is not a number")

    document = json.loads(content.decode("utf-8"), parse_constant=refuse)
    if not isinstance(document, dict):
        raise BrokenFolder(f"{name} is not a JSON object")
    return document


@dataclass(slots=True)
class _Count:
    questions: int = 0
    correct: int = 0
    joules: float = 0.0
    measured: int = 0
    kinds: set[str] = field(default_factory=set)


def _count_answers(
    folder: Path, sums: Mapping[str, str], record: Mapping[str, Any]
) -> dict[str, _Count]:
    """Count the answers of each system while the checksum of the file is computed."""
    config = record["config"]
    routed = config["policy"]["name"] if config.get("routed") and config.get("policy") else None
    digest = hashlib.sha256()
    counts: dict[str, _Count] = defaultdict(_Count)
    seen: set[tuple[str, str, int]] = set()
    with _open(folder, SAMPLES) as file:
        while line := file.readline(_MOST_LINE_BYTES + 1):
            if len(line) > _MOST_LINE_BYTES:
                raise BrokenFolder(f"{SAMPLES} has a line of more than a megabyte")
            digest.update(line)
            sample = _parse(line, SAMPLES)
            name = str(routed or sample["arm"])
            key = (name, str(sample["subject"]), int(sample["row"]))
            if key in seen:
                raise BrokenFolder(f"{SAMPLES} has an answer twice")
            seen.add(key)
            count = counts[name]
            count.questions += 1
            count.correct += sample["correct"] is True
            if sample.get("joules") is not None:
                count.joules += _amount(sample["joules"], SAMPLES)
                count.measured += 1
                if sample.get("kind") is not None:
                    count.kinds.add(str(sample["kind"]))
    if digest.hexdigest() != sums.get(SAMPLES):
        raise BrokenFolder(f"{SAMPLES} differs from its checksum in {SUMS}")
    return counts


def _build_run(
    place: str,
    record: Mapping[str, Any],
    summary: Mapping[str, Any],
    counts: Mapping[str, _Count],
) -> PublicRun:
    version = record.get("publish_version")
    if version != PUBLISH_VERSION:
        raise BrokenFolder(f"publish_version {str(version)[:20]} is not {PUBLISH_VERSION}")
    config = record["config"]
    models = from_document(tuple[PublicModel, ...], config["models"], extra="ignore")
    names = {model.name for model in models}
    arms = []
    for name, document in summary["arms"].items():
        settings = {} if config.get("routed") else config["arms"].get(name, {})
        own = settings.get("model")
        used = (str(own),) if own in names else tuple(sorted(names))
        arms.append(_build_arm(_name(name), used, document, counts.get(name, _Count())))
    if not arms:
        raise BrokenFolder("it has no answers")
    if len(arms) > _MOST_ARMS:
        raise BrokenFolder(f"it has more than {_MOST_ARMS:,} arms")
    run = PublicRun(
        place=place,
        run_id=_name(record["run_id"]),
        started_at=_name(config["started_at"]),
        licence=_name(record["license"]),
        suite=_name(config["suite"]),
        split=_name(config["split"]),
        data_sha256=_name(config["data_sha256"]),
        format=_name(config["format"]),
        format_version=_whole(config["format_version"]),
        shots=_whole(config["shots"]),
        selection=_describe_selection(config),
        complete=summary["complete"] is True,
        machines=_name_machines(config),
        etui=_name(config["versions"].get("etui", "unknown")),
        arms=tuple(arms),
    )
    if summary["run_id"] != run.run_id or config["run_id"] != run.run_id:
        raise BrokenFolder(f"{RECORD} and {SUMMARY} are of different runs")
    if run.complete and any(arm.questions != _whole(record["questions"]) for arm in arms):
        raise BrokenFolder("it says that it is complete, and is not")
    return run


def _build_arm(
    name: str, models: tuple[str, ...], document: Mapping[str, Any], count: _Count
) -> PublicArm:
    accuracy, energy = document["accuracy"], document.get("energy")
    questions, correct = _whole(accuracy["questions"]), _whole(accuracy["correct"])
    micro = _bounds(accuracy["micro"], "an accuracy")
    if (questions, correct) != (count.questions, count.correct) or not questions:
        raise BrokenFolder(f"the right answers of {name} are not those of {SAMPLES}")
    if not _close(micro.value, correct / questions) or (micro.high or 0) > 1:
        raise BrokenFolder(f"the accuracy of {name} does not follow from its answers")
    if energy is None:
        by_machine = bool(document.get("machines"))
        return PublicArm(name, models, questions, correct, micro, None, None, None, by_machine)
    joules = _amount(energy["joules"], SUMMARY)
    measured = _whole(energy["questions"])
    if measured != count.measured or not _close(joules, count.joules):
        raise BrokenFolder(f"the joules of {name} are not those of {SAMPLES}")
    per_question = _bounds(energy["per_question"], "joules per question")
    if not measured or not _close(per_question.value, joules / measured):
        raise BrokenFolder(f"the joules per question of {name} do not follow from its answers")
    per_correct = None
    if energy.get("per_correct") is not None:
        per_correct = _bounds(energy["per_correct"], "joules per right answer")
        if measured == questions and not _close(per_correct.value * correct, joules):
            raise BrokenFolder(f"the joules per right answer of {name} do not follow")
    kind = energy["kind"]
    if kind not in _KINDS:
        raise BrokenFolder(f"the kind of energy {str(kind)[:20]!r} is unknown")
    if not count.kinds <= _KINDS or (weakest(map(Kind, count.kinds)) or ESTIMATE) != kind:
        raise BrokenFolder(f"the kind of energy of {name} is not that of {SAMPLES}")
    return PublicArm(
        name, models, questions, correct, micro, kind, per_question, per_correct, by_machine=False
    )


def _bounds(document: Mapping[str, Any], what: str) -> Bounds:
    found = from_document(Bounds, dict(document), extra="ignore")
    for value in (found.value, found.low, found.high):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise BrokenFolder(f"{what} is {value:g}")
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    if (
        not low <= found.value * (1 + _TOLERANCE) + _TOLERANCE
        or not found.value <= high * (1 + _TOLERANCE) + _TOLERANCE
    ):
        raise BrokenFolder(f"{what} is outside of its interval")
    return found


def _amount(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BrokenFolder(f"{name} has joules that are not a number")
    if not math.isfinite(value) or value < 0:
        raise BrokenFolder(f"{name} has joules of {value:g}")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise BrokenFolder(f"{str(value)[:20]!r} is not a count")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise BrokenFolder(f"{str(value)[:20]!r} is not a name")
    return value if len(value) <= _MOST_NAME else f"{value[:_MOST_NAME]}..."


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-9)


def _describe_selection(config: Mapping[str, Any]) -> str:
    """Say how the questions were drawn, as runs of other draws are not comparable."""
    drawn = config["drawn"]
    parts = []
    subjects = config.get("subjects")
    if subjects is not None:
        parts.append(f"subjects {', '.join(_name(subject) for subject in subjects)}")
    if config.get("per_subject") is not None:
        parts.append(f"{_whole(config['per_subject']):,} questions of each subject")
    elif config.get("precision") or (config.get("limit") is not None and drawn != config["sizes"]):
        parts.append("a sample in proportion to the subjects")
    text = "; ".join(parts) if parts else "all questions"
    if len(text) <= _MOST_NAME:
        return text
    return f"{_name(text)} ({hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]})"


def _name_machines(config: Mapping[str, Any]) -> tuple[str, ...]:
    machines = config.get("machines") or [config["machine"]]
    if len(machines) > _MOST_MACHINES:
        raise BrokenFolder(f"it has more than {_MOST_MACHINES:,} machines")
    names = []
    for machine in machines:
        devices = machine.get("devices") or []
        names.append(_name(", ".join([str(machine.get("name") or "unknown"), *map(str, devices)])))
    return tuple(dict.fromkeys(names))
