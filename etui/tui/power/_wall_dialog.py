"""Set up a meter at the wall: choose its type and address, watch its reading, and save it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar, get_args

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Input, Select, Static

from etui.config.backend_spec import WallMeterSpec, WallMeterType
from etui.config.config import Config, edit_settings
from etui.energy.recorder import Recorder
from etui.energy.sources.wall import WallSource
from etui.errors import EtuiError, InvalidFile
from etui.text import SEPARATOR, one_line, sanitize
from etui.tui._work import in_thread
from etui.tui.modals import BoxModal, labelled
from etui.units import energy_text, seconds_text, significant, watts_text
from etui.yaml.edit import insert_entry, remove_entry

_READ_SECONDS = 1.0
_HINT = "Ctrl+Y reads it, and shows its watts"
_HELP = (
    "A plug or sensor that supplies the whole machine. A password or token stays in an environment "
    "variable or a file of your own; here is its name."
)
_FIELDS = {
    "name": "a name of your own, such as desk",
    "url": "http://192.168.1.20",
    "output": "0",
    "entity": "sensor.desk_power",
    "path": "data.0.power",
    "unit": "W, kW, Wh, kWh or J",
    "key_env": "variable with the password or token",
    "key_file": "or a file with it (chmod 600)",
    "plain_key": "true: it may be sent over http://",
}
_OF_TYPE: dict[str, tuple[str, ...]] = {
    "output": ("shelly", "shelly-gen1", "tasmota"),
    "entity": ("home-assistant",),
    "path": ("url",),
    "unit": ("url",),
}
"""The types that have a field; the other fields are those of all types."""


class WallMeterModal(BoxModal[None]):
    """Dialog that reads a meter live and saves it in config.yaml."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+y", "test", "Read it", id="wall.test", priority=True),
        Binding("ctrl+s", "take", "Save", id="wall.take", priority=True),
        Binding("escape", "dismiss", "Cancel", id="wall.leave", priority=True),
    ]

    def __init__(self, config: Config) -> None:
        self._type: Select[str] = Select(
            [(name, name) for name in get_args(WallMeterType)],
            allow_blank=False, value="shelly", compact=True,
        )  # fmt: skip
        self._inputs = {
            name: Input(placeholder=text, compact=True) for name, text in _FIELDS.items()
        }
        self._state = Static(_HINT, markup=False, classes="help")
        rows = [labelled("type", self._type, "setting")]
        for name, field in self._inputs.items():
            rows.append(labelled(name, field, "setting", f"field-{name}"))
        details = VerticalScroll(*rows, classes="details")
        super().__init__("Meter at the wall", _HELP, details, self._state)
        self._config = config
        self._recorder: Recorder | None = None
        self._is_reading = False

    def on_mount(self) -> None:
        self._inputs["name"].focus()
        self.set_interval(_READ_SECONDS, self._read)

    def on_unmount(self) -> None:
        self._stop()

    def on_select_changed(self) -> None:
        for name in _FIELDS:
            self.query_one(f"#field-{name}").display = self._has(name)
        self._stop()

    def on_input_changed(self) -> None:
        self._stop()

    def action_test(self) -> None:
        self._stop()
        try:
            spec, _ = self._build()
        except EtuiError as error:
            self._say(_explain(error))
            return
        self._recorder = Recorder([WallSource(spec)])
        self._say(f"reading {spec.url} …")
        self._read()

    @work(exit_on_error=False)
    async def action_take(self) -> None:
        """Save the meter; one of that name is replaced."""
        try:
            spec, lines = self._build()
            await in_thread(lambda: self._save(spec.name, lines))
        except EtuiError as error:
            self._say(_explain(error))
            return
        what = f"{spec.name} is saved; etui reads it from its next start"
        self.app.notify(sanitize(what), markup=False)
        self.dismiss(None)

    def _save(self, name: str, lines: list[str]) -> None:
        by_hand = f"wall_meters: {{{name}: {{{', '.join(lines)}}}}}"
        edit_settings(
            self._config,
            lambda text: insert_entry(
                remove_entry(text, "wall_meters", name), "wall_meters", name, lines
            ),
            by_hand,
        )

    def _build(self) -> tuple[WallMeterSpec, list[str]]:
        """Build the meter and its lines in config.yaml; InvalidFile if a field is not valid."""
        from etui.config.schema import Settings
        from etui.yaml.load import parse_yaml

        values: dict[str, Any] = {"type": self._type.value}
        for key, field in self._inputs.items():
            text = field.value.strip()
            if text and key != "name" and self._has(key):
                is_plain = text.isascii() and (text.isdigit() or text in ("true", "false"))
                values[key] = json.loads(text.lstrip("0") or "0") if is_plain else text
        name = self._inputs["name"].value.strip()
        lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
        document = json.dumps({"wall_meters": {name: values}})
        meters = parse_yaml(document, Settings, file="the fields").model.wall_meters
        return meters[name].spec(name), lines

    def _has(self, field: str) -> bool:
        return self._type.value in _OF_TYPE.get(field, (self._type.value,))

    def _stop(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()
            self._say(_HINT)

    @work(exit_on_error=False)
    async def _read(self) -> None:
        recorder = self._recorder
        if recorder is None or self._is_reading:
            return
        self._is_reading = True
        try:
            await asyncio.to_thread(recorder.sample_now)
        finally:
            self._is_reading = False
        if recorder is self._recorder:
            self._say(describe_reading(recorder))

    def _say(self, text: str) -> None:
        self._state.update(one_line(text))


def describe_reading(recorder: Recorder) -> str:
    """Describe what the one wall meter of a recorder reads now, or why it reads nothing."""
    [row] = recorder.latest()
    state = recorder.wall_state(row.channel.id)
    if state is None or row.watts is None:
        return row.problem or "no reading yet"
    parts = [watts_text(row.watts, None)]
    if row.joules_since_start:
        parts.append(f"{energy_text(row.joules_since_start, None, None)} since Ctrl+Y")
    if state.age_seconds is not None:
        parts.append(f"changed {seconds_text(state.age_seconds)} ago")
    if period := recorder.period_s(row.channel.id):
        parts.append(f"every {seconds_text(period)}")
    if state.step_watts is not None:
        parts.append(f"steps of {significant(state.step_watts, 2)} W")
    if state.step_joules is not None:
        parts.append(f"counts by {significant(state.step_joules, 2)} J")
    return SEPARATOR.join(parts)


def _explain(error: EtuiError) -> str:
    if isinstance(error, InvalidFile) and error.problems:
        return error.problems[0].message
    return f"{error.what}; {error.fix}" if error.fix else error.what
