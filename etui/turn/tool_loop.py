"""A turn whose model may call tools: rounds of answers, and between them what was called.

All rounds are one turn of the log. Each is decided by itself, so that a policy may choose another
arm for it, and the turn has a budget of calls and of joules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from etui.chat import Message, OutputOptions, Query
from etui.energy.types import sum_known
from etui.errors import ContextOverflow
from etui.text import one_line, sanitize
from etui.turn.accounting import TimeInterval
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
_BYTES_PER_TOKEN = 3
"""Of a result: fewer than those of English, because code has more tokens; a digit is one."""
_CALL_TOKENS = 64
"""What the chat template puts around a result, and the words that say that it was cut."""
_NO_ROOM = "error: left out: the context has no room for this result"


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
    context_tokens: int | None = None  # Of its model; None if unknown


@dataclass(frozen=True, slots=True)
class _Call:
    call_id: str
    name: str
    arguments: str


class ToolLoop:
    """A turn of several rounds; :meth:`run` answers it like :class:`etui.turn.run.Turn`.

    ``decide`` decides a round and makes its turn, with the machine, the id and the cancel token of
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
        self._overflowed = False
        self._context_tokens: int | None = None

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
                turn, self._context_tokens = decided.turn, decided.context_tokens
                yield from self._answer(turn, wait)
                calls = self._read_calls()
                start_ns = self._ended[-1].attempts[-1].end.end_ns
                overflows = isinstance(turn.failure, ContextOverflow) and bool(self._calls)
                if overflows and not self._overflowed:
                    query = self._leave_out(query)
                elif not calls or self._over or turn.failure is not None:
                    break
                else:
                    results = yield from self._call(calls, self._find_room(query))
                    query = self._extend(query, calls, results)
                if self._cancel.cancelled():
                    break
                decided = self._decide(query)
                predicted = decided.predicted_joules
                if predicted is None:  # nothing is known of its model but the round before
                    before = self._ended[-2 if overflows else -1]  # one that overflows costs little
                    joules = [each.joules for each in before.attempts]
                    predicted = sum_known(joules)
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

    def _call(self, calls: list[_Call], room: int | None) -> Generator[TurnEvent, None, list[str]]:
        """Run the calls of a round one after another; return their results, in ``room`` tokens."""
        clock_ns, number = self._machine.clock_ns, len(self._ended)
        for left, call in zip(range(len(calls), 0, -1), calls, strict=True):
            at = len(self._calls)
            why, begin_ns = "", clock_ns()
            try:
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
                    begin_ns = start_ns = clock_ns()
                    self._machine.meter.mark(start_ns)
                    status, result = self._tools.run(
                        call.name, call.arguments, self._cancel.cancelled
                    )
                    end_ns = clock_ns()
                    self._machine.meter.mark(end_ns)
            except BaseException:  # its joules, or those of the wait for the user, are spent
                end_ns = clock_ns()
                self._machine.meter.mark(end_ns)
                self._calls.append(
                    ToolCallRecord(
                        *(number, call.name, call.arguments, "stopped", "", begin_ns, end_ns)
                    )
                )
                raise
            if room is not None:
                result = _cut(result, room // left - _CALL_TOKENS)
                room -= _count_tokens(result) + _CALL_TOKENS
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
        return self._build_query(query, [*query.history, asked, message], answers, options)

    def _build_query(
        self, query: Query, history: list[Message], answers: list[Message], options: OutputOptions
    ) -> Query:
        """Return the query of the next round, which ends with the answers of tools."""
        known = tuple(pair for pair in query.metadata if pair[0] != ROUND)
        return replace(
            query,
            history=(*history, *answers[:-1]),
            last=answers[-1],
            options=options,
            metadata=(*known, (ROUND, str(len(self._ended) + 1))),
        )

    def _find_room(self, query: Query) -> int | None:
        """Return the tokens that the context has left for results; None if it is unknown.

        Earlier turns of the chat may be dropped for them, but nothing of this one.
        """
        if self._context_tokens is None:
            return None
        last = choose_hop(self._ended[-1].attempts)
        prompt, old = last.end.prompt_tokens, len(self._query.history)
        if old and last.arm.context_overflow != "fail":
            kept = [query.system or "", query.options.tools, self._query.text]
            kept += [f"{each.content}{each.tool_calls}" for each in query.history[old:]]
            kept += [] if query.last is None else [query.last.content]
            prompt = min(prompt, sum(_count_tokens(text) + _CALL_TOKENS for text in kept))
        answer = min(last.arm.max_tokens, self._context_tokens // 4)
        return self._context_tokens - prompt - last.end.output_tokens - answer

    def _leave_out(self, query: Query) -> Query:
        """Return the query without the results that overflowed; the model answers without them."""
        self._overflowed = True
        first = self._calls[-1].round
        self._calls = [
            replace(call, result=_NO_ROOM)
            if call.round == first and len(call.result) > len(_NO_ROOM)
            else call
            for call in self._calls
        ]
        last = [call.result for call in self._calls if call.round == first]
        asked = [*query.history, *([] if query.last is None else [query.last])]
        answers = [
            replace(message, content=result)
            for message, result in zip(asked[-len(last) :], last, strict=True)
        ]
        options = replace(query.options, tool_choice="none")
        return self._build_query(query, asked[: -len(last)], answers, options)

    def _find_spent(self) -> float | None:
        """Return the joules of the turn up to now, waits and loads included; preliminary."""
        if not self._ended:
            return 0.0
        first = self._ended[0].attempts[0]
        start_ns = min([first.end.start_ns, *(i.start_ns for i in first.leg.residences)])
        here = self._machine.meter.energy(start_ns, self._machine.clock_ns()).joules
        attempts = (each for ended in self._ended for each in ended.attempts)
        elsewhere = [each.joules for each in attempts if each.meter is not self._machine.meter]
        return sum_known([here, *elsewhere])

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
        self._over = self._overflowed or len(self._calls) >= self._tools.most_calls
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
            predicted_joules=sum_known([each.predicted_joules for each in self._ended]),
            tools=ToolLoopRecord(
                tuple(self._calls),
                self._tools.most_calls,
                self._tools.most_joules,
                tuple(self._predicted),
            ),
        )


def _count_tokens(text: str) -> int:
    others = "".join(char for char in text if not char.isdecimal())
    size = len(others.encode("utf-8", "surrogatepass"))
    return len(text) - len(others) + -(-size // _BYTES_PER_TOKEN)


def _cut(text: str, tokens: int) -> str:
    """Cut a result to about that many tokens, and say so in it."""
    if _count_tokens(text) <= tokens or len(text) <= len(_NO_ROOM):
        return text
    if tokens <= 0:
        return _NO_ROOM
    kept = text
    while (count := _count_tokens(kept)) > tokens:
        kept = kept[: len(kept) * tokens // count]
    left_out = len(text) - len(kept)
    return f"{kept}\n[cut: {left_out:,} characters left out, the context has no room for them]"
