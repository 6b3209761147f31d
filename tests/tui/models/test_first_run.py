"""A machine without any model: what to do, and a key that does it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import DataTable, ProgressBar

from etui.config.machine import machine_name
from etui.curves.prediction import DecodeForecast, Prediction
from etui.energy.types import Channel, Kind
from etui.errors import DownloadFailed, EtuiError
from etui.models.found import FoundModel, Program
from etui.models.memory_speed import MemorySpeed, save_memory_speed
from etui.models.recommend import Fit
from etui.models.spec import ModelSpec
from etui.routing.signals import HostState
from etui.runtime.decide import load_fallback_model
from etui.tui.chat.screen import ChatScreen
from etui.tui.models import _cards as card_reader
from etui.tui.models._cards import Cards, ModelCard
from etui.tui.models._model_list import ModelDetailsModal
from etui.tui.models.first_run import FirstRunScreen, describe_start, sort_choices
from tests.contract.tiny_model import write_tiny_model
from tests.tui.fakes import MODEL, House
from tests.tui.models_app import shown
from tests.tui.screen import Terminal, running

GB = 10**9


@pytest.fixture
def bare(house: House) -> House:
    """The same machine before its first model."""
    house.shelf.on_offer = tuple(replace(m, on_disk=False) for m in house.shelf.on_offer)
    return house


@asynccontextmanager
async def choosing(house: House, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Terminal]:
    """The chooser with its models on it."""
    async with running(house, size) as term:
        screen = await term.at(FirstRunScreen)
        await term.until(lambda: screen.query_one(DataTable).row_count)
        yield term


def rows(term: Terminal) -> dict[str, list[str]]:
    table = term.app.screen.query_one(DataTable)
    found = [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]
    return {cells[0].removesuffix(" ★"): cells for cells in found}


async def go_to(term: Terminal, name: str) -> None:
    """Move the cursor to a model."""
    screen = term.app.screen
    screen.query_one(DataTable).move_cursor(row=list(rows(term)).index(name))
    await term.until(lambda: str(screen._facts.content).startswith(f"{name}:"))


def keep_speed(house: House, bytes_per_second: float) -> None:
    save_memory_speed(house.config, MemorySpeed(machine_name(), 2, bytes_per_second))


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """22 GB of memory are free, and no GPU is there."""
    monkeypatch.setattr(card_reader, "read_host", lambda _config: HostState(free_memory_gb=22.0))


@pytest.mark.usefixtures("roomy")
async def test_every_model_is_offered_with_what_it_costs_here(bare: House) -> None:
    keep_speed(bare, 20e9)
    bare.meter.channels = (
        Channel("package:0", "package:0", Kind.COUNTER, limit_watts=30.0, label="CPU"),
    )
    async with choosing(bare) as term:
        screen = term.app.screen
        await term.until(lambda: rows(term)["qwen3-8b"][3] == "≈3.0")
        assert rows(term)["qwen3-8b"][1:] == [
            "5.03 GB", "memory", "≈3.0", "≈9.9", "hard questions, thinks",
        ]  # fmt: skip
        assert rows(term)["lfm2.5-8b-a1b"][0].endswith("★")
        assert str(screen._advice.content).startswith(
            "★ lfm2.5-8b-a1b: 6.57 GB of 22.0 GB free, about 15 tok/s, "
            "about 2.0 J per decoded token here.\n"
            "Basis: about the largest with 10 tok/s or more of the chat models that fit; speed: "
            "estimated from memory bandwidth (20.0 GB/s); not how well they answer."
        )
        await term.until(lambda: "lfm2.5-8b-a1b" in str(screen._facts.content))
        details = " ".join(shown(term).split())
        assert "± 50 %: estimated from memory bandwidth (20.0 GB/s)" in details
        assert "at the power limit (30 W)" in details
        assert str(bare.config.models_dir) in details
        assert bare.shelf.measured == [], "it is known already"


@pytest.mark.usefixtures("roomy")
async def test_the_memory_is_measured_once_and_the_recommendation_follows(bare: House) -> None:
    bare.shelf.on_measured = lambda: keep_speed(bare, 80e9)
    async with choosing(bare) as term:
        screen = term.app.screen
        await term.until(lambda: rows(term)["gpt-oss-20b"][0].endswith("★"))
        await term.until(lambda: str(screen._facts.content).startswith("gpt-oss-20b"))
        await term.press("r")
        await term.until(lambda: "still no model in" in shown(term))
        assert bare.shelf.measured == [1]


async def test_a_measurement_that_fails_is_said_and_models_can_still_be_chosen(
    bare: House,
) -> None:
    bare.shelf.memory_error = EtuiError("the speed of the memory is unknown: no numpy", "reinstall")
    async with choosing(bare) as term:
        await term.told("no numpy\n→ reinstall")
        assert "J/TOKEN" not in [
            str(c.label) for c in term.app.screen.query_one(DataTable).columns.values()
        ], "all unknown"


async def test_p_pulls_the_chosen_model_and_can_be_stopped_and_tried_again(bare: House) -> None:
    async with choosing(bare, (80, 24)) as term:
        await term.press("p")
        await term.until(lambda: "MB of" in shown(term))
        await term.press("escape")
        await term.until(lambda: "the download was stopped" in shown(term))
        assert "✗" not in shown(term), "a stop is no error"
        assert bare.shelf.pulled == []
        bare.shelf.error = DownloadFailed("no source gave [the file]", "check the network")
        bare.shelf.go_on.set()
        await go_to(term, "llama-3.2-1b")
        await term.press("p")
        await term.until(lambda: "no source gave [the file]\n→ check the network" in shown(term))
        bare.shelf.error = None
        bare.shelf.go_on.clear()
        await term.press("p")
        bar = term.app.screen.query_one(ProgressBar)
        await term.until(lambda: bar.progress == 98_000_000)
        assert "98.0 MB of 98.0 MB" in shown(term)
        bare.shelf.go_on.set()
        await term.at(ChatScreen)
        assert bare.shelf.pulled == ["llama-3.2-1b"]
        assert load_fallback_model(bare.config) == "llama-3.2-1b"
        await term.until(lambda: bare.runner.warmed)


async def test_a_slash_finds_models_by_purpose_and_enter_shows_everything(bare: House) -> None:
    async with choosing(bare, (80, 24)) as term:
        screen = term.app.screen
        await term.press("slash", *"long")
        await term.until(lambda: list(rows(term)) == ["llama-3.1-8b"])
        await term.press("down")
        await term.until(lambda: isinstance(screen.focused, DataTable))
        await term.press("enter")
        await term.at(ModelDetailsModal)
        await term.until(lambda: "hf bartowski/Meta-Llama-3.1-8B" in shown(term))
        await term.press("escape")
        await term.until(lambda: term.app.screen is screen)
        await term.press("slash", "escape")
        await term.until(lambda: len(rows(term)) == 31)
        await term.press("G")
        await term.until(lambda: screen.query_one(DataTable).cursor_row == 30)
        await term.press("g", "j", "j", "k")
        await term.until(lambda: screen.query_one(DataTable).cursor_row == 1)


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (DownloadFailed("no connection to the hub", "check the connection"), "llama-3.2-3b"),
        (DownloadFailed("the disk of /models is full", "free some room and pull again"), MODEL),
    ],
)
async def test_no_network_and_a_full_disk_are_said_with_a_fix(
    bare: House, error: DownloadFailed, name: str
) -> None:
    bare.shelf.error = error
    bare.shelf.go_on.set()
    async with choosing(bare) as term:
        await go_to(term, name)
        await term.press("p")
        await term.until(lambda: f"✗ {error.what}\n→ {error.fix}" in shown(term))
        other = "qwen2.5-coder-1.5b comes from the package index"
        assert (other in shown(term)) == (name != MODEL), "only where the hub gave nothing"
        assert term.app.screen._job.is_running is False
        assert load_fallback_model(bare.config) is None


async def test_r_finds_a_model_that_was_put_there_meanwhile(bare: House) -> None:
    async with choosing(bare, (80, 24)) as term:
        await term.press("r")
        await term.until(lambda: "still no model in" in shown(term))
        bare.shelf.put_on_disk(MODEL)
        await term.press("r")
        await term.at(ChatScreen)
        assert load_fallback_model(bare.config) == MODEL


def test_the_recommended_model_is_first_then_what_is_here_then_by_fit_and_size() -> None:
    def card(
        name: str,
        size: int,
        fit: Fit,
        speed: float | None = None,
        program: Program | None = None,
        problem: str = "",
    ) -> ModelCard:
        path, forecast = Path(name), DecodeForecast(speed)
        found = None if program is None else FoundModel(name, program, path, size, problem=problem)
        return ModelCard(
            ModelSpec(name, "", ()), path, "absent", size * GB, found=found,
            prediction=Prediction(fit=fit, forecast=forecast),
        )  # fmt: skip

    cards = Cards(
        (
            card("huge", 40, "too large"),
            card("small", 1, "memory", 50.0),
            card("broken", 9, "unknown", program="lmstudio", problem="is truncated"),
            card("slower", 8, "memory", 2.0),
            card("slow", 6, "memory", 4.0),
            card("huger", 90, "too large"),
            card("star", 2, "memory", 20.0),
            card("large", 5, "gpu"),
            card("unknown", 3, "unknown"),
            card("ollama:here", 4, "memory", 12.0, "ollama"),
            card("hub:too-large", 60, "too large", program="hub"),
        ),
        recommended="star",
    )
    assert [card.spec.name for card in sort_choices(cards)] == [
        "star", "ollama:here", "hub:too-large", "large", "small", "slow", "slower", "unknown",
        "huge", "huger", "broken",
    ]  # fmt: skip
    assert describe_start(cards) == "2 models of other programs are here: p uses one in place"


async def test_models_of_other_programs_are_offered_and_used_in_place(
    bare: House, tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "blob")
    bare.shelf.of_others = (
        FoundModel("ollama:tiny:3b", "ollama", path, path.stat().st_size, None, "F32"),
        FoundModel("hub:cut.gguf", "hub", path, 9, problem="is truncated"),
    )
    bare.shelf.go_on.set()
    async with choosing(bare, (140, 36)) as term:
        await term.until(lambda: "ollama:tiny:3b" in list(rows(term))[:2])
        assert "1 model of other programs is here" in shown(term)
        assert rows(term)["ollama:tiny:3b"][-1] == "already here (Ollama), used in place"
        await go_to(term, "hub:cut.gguf")
        await term.press("p")
        await term.until(lambda: "hub:cut.gguf is truncated" in shown(term))
        await go_to(term, "ollama:tiny:3b")
        await term.until(lambda: "1.46 MB in Ollama, p uses it in place" in shown(term))
        await term.press("p")
        await term.at(ChatScreen)
        assert bare.shelf.pulled == ["ollama:tiny:3b"]


async def test_quitting_from_here_works(bare: House) -> None:
    async with choosing(bare, (80, 24)) as term:
        await term.press("ctrl+q")
        await term.until(lambda: not term.app.is_running)


LONG_ERROR = DownloadFailed(
    "could not download qwen3-4b from any source: hf Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf: "
    "cannot get Qwen3-4B-Q4_K_M.gguf from the hub: no address",
    "check the connection and pull again",
)


def squeezed(text: str) -> str:
    """Text without frames, bars and white space, which wrapping adds and removes."""
    return "".join(char for char in text if char.isprintable() and char not in " │▂▄█▅▆▇▁▃")


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (200, 60)])
async def test_the_chooser_fits_and_a_failed_download_is_said_whole_with_its_fix(
    bare: House, size: tuple[int, int]
) -> None:
    bare.shelf.error = LONG_ERROR
    bare.shelf.go_on.set()
    async with choosing(bare, size) as term:
        screen = term.app.screen
        await term.until(lambda: str(screen._advice.content))
        table = screen.query_one(DataTable)
        await term.until(lambda: table.region.height >= 3)
        assert table.region.bottom < size[1]
        name = screen._cards.recommended or MODEL
        await term.until(lambda: name in term.drawn.split("MODEL")[1])  # the cursor is in sight
        assert "p Pull" in " ".join(term.drawn.split())
        await term.press("p")
        await term.sees("not pulled")
        assert "…" not in term.drawn.splitlines()[-2], "the line of the pull is not cut"
        assert "✗ could not" not in term.drawn.splitlines()[-2], "said once"
        await term.press("enter")
        await term.at(ModelDetailsModal)
        await term.until(lambda: squeezed(LONG_ERROR.what)[:30] in squeezed(term.drawn))
        if size[1] > 10:
            assert squeezed(LONG_ERROR.what) in squeezed(term.drawn)
            assert squeezed(LONG_ERROR.fix) in squeezed(term.drawn)
        else:  # the page scrolls
            await term.press("j", "j", "j")
            await term.sees("→")
        await term.press("escape")
        await term.until(lambda: term.app.screen is screen)
        if size[1] > 10:
            await term.until(lambda: squeezed(LONG_ERROR.what) in squeezed(term.drawn))
            assert squeezed(LONG_ERROR.fix) in squeezed(term.drawn)
