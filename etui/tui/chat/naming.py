"""Let the smallest model of this machine name a chat; the turn is logged with its joules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui import units
from etui.chat import OutputOptions, Query
from etui.errors import EtuiError
from etui.events import Answer
from etui.runtime.route import Route
from etui.text.title import title_from_answer
from etui.tui.services import TurnRunner
from etui.turn.events import TurnFinished
from etui.turn.record import TurnRecord

_READ_CHARACTERS = 600
_MOST_ANSWER_CHARACTERS = 90
"""A longer answer is no title, and is stopped: each further token costs joules."""

_INSTRUCTION = "Write a title of two to six words for this conversation. Only the title."


@dataclass(frozen=True, slots=True)
class NamedChat:
    """A title and the turn that wrote it."""

    title: str
    record: TurnRecord

    @property
    def cost_text(self) -> str:
        """Who named the chat and for how much: ``named by smollm2-135m for ≈2.1 J``."""
        energy = self.record.energy
        joules = units.marked(units.energy_text(energy.joules, energy.uncertainty, energy.kind))
        load = energy.phases.get("load")
        loading = f", and {units.energy_text(load)} to load it" if load else ""
        return f"named by {self.record.model} for {joules}{loading}"


def name_chat(runner: TurnRunner, turns: Sequence[TurnRecord], policy: str) -> NamedChat:
    """Ask the smallest model for a title; wait for a running answer first.

    Args:
        runner: Answers the question, in a thread.
        turns: The turns of the chat, oldest first; the first with an answer is read.
        policy: Name of the policy, which is not asked.

    Raises:
        EtuiError: There is no model or nothing to name, or the model found no title.
    """
    model = runner.small_model()
    if model is None:
        raise EtuiError("no model is on this machine", "pull one on the models screen (F6)")
    if not turns:
        raise EtuiError("the chat has no turn yet", "ask something first")
    query = Query(build_title_question(turns), options=OutputOptions(stop=("\n",)))
    shown, record = 0, None
    for event in runner.run(query, Route(policy, model=model)):
        if isinstance(event, Answer):
            shown += len(event.text)
            if shown > _MOST_ANSWER_CHARACTERS:
                runner.cancel()
        elif isinstance(event, TurnFinished):
            record = event.record
    title = title_from_answer(record.answer) if record is not None else ""
    if record is None or not title:
        raise EtuiError(f"{model} found no title", "name the chat yourself with F2")
    return NamedChat(title, record)


def build_title_question(turns: Sequence[TurnRecord]) -> str:
    """Build the question for a title, from the begin of the first turn with an answer."""
    first = next((turn for turn in turns if turn.answer.strip()), turns[0])
    question, answer = first.query[:_READ_CHARACTERS], first.answer[:_READ_CHARACTERS]
    return f"User: {question}\n\nAssistant: {answer}\n\n{_INSTRUCTION}"
