"""The prompt for questions: Enter sends, Shift+Enter and Ctrl+J insert a line break."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from etui import units
from etui.text.sanitize import sanitize, unify_line_ends
from etui.tui.widgets.text_box import TextBox

LARGE_PASTE_CHARACTERS = 20_000
"""A longer paste is shown in the prompt as a placeholder, and is sent in full."""


class Prompt(TextBox):
    """Text input for questions, with the earlier ones on Up and Down."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="prompt.send"),
        Binding(
            "shift+enter,ctrl+j",
            "break_line",
            "Newline",
            id="prompt.newline",
            key_display="^j",
            show=False,
        ),
        Binding("up", "older", "Earlier question", id="prompt.older", show=False),
        Binding("down", "newer", "Later question", id="prompt.newer", show=False),
    ]

    HELP = """\
## Question

Enter sends; Shift+Enter or Ctrl+J inserts a line break. Up on the first line brings
back earlier questions. A question asked while an answer runs waits for its turn.
"""

    class Sent(Message):
        """A question to answer; ``replaces`` is the id of the turn whose question was edited."""

        def __init__(self, text: str, replaces: str | None = None) -> None:
            super().__init__()
            self.text = text
            self.replaces = replaces

    def __init__(self) -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            compact=True,
            placeholder="Ask something: Enter sends, Ctrl+J starts a new line",
        )
        self._own = {b.id for b in self.BINDINGS if isinstance(b, Binding)}
        self._asked: list[str] = []
        self._at = 0
        self._draft = ""
        self._kept = ""
        self._pastes: dict[str, str] = {}
        self.editing: str | None = None
        """Id of the turn whose question is edited; empty if not logged, None without an edit."""

    async def on_key(self, event: events.Key) -> None:
        """Run the prompt's own keys in the order they are typed.

        If the app ran them, a binding could run before or after the characters around it, and a
        fast typist (or a paste without brackets) would send half a question.
        """
        if event.is_printable:
            return
        active = self.screen.active_bindings.get(event.key)
        if active is not None and active.node is self and active.binding.id in self._own:
            event.prevent_default()
            event.stop()
            await self.run_action(active.binding.action)

    def render_line(self, y: int) -> Strip:
        """Draw one line, blank at width 0, where the placeholder cannot be wrapped."""
        if not self.content_size.width:
            return Strip.blank(self.size.width)
        return super().render_line(y)

    def action_send(self) -> None:
        """Send the text, unless it is blank."""
        text = self.text.strip()
        if not text:
            return
        if not self._asked or self._asked[-1] != text:
            self._asked.append(text)
        self._at = len(self._asked)
        self._draft = ""
        replaces = self.editing or None
        if self.editing is None:
            self.text = ""
        else:
            self.end_edit()
        self.post_message(self.Sent(self._unfold(text), replaces))

    def action_break_line(self) -> None:
        """Insert a line break."""
        inserted = self.replace("\n", *self.selection)
        self.move_cursor(inserted.end_location)

    def action_older(self) -> None:
        """Move the cursor up; on the first line, show the previous question."""
        if self.cursor_location[0] > 0:
            self.action_cursor_up()
        elif self._at > 0:
            self._show(self._at - 1)

    def action_newer(self) -> None:
        """Move the cursor down; on the last line, show the next question."""
        if self.cursor_location[0] < self.document.line_count - 1:
            self.action_cursor_down()
        elif self._at < len(self._asked):
            self._show(self._at + 1)

    def revise(self, text: str, turn_id: str | None) -> None:
        """Edit an earlier question to replace it; the text typed so far is kept for later."""
        if self.editing is None:
            self._kept = self.text
        self.editing = turn_id or ""
        self.border_title = "editing an earlier question: Enter sends it again, Esc cancels"
        self.text = self._fold(text)
        self.move_cursor(self.document.end)
        self.focus()

    def end_edit(self) -> None:
        """Restore the text typed before the edit."""
        self.editing = None
        self.border_title = ""
        self.text, self._kept = self._kept, ""
        self.move_cursor(self.document.end)

    def remember(self, questions: Iterable[str]) -> None:
        """Add questions to the history, the newest last, after those of other chats."""
        self._asked.extend(self._fold(question) for question in questions)
        self._at = len(self._asked)

    def put_back(self, text: str) -> None:
        """Put a question that was not asked back into the prompt, before the current text."""
        text = self._fold(text)
        self.text = f"{text}\n{self.text}" if self.text.strip() else text
        self.move_cursor(self.document.end)

    def _show(self, at: int) -> None:
        if self._at == len(self._asked):
            self._draft = self.text
        self._at = at
        self.text = self._draft if at == len(self._asked) else self._asked[at]
        self.move_cursor(self.document.end)

    def on_paste(self, event: events.Paste) -> None:
        """Insert a paste with control characters as symbols, so the text shown is the text sent."""
        event.prevent_default()
        event.stop()
        inserted = self.replace(self._fold(unify_line_ends(event.text)), *self.selection)
        self.move_cursor(inserted.end_location)

    def _fold(self, text: str) -> str:
        """Return the text, or a placeholder if its layout would block the keys."""
        text = sanitize(text)
        if len(text) <= LARGE_PASTE_CHARACTERS:
            return text
        size = units.count_text(len(text), "character")
        placeholder = f"[paste {len(self._pastes) + 1}: {size}]"
        self._pastes[placeholder] = text
        return placeholder

    def _unfold(self, text: str) -> str:
        for placeholder, pasted in self._pastes.items():
            text = text.replace(placeholder, pasted)
        return text
