"""Frozen facts that worker threads post to the screens, and the messages that carry them.

A thread only posts: it never touches a widget and never waits for the screen, so that a slow
terminal cannot lengthen a turn and falsify its joules.
"""

from __future__ import annotations

from dataclasses import dataclass
from queue import SimpleQueue

from textual.message import Message

from etui.events import Loaded, Prefilled, Prefilling, Unloaded, Vote
from etui.turn.events import Decided, HopEnded, HopStarted, TurnFinished


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Text decoded since the last batch; the thinking comes before the answer."""

    thinking: str
    answer: str
    thinking_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The last fact of every turn.

    Attributes:
        what, fix: The error that ended the turn; both empty without one.
    """

    what: str = ""
    fix: str = ""
    engine_lost: bool = False  # Whether the engine's process ended as well, and its models with it


@dataclass(frozen=True, slots=True)
class WarmingUp:
    """A model is being loaded ahead of a question."""

    model: str


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """The model is in memory, or ``what`` and ``fix`` give the error."""

    loaded: Loaded | None
    what: str = ""
    fix: str = ""


EngineFact = Loaded | Unloaded | Prefilling | Prefilled | Vote


TurnFact = Decided | HopStarted | EngineFact | TextBatch | HopEnded | TurnFinished | TurnEnded


WarmUpFact = WarmingUp | WarmedUp


class TurnUpdated(Message):
    """A fact about the running turn."""

    def __init__(self, fact: TurnFact) -> None:
        super().__init__()
        self.fact = fact


class WarmUpUpdated(Message):
    """A fact about loading a model ahead of a question."""

    def __init__(self, fact: WarmUpFact) -> None:
        super().__init__()
        self.fact = fact


class BudgetConfirm(Message):
    """A budget is spent and its policy asks the user; the turn's thread waits for ``answer``."""

    def __init__(self, question: str, answer: SimpleQueue[bool]) -> None:
        super().__init__()
        self.question = question
        self.answer = answer


class ModelUnloaded(Message):
    """A model was unloaded between two answers."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model


class ModelLoaded(Message):
    """A model was loaded at the user's request."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.loaded = loaded
