"""The records of the log; field names are the JSON names, flattened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """One chat of the app.

    ``head`` is the turn that the user went back to last, below which the current branch ends; None
    for the newest branch.
    """

    chat_id: str
    created_at: str
    name: str
    system: str | None = None
    head: str | None = None


class LoggedQuestion(NamedTuple):
    """A question of the log and what answered it: the part of a turn that a replay reads.

    The fields are those of ``TurnRecord``, ``joules`` and ``kind`` those of its energy.
    ``first_hop`` is the arm and the model of the first hop; None without hops. A frozen dataclass
    takes six times as long to make, and a replay makes one for every turn of the log.
    """

    turn_id: str
    chat_id: str | None
    query: str
    system: str | None
    answer: str
    arm: str
    model: str
    reasoning: str
    joules: float | None
    kind: str | None
    settings: dict[str, Any]
    first_hop: tuple[str, str] | None
    parent_id: str | None = None


@dataclass(frozen=True, slots=True)
class GradeRecord:
    """What the user says of the answer of a turn; ``good`` is False for a bad one."""

    turn_id: str
    created_at: str
    good: bool


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """The answer of the audit arm to a question that another arm had answered.

    ``audited_arm`` and ``audited_model`` gave the answer of the turn. ``agrees`` says whether both
    answers are the same, None if they cannot be compared; ``why`` then says why. ``joules`` is the
    answer's, ``load_joules`` that of the loads for it (0.0 without one); None if unmeasured. Both
    belong to audits alone: they are in no turn, and in no load of the log.
    """

    audit_id: str
    turn_id: str
    created_at: str
    policy: str
    arm: str
    model: str
    model_sha256: str | None
    audited_arm: str
    audited_model: str
    status: str
    answer: str
    agrees: bool | None
    why: str
    tokens_output: int
    seconds: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    load_joules: float | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One bench run: its settings and results in short; the folder has the details."""

    run_id: str
    created_at: str
    finished_at: str | None
    status: str
    folder: str
    suite: str
    format: str
    shots: int
    seed: int
    data_sha256: str | None
    config_sha256: str | None
    questions: int
    correct: int
    joules: float | None
    uncertainty: float | None
    kind: str | None
    seconds: float
    arms: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """The answer of one arm to one question of a run; the key is (run, arm, subject, row)."""

    run_id: str
    arm: str
    subject: str
    row: int
    answer: str
    choice: str | None
    correct: bool
    letter_mass: float | None
    status: str
    tokens_computed: int
    tokens_cached: int
    tokens_thinking: int
    tokens_output: int
    joules: float | None
    uncertainty: float | None
    kind: str | None
    seconds: float
    logprobs: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class CurveRecord:
    """The operating curve of a model on a machine; ``source`` is ``calibration`` or ``log``.

    ``coefficients`` has ``e0``, ``a`` and ``a2`` of prefill and ``e0``, ``b`` and ``c`` of decode,
    in joules and joules per token; ``settings`` has what else the curve depends on (threads,
    channels).
    """

    curve_id: str
    created_at: str
    model: str
    model_sha256: str | None
    machine: str
    build: str
    power_limit_watts: float | None
    kind: str | None
    source: str
    n: int
    r2_prefill: float | None
    r2_decode: float | None
    coefficients: dict[str, float]
    residuals: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """One sweep: what it looked for, and what it has found so far; the folder has the details.

    ``floor_joules_percent`` and ``floor_seconds_percent`` are the smallest differences that it
    could show; ``joules`` is the sum over all measured answers, None if any is unmeasured.
    """

    sweep_id: str
    created_at: str
    folder: str
    model: str
    model_sha256: str | None
    machine: str
    goal: str
    within_percent: float | None
    baseline: str
    best: str | None
    verdict: str
    floor_joules_percent: float | None
    floor_seconds_percent: float | None
    blocks: int
    visits: int
    joules: float | None
    kind: str | None
    seconds: float
    complete: bool


@dataclass(frozen=True, slots=True)
class SweepSettingRecord:
    """One setting of a sweep: an answer's costs, and differences to the baseline in percent.

    ``accuracy`` is a share in [0, 1], ``accuracy_points`` its difference in percentage points; all
    ends are those of intervals at 95 %. ``dropped_after`` is the number of a block.
    """

    sweep_id: str
    setting: str
    axes: dict[str, Any]
    stage: str
    blocks: int
    joules: float | None
    joules_low: float | None
    joules_high: float | None
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None
    joules_percent: float | None
    joules_percent_low: float | None
    joules_percent_high: float | None
    joules_claimed: bool
    seconds_percent: float | None
    seconds_percent_low: float | None
    seconds_percent_high: float | None
    seconds_claimed: bool
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    accuracy_points: float | None
    accuracy_points_low: float | None
    accuracy_points_high: float | None
    dropped_after: int | None
    reason: str
    frontier: bool
