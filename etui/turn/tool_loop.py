"""A turn whose model may call tools: rounds of answers, and between them what was called.

All rounds are one turn of the log. Each is decided anew, so that a policy may choose another arm
for it, and the turn has a budget of calls and of joules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from etui.chat import Message, Query
from etui.text import one_line, sanitize
from etui.turn.accounting import TimeInterval, sum_of_known
from etui.turn.cascade import choose_hop
from etui.turn.events import RoundStarted, ToolEnded, ToolStarted, TurnFinished
from etui.turn.record import ToolCallRecord, ToolLoopRecord, ToolStatus
from etui.turn.run import save_turn
from etui.units import count_text, energy_text

if TYPE_CHECKING:
    from etui.backends.base import Cancel
    from etui.turn.build_record import Ended
    from etui.turn.events import TurnEvent
    from etui.turn.run import Turn

ROUND = "tool_round"
"""Name of the metadata of a query with the number of its round, which policies can read."""

_MOST_ARGUMENTS = 20_000
_LEAST_JOULES = 1e-6


class Tools(Protocol):
    """What may be called; it asks the user where that is needed."""

    most_calls: int
    most_joules: float | None

    def refuse(self, name: str, arguments: str, chat_id: str | None) -> str:
        """Return why a call may not run; empty if it may."""

    def run(
        self, name: str, arguments: str, cancelled: Callable[[], bool]
    ) -> tuple[ToolStatus, str]:
        """Run a call; return how it ended, and a text for the model."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round that has been decided: its turn, and what it is predicted to cost, loads included."""

    turn: Turn
    predicted_joules: float | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    call_id: str
    name: str
    arguments: str


class ToolLoop:
    """A turn of several rounds; :meth:`run` answers it like :class:`etui.turn.run.Turn`.

    Args:
        query: The question, whose options offer the tools.
        decide: Decides a round and makes its turn, with the machine, the id and the cancel token of
            the loop. Its query has the calls so far and their results.
    """

    def __init__(
        self,
        query: Query,
        tools: Tools,
        decide: Callable[[Query], Round],
        cancel: Cancel,
    ) -> None:
        self._query = query
        self._tools = tools
        self._decide = decide
        self._cancel = cancel
        self._ended: list[Ended] = []
        self._waits: list[TimeInterval | None] = []
        self._calls: list[ToolCallRecord] = []
        self._predicted: list[float | None] = []
        self._why = ""
        self._over = False

    def run(self) -> Generator[TurnEvent, None, None]:
        """Answer the query and save the turn.

        Yields:
            The events of each round as of a turn, ``ToolStarted`` and ``ToolEnded`` of each call,
            ``RoundStarted`` before each further round, and ``TurnFinished``.

        Raises:
            EtuiError: The error that ended it, after the turn was saved.
        """
        wait: TimeInterval | None = None
        query, decided = self._query, self._decide(self._query)
        self._machine = decided.turn.machine
        try:
            while True:
                turn = decided.turn
                yield from self._answer(turn, wait)
                calls = self._read_calls()
                if not calls or self._over or turn.failure is not None:
                    break
                results = yield from self._call(calls)
                start_ns = self._ended[-1].attempts[-1].end.end_ns
                if self._cancel.cancelled():
                    break
                query = self._extend(query, calls, results)
                decided = self._decide(query)
                predicted = decided.predicted_joules
                if predicted is None:  # nothing is known of its model but the round before
                    joules = [each.joules for each in self._ended[-1].attempts]
                    predicted = sum_of_known(joules)
                if self._is_spent(predicted):
                    break
                wait = TimeInterval(start_ns, max(start_ns, self._machine.clock_ns()))
                self._predicted.append(predicted)
                yield self._announce(wait, predicted)
        except BaseException as error:
            self._save_rounds(error)
            raise
        yield TurnFinished(save_turn(self._join(), self._machine))
        if turn.failure is not None:
            raise turn.failure

    def _answer(self, turn: Turn, wait: TimeInterval | None) -> Iterator[TurnEvent]:
        """Answer one round, with the joules that are left."""
        left = self._find_left()
        if left is not None:
            turn.limit_joules(max(left, _LEAST_JOULES))
        try:
            with closing(turn.answer()) as events:
                yield from events
        finally:
            if turn.ended is not None:
                self._ended.append(turn.ended)
                self._waits.append(wait)

    def _read_calls(self) -> list[_Call]:
        """Read the calls of the last round; it was read by the engine from what a model wrote."""
        ended = self._ended[-1]
        end = choose_hop(ended.attempts).end
        if ended.status not in ("complete", "budget") or not end.tool_calls:
            return []
        found: list[dict[str, Any]] = json.loads(end.tool_calls)
        return [
            _Call(
                str(each["id"]),
                str(each["function"]["name"]),
                str(each["function"]["arguments"] or "{}")[:_MOST_ARGUMENTS],
            )
            for each in found
        ]

    def _call(self, calls: list[_Call]) -> Generator[TurnEvent, None, list[str]]:
        """Run the calls of a round one after another; return their results."""
        clock_ns, number = self._machine.clock_ns, len(self._ended)
        for call in calls:
            at = len(self._calls)
            why = ""
            if at >= self._tools.most_calls:
                most = count_text(self._tools.most_calls, "call")
                why = f"not run: the question's {most} are spent"
            elif self._cancel.cancelled():
                why = "stopped"
            else:
                why = self._tools.refuse(call.name, call.arguments, self._query.chat_id)
            start_ns = end_ns = clock_ns()
            status: ToolStatus = "refused"
            if why:
                result = f"error: {why}"
            else:
                yield ToolStarted(call.name, sanitize(call.arguments), at + 1)
                start_ns = clock_ns()
                self._machine.meter.mark(start_ns)
                status, result = self._tools.run(call.name, call.arguments, self._cancel.cancelled)
                end_ns = clock_ns()
                self._machine.meter.mark(end_ns)
            record = ToolCallRecord(
                number, call.name, call.arguments, status, result, start_ns, end_ns
            )
            self._calls.append(record)
            yield ToolEnded(record)
        return [each.result for each in self._calls[-len(calls) :]]

    def _extend(self, query: Query, calls: list[_Call], results: list[str]) -> Query:
        """Return the query of the next round: the calls and their results come after the rest."""
        written = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
        said = choose_hop(self._ended[-1].attempts).end
        text = json.dumps(written, ensure_ascii=False)
        message = Message("assistant", said.answer, text, thinking=said.thinking)
        answers = [
            Message("tool", result, tool_call_id=call.call_id)
            for call, result in zip(calls, results, strict=True)
        ]
        options = query.options
        if len(self._calls) >= self._tools.most_calls:
            options = replace(options, tool_choice="none")  # the model answers with what it has
        asked = query.last or Message("user", query.text)
        known = tuple(pair for pair in query.metadata if pair[0] != ROUND)
        return replace(
            query,
            history=(*query.history, asked, message, *answers[:-1]),
            last=answers[-1],
            options=options,
            metadata=(*known, (ROUND, str(len(self._ended) + 1))),
        )

    def _find_spent(self) -> float | None:
        """Return the joules of the turn up to now, waits and loads included; preliminary."""
        if not self._ended:
            return 0.0
        first = self._ended[0].attempts[0]
        start_ns = min([first.end.start_ns, *(i.start_ns for i in first.leg.residences)])
        here = self._machine.meter.energy(start_ns, self._machine.clock_ns()).joules
        attempts = (each for ended in self._ended for each in ended.attempts)
        elsewhere = [each.joules for each in attempts if each.meter is not self._machine.meter]
        return sum_of_known([here, *elsewhere])

    def _find_left(self) -> float | None:
        """Return the joules that are left; None without a limit, or if nothing is measured."""
        spent, most = self._find_spent(), self._tools.most_joules
        return None if most is None or spent is None else most - spent

    def _is_spent(self, predicted_joules: float | None) -> bool:
        """Note that the budget does not allow another round, if so."""
        left = self._find_left()
        if left is None or left > (predicted_joules or 0.0):
            return False
        most = energy_text(self._tools.most_joules)
        self._why = f"the budget of {most} for tools is spent"
        if left > 0:
            needs = energy_text(predicted_joules, kind="estimate")
            self._why = f"another round needs {needs}, and {energy_text(left)} of {most} are left"
        return True

    def _announce(self, wait: TimeInterval, predicted_joules: float | None) -> RoundStarted:
        self._over = len(self._calls) >= self._tools.most_calls
        return RoundStarted(
            len(self._ended) + 1,
            wait.start_ns,
            wait.end_ns,
            predicted_joules,
            self._find_spent(),
            len(self._calls),
            self._tools.most_calls,
            self._tools.most_joules,
            self._ended[-1].attempts[-1].kind,
        )

    def _save_rounds(self, cause: BaseException) -> None:
        """Save what there is of a turn that the user, the front end, or a fault has ended."""
        if not self._ended:
            return
        ended = self._join()
        if ended.status in ("complete", "budget"):
            if isinstance(cause, GeneratorExit | KeyboardInterrupt | SystemExit):
                ended = replace(ended, status="stopped")
            else:
                ended = replace(ended, status="error", error=one_line(f"{cause}"))
        save_turn(ended, self._machine)

    def _join(self) -> Ended:
        """Return the rounds as one turn."""
        first, last = self._ended[0], self._ended[-1]
        if not self._calls:
            return last
        status = last.status
        if self._cancel.cancelled() and status != "error":
            status = "stopped"
        elif self._why:
            status = "budget"
        attempts = []
        for number, (ended, wait) in enumerate(zip(self._ended, self._waits, strict=True), 1):
            waits = [wait, *[None] * (len(ended.attempts) - 1)]
            attempts += [
                replace(each, round=number, wait=before)
                for each, before in zip(ended.attempts, waits, strict=True)
            ]
        if self._why:
            end = replace(attempts[-1].end, status="budget", why=self._why)
            attempts[-1] = replace(attempts[-1], end=end)
        return replace(
            last,
            query=self._query,
            created_at=first.created_at,
            attempts=attempts,
            status=status,
            predicted_joules=sum_of_known([each.predicted_joules for each in self._ended]),
            tools=ToolLoopRecord(
                tuple(self._calls),
                self._tools.most_calls,
                self._tools.most_joules,
                tuple(self._predicted),
            ),
        )
