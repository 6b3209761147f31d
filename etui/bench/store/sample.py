"""One question as one arm answered it: a line of ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from etui.text.codec import from_document, to_document
from etui.turn.record import Tokens

SampleStatus = Literal["answered", "no_answer", "truncated", "error"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded answer.

    Attributes:
        arm: Name of the arm (of a policy run: the arm that gave the final answer).
        subject, row: The question: its subject and its 0-based row in the subject's file.
        answer: The right letter.
        choice: The letter chosen; None where there was none.
        correct: Whether they are equal.
        status: ``no_answer`` ended without a letter, ``truncated`` was cut before one.
        text: What was generated; empty for formats that only read log-probabilities.
        logprobs: Letter -> log-probability in nats, full softmax; None where none was read.
        letter_mass: Sum of the letters' probabilities; None without ``logprobs``.
        confidence, margin: As in ``engine.events.Finished``; None where there is none.
        shots: Worked examples in the prompt, after those that did not fit were dropped.
        tokens: ``cached`` were reused; ``computed`` are the question's own.
        prefix_tokens: Its even share of the computed tokens of the shared prefix.
        joules: Gross, its share of the shared prefix included; None unmeasured.
        uncertainty: Half width in joules.
        kind: How it was measured, as in the contract.
        prefill_joules, decode_joules: The two phases; the prefix's share is in prefill.
        seconds: The question's own time and its share of the prefix's.
        prompt_sha256: First 16 hex digits of the SHA-256 of the prompt text.
        rule: Rule of the policy that matched; None without a policy.
        hops: Arms that answered before the last, first to last; empty without a cascade.
        error: What went wrong, for status ``error``.
    """

    arm: str
    subject: str
    row: int
    answer: str
    choice: str | None
    correct: bool
    status: SampleStatus
    text: str
    logprobs: Mapping[str, float] | None
    letter_mass: float | None
    confidence: float | None
    margin: float | None
    shots: int
    tokens: Tokens
    prefix_tokens: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    prefill_joules: float | None
    decode_joules: float | None
    seconds: float
    prompt_sha256: str
    rule: str | None = None
    hops: tuple[str, ...] = ()
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What names it within a run: arm asked for, subject, row."""
        return self.arm, self.subject, self.row

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the fields."""
        document: dict[str, Any] = to_document(self)
        return document


def parse_sample(document: object) -> Sample:
    """Make the sample that a line of ``samples.jsonl`` holds.

    Raises:
        DocumentError: The line holds none.
    """
    return from_document(Sample, document)
