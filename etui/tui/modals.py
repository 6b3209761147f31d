"""Small dialogs over a screen: text input, and yes or no."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static, TextArea

from etui.text import sanitize
from etui.tui._work import place_notices
from etui.tui.widgets.key_footer import KeyFooter

T = TypeVar("T")


class BoxModal(ModalScreen[T | None]):
    """A box over a screen: a title, a line of help, and the parts below them."""

    def __init__(self, title: str, help_text: str = "", *parts: Widget) -> None:
        super().__init__()
        texts = ((title, "title"), (help_text, "help"))
        lines = [Static(sanitize(text), markup=False, classes=each) for text, each in texts if text]
        self._box = Vertical(*lines, *parts, classes="box")

    def compose(self) -> ComposeResult:
        yield self._box
        yield KeyFooter()

    def on_mount(self) -> None:
        self.screen_layout_refresh_signal.subscribe(self, self._place_notices, immediate=True)

    def _place_notices(self, _screen: Screen[object]) -> None:
        place_notices(self, self._box, first=0)


class TextModal(BoxModal[str]):
    """Dialog for a text; Ctrl+S takes it, and so does Enter if it has ``one_line``."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "take", "Save", id="text.take", priority=True),
        Binding("enter", "take(True)", "Save", id="text.line", show=False, priority=True),
        Binding("escape", "dismiss", "Cancel", id="text.leave", priority=True),
    ]

    def __init__(self, title: str, text: str, help_text: str, *, one_line: bool = False) -> None:
        self._area = TextArea(sanitize(text), soft_wrap=True, compact=True)
        super().__init__(title, help_text, self._area)
        self._one_line = one_line
        self._area.set_class(one_line, "-one-line")

    def on_mount(self) -> None:
        """Focus the text area: one line is selected, so typing replaces it; else go to its end."""
        self._area.focus()
        if self._one_line:
            self._area.select_all()
        else:
            self._area.move_cursor(self._area.document.end)

    def on_text_area_changed(self, changed: TextArea.Changed) -> None:
        # A second change may be queued behind the line break: dismiss only once.
        if self._one_line and self.is_current and "\n" in changed.text_area.text:
            self.dismiss(changed.text_area.text.replace("\n", " ").strip())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return parameters != (True,) or self._one_line

    def action_take(self, line: bool = False) -> None:
        self.dismiss(self._area.text.strip())


def labelled(label: str, field: Widget, classes: str, row_id: str | None = None) -> Horizontal:
    """Build a row of a dialog: a label and its field."""
    name = Static(label, markup=False, classes="name")
    return Horizontal(name, field, classes=classes, id=row_id)


def details_box(text: str) -> VerticalScroll:
    """Build a part of a dialog with a text that scrolls."""
    return VerticalScroll(Static(sanitize(text), markup=False), classes="details")


class ConfirmModal(BoxModal[bool]):
    """Dialog that asks whether to go on; only ``y`` confirms."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes"),
        Binding("n,escape,enter", "answer(False)", "No", id="confirm.no", key_display="n"),
    ]

    def __init__(self, question: str, details: str = "") -> None:
        parts = [details_box(details)] if details else []
        keys = Static("y yes · n no", markup=False, classes="help")
        super().__init__(question, "", *parts, keys)

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


async def confirm(node: App[Any] | Widget, question: str, details: str = "") -> bool:
    """Ask a question, from a worker, and return whether the answer is yes."""
    app: App[Any] = node if isinstance(node, App) else node.app
    answer = await app.push_screen_wait(ConfirmModal(question, details))
    return bool(answer)


async def ask_line(node: Widget, title: str, text: str, help_text: str) -> str | None:
    """Ask for one line, from a worker; None if it was cancelled."""
    modal = TextModal(title, text, help_text, one_line=True)
    answer: str | None = await node.app.push_screen_wait(modal)
    return answer


class PageModal(ModalScreen[None]):
    """A page over a screen that scrolls; a subclass names the keys and lays ``page`` out."""

    def __init__(self, page_id: str) -> None:
        super().__init__()
        self.page = VerticalScroll(id=page_id)

    def action_move(self, rows: int) -> None:
        self.page.scroll_relative(y=rows, animate=False)

    def action_jump(self, direction: int) -> None:
        if direction < 0:
            self.page.scroll_home(animate=False)
        else:
            self.page.scroll_end(animate=False)
