"""Commands after a slash, files after an at sign, saved prompts, and the forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from etui.errors import EtuiError
from etui.prompts.attachments import Attachment, join
from etui.runtime.routes import Route
from etui.tui.chat._composer import PartModal, VariablesModal
from etui.tui.chat._prompt import Prompt, SlashEntry, find_near, match_entries
from tests.tui.fakes import MODEL, House, until
from tests.tui.screen import answered, ask, drawn, notices, source_of, text_of, turns


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files to attach."""
    place = tmp_path / "here"
    place.mkdir()
    (place / "notes.md").write_text("alpha beta gamma\n")
    (place / "my notes.md").write_text("delta\n")
    (place / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (place / "long.txt").write_text("".join(f"line {n}\n" for n in range(3000)))
    monkeypatch.chdir(place)
    return place


def save_prompt(house: House, name: str, text: str) -> None:
    folder = house.config.home / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)


async def started(pilot: Pilot[Any]) -> Prompt:
    await until(pilot, lambda: pilot.app.screen.query_one(Prompt))
    await until(pilot, lambda: pilot.app.backend is not None)  # type: ignore[attr-defined]
    prompt: Prompt = pilot.app.screen.query_one(Prompt)
    return prompt


def offered(prompt: Prompt) -> list[str]:
    return [item.title for item in prompt.menu._items] if prompt.menu.is_open else []


async def test_a_slash_lists_the_commands_of_the_palette_and_filters_them(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await pilot.press("slash")
        await until(pilot, lambda: "chat: new" in offered(prompt))
        assert any(title.startswith("policy: ") for title in offered(prompt)), "those of the app"
        await pilot.press(*"quiet")
        await until(pilot, lambda: offered(prompt)[:1] == ["energy: quiet mode"])
        await pilot.press("enter")
        await until(pilot, lambda: "quiet mode is on" in notices(app))
        assert prompt.text == ""
        assert offered(prompt) == []
        assert house.runner.asked == []


async def test_tab_completes_a_command_and_the_arrows_choose_another(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await pilot.press("slash", *"policy")
        await until(pilot, lambda: len(offered(prompt)) >= 3)
        second = offered(prompt)[1]
        await pilot.press("down", "tab")
        await until(pilot, lambda: prompt.text == f"/{second}")
        await pilot.press("escape")
        await until(pilot, lambda: offered(prompt) == [])
        assert prompt.text == f"/{second}", "Esc closes the list alone"
        await pilot.press("enter")
        await until(pilot, lambda: f"next questions: {second}".replace(": policy: ", ": policy ")
                    in notices(app))  # fmt: skip


@pytest.mark.parametrize("typed", ["/zzz", "/zzz and more", "/nwe"])
async def test_an_unknown_command_is_never_sent_and_stays(house: House, typed: str) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        prompt.text = typed
        await pilot.press("enter")
        await until(pilot, lambda: f"there is no command {typed.split()[0]}" in notices(app))
        assert "begin with //" in notices(app)
        if typed == "/nwe":
            assert "did you mean /chat: new" in notices(app)
        assert prompt.text == typed
        assert house.runner.asked == []


async def test_a_file_is_attached_logged_whole_and_shown_as_one_line(
    house: House, folder: Path
) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await started(pilot)
        await ask(pilot, 'Sum up @notes.md and @"my notes.md" for a@b.c')
        await answered(pilot, house, 1)
        query = house.runner.asked[0][0].text
        text = 'Sum up @notes.md and @"my notes.md" for a@b.c'
        files = [
            Attachment("notes.md", "alpha beta gamma\n"),
            Attachment("my notes.md", "delta\n"),
        ]
        assert query == join(text, files)
        assert house.runner.saved[0].query == query
        shown = text_of(turns(app)[0], "question")
        assert "@notes.md 7 tokens" in shown, ""
        assert "alpha" not in shown


async def test_the_paths_of_a_folder_are_offered_and_completed(house: House, folder: Path) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await pilot.press(*"see @my")
        await until(pilot, lambda: offered(prompt) == ["my notes.md"])
        await pilot.press("enter")
        await until(pilot, lambda: prompt.text == 'see @"my notes.md"')
        assert house.runner.asked == [], "Enter takes the path and does not send yet"
        await pilot.press("enter")
        await answered(pilot, house, 1)
        assert "delta" in house.runner.asked[0][0].text


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("who is @cat.png", "cat.png is a PNG image: these models read text only"),
        ("sum up @notse.md", "there is no file notse.md"),
        ("sum up @./missing", "there is no file ./missing"),
    ],
)
async def test_what_cannot_be_attached_is_refused_and_the_question_comes_back(
    house: House, folder: Path, question: str, said: str
) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await ask(pilot, question)
        await until(pilot, lambda: said in notices(app))
        await until(pilot, lambda: prompt.text == question)
        assert house.runner.asked == []


async def test_an_at_sign_that_names_no_file_stays_text(house: House, folder: Path) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await started(pilot)
        await ask(pilot, "who is @alice there")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][0].text == "who is @alice there"


async def test_a_file_too_long_offers_a_part(house: House, folder: Path) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await ask(pilot, "sum up @long.txt")
        await until(pilot, lambda: isinstance(app.screen, PartModal))
        await pilot.press("escape")
        await until(pilot, lambda: prompt.text == "sum up @long.txt")
        assert house.runner.asked == []
        await pilot.press("end", "escape", "enter")
        await until(pilot, lambda: isinstance(app.screen, PartModal))
        what = app.screen._what  # type: ignore[attr-defined]
        assert "long.txt has 6,0" in what
        assert "holds 2,000" in what
        await pilot.press("down", "down", "enter")
        await answered(pilot, house, 1)
        query = house.runner.asked[0][0].text
        assert "line 0\n" in query
        assert "line 2999\n" in query
        assert "lines left out" in query
        assert len(query.split()) < 2000


async def test_a_long_paste_too_long_for_the_context_offers_a_part_too(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        prompt.post_message(events.Paste("word\r" * 5000))
        await until(pilot, lambda: "[paste 1:" in prompt.text)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PartModal))
        await pilot.press("enter")
        await answered(pilot, house, 1)
        assert "Paste 1:\n```text\nword\nword\n" in house.runner.asked[0][0].text


async def test_the_forecast_of_the_text_is_in_the_frame(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await pilot.press(*"one two three four")
        await until(pilot, lambda: prompt.border_subtitle == "4 tokens · ≈2.0 J")
        house.runner.forecast_arms = (("quick", 0.5), ("think", 10.0))
        await pilot.press(*" five")
        await until(
            pilot, lambda: prompt.border_subtitle == "5 tokens · quick ≈2.5 J · think ≈50 J"
        )
        house.runner.exact = False
        house.runner.forecast_arms = (("quick", None),)
        await pilot.press(*" six")
        await until(pilot, lambda: prompt.border_subtitle == "≈6 tokens")
        prompt.text = ""
        await until(pilot, lambda: prompt.border_subtitle == "")


async def test_the_vocabulary_is_loaded_once_the_model_is_and_before_a_key(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: house.runner.counted_for)
        assert house.runner.counted_for == [MODEL]
        assert house.runner.forecast_asked == []


async def test_a_forecast_of_another_text_is_never_shown(house: House) -> None:
    app = house.app()
    house.runner.forecast_go.clear()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        seen: set[str] = set()
        prompt.watch(prompt, "_border_subtitle", lambda: seen.add(prompt.border_subtitle))
        await pilot.press(*"one")
        await until(pilot, lambda: house.runner.forecast_asked)
        await pilot.press(*" two three")
        await until(pilot, lambda: prompt.text == "one two three")
        assert len(house.runner.forecast_asked) == 1, "the next one waits for it"
        assert prompt.border_subtitle == "≈4 tokens", "an estimate of this text, without joules"
        house.runner.forecast_go.set()
        await until(pilot, lambda: prompt.border_subtitle == "3 tokens · ≈1.5 J")
        assert house.runner.forecast_asked[-1] == "one two three"
        assert len(house.runner.forecast_asked) == 2, "what lay between is skipped"
        assert "1 token · ≈0.50 J" not in seen


async def test_a_forecast_that_fails_says_why_and_another_one_works(house: House) -> None:
    app = house.app()
    house.runner.forecast_error = EtuiError("no [model] here", "pull one")
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await pilot.press(*"one")
        await until(pilot, lambda: "no \\[model] here" in prompt.border_subtitle)
        house.runner.forecast_error = None
        await pilot.press(*" two")
        await until(pilot, lambda: prompt.border_subtitle == "2 tokens · ≈1.0 J")
        assert app.is_running


async def test_a_saved_prompt_asks_for_its_variables_and_is_for_its_turn_alone(
    house: House,
) -> None:
    save_prompt(
        house, "tr", "text: Say {{what}} in {{language}}.\nsystem: You translate.\narm: think\n"
    )
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await pilot.press("slash", *"tr")
        await until(pilot, lambda: offered(prompt)[:1] == ["tr"])
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, VariablesModal))
        await until(pilot, lambda: isinstance(app.focused, Input))
        await pilot.press(*"hi", "enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, VariablesModal))
        await pilot.press(*"French", "enter")
        await answered(pilot, house, 1)
        query, route = house.runner.asked[0]
        assert (query.text, query.system) == ("Say hi in French.", "You translate.")
        assert route == Route("balanced", arm="think")
        assert house.runner.saved[0].settings == {"prompt": "tr"}
        await ask(pilot, "plain")
        await answered(pilot, house, 2)
        query, route = house.runner.asked[1]
        assert query.system is None
        assert route == Route("balanced")


async def test_a_turn_with_a_saved_prompt_keeps_it_when_it_is_edited_or_asked_again(
    house: House,
) -> None:
    save_prompt(house, "tr", "text: Say {{what}}\nsystem: You translate.\narm: think\n")
    app = house.app()
    house.runner.other = Route("balanced", arm="large")
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        prompt.text = "/tr good morning"
        await pilot.press("enter")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][0].text == "Say good morning", "words fill its one variable"
        await pilot.press("shift+tab", "e")
        await until(pilot, lambda: prompt.text == "Say good morning")
        await pilot.press("end", *"!", "enter")
        await answered(pilot, house, 2)
        query, route = house.runner.asked[1]
        assert (query.text, query.system) == ("Say good morning!", "You translate.")
        assert route.arm == "think"
        await pilot.press("shift+tab", "plus")
        await answered(pilot, house, 3)
        query, route = house.runner.asked[2]
        assert query.system == "You translate."
        assert route.arm == "large"
        assert house.runner.saved[2].settings["prompt"] == "tr"


async def test_a_broken_prompt_is_named_with_its_line_and_the_others_work(house: House) -> None:
    save_prompt(house, "bad", "text: x\nsytem: y\n")
    save_prompt(house, "good", "text: Hello\n")
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        await pilot.press("slash")
        await until(pilot, lambda: "bad.yaml:2:1" in notices(app))
        assert offered(prompt)[0] == "good"
        await pilot.press(*"good", "enter")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][0].text == "Hello"
        assert source_of(turns(app)[0])
        await pilot.press("slash")
        await until(pilot, lambda: offered(prompt))
        assert notices(app).count("bad.yaml:2:1") == 1, "not again for each slash"


async def test_a_saved_prompt_that_was_put_back_keeps_its_system_prompt_until_it_is_emptied(
    house: House, folder: Path
) -> None:
    save_prompt(house, "tr", "text: Say @./none\nsystem: You translate.\n")
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        prompt.text = "/tr"
        await pilot.press("enter")
        await until(pilot, lambda: prompt.text == "Say @./none")
        prompt.text = "Say @notes.md"
        await pilot.press("enter")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][0].system == "You translate."
        await ask(pilot, "plain")
        await answered(pilot, house, 2)
        assert house.runner.asked[1][0].system is None


async def test_a_prompt_put_back_and_emptied_leaves_nothing_for_the_next_question(
    house: House, folder: Path
) -> None:
    save_prompt(house, "tr", "text: Say @./none\nsystem: You translate.\n")
    app = house.app()
    async with app.run_test(size=(120, 36)) as pilot:
        prompt = await started(pilot)
        prompt.text = "/tr"
        await pilot.press("enter")
        await until(pilot, lambda: prompt.text == "Say @./none")
        prompt.text = ""
        await until(pilot, lambda: prompt.edited is None)
        await ask(pilot, "plain")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][0].system is None


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (40, 10)])
async def test_the_list_lies_over_the_transcript_one_line_an_item(
    house: House, size: tuple[int, int]
) -> None:
    app = house.app()
    async with app.run_test(size=size) as pilot:
        prompt = await started(pilot)
        await pilot.press("slash")
        await until(pilot, lambda: prompt.menu.region.height > 0)
        region = prompt.menu.region
        assert region.height == min(8, len(offered(prompt)))
        assert region.y >= 0
        assert region.bottom <= prompt.region.y
        assert region.right <= size[0]
        lines = drawn(app).split("\n")[region.y : region.bottom]
        for line, title in zip(lines, offered(prompt), strict=False):
            assert line.strip().startswith(title[:20])


def test_commands_are_found_by_any_of_their_words() -> None:
    titles = ["chat: new", "chat: open …", "model: qwen", "energy: quiet mode"]
    entries = [SlashEntry(title, "") for title in titles]
    assert [e.title for e in match_entries("/", entries)] == titles
    assert match_entries("/new", entries)[0].title == "chat: new"
    assert match_entries("/Quiet", entries)[0].title == "energy: quiet mode"
    assert match_entries("/chat: o", entries)[0].title == "chat: open …"
    assert match_entries("/xyz", entries) == ()
    assert find_near("/opne", entries) == ["chat: open …"]
    assert find_near("/", entries) == []
