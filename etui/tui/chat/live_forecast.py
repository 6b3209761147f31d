"""The forecast in the frame of the prompt: tokens and joules of what is typed, before it is sent.

One forecast is made at a time, in a thread. What is typed meanwhile is forecast next, whatever lies
between is skipped, and a forecast is shown only for the text that it was made for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from textual.markup import escape
from textual.screen import Screen
from textual.worker import Worker

from etui import units
from etui.errors import EtuiError
from etui.prompts.attachments import Attachment, join
from etui.routing.signals.text_measures import estimate_tokens
from etui.runtime.forecast import Forecast
from etui.runtime.routes import Route
from etui.text import SEPARATOR, sanitize
from etui.tui.chat.conversation import Asking, Conversation
from etui.tui.chat.draft import Draft, FileReader, Resolved, resolve
from etui.tui.services import Services


@dataclass(frozen=True)
class Wanted:
    """What a forecast depends on; another object is another forecast."""

    draft: Draft
    conversation: Conversation
    route: Route
    services: Services
    replaces: str | None
    system: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A forecast, with the attachments of its draft and their tokens."""

    resolved: Resolved
    forecast: Forecast | None
    error: str = ""


class LiveForecast:
    """Forecasts the newest draft, and shows the result.

    Args:
        screen: Runs the thread's coroutine.
        show: Shows a line; empty for none.
    """

    def __init__(self, screen: Screen[None], show: Callable[[str], object]) -> None:
        self._screen = screen
        self._show = show
        self._wanted: Wanted | None = None
        self._running = False
        self.read = FileReader()

    def want(self, wanted: Wanted | None) -> None:
        """Forecast a draft; None shows nothing."""
        self._wanted = wanted
        self._show("" if wanted is None else estimate_line(wanted.draft))
        if wanted is not None and not self._running:
            self._running = True
            _worker: Worker[None] = self._screen.run_worker(
                partial(self._run), group="forecast", exit_on_error=False
            )

    async def _run(self) -> None:
        done: Wanted | None = None
        try:
            while (wanted := self._wanted) is not None and wanted is not done:
                outcome = await asyncio.to_thread(forecast_draft, wanted, self.read)
                done = wanted
                if wanted is self._wanted:
                    self._show(forecast_line(outcome))
        finally:
            self._running = False


def forecast_draft(wanted: Wanted, read: FileReader) -> Outcome:
    """Read the files of a draft and forecast it; it blocks."""
    resolved = resolve(wanted.draft, read)
    asking = Asking(
        join(resolved.text, resolved.attachments), replaces=wanted.replaces, system=wanted.system
    )
    query = wanted.conversation.query(asking)
    parts = [resolved.text, *(each.block() for each in resolved.attachments)]
    try:
        forecast = wanted.services.runner.forecast(query, wanted.route, parts)
    except EtuiError as error:
        return Outcome(resolved, None, error.what)
    except Exception as error:  # noqa: BLE001 - a forecast that fails must not end the app
        return Outcome(resolved, None, f"no forecast: {type(error).__name__}")
    return Outcome(replace(resolved, attachments=with_tokens(resolved, forecast)), forecast)


def with_tokens(resolved: Resolved, forecast: Forecast) -> tuple[Attachment, ...]:
    """Return the attachments with their tokens; the first part of a forecast is the text."""
    return tuple(
        replace(each, tokens=count.tokens, exact=count.exact)
        for each, count in zip(resolved.attachments, forecast.parts[1:], strict=True)
    )


def estimate_line(draft: Draft) -> str:
    """Return the tokens of a draft, estimated at once, until they are counted."""
    tokens = estimate_tokens(draft.text) + sum(estimate_tokens(p.text) for p in draft.pastes)
    return escape(units.short_tokens_text(tokens, exact=False)) if draft.text else ""


def forecast_line(outcome: Outcome) -> str:
    """Return the line of a forecast, as markup: ``12 tokens · ≈9 J``.

    With several arms each is named. A file that cannot be attached comes first, and a question
    that does not fit says by how much.
    """
    parts = [sanitize(problem.what) for problem in outcome.resolved.problems[:1]]
    forecast = outcome.forecast
    if forecast is None:
        parts.append(sanitize(outcome.error))
        return escape(SEPARATOR.join(parts))
    parts.append(units.short_tokens_text(forecast.tokens, exact=forecast.exact))
    if not forecast.fits and forecast.context_tokens is not None:
        parts.append(f"context {units.short_count_text(forecast.context_tokens)}: too long")
        return escape(SEPARATOR.join(parts))
    known = [arm for arm in forecast.arms if arm.joules is not None]
    for arm in known:
        joules = units.short_energy_text(arm.joules, units.ESTIMATE)
        parts.append(joules if len(known) == 1 else f"{sanitize(arm.arm)} {joules}")
    return escape(SEPARATOR.join(parts))
