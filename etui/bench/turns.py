"""Answer questions as turns, with one arm or with the arm a policy chooses for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from etui.arm import Arm
from etui.backends.base import Cancel
from etui.backends.local import LocalBackend
from etui.bench.arms import close_decision
from etui.bench.cost import compute_distribution, count_gaps
from etui.bench.formats import (
    FORMATS,
    Format,
    GradingRule,
    build_query,
    find_rule,
    grade,
    messages_sha,
)
from etui.bench.sample import Sample, SampleStatus
from etui.bench.scoring import SubjectWork
from etui.chat import Message, Query
from etui.datasets.questions import Question
from etui.energy.types import EnergyOf
from etui.errors import ContextOverflow, EngineFailed
from etui.measure.run import StopRequested
from etui.multiple_choice import parse_options
from etui.reasoning.choice_readout import split_letter
from etui.reasoning.extraction import extract
from etui.reasoning.vote_count import tally
from etui.routing.decision import Decision
from etui.routing.policy import Policy
from etui.runtime.decide import Choice, collect_knowledge, decide_query
from etui.runtime.runtime import Runtime
from etui.turn.events import TurnFinished
from etui.turn.interfaces import Meter
from etui.turn.record import TurnRecord
from etui.turn.token_times import TokenTimes

Decide = Callable[[Query], Choice]  # Chooses the arm or the cascade for a question


class _DoesNotFit(Exception):
    """A raw prompt with worked examples does not fit into the context."""


@dataclass(frozen=True, slots=True)
class TurnAnswered:
    """A question answered in a turn, which has already settled its energy."""

    sample: Sample
    end_ns: int

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """Return the answer with its cost; ``energy_of`` is not needed."""
        return [self.sample]


@dataclass(slots=True)
class TurnArm:
    """Answers questions by turns, which are not logged."""

    decide: Decide  # Chooses for each question: always the same arm, or the decision of a policy
    runtime: Runtime[LocalBackend]
    format: Format = FORMATS["chat"]
    reuse: bool = True  # Whether the questions of a subject share its worked examples in the cache
    cancelled: Callable[[], bool] = lambda: False  # Whether the user wants to stop
    cancel: Cancel = field(default_factory=Cancel)  # Ends the running answer
    meter: Meter | None = None  # Measures in place of this machine's recorder

    def answer(self, work: SubjectWork) -> Iterator[TurnAnswered]:
        """Answer the questions of a subject that are not done, one after the other.

        The cache of another arm's answers is not reused, because an arm would look cheap for coming
        second. Within a subject the cache of its worked examples is reused, if it has any; a
        question without them is computed in full, so that its cost does not depend on the
        questions before it.
        """
        self.runtime.backend.forget()
        shared = self.reuse and bool(work.examples)
        for question in work.questions:
            if question.row not in work.done:
                if self.cancelled():
                    raise StopRequested
                if not shared:
                    self.runtime.backend.forget()
                yield self._answer(question, work.examples)

    def _answer(self, question: Question, examples: Sequence[Question]) -> TurnAnswered:
        """Answer a question; a raw prompt that does not fit loses its examples, the last first.

        Those of a chat are earlier turns, which are left out where they do not fit.
        """
        for shots in range(len(examples), 0, -1):
            try:
                return self._run_turn(question, examples[:shots])
            except _DoesNotFit:
                continue
        return self._run_turn(question, ())

    def _run_turn(self, question: Question, examples: Sequence[Question]) -> TurnAnswered:
        query = build_query(self.format, question, examples)
        messages = query.messages()
        choice = self.decide(query)
        record: TurnRecord | None = None
        times = TokenTimes()
        error: str | None = None
        try:
            turn = self.runtime.turn(
                query, choice, self.cancel, meter=self.meter, save=lambda _record: None
            )
            with closing(turn.run()) as events:
                for event in events:
                    times.add(event)
                    if isinstance(event, TurnFinished):
                        record = event.record
        except ContextOverflow as overflow:
            if self.format.raw and examples:
                raise _DoesNotFit from overflow
            error = overflow.what
        if self.cancelled() or (record is not None and record.status == "stopped"):
            raise StopRequested
        if record is None:
            raise EngineFailed(error or "the turn ended without a record", "run it again")
        rule = find_rule(self.format, numbers=not question.choices)
        gaps = times.list_gaps()
        sample = build_sample(record, question, messages, len(examples), error, rule, gaps)
        return TurnAnswered(sample, record.energy.end_ns)


def build_sample(
    record: TurnRecord,
    question: Question,
    messages: Sequence[Message],
    shots: int,
    error: str | None,
    rule: GradingRule | None = None,
    gaps: Sequence[float] | None = None,
) -> Sample:
    """Grade a turn and build its sample.

    A vote is graded by its majority, any other answer by what it states. ``error`` says why there
    is no valid answer; ``rule`` reads the answer, None the option that is stated last; ``gaps`` are
    the seconds between its tokens.
    """
    text, stated = record.answer, None
    if rule is None:
        right, strict = question.answer, None
        choice, stated = _read_option(record, question, messages[-1].content)
    else:
        graded = grade(rule, text, question)
        right, choice, strict = graded.answer, graded.choice, graded.strict
    status: SampleStatus = "answered"
    if error is not None or record.status == "error":
        choice, status = None, "error"
        strict = None if strict is None else False
    elif choice is None:
        status = "truncated" if record.status == "truncated" else "no_answer"
    energy = record.energy
    return Sample(
        arm=record.arm,
        subject=question.subject,
        row=question.row,
        answer=right,
        choice=choice,
        correct=choice == right,
        status=status,
        text=f"{record.thinking}\n\n{text}".strip() if record.thinking else text,
        logprobs=None,
        letter_mass=None,
        confidence=record.confidence,
        margin=record.settings.get("margin"),
        shots=shots,
        tokens=record.tokens,
        prefix_tokens=0.0,
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        kind=energy.kind,
        prefill_joules=energy.phases.get("prefill"),
        decode_joules=energy.phases.get("decode"),
        seconds=record.seconds.total,
        prompt_sha256=messages_sha(messages),
        rule=record.rule,
        hops=tuple(hop.arm for hop in record.hops if not hop.taken),
        error=error or record.error,
        speculation=record.speculation,
        decode_seconds=record.seconds.decode if record.tokens.output else None,
        ttft_seconds=record.seconds.ttft,
        inter_token_seconds=_describe_gaps(gaps),
        inter_token_bins=count_gaps(gaps) if gaps else None,
        coverage=None if energy.joules is None else energy.coverage,
        shared=None if energy.joules is None else energy.shared,
        strict=strict,
        stated=stated,
    )


def _describe_gaps(gaps: Sequence[float] | None) -> dict[str, float] | None:
    found = compute_distribution(gaps or ())
    return None if found is None else {"p50": found.p50, "p90": found.p90, "p95": found.p95}


def _read_option(
    record: TurnRecord, question: Question, asked: str
) -> tuple[str | None, str | None]:
    """Return the letter of an answer, None without one, and what its free text alone states.

    The second is as ``Sample.stated``. Of a vote it is the majority of what the votes state.
    """
    options = parse_options(asked)

    def state(text: str) -> str | None:
        key = extract(text, asked, options, truncated=record.status == "truncated").key
        return key if key in question.letters else None

    if record.settings.get("readout") != "letter":
        return state(record.answer), None
    counted = [vote for vote in record.votes if vote.status not in ("uncounted", "abandoned")]
    if counted:
        said = tally([(state(split_letter(vote.answer)[0]), 1.0) for vote in counted]).key
        return state(record.answer), said or ""
    free, letter = split_letter(record.answer)
    stated = state(free)
    return letter or stated, stated or ""


def decide_always(arm: Arm) -> Decide:
    """Return a function that chooses the same arm for every question."""
    choice = Choice(Decision(arm, None, None, f"arm {arm.name} is measured"))
    return lambda query: choice


def decide_by_policy(policy: Policy, runtime: Runtime[Any]) -> Decide:
    """Return a function that chooses by a policy for each question, as the chat would.

    The state of the machine is read for each question; the log, the fit and the earlier questions
    are read once, so that answers of the run do not change the routing of later questions. Hourly
    and daily budgets do not apply: they limit what a person uses.
    """
    from etui.runtime.host import read_host

    knowledge = collect_knowledge(policy, runtime)

    def decide(query: Query) -> Choice:
        host = read_host(runtime.config)
        known = replace(knowledge, host=host)
        choice = decide_query(query, policy, knowledge=known)
        return replace(choice, decision=close_decision(choice.decision))

    return decide
