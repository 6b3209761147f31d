"""The chats in the log, read by one connection and written by the one writer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from etui.config import Config
from etui.log.queries import ChatSummary, LogReader
from etui.log.records import ChatRecord, TurnRecord
from etui.log.totals import Total
from etui.log.writer import TurnWriter
from etui.tui.backend import Route
from etui.tui.spending import BudgetState, Spending, spent_joules

_MOST_CHATS = 500


class LoggedChats:
    """See :class:`etui.tui.backend.ChatLog`."""

    def __init__(self, config: Config, reader: LogReader, writer: TurnWriter) -> None:
        self._config = config
        self._reader = reader
        self._writer = writer

    def chats(self, search: str) -> Sequence[ChatSummary]:
        """Chats, the last used first."""
        return self._reader.chats(search, limit=_MOST_CHATS)

    def turns(self, chat_id: str) -> Sequence[TurnRecord]:
        """Every turn of a chat, oldest first."""
        return self._reader.chat_turns(chat_id)

    def save(self, chat: ChatRecord) -> None:
        """Keep a chat, and wait until it is stored."""
        self._writer.save_chat(chat)
        self._writer.flush()

    def delete(self, chat_id: str) -> None:
        """Remove a chat and its turns, and wait until they are gone."""
        self._writer.delete_chat(chat_id)
        self._writer.flush()

    def spending(self, route: Route) -> Spending:
        """Totals of today and of the policy's periods."""
        now = datetime.now().astimezone()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        today = self._since(midnight)
        if route.model is not None:
            return Spending(today)
        return Spending(today, self._budgets(route, today, now))

    def _budgets(self, route: Route, today: Total | None, now: datetime) -> tuple[BudgetState, ...]:
        from etui.models import load_catalogue
        from etui.routing.policies import load_policy

        policy = load_policy(route.policy, self._config, load_catalogue(self._config).models)
        states: list[BudgetState] = []
        if policy.budget is not None and policy.budget.joules is not None:
            states.append(BudgetState("turn", policy.budget.joules, None))
        for budget in policy.period_budgets:
            total = today
            if budget.period == "hour":
                total = self._since(now.astimezone(UTC) - timedelta(hours=1))
            states.append(BudgetState(budget.period, budget.joules, spent_joules(total)))
        return tuple(states)

    def _since(self, moment: datetime) -> Total | None:
        from etui.log.filters import TurnFilter

        totals = self._reader.totals("all", TurnFilter(since=moment))
        return totals[0] if totals else None
