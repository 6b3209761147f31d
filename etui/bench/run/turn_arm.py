"""Answer questions as turns: one arm, or what a policy decides for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from etui.turn.events import TurnFinished
from etui.turn.ports import Unlogged
from etui.turn.record import Tokens, TurnRecord
from etui.turn.run import run_turn

if TYPE_CHECKING:
    from etui.backends.base import Answerer
    from etui.backends.local import LocalBackend
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.decision import Decision
    from etui.routing.policy import Policy
    from etui.routing.prediction import Predictor
    from etui.turn.ports import Meter, Serve


Decide = Callable[[Query], "Decision"]


@dataclass(frozen=True, slots=True)
class Turned:
    """One question that was answered in a turn; the turn has settled its energy already."""

    sample: Sample
    end_ns: int

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """The answer with what it cost."""
        return [self.sample]


class TurnArm:
    """Answers questions by turns.

    Args:
        decide: Chooses for each question: always the same arm, or what a policy says.
        serve: Finds the model of an arm.
        answerer: Where the models run.
        meter: Tells the energy of intervals.
        forget: Has the next answer reuse nothing of those before it.
        outlook: Predicts joules and calibrates confidences; None without a policy.
        reuse: Whether the questions of a subject share its worked examples.
        cancelled: Whether the user wants to stop.
    """

    def __init__(
        self,
        decide: Decide,
        serve: Serve,
        answerer: Answerer,
        meter: Meter,
        forget: Callable[[], None],
        outlook: Predictor | None = None,
        *,
        reuse: bool = True,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._decide = decide
        self._serve = serve
        self._answerer = answerer
        self._meter = meter
        self._forget = forget
        self._outlook = outlook
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
        self._forget()
        shared = self._reuse and bool(work.examples)
        for question in work.questions:
            if question.row not in work.done:
                if self._cancelled():
                    raise StopRequested
                if not shared:
                    self._forget()
                yield self._turn(question, work.examples)

    def _turn(self, question: Question, examples: Sequence[Question]) -> Turned:
        messages = chat_messages(question, examples)
        query = Query(messages[-1].content, history=messages[:-1])
        decision = self._decide(query)
        record: TurnRecord | None = None
        error: str | None = None
        try:
            with closing(
                run_turn(
                    query,
                    decision,
                    serve=self._serve,
                    answerer=self._answerer,
                    meter=self._meter,
                    writer=Unlogged(),
                    outlook=self._outlook,
                    cancelled=self._cancelled,
                )
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


def routed(
    policy: Policy,
    config: Config,
    catalogue: Catalogue,
    meter: Meter,
    answerer: LocalBackend,
    serve: Serve,
    *,
    reuse: bool,
    cancelled: Callable[[], bool],
) -> TurnArm:
    """What answers by a policy.

    The state of the machine is read for each question, as in a chat; budgets of an hour or a day
    are left aside, since they are about what a person wants to spend.
    """
    from etui.routing.decide import decide
    from etui.runtime.host import read_host
    from etui.runtime.log_predictor import LogPredictor
    from etui.runtime.serving import models_on_disk

    here = models_on_disk(config, catalogue)
    outlook = LogPredictor(config, catalogue)

    def choose(query: Query) -> Decision:
        host = read_host(config)
        return decide(query, policy, available=here, host=host, outlook=outlook)

    return TurnArm(
        choose, serve, answerer, meter, answerer.forget, outlook, reuse=reuse, cancelled=cancelled
    )
