"""Work of the chat's threads, which only post facts and never wait for the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from textual.message import Message

from etui.chat import Query
from etui.errors import EngineFailed, EtuiError, format_internal_error
from etui.events import (
    Answer,
    Batch,
    Finished,
    Loaded,
    Prefilled,
    Prefilling,
    Probe,
    Thought,
    ThreadsChanged,
    TokenLogprob,
    ToolCall,
    Unloaded,
    Verified,
    Vote,
)
from etui.runtime.routes import Route
from etui.tui.pacing import USUAL, Pace
from etui.tui.services import Services
from etui.tui.widgets.code_fences import FenceTracker
from etui.turn.events import Decided, HopEnded, HopStarted, TurnEvent, TurnFinished


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


def batch_events(
    events: Iterable[TurnEvent],
    clock_ns: Callable[[], int] = time.monotonic_ns,
    pace: Callable[[], Pace] = lambda: USUAL,
) -> Iterator[TurnFact]:
    """Yield the events of a turn with their text in batches; no text is lost, however it ends.

    Text is held for at most one more event: a token after a pause is shown at once.

    Args:
        pace: Returns how often the screen is drawn; called before each batch.
    """
    fence = FenceTracker()
    thinking: list[str] = []
    answer: list[str] = []
    thinking_tokens = answer_tokens = 0
    flushed_ns = clock_ns() - pace().flush_ns  # the first token is shown at once

    def flush() -> Iterator[TextBatch]:
        nonlocal thinking_tokens, answer_tokens, flushed_ns
        if thinking or answer:
            batch = TextBatch("".join(thinking), "".join(answer), thinking_tokens, answer_tokens)
            thinking.clear()
            answer.clear()
            thinking_tokens = answer_tokens = 0
            flushed_ns = clock_ns()
            yield batch

    try:
        for event in events:
            match event:
                case Thought(text=text, tokens=tokens):
                    if answer:  # the model thinks again: keep the order
                        yield from flush()
                    thinking.append(text)
                    thinking_tokens += tokens
                case Answer(text=text, tokens=tokens):
                    answer.append(text)
                    answer_tokens += tokens
                    fence.feed(text)
                case (
                    Probe()
                    | Batch()
                    | ThreadsChanged()
                    | Finished()
                    | Verified()
                    | TokenLogprob()
                    | ToolCall()
                ):
                    continue
                case _:
                    yield from flush()
                    yield event
                    continue
            wait_ns = pace().fence_flush_ns if fence.inside else pace().flush_ns
            if clock_ns() - flushed_ns >= wait_ns:
                yield from flush()
    except Exception:  # show the text that came before the failure
        yield from flush()
        raise
    yield from flush()


_BLANK = " "
"""The least text that a tokenizer counts."""


def answer(
    backend: Services,
    query: Query,
    route: Route,
    replaces: str | None,
    prompt: str | None,
    *,
    post: Callable[[TurnFact], object],
    pace: Callable[[], Pace],
    log_dir: Path,
) -> None:
    """Run one turn to its end; the last fact is always ``TurnEnded``."""
    ended = TurnEnded()
    try:
        for fact in batch_events(backend.runner.run(query, route, replaces, prompt), pace=pace):
            post(fact)
    except EtuiError as error:
        ended = TurnEnded(error.what, error.fix, isinstance(error, EngineFailed))
    except Exception as error:  # noqa: BLE001 - a fault must reach the screen and end the turn
        ended = TurnEnded(*_describe_fault(error, log_dir))
    post(ended)


def warm_up(
    backend: Services,
    route: Route,
    chat_id: str,
    *,
    post: Callable[[WarmUpFact], object],
    log_dir: Path,
) -> None:
    """Load the likely model ahead of a question, then what forecasts need of it.

    The last fact is always ``WarmedUp``.
    """
    model = None
    try:
        model = backend.runner.likely_model(route, chat_id)
        if model is not None:
            post(WarmingUp(model))
        done = WarmedUp(backend.runner.warm_up(route, chat_id) if model is not None else None)
    except EtuiError as error:
        done = WarmedUp(None, error.what, error.fix)
    except Exception as error:  # noqa: BLE001 - a fault must reach the screen
        done = WarmedUp(None, *_describe_fault(error, log_dir))
    post(done)
    if model is not None:
        _forecast_ahead(backend, route, model)


def _forecast_ahead(backend: Services, route: Route, model: str) -> None:
    """Forecast nothing: the imports and the vocabulary then make no key or attached file wait.

    They take 0.5 to 2.4 s the first time. A fault is reported by the first forecast of a draft.
    """
    with suppress(Exception):
        backend.runner.forecast(Query(_BLANK), route, ())
        backend.runner.count_tokens(_BLANK, model)


def _describe_fault(error: Exception, log_dir: Path) -> tuple[str, str]:
    return format_internal_error(error), f"ask again; the log files are in {log_dir}"
