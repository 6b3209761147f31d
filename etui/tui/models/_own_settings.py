"""The system prompt and the sampling that the user sets for a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Static, TextArea

from etui.config.config import Config
from etui.models.spec import ModelSampling, ModelSpec
from etui.text import sanitize
from etui.tui._work import in_thread
from etui.tui.modals import BoxModal

_KEYS = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty")


class OwnSettingsModal(BoxModal[tuple[str, dict[str, float]]]):
    """Dialog whose result is the system prompt and the sampling values that are set."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "take", "Save", id="own.take", priority=True),
        Binding("escape", "leave", "Cancel", id="own.leave", priority=True),
    ]

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(
            f"Settings of {spec.name}",
            "The prompt is for chats that have none. An empty line leaves the value to the model. "
            "Tab goes on.",
        )
        own = spec.own
        set_values = asdict(own.sampling if own is not None else ModelSampling())
        asked = asdict(spec.sampling or ModelSampling())
        system = own.system if own is not None else None
        self._system = TextArea(sanitize(system or ""), soft_wrap=True, compact=True)
        self._system.placeholder = "system prompt"
        self._inputs = {
            key: Input(
                _show(set_values[key]),
                _show(asked[key]) or "as the file says",
                type="number",
                compact=True,
            )
            for key in _KEYS
        }

    def compose_box(self) -> ComposeResult:
        with VerticalScroll(classes="details"):
            yield self._system
            for key, field in self._inputs.items():
                with Horizontal(classes="setting"):
                    yield Static(key, markup=False, classes="name")
                    yield field

    def on_mount(self) -> None:
        self._system.focus()

    def action_take(self) -> None:
        """Close the dialog with the values; go to the first that is no number, if one is not."""
        values = {}
        for key, field in self._inputs.items():
            try:
                if field.value.strip():
                    values[key] = float(field.value)
            except ValueError:
                field.focus()
                return
        self.dismiss((self._system.text.strip(), values))


async def edit_own_settings(app: App[Any], config: Config, spec: ModelSpec) -> bool:
    """Ask for the settings of a model and write them; return whether they were saved.

    Raises:
        EtuiError: A value is out of its range, or models.yaml cannot be written.
    """
    from etui.runtime.models_file import set_own_settings

    found = await app.push_screen_wait(OwnSettingsModal(spec))
    if found is None:
        return False
    system, sampling = found
    await in_thread(lambda: set_own_settings(config, spec.name, system, sampling))
    app.notify(sanitize(f"{spec.name}: its next answers use these settings"), markup=False)
    return True


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
