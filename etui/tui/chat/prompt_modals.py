"""Dialogs of the prompt: which part of a long text is sent, and the variables of a saved prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from etui.prompts.attachments import Part
from etui.text.sanitize import sanitize

_PARTS: tuple[tuple[Part, str], ...] = (
    ("head", "the beginning"),
    ("tail", "the end"),
    ("ends", "both ends, without the middle"),
)


class PartModal(ModalScreen[Part | None]):
    """Dialog for a text that is too long: its result is the part to send, None to send nothing.

    Args:
        what: What is too long, with both numbers.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Do not send", id="part.leave"),
    ]

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def compose(self) -> ComposeResult:
        """Lay out the numbers and the parts."""
        with Vertical(classes="box"):
            yield Static(sanitize(self._what), markup=False, classes="title")
            yield Static("Send a part of it?", markup=False, classes="help")
            yield OptionList(*(Option(words, id=part) for part, words in _PARTS), markup=False)
        yield Footer(show_command_palette=False)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Close the dialog with the part."""
        self.dismiss(_PARTS[event.option_index][0])

    def action_leave(self) -> None:
        """Close the dialog without a part."""
        self.dismiss(None)


class VariablesModal(ModalScreen[Mapping[str, str] | None]):
    """Dialog for the values of a saved prompt; its result is a value for each variable."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "take", "Send", id="variables.take", priority=True),
        Binding("escape", "leave", "Cancel", id="variables.leave", priority=True),
    ]

    def __init__(self, name: str, variables: tuple[str, ...]) -> None:
        super().__init__()
        self._prompt_name = name
        self._inputs = {variable: Input(compact=True) for variable in variables}

    def compose(self) -> ComposeResult:
        """Lay out a line for each variable."""
        with Vertical(classes="box"):
            yield Static(f"/{sanitize(self._prompt_name)}", markup=False, classes="title")
            yield Static(
                "Enter goes on; after the last one it sends. @ attaches a file.",
                markup=False,
                classes="help",
            )
            with VerticalScroll(classes="details"):
                for variable, field in self._inputs.items():
                    yield Static(variable, markup=False, classes="variable")
                    yield field
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Focus the first line."""
        next(iter(self._inputs.values())).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go to the next line; after the last one, accept."""
        fields = list(self._inputs.values())
        at = fields.index(event.input)
        if at + 1 < len(fields):
            fields[at + 1].focus()
        else:
            self.action_take()

    def action_take(self) -> None:
        """Close the dialog with the values; go to the first line that is empty, if one is."""
        for field in self._inputs.values():
            if not field.value.strip():
                field.focus()
                return
        self.dismiss({name: field.value.strip() for name, field in self._inputs.items()})

    def action_leave(self) -> None:
        """Close the dialog without values."""
        self.dismiss(None)
