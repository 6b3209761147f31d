"""Every screen as a picture, on fakes and with nothing that moves; see ``snapshots/README.md``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import textual
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, OptionList, Static, TextArea

from etui.bench.folder import runs_dir
from etui.bench.summary import summarise
from etui.codec import to_document
from etui.log.writer import TurnWriter
from etui.tui.chat import _turn_queue as answering
from etui.tui.chat.screen import ChatScreen
from etui.tui.history.screen import HistoryScreen
from etui.tui.jobs import AppJob, JobBar
from etui.tui.measurements import SweepState
from etui.tui.models import _cards as card_reader
from etui.tui.models.first_run import FirstRunScreen
from etui.tui.models.screen import ModelsScreen
from etui.tui.pacing import Pace
from etui.tui.policies.screen import PoliciesScreen
from etui.tui.power.feed import Stage
from etui.tui.power.panel import PowerPanel
from etui.tui.runs.screen import RunsScreen
from etui.tui.server_screen import ServerScreen
from etui.turn.record import Tokens
from tests.bench import synthetic
from tests.fixtures.turns import TURN
from tests.tui.fakes import MODEL, House, turn_record, until
from tests.tui.screen import WIDE, panel_text, turns
from tests.tui.serving.test_server import FACTS

FOLDER = Path(__file__).with_name("snapshots")
DRAW = bool(os.environ.get("ETUI_DRAW_SNAPSHOTS"))
NARROW = (80, 24)
NO_MODELS = Path("/models")
"""Folders of a test have another name each time, and some screens show them."""

NEVER = Pace(86_400.0, 0, 0)

TALK = (
    turn_record(
        1, query="What is a joule?",
        answer="One **watt** for one second:\n\n```python\njoules = watts * seconds\n```",
    ),
    turn_record(
        2, query="Is 97 prime?", answer="Yes: no prime up to 9 divides it.",
        thinking="2, 3, 5 and 7 do not divide 97.", reasoning="cot", arm="think",
        tokens=Tokens(12, 0, 12, 15, 25), energy=replace(TURN.energy, thinking_joules=6.0),
    ),
)  # fmt: skip


def _drawn_with() -> str:
    path = FOLDER / "textual.txt"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


pytestmark = pytest.mark.skipif(
    not DRAW and textual.__version__ != _drawn_with(),
    reason=f"the pictures were drawn with Textual {_drawn_with()}, not {textual.__version__}",
)


@pytest.fixture(autouse=True)
def _frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No clock: nothing ticks but when a test says so, and times of the log are in UTC."""
    monkeypatch.setattr(answering, "USUAL", NEVER)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def same_host(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 GB of free memory and no GPU."""
    host = replace(card_reader.read_host(house.config), free_memory_gb=16.0)
    monkeypatch.setattr(card_reader, "read_host", lambda _config: host)
    monkeypatch.setattr(card_reader, "built_for_gpu", lambda _folder: False)


async def settled(pilot: Pilot[Any]) -> None:
    """Let everything be laid out that was asked for; the cursor does not blink."""
    for box in pilot.app.screen.query("Input, TextArea").results():
        assert isinstance(box, Input | TextArea)
        box.cursor_blink = False
    seen = ""
    while seen != (seen := pilot.app.export_screenshot(simplify=True)):
        await pilot.pause()


def draw(app: App[Any]) -> str:
    return re.sub(r"\bterminal-\d+-", "terminal-", app.export_screenshot(simplify=True))


async def matches(pilot: Pilot[Any], name: str) -> None:
    """Compare what is drawn at last with the picture of this name, or draw it anew."""
    await settled(pilot)
    path = FOLDER / f"{name}.svg"
    if DRAW:
        path.write_text(draw(pilot.app), encoding="utf-8")
        (FOLDER / "textual.txt").write_text(f"{textual.__version__}\n", encoding="utf-8")
    picture = path.read_text(encoding="utf-8")
    for _ in range(100):  # what a thread of the app reads comes late on a busy machine
        if draw(pilot.app) == picture:
            return
        await asyncio.sleep(0.1)
    assert draw(pilot.app) == picture, f"{path.name} looks otherwise now"


@asynccontextmanager
async def opened(house: House, size: tuple[int, int]) -> AsyncIterator[Pilot[Any]]:
    """The app with its backend there and its model loaded."""
    app = house.app()
    app.animation_level = "full"  # as it is drawn for users
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.backend is not None)
        await until(pilot, lambda: "98.4 MB" in panel_text(app))
        yield pilot


async def switched(pilot: Pilot[Any], key: str, kind: type[Any]) -> Any:
    """Go to another screen."""
    await pilot.press(key)
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    return pilot.app.screen


@pytest.mark.parametrize(
    ("name", "size", "theme"),
    [
        ("chat-wide", WIDE, "etui-dark"),
        ("chat-wide-light", WIDE, "etui-light"),
        ("chat-narrow", NARROW, "etui-dark"),
    ],
)
async def test_the_chat(house: House, name: str, size: tuple[int, int], theme: str) -> None:
    house.meter.idle_watts = 20.0
    house.chats.keep("Joules", TALK)
    house.config = replace(house.config, theme=theme)
    async with opened(house, size) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, ChatScreen)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: pilot.app.screen.query(OptionList))
        await until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: len(turns(pilot.app)) == 2)  # type: ignore[arg-type]
        screen._panel.show_pace(Pace(1.0, 0, 0))
        for stage in (Stage.LOADING, Stage.PREFILL, Stage.ANSWERING, Stage.DONE):
            screen.query_one(PowerPanel).show_power(house.meter, stage)
        await matches(pilot, name)


async def test_the_first_run(house: House, same_host: None) -> None:
    house.shelf.on_offer = tuple(replace(m, on_disk=False) for m in house.shelf.on_offer)
    house.runner.likely = None
    house.config = replace(house.config, models_dir=NO_MODELS)
    app = house.app()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstRunScreen))
        await matches(pilot, "first-run")


async def test_the_history(house: House) -> None:
    with TurnWriter(house.config) as writer:
        for number, joules in enumerate((5.0, 80.0, 41.5), 1):
            energy = replace(TURN.energy, joules=joules)
            writer.save_turn(
                replace(TURN, turn_id=f"id{number}", query=f"Question {number}?", energy=energy)
            )
    async with opened(house, WIDE) as pilot:
        screen = await switched(pilot, "f3", HistoryScreen)
        await until(pilot, lambda: screen.query_one(DataTable).row_count == 3)
        await until(pilot, lambda: "first token" in _words(screen))
        await until(pilot, lambda: screen.query_one("#days").display)
        await matches(pilot, "history")


async def test_the_policies(house: House) -> None:
    async with opened(house, WIDE) as pilot:
        screen = await switched(pilot, "f4", PoliciesScreen)
        await until(pilot, lambda: "valid" in str(screen.query_one(".verdict", Static).content))
        await matches(pilot, "policies")


async def test_the_runs(house: House) -> None:
    run = synthetic.config(per_subject=2)
    rows = synthetic.samples(run)
    folder = synthetic.write(runs_dir(house.config) / "demo", run, rows)
    summary = json.dumps(to_document(summarise(rows, run)))
    (folder / "summary.json").write_text(summary, encoding="utf-8")
    async with opened(house, WIDE) as pilot:
        screen = await switched(pilot, "f5", RunsScreen)
        await until(pilot, lambda: screen.query_one(DataTable).row_count == 1)
        screen._job.show_idle("runs are kept in /home/me/etui/runs")  # not in a test's own folder
        await matches(pilot, "runs")


async def test_the_models(house: House, same_host: None) -> None:
    house.config = replace(house.config, models_dir=NO_MODELS)
    async with opened(house, WIDE) as pilot:
        screen = await switched(pilot, "f6", ModelsScreen)
        await until(pilot, lambda: screen.query_one(DataTable).row_count > 0)
        await until(pilot, lambda: MODEL in _words(screen))
        await matches(pilot, "models")


async def test_a_sweep_on_the_models_screen(house: House, same_host: None) -> None:
    house.config = replace(house.config, models_dir=NO_MODELS)
    state = SweepState(
        MODEL, settings=tuple("abcdefghijkl"), stage="race", block=7, blocks_left=7, remaining=9,
        best="threads=1 kv_type=q8_0", seconds_left=240.0,
        dropped=(("threads=2 kv_type=q4_0", "12.1 % [9.8, 14.5] more joules than threads=1"),),
    )  # fmt: skip
    async with opened(house, NARROW) as pilot:
        screen = await switched(pilot, "f6", ModelsScreen)
        await until(pilot, lambda: MODEL in _words(screen))
        bar = screen.query_one(JobBar)
        bar._jobs.begin(AppJob("sweeping", lambda: None, state.progress))
        bar.post(state.progress)
        await until(pilot, lambda: "Sweep running" in _words(screen))
        await matches(pilot, "models-sweep")


def _words(screen: Any) -> str:
    return "\n".join(str(static.content) for static in screen.query(Static))


async def test_the_server(house: House) -> None:
    async with opened(house, WIDE) as pilot:
        screen = ServerScreen(house.config, lambda: None)
        await pilot.app.push_screen(screen)
        screen.runs = True
        screen.take(FACTS)
        await matches(pilot, "server")
