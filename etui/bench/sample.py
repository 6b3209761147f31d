"""One arm's answer to one question: a line of ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from etui.codec import from_document, to_document
from etui.energy.tariff import Cost
from etui.turn.record import SpeculationRecord, Tokens

SampleStatus = Literal["answered", "no_answer", "truncated", "error"]
_OPTIONAL = (
    *("speculation", "machine", "decode_seconds", "ttft_seconds", "inter_token_seconds"),
    *("inter_token_bins", "coverage", "shared", "strict", "cost", "stated"),
)
"""Fields that a line leaves out where they are None, so that older lines keep their form."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded answer."""

    arm: str  # Name of the arm; in a policy run, the arm that gave the final answer
    subject: str  # The question: its subject and its 0-based row in the subject's file
    row: int
    answer: str  # The right letter, or the right number in the form of the run's grading rule
    choice: str | None  # The chosen letter or number; None if there is none
    correct: bool  # Whether choice and answer are equal
    status: SampleStatus  # `no_answer` ended without an answer, `truncated` was cut off before one
    text: str  # Generated text; empty for formats that only read log-probabilities
    logprobs: Mapping[str, float] | None  # Letter -> log-probability in nats, full softmax
    letter_mass: float | None  # Sum of the letters' probabilities; None without `logprobs`
    confidence: float | None  # As in :class:`etui.events.Finished`; None if there is none
    margin: float | None
    shots: int  # Worked examples in the prompt, without those that did not fit
    tokens: Tokens  # `cached` were reused; `computed` are the question's own
    prefix_tokens: float  # Its equal share of the computed tokens of the shared prefix
    joules: float | None  # Gross joules with its share of the shared prefix; None if unmeasured
    uncertainty: float | None  # Half width in joules
    kind: str | None  # Kind of the energy measurement (:class:`etui.energy.types.Kind`)
    prefill_joules: float | None  # Joules by phase; the prefix's share is in prefill
    decode_joules: float | None
    seconds: float  # The question's own time plus its share of the prefix's time
    prompt_sha256: str  # First 16 hex digits of the SHA-256 of the prompt text
    rule: str | None = None  # Matching rule of the policy; None without a policy
    hops: tuple[str, ...] = ()
    """The other arms that answered, in order, whose joules are its own too; empty without a
    cascade."""
    error: str | None = None  # Error message, for status `error`
    speculation: SpeculationRecord | None = None  # None if nothing was drafted
    machine: str | None = None
    """Key of the machine that answered, in ``machines`` of the configuration; None for the only
    machine of a run."""
    decode_seconds: float | None = None  # None if nothing was decoded, or it is unknown
    ttft_seconds: float | None = None  # None if nothing was decoded, or it is unknown
    inter_token_seconds: Mapping[str, float] | None = None
    """Percentiles of the time between two tokens of this answer, as ``p50``, ``p90`` and ``p95``;
    None with fewer than two tokens, or if unknown."""
    inter_token_bins: tuple[tuple[int, int], ...] | None = None
    """The same times as a histogram (:mod:`etui.bench.cost`): pairs of bin and
    count. None as above."""
    coverage: float | None = None  # Share of its time that the meter recorded, 0..1
    shared: bool | None = None
    """Whether other processes used a measured GPU, or the CPUs of an estimate; None if unknown."""
    strict: bool | None = None
    """Whether the answer is right by the stricter reading of the grading rule (of GSM8K: after
    ``####``); None if the rule has none."""
    cost: Cost | None = None  # At the price of its time; None without a tariff
    stated: str | None = None
    """The letter that the free text states, whatever letter was read behind it; empty if it states
    none, None if no letter was read behind it."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Key within a run: arm, subject, row."""
        return self.arm, self.subject, self.row

    def without_joules(self) -> Sample:
        """Return the answer as if its energy was not measured."""
        drafted = self.speculation
        if drafted is not None:
            drafted = replace(
                drafted,
                verify_joules=None,
                verify_uncertainty=None,
                draft_joules=None,
                draft_uncertainty=None,
                accepted_joules=None,
                accepted_uncertainty=None,
                waste_joules=None,
                waste_uncertainty=None,
            )
        return replace(
            self,
            joules=None,
            uncertainty=None,
            kind=None,
            prefill_joules=None,
            decode_joules=None,
            speculation=drafted,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values in the order of the fields, without later additions if None."""
        document: dict[str, Any] = to_document(self)
        for name in _OPTIONAL:
            if document[name] is None:
                del document[name]
        return document


def parse_sample(document: object) -> Sample:
    """Parse a line of ``samples.jsonl``."""
    return from_document(Sample, document)
