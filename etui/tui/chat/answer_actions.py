"""What can be done with an answer: copy, look into, edit, ask again, continue, withdraw."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from textual.screen import Screen
from textual.worker import Worker

from etui import units
from etui.errors import EtuiError
from etui.text import sanitize
from etui.tui.chat.conversation import Asking, continuation_route, refuse_continuation
from etui.tui.chat.prompt import Prompt
from etui.tui.chat.transcript import Transcript
from etui.tui.chat.turn_queue import TurnQueue
from etui.tui.chat.turn_view import TurnAction, TurnView
from etui.tui.clipboard import copy_text
from etui.tui.notices import notify_error
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.runtime.routes import Direction


class AnswerActions:
    """Carries out the keys of an answer.

    Args:
        screen: Runs the workers, and shows pages and notices.
        prompt: Takes a question to edit.
        queue: Answers the questions that are asked again.
        transcript: Shows what the user says of an answer.
    """

    def __init__(
        self, screen: Screen[None], prompt: Prompt, queue: TurnQueue, transcript: Transcript
    ) -> None:
        self._screen = screen
        self._transcript = transcript
        self._prompt = prompt
        self._queue = queue

    def withdraw(self, view: TurnView) -> None:
        """Take a waiting question out of the queue."""
        self._queue.withdraw(view)
        self._screen.notify("question withdrawn: ↑ in the prompt brings it back")

    def act_on_last(self, turns: Sequence[TurnView], action: TurnAction) -> None:
        """Carry out an action on the last answer."""
        answered = [turn for turn in turns if turn.record is not None]
        if answered:
            self.act_on(answered[-1], action)
        else:
            self._screen.notify("no answer yet", severity="warning")

    def act_on(self, view: TurnView, action: TurnAction) -> None:
        """Carry out an action on an answer, or say that there is none yet."""
        record = view.record
        match action:
            case "withdraw":
                self.withdraw(view)
            case "copy" if record is not None and record.answer.strip():
                self._run("copy", partial(self._copy, "the answer", record.answer))
            case "details" if record is not None:
                from etui.tui.chat.details import DetailsModal  # not needed for the first paint

                self._screen.app.push_screen(DetailsModal(record))
            case "code":
                self._copy_code(view)
            case "edit" if view.ended or record is not None:
                self._prompt.revise(view.asking, record.turn_id if record is not None else None)
            case "smaller" | "larger" if record is not None:
                self._run("again", partial(self._ask_again, record, action))
            case "good" | "bad" if record is not None and record.answer.strip():
                self._run("grade", partial(self._grade, view, record.turn_id, action == "good"))
            case "continue" if record is not None:
                self._run("again", partial(self._continue, record))
            case _ if view.ended or view.queued:
                self._screen.notify("no answer yet", severity="warning")
            case _:
                what = "the answer is still being written: Esc stops it"
                self._screen.notify(what, severity="warning")

    def _copy_code(self, view: TurnView) -> None:
        """Copy the next block of code of an answer."""
        found = view.next_code()
        if found is None:
            self._screen.notify("no code block in this answer", severity="warning")
            return
        number, count, block = found
        facts = [block.language, units.count_text(len(block.code.splitlines()), "line")]
        what = f"code block {number} of {count} ({', '.join(filter(None, facts))})"
        self._run("copy", partial(self._copy, sanitize(what), block.code))

    async def _copy(self, what: str, text: str) -> None:
        self._screen.notify(await copy_text(self._screen.app, what, text), markup=False)

    async def _grade(self, view: TurnView, turn_id: str, good: bool) -> None:
        """Store what the user says of an answer; the same again takes it back."""
        services = self._queue.services
        if services is None:
            return
        said = None if view.good is good else good
        try:
            await asyncio.to_thread(services.chats.grade, turn_id, said)
        except EtuiError as error:
            notify_error(self._screen, error.what, error.fix)
            return
        self._transcript.show_grades({turn_id: said})

    async def _continue(self, record: TurnRecord) -> None:
        """Go on with an answer that was cut off, by the model that began it."""
        why_not = refuse_continuation(record)
        if why_not:
            self._screen.notify(why_not, severity="warning")
            return
        self._prompt.focus()
        route = continuation_route(record, self._queue.route)
        asking = replace(Asking.from_record(record), route=route, continues=record.turn_id)
        await self._queue.ask(asking)

    async def _ask_again(self, record: TurnRecord, direction: Direction) -> None:
        backend = self._queue.services
        if backend is None:
            return
        try:
            route = await asyncio.to_thread(
                backend.runner.other_route, record, self._queue.route, direction
            )
        except EtuiError as error:
            notify_error(self._screen, error.what, error.fix)
            return
        if route is None:
            self._screen.notify(
                sanitize(f"no arm on this machine is {direction} than {record.arm}"), markup=False
            )
            return
        self._prompt.focus()
        again = replace(Asking.from_record(record), route=route, replaces=record.turn_id)
        await self._queue.ask(again)

    def _run(self, group: str, job: Callable[[], Coroutine[None, None, None]]) -> None:
        _worker: Worker[None] = self._screen.run_worker(job, exclusive=True, group=group)
