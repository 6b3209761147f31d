"""Which chat and which of its branches is shown: switch, resume, rename."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from textual.screen import Screen

from etui.errors import EtuiError
from etui.log.records import ChatRecord
from etui.tui.chat.conversation import Conversation, new_chat
from etui.tui.chat.prompt import Prompt
from etui.tui.chat.transcript import Transcript
from etui.tui.chat.turn_queue import TurnQueue
from etui.tui.notices import notify_error
from etui.tui.power.panel import PowerPanel

if TYPE_CHECKING:
    from etui.tui.chat.chat_list import ChatsLeft


class ChatSwitch:
    """Replaces the chat of the queue, and shows it."""

    def __init__(
        self,
        screen: Screen[None],
        queue: TurnQueue,
        transcript: Transcript,
        panel: PowerPanel,
        prompt: Prompt,
    ) -> None:
        self._screen = screen
        self._queue = queue
        self._transcript = transcript
        self._panel = panel
        self._prompt = prompt

    async def step_at_last_fork(self, step: int) -> None:
        """Show another branch at the last turn that has several."""
        conversation = self._queue.conversation
        places = conversation.places()
        forks = [each.turn_id for each in conversation.current if each.turn_id in places]
        await self.step_branch(forks[-1] if forks else None, step)

    async def step_branch(self, turn_id: str | None, step: int) -> None:
        """Show the branch before or after the one of a turn, if there is one."""
        conversation = self._queue.conversation
        target = None if turn_id is None else conversation.beside(turn_id, step)
        if target is None:
            self._screen.notify(f"no branch {'before' if step < 0 else 'after'} this one")
        elif self.check_idle():
            await self.switch_branch(target)

    async def switch_branch(self, turn_id: str) -> None:
        """Make the newest branch below a turn the current one, and remember that."""
        conversation = self._queue.conversation.switched(turn_id)
        self._queue.conversation = conversation
        await self._show_branch()
        await self._transcript.show_turn(turn_id)
        await self.change(conversation.named)

    async def _show_branch(self) -> None:
        """Show the turns of the current branch."""
        await self._transcript.show(self._queue.conversation.current, ())
        self._queue.show_branches()

    async def return_from(self, left: ChatsLeft | None) -> None:
        """Apply what was done in the list of chats."""
        if left is None:
            return
        current_id = self._queue.conversation.chat.chat_id
        for chat in left.renamed:
            if chat.chat_id == current_id:
                self._queue.conversation = replace(self._queue.conversation, chat=chat)
        if left.resume is not None and left.resume.chat_id != current_id:
            await self.resume(left.resume)
        if left.resume is not None:
            conversation = self._queue.conversation
            if (
                left.branch is not None
                and conversation.chat.chat_id == left.resume.chat_id
                and self.check_idle()
            ):
                await self.switch_branch(left.branch)
        elif current_id in left.deleted and self.check_idle():
            await self.take_chat(new_chat(self._queue.conversation.chat.system))

    async def resume(self, chat: ChatRecord) -> None:
        """Show an earlier chat."""
        if self._queue.services is None or not self.check_idle():
            return
        try:
            chats = self._queue.services.chats
            records = await asyncio.to_thread(chats.turns, chat.chat_id)
            ids = [record.turn_id for record in records]
            grades = await asyncio.to_thread(chats.grades, ids)
        except EtuiError as error:
            notify_error(self._screen, error.what, error.fix)
            return
        self._transcript.show_grades(grades)
        await self.take_chat(Conversation(chat, tuple(records)))

    async def take_chat(self, conversation: Conversation) -> None:
        """Show this chat, and focus the prompt."""
        self._queue.conversation = conversation
        records = conversation.records
        self._panel.show_chat(records)
        self._prompt.remember([record.query for record in records])
        await self._show_branch()
        self._prompt.focus()

    async def change(self, chat: ChatRecord) -> None:
        """Store a new name or system prompt; a chat without turns is saved once it has a name."""
        self._queue.conversation = replace(self._queue.conversation, chat=chat)
        if self._queue.services is None or not (self._queue.conversation.records or chat.name):
            return
        try:
            await asyncio.to_thread(self._queue.services.chats.save, chat)
        except EtuiError as error:
            notify_error(self._screen, error.what, error.fix)

    def check_idle(self) -> bool:
        """Check that no answer is running, and say so if one is."""
        if not self._queue.is_empty:
            self._screen.notify("an answer is running: stop it with Esc first", severity="warning")
            return False
        return True
