"""What the title row and the panel say of a chat as a whole: context, budget, spent energy."""

from __future__ import annotations

import asyncio
from functools import partial

from textual.screen import Screen
from textual.worker import Worker

from etui.errors import EtuiError
from etui.runtime.routes import Route
from etui.text import sanitize
from etui.tui.chat.conversation import Conversation
from etui.tui.chat.progress import TurnProgress
from etui.tui.chat.title_row import TITLE_BUDGET_CELLS, TitleFacts, TitleRow
from etui.tui.power.panel import PowerPanel
from etui.tui.power.spending_text import budget_bar, budget_share_text, tightest_budget
from etui.tui.services import Services


class ChatTotals:
    """Looks up what is spent, and shows it with the context in use."""

    def __init__(self, screen: Screen[None], panel: PowerPanel, title: TitleRow) -> None:
        self._screen = screen
        self._panel = panel
        self._title = title
        self._contexts: dict[str, int] = {}
        self._counted: Conversation | None = None
        self._context_tokens: int | None = None

    def look_up(self, services: Services, route: Route) -> None:
        """Read the totals of the day from the log, in a thread, and show them."""
        # Not a coroutine: one that is cancelled before its start would never be awaited.
        job = partial(self._show_spending, services, route)
        _worker: Worker[None] = self._screen.run_worker(
            job, exclusive=True, group="spending", exit_on_error=False
        )

    async def _show_spending(self, backend: Services, route: Route) -> None:
        """Show the totals of the day; the turn itself already reports an unreadable log."""
        try:
            spending = await asyncio.to_thread(backend.chats.spending, route)
        except EtuiError as error:
            self._panel.show_spending(None, sanitize(error.what))
        else:
            self._panel.show_spending(spending)
        if self._panel.answering not in self._contexts:
            try:
                models = await asyncio.to_thread(backend.shelf.models)
            except EtuiError:
                return  # the models screen says why
            self._contexts = {m.name: m.context_tokens for m in models if m.context_tokens}

    def show_title(
        self, conversation: Conversation, route: Route, progress: TurnProgress | None
    ) -> None:
        """Show the chat, the route, the context and the budget as they are now.

        Args:
            progress: The running turn; None for none.
        """
        model = route.model or self._panel.answering
        if progress is not None and progress.total_tokens:
            tokens: int | None = progress.total_tokens + progress.answer_tokens
        else:
            if self._counted is not conversation:  # a tick is too often for a long chat
                self._counted = conversation
                self._context_tokens = conversation.context_tokens
            tokens = self._context_tokens
        budget = tightest_budget(self._panel.budgets)
        self._title.show(
            TitleFacts(
                chat=conversation.name,
                route=route,
                model=model,
                context_tokens=tokens,
                context_limit=self._contexts.get(model),
                budget="" if budget is None else budget_bar(budget, TITLE_BUDGET_CELLS),
                short_budget="" if budget is None else budget_share_text(budget),
            )
        )
