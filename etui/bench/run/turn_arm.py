"""Answer questions as turns: one arm, or what a policy decides for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.bench.prompts.formats import chat_messages, messages_sha
from etui.bench.run.scoring import StopRequested
from etui.bench.run.work import SubjectWork
from etui.bench.store.sample import Sample, SampleStatus
from etui.chat import Message, Query
from etui.datasets.questions import LETTERS, Question
from etui.energy.types import EnergyOf
from etui.errors import ContextOverflow, EngineFailed
from etui.multiple_choice import options_of
from etui.reasoning.extraction import extract
from etui.routing.decision import Decision
from etui.runtime.open import Choice
from etui.turn.events import TurnFinished
from etui.turn.ports import Unlogged
from etui.turn.record import Tokens, TurnRecord

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.backends.local import LocalBackend
    from etui.routing.policy import Policy
    from etui.runtime.open import Runtime


Decide = Callable[[Query], Choice]
"""Chooses the arm, or the cascade, for a question."""


@dataclass(frozen=True, slots=True)
class Turned:
    """One question that was answered in a turn; the turn has settled its energy already."""

    sample: Sample
    end_ns: int

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """The answer with what it cost."""
        return [self.sample]


class TurnArm:
    """Answer questions by turns.

    Args:
        decide: Chooses for each question: always the same arm, or what a policy decides.
        runtime: This machine; nothing of these turns is logged.
        reuse: Whether the questions of a subject share its worked examples.
        cancelled: Whether the user wants to stop.
    """

    def __init__(
        self,
        decide: Decide,
        runtime: Runtime[LocalBackend],
        *,
        reuse: bool = True,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._decide = decide
        self._runtime = runtime
        self._reuse = reuse
        self._cancelled = cancelled

    def answer(self, work: SubjectWork) -> Iterator[Turned]:
        """Answer the questions of a subject that are not done, one after the other.

        Nothing is reused of another arm's answers, or an arm would look cheap for coming second.
        Within a subject the worked examples are, where there are any; a question without them is
        computed whole, so that its price does not depend on what was asked before.

        Raises:
            StopRequested: The user wants to stop; the answer under way is given up.
            EngineFailed: The engine gave up.
        """
        self._runtime.backend.forget()
        shared = self._reuse and bool(work.examples)
        for question in work.questions:
            if question.row not in work.done:
                if self._cancelled():
                    raise StopRequested
                if not shared:
                    self._runtime.backend.forget()
                yield self._turn(question, work.examples)

    def _turn(self, question: Question, examples: Sequence[Question]) -> Turned:
        messages = chat_messages(question, examples)
        query = Query(messages[-1].content, history=messages[:-1])
        choice = self._decide(query)
        record: TurnRecord | None = None
        error: str | None = None
        try:
            with closing(
                self._runtime.run_turn(query, choice, writer=Unlogged(), cancelled=self._cancelled)
            ) as events:
                for event in events:
                    if isinstance(event, TurnFinished):
                        record = event.record
        except ContextOverflow as overflow:
            error = overflow.what
        if self._cancelled() or (record is not None and record.status == "stopped"):
            raise StopRequested
        if record is None:
            raise EngineFailed(error or "the turn ended without a record", "run it again")
        sample = sample_of_turn(record, question, messages, len(examples), error)
        return Turned(sample, record.energy.end_ns)


def sample_of_turn(
    record: TurnRecord,
    question: Question,
    messages: Sequence[Message],
    shots: int,
    error: str | None,
) -> Sample:
    """A turn, graded.

    A vote counts by its majority; any other answer by the option it states last.
    """
    text = record.answer
    choice, status = _graded(record, question, messages[-1].content)
    if error is not None or record.status == "error":
        choice, status = None, "error"
    energy = record.energy
    return Sample(
        arm=record.arm,
        subject=question.subject,
        row=question.row,
        answer=question.answer,
        choice=choice,
        correct=choice == question.answer,
        status=status,
        text=f"{record.thinking}\n\n{text}".strip() if record.thinking else text,
        logprobs=None,
        letter_mass=None,
        confidence=record.confidence,
        margin=record.settings.get("margin"),
        shots=shots,
        tokens=Tokens(
            record.tokens.prompt,
            record.tokens.cached,
            record.tokens.computed,
            record.tokens.thinking,
            record.tokens.output,
        ),
        prefix_tokens=0.0,
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        kind=energy.kind,
        prefill_joules=energy.phases.get("prefill"),
        decode_joules=energy.phases.get("decode"),
        seconds=record.seconds.total,
        prompt_sha256=messages_sha(messages),
        rule=record.rule,
        hops=tuple(hop.arm for hop in record.hops[:-1]),
        error=error or record.error,
    )


def _graded(record: TurnRecord, question: Question, asked: str) -> tuple[str | None, SampleStatus]:
    options = options_of(asked)
    found = extract(record.answer, asked, options, truncated=record.status == "truncated")
    if found.key in LETTERS:
        return found.key, "answered"
    return None, "truncated" if found.status == "truncated" else "no_answer"


def decide_always(arm: Arm) -> Decide:
    """Return a decision for the same arm, whatever is asked."""
    choice = Choice(Decision(arm, None, None, f"arm {arm.name} is measured"))
    return lambda query: choice


def decide_by_policy(policy: Policy, runtime: Runtime[Any]) -> Decide:
    """Return what decides each question by a policy, as the chat would.

    The state of the machine is read for each question; the log, the fit and the earlier questions
    are read once, so that an answer of the run does not change where a later question goes. Hourly
    and daily budgets do not apply: they limit what a person spends.
    """
    from etui.runtime.host import read_host

    knowledge = runtime.collect_knowledge(policy)

    def decide(query: Query) -> Choice:
        host = read_host(runtime.config)
        return runtime.decide(query, policy, host=host, knowledge=knowledge, shadow=False)

    return decide
