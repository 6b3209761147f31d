"""A public run as a value, built from documents of which nothing is trusted.

All figures have to be finite and in range, and the figures of each arm have to follow from its
answers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etui.bench.publish.folder import PUBLISH_VERSION, RECORD
from etui.bench.store.run_folder import SAMPLES, SUMMARY
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.text.codec import from_document
from etui.units import ESTIMATE

_MOST_NAME = 200
_MOST_ARMS = 1_000
_MOST_MACHINES = 1_000
_TOLERANCE = 1e-6
"""Relative difference of a sum of joules from the order of its terms."""

_KINDS = frozenset({"counter", "integrated", "model", "battery", ESTIMATE})


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
        questions, correct: Number of questions, and of right answers.
        per_question, per_correct: Joules; None if unknown.
    """

    name: str
    models: tuple[str, ...]
    questions: int
    correct: int
    accuracy: Bounds  # Share of right answers
    kind: str | None  # How the joules are known; None if they are not, or are not pooled
    per_question: Bounds | None
    per_correct: Bounds | None
    by_machine: bool  # Whether the joules are given for each machine and are not pooled


@dataclass(frozen=True, slots=True)
class PublicRun:
    """A public folder that was read."""

    place: str  # Path below the folder of the board, with slashes
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
    """Which questions were drawn: ``all``, or ``limit``, ``per subject`` or the names of subjects.
    """
    complete: bool  # Whether every arm answered all questions
    machines: tuple[str, ...]
    etui: str  # Version that measured
    arms: tuple[PublicArm, ...]


@dataclass(slots=True)
class AnswerCount:
    """Sums over the answers of one system, counted while its file was read.

    Attributes:
        questions, correct: Number of answers, and of right ones.
    """

    questions: int = 0
    correct: int = 0
    joules: float = 0.0  # Sum over the measured answers
    measured: int = 0  # Number of answers with joules
    kinds: set[str] = field(default_factory=set)  # Kinds of these joules


def build_public_run(
    place: str,
    record: Mapping[str, Any],
    summary: Mapping[str, Any],
    counts: Mapping[str, AnswerCount],
) -> PublicRun:
    """Build a public run from the documents of its folder, and check its figures.

    Args:
        place: Path of the folder below the folder of the board, with slashes.
        record: Document of ``record.json``.
        summary: Document of ``summary.json``.
        counts: Sums over the answers, by the name of the system.

    Raises:
        BrokenFolder: The documents contradict each other, or figures do not follow from the
            answers.
        DocumentError: A part has an unexpected form, which may also raise what Python raises for
            a missing key or a wrong type.
    """
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
        arms.append(_build_arm(parse_name(name), used, document, counts.get(name, AnswerCount())))
    if not arms:
        raise BrokenFolder("it has no answers")
    if len(arms) > _MOST_ARMS:
        raise BrokenFolder(f"it has more than {_MOST_ARMS:,} arms")
    run = PublicRun(
        place=place,
        run_id=parse_name(record["run_id"]),
        started_at=parse_name(config["started_at"]),
        licence=parse_name(record["license"]),
        suite=parse_name(config["suite"]),
        split=parse_name(config["split"]),
        data_sha256=parse_name(config["data_sha256"]),
        format=parse_name(config["format"]),
        format_version=_whole(config["format_version"]),
        shots=_whole(config["shots"]),
        selection=_describe_selection(config),
        complete=summary["complete"] is True,
        machines=_name_machines(config),
        etui=parse_name(config["versions"].get("etui", "unknown")),
        arms=tuple(arms),
    )
    if summary["run_id"] != run.run_id or config["run_id"] != run.run_id:
        raise BrokenFolder(f"{RECORD} and {SUMMARY} are of different runs")
    if run.complete and any(arm.questions != _whole(record["questions"]) for arm in arms):
        raise BrokenFolder("it says that it is complete, and is not")
    return run


def _build_arm(
    name: str, models: tuple[str, ...], document: Mapping[str, Any], count: AnswerCount
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
    joules = parse_amount(energy["joules"], SUMMARY)
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


def parse_amount(value: object, name: str) -> float:
    """Return joules of a document; ``BrokenFolder`` names the file unless finite and >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BrokenFolder(f"{name} has joules that are not a number")
    if not math.isfinite(value) or value < 0:
        raise BrokenFolder(f"{name} has joules of {value:g}")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise BrokenFolder(f"{str(value)[:20]!r} is not a count")
    return value


def parse_name(value: object) -> str:
    """Return a text of a document, shortened if it is long; ``BrokenFolder`` if it is none."""
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
        parts.append(f"subjects {', '.join(parse_name(subject) for subject in subjects)}")
    if config.get("per_subject") is not None:
        parts.append(f"{_whole(config['per_subject']):,} questions of each subject")
    elif config.get("precision") or (config.get("limit") is not None and drawn != config["sizes"]):
        parts.append("a sample in proportion to the subjects")
    text = "; ".join(parts) if parts else "all questions"
    if len(text) <= _MOST_NAME:
        return text
    return f"{parse_name(text)} ({hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]})"


def _name_machines(config: Mapping[str, Any]) -> tuple[str, ...]:
    machines = config.get("machines") or [config["machine"]]
    if len(machines) > _MOST_MACHINES:
        raise BrokenFolder(f"it has more than {_MOST_MACHINES:,} machines")
    names = []
    for machine in machines:
        devices = machine.get("devices") or []
        names.append(
            parse_name(", ".join([str(machine.get("name") or "unknown"), *map(str, devices)]))
        )
    return tuple(dict.fromkeys(names))
