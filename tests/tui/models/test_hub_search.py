"""Search of the hub from both lists of models, and a filter that never leaves keys dead."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from textual.widgets import DataTable, Input, ProgressBar

from etui.curves.prediction import DecodeForecast, MachineFacts, Prediction
from etui.runtime.decide import load_fallback_model
from etui.runtime.search_models import (
    LocalModel,
    PricedQuantisation,
    PricedRepository,
    SearchResult,
)
from etui.tui.chat.screen import ChatScreen
from etui.tui.modals import ConfirmModal
from etui.tui.models._model_list import FilterInput, HubSearchScreen, quantisation_texts
from etui.tui.models.first_run import FirstRunScreen
from etui.tui.models.screen import ModelsScreen
from tests.tui.fakes import DEADLINE_SECONDS, House
from tests.tui.models.test_first_run import bare, choosing, roomy
from tests.tui.models_app import at_models, shown
from tests.tui.screen import Terminal

__all__ = ["bare", "roomy"]

REPO = "bartowski/Mistral-7B-Instruct-GGUF"
FORECAST = DecodeForecast(12.0, 1.3, "other model", "other model", "smollm2-135m", 0.3, 0.34)
Q4 = PricedQuantisation(
    "Q4_K_M", "Mistral-Q4_K_M.gguf", 4_370_000_000, f"{REPO}:Q4_K_M",
    Prediction(5_500_000_000, "memory", FORECAST), is_default=True,
)  # fmt: skip
Q8 = replace(
    Q4, label="Q8_0", size_bytes=7_700_000_000, reference=f"{REPO}:Q8_0", is_default=False,
    prediction=Prediction(8_900_000_000, "too large"), missing=("Mistral-Q8_0-00002.gguf",),
)  # fmt: skip
FOUND = PricedRepository(
    REPO, f"https://huggingface.co/{REPO}", 1_230_000, "apache-2.0", False, 7_250_000_000, None,
    8192, (Q4, Q8), True,
)  # fmt: skip
OTHER = replace(FOUND, name="a/B-GGUF", gated=True, active_parameters=3_000_000_000)
TINY_ON_DISK = LocalModel("smollm2-135m", 98_000_000, True, Prediction())


def found(words: str) -> SearchResult:
    return SearchResult(words, (FOUND, OTHER), (TINY_ON_DISK,), MachineFacts())


def rows(term: Terminal, name: str) -> list[list[str]]:
    table = term.app.screen.query_one(f"#{name}", DataTable)
    return [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]


async def search(term: Terminal, words: str) -> None:
    await term.press("slash", *words, "enter")
    await term.at(HubSearchScreen)


def test_a_row_says_where_it_fits_its_spread_and_what_is_unknown() -> None:
    assert list(quantisation_texts(Q4).values()) == [
        "Q4_K_M", "4.37 GB", "memory", "≈12 ±30%", "≈1.3 ±34%", "the usual one",
    ]  # fmt: skip
    assert quantisation_texts(Q8)["speed"] == "not measured"
    assert quantisation_texts(Q8)["note"] == "parts are missing"
    assert quantisation_texts(replace(Q4, entry="m", on_disk=True))["note"] == "on disk: m"


async def test_words_and_enter_search_the_hub_and_a_quantisation_is_asked_about_and_pulled(
    house: House,
) -> None:
    house.shelf.on_hub = found
    async with at_models(house) as term:
        await search(term, "mistral 7b".replace(" ", "_"))
        await term.until(lambda: rows(term, "quantisations"))
        assert house.shelf.searched == ["mistral_7b"]
        assert rows(term, "repositories") == [
            [REPO, "7.2B", "1.2M", "apache-2.0"],
            ["a/B-GGUF", "7.2B, 3.0B active", "1.2M", "gated, apache-2.0"],
        ]
        assert "2 repositories for 'mistral_7b'" in shown(term)
        assert "smollm2-135m (on disk)" in shown(term)
        await term.until(lambda: "≈12 tok/s ± 30 %: scaled by size from smollm2" in shown(term))
        assert "≈1.3 J per decoded token ± 34 %: with the watts of smollm2" in shown(term)
        assert "needs 5.50 GB with 8,192 tokens of context" in shown(term)
        await term.until(lambda: isinstance(term.app.screen.focused, DataTable))
        await term.press("enter", "down", "enter")
        await term.told("lacks a part of Q8_0: Mistral-Q8_0-00002.gguf")
        await term.press("up", "enter")
        await term.at(ConfirmModal)
        assert f"Pull {REPO}:Q4_K_M (4.37 GB)?" in shown(term)
        await term.press("n")
        await term.at(HubSearchScreen)
        await term.press("enter")
        await term.at(ConfirmModal)
        await term.press("y")
        await term.at(ModelsScreen)
        bar = term.app.screen.query_one(ProgressBar)
        await term.until(lambda: bar.progress == 98_000_000)
        house.shelf.go_on.set()
        await term.until(lambda: "mistral-7b-instruct-gguf-q4_k_m is downloaded" in shown(term))
        assert house.shelf.pulled == [f"{REPO}:Q4_K_M"]
        assert house.shelf.forecasts == [FORECAST], "what was shown is kept"


async def test_escape_goes_back_step_by_step_to_the_whole_list(house: House) -> None:
    house.shelf.on_hub = found
    async with at_models(house, (80, 24)) as term:
        models = term.app.screen
        count = models.query_one(DataTable).row_count
        await search(term, "mistral")
        await term.until(lambda: rows(term, "quantisations"))
        await term.press("enter")
        screen = term.app.screen
        await term.until(lambda: screen.focused.id == "quantisations")
        await term.press("escape")
        await term.until(lambda: screen.focused.id == "repositories")
        await term.press("escape")
        await term.until(lambda: term.app.screen is models)
        assert models.query_one(DataTable).row_count == count
        assert isinstance(models.focused, DataTable)


async def test_a_second_search_ends_the_first_and_none_stops_the_screen(house: House) -> None:
    slow = threading.Event()

    def answer(words: str) -> SearchResult:
        if words == "first":
            slow.wait(DEADLINE_SECONDS)
            return replace(found(words), repositories=(FOUND,))
        return found(words)

    house.shelf.on_hub = answer
    async with at_models(house) as term:
        await search(term, "first")
        await term.until(lambda: "searching the hub for 'first'" in shown(term))
        term.app.screen.query_one(Input).value = "second"
        await term.press("enter")
        await term.until(lambda: len(rows(term, "repositories")) == 2)
        slow.set()
        await term.press("down")
        await term.until(lambda: "'second'" in shown(term))
        assert len(rows(term, "repositories")) == 2


async def test_without_the_hub_a_sentence_says_so_and_what_is_on_disk(house: House) -> None:
    async with at_models(house) as term:
        await search(term, "mistral")
        await term.until(lambda: "✗ the hub cannot be reached" in shown(term))
        assert "→ check the connection" in shown(term)
        assert "on disk: no model" in shown(term)
        await term.press("escape")
        await term.at(ModelsScreen)


@pytest.mark.usefixtures("roomy")
async def test_the_first_run_pulls_what_was_found_and_begins_with_it(bare: House) -> None:
    bare.shelf.on_hub = found
    bare.shelf.go_on.set()
    async with choosing(bare, (80, 24)) as term:
        await search(term, "mistral")
        await term.until(lambda: rows(term, "quantisations"))
        await term.press("enter", "enter")
        await term.at(ConfirmModal)
        await term.press("y")
        await term.at(ChatScreen)
        assert load_fallback_model(bare.config) == "mistral-7b-instruct-gguf-q4_k_m"


@pytest.mark.parametrize("leave", ["escape", "enter escape", "down escape", "tab escape"])
async def test_a_filter_without_a_model_never_traps(bare: House, leave: str) -> None:
    async with choosing(bare, (80, 24)) as term:
        screen = term.app.screen
        table = screen.query_one(DataTable)
        count = table.row_count
        await term.press("slash", *"mistrax")
        await term.until(lambda: table.row_count == 0)
        assert "No model here has 'mistrax'" in shown(term)
        for key in leave.split():
            await term.press(key)
            if key == "enter":
                await term.at(HubSearchScreen)
        await term.until(lambda: isinstance(term.app.screen, FirstRunScreen))
        await term.until(lambda: table.row_count == count)
        await term.until(lambda: screen.focused is table)
        assert screen.query_one(FilterInput).display is False
        await term.press("G")
        await term.until(lambda: table.cursor_row == count - 1)


async def test_a_filter_stays_for_the_list_until_escape(house: House) -> None:
    async with at_models(house, (80, 24)) as term:
        table = term.app.screen.query_one(DataTable)
        count = table.row_count
        await term.press("slash", *"qwen3-8b", "down")
        await term.until(lambda: term.app.screen.focused is table and table.row_count < count)
        await term.sees("esc Show all")
        await term.press("escape")
        await term.until(lambda: table.row_count == count)
