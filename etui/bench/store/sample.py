"""One arm's answer to one question: a line of ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from etui.text.codec import from_document, to_document
from etui.turn.record import Tokens
from etui.turn.speculation_record import SpeculationRecord

SampleStatus = Literal["answered", "no_answer", "truncated", "error"]

_OPTIONAL = (
    *("speculation", "machine", "decode_seconds", "ttft_seconds", "inter_token_seconds"),
    *("inter_token_bins", "coverage", "shared", "strict"),
)
"""Fields that a line leaves out where they are None, so that older lines keep their form."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded answer.

    Attributes:
        arm: Name of the arm; in a policy run, the arm that gave the final answer.
        subject, row: The question: its subject and its 0-based row in the subject's file.
        answer: The right letter, or the right number in the form of the run's grading rule.
        choice: The chosen letter or number; None if there is none.
        correct: Whether choice and answer are equal.
        status: ``no_answer`` ended without an answer, ``truncated`` was cut off before one.
        text: Generated text; empty for formats that only read log-probabilities.
        logprobs: Letter -> log-probability in nats, full softmax; None if none were read.
        letter_mass: Sum of the letters' probabilities; None without ``logprobs``.
        confidence, margin: As in :class:`etui.events.Finished`; None if there is none.
        shots: Worked examples in the prompt, without those that did not fit.
        tokens: ``cached`` were reused; ``computed`` are the question's own.
        prefix_tokens: Its equal share of the computed tokens of the shared prefix.
        joules: Gross joules with its share of the shared prefix; None if unmeasured.
        uncertainty: Half width in joules.
        kind: Kind of the energy measurement (:class:`etui.energy.types.Kind`).
        prefill_joules, decode_joules: Joules by phase; the prefix's share is in prefill.
        seconds: The question's own time plus its share of the prefix's time.
        prompt_sha256: First 16 hex digits of the SHA-256 of the prompt text.
        rule: Matching rule of the policy; None without a policy.
        hops: The other arms that answered, in order, whose joules are its own too; empty without
            a cascade.
        error: Error message, for status ``error``.
        speculation: Drafted tokens and their joules; None if nothing was drafted.
        machine: Key of the machine that answered, in ``machines`` of the configuration; None for
            the only machine of a run.
        decode_seconds: Time of decoding; None if nothing was decoded, or it is unknown.
        ttft_seconds: Time to first token; None if nothing was decoded, or it is unknown.
        inter_token_seconds: Percentiles of the time between two tokens of this answer, as ``p50``,
            ``p90`` and ``p95``; None with fewer than two tokens, or if unknown.
        inter_token_bins: The same times as a histogram (:mod:`etui.bench.analysis.distribution`):
            pairs of bin and count. None as above.
        coverage: Share of its time that the meter recorded, 0..1; None if unknown.
        shared: Whether other processes used a measured GPU, or the CPUs of an estimate; None if
            unknown.
        strict: Whether the answer is right by the stricter reading of the grading rule (of GSM8K:
            after ``####``); None if the rule has none.
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
    speculation: SpeculationRecord | None = None
    machine: str | None = None
    decode_seconds: float | None = None
    ttft_seconds: float | None = None
    inter_token_seconds: Mapping[str, float] | None = None
    inter_token_bins: tuple[tuple[int, int], ...] | None = None
    coverage: float | None = None
    shared: bool | None = None
    strict: bool | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Key within a run: arm, subject, row."""
        return self.arm, self.subject, self.row

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values in the order of the fields, without later additions if None."""
        document: dict[str, Any] = to_document(self)
        for name in _OPTIONAL:
            if document[name] is None:
                del document[name]
        return document


def parse_sample(document: object) -> Sample:
    """Parse a line of ``samples.jsonl``.

    Raises:
        DocumentError: The line is not a sample.
    """
    return from_document(Sample, document)
