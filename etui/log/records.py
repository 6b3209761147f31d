"""The records of the log; field names are the JSON names, flattened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """One chat of the app."""

    chat_id: str
    created_at: str
    name: str
    system: str | None = None


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
