"""Commands after a slash, files after an at sign, saved prompts, and the forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events
from textual.widgets import Input, Static

from etui.errors import EtuiError
from etui.prompts.attachments import Attachment, join
from etui.runtime.routes import Route
from etui.tui.chat._composer import PartModal, VariablesModal
from etui.tui.chat._prompt import MenuEntry, Prompt, find_near, match_entries
from tests.support.tiny_projector import write_png
from tests.tui.fakes import MODEL, House
from tests.tui.screen import notices, running


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


def offered(prompt: Prompt) -> list[str]:
    return [item.title for item in prompt.menu._items] if prompt.menu.is_open else []


async def test_a_slash_lists_the_commands_of_the_palette_and_filters_them(house: House) -> None:
    async with running(house) as term:
        prompt = term.prompt
        for typed in ("/zzz", "/zzz and more", "/nwe"):
            prompt.text = typed
            await term.press("enter")
            await term.told(f"there is no command {typed.split()[0]}")
            assert prompt.text == typed
        assert "begin with //" in notices(term.app)
        assert "did you mean /chat: new" in notices(term.app)
        prompt.text = ""
        await term.press("slash")
        await term.until(lambda: "chat: new" in offered(prompt))
        assert any(title.startswith("policy: ") for title in offered(prompt)), "those of the app"
        await term.press(*"quiet")
        await term.until(lambda: offered(prompt)[:1] == ["energy: quiet mode"])
        await term.press("enter")
        await term.told("quiet mode is on")
        assert prompt.text == ""
        assert offered(prompt) == []
        await term.press("slash", *"policy")
        await term.until(lambda: len(offered(prompt)) >= 3)
        second = offered(prompt)[1]
        await term.press("down", "tab")
        await term.until(lambda: prompt.text == f"/{second}")
        await term.press("escape")
        await term.until(lambda: offered(prompt) == [])
        assert prompt.text == f"/{second}", "Esc closes the list alone"
        await term.press("enter")
        await term.told(f"next questions: {second.replace('policy: ', 'policy ')}")
        assert house.runner.asked == []


async def test_a_file_is_attached_logged_whole_and_shown_as_one_line(
    house: House, folder: Path
) -> None:
    async with running(house) as term:
        await term.answer('Sum up @notes.md and @"my notes.md" for a@b.c')
        query = house.runner.asked[0][0].text
        text = 'Sum up @notes.md and @"my notes.md" for a@b.c'
        files = [
            Attachment("notes.md", "alpha beta gamma\n"),
            Attachment("my notes.md", "delta\n"),
        ]
        assert query == join(text, files)
        assert house.runner.saved[0].query == query
        shown = term.text(0, "question")
        assert "@notes.md 7 tokens" in shown, ""
        assert "alpha" not in shown


async def test_a_picture_is_attached_and_goes_with_later_questions(
    house: House, folder: Path
) -> None:
    (folder / "face.png").write_bytes(write_png(30, 20))
    async with running(house) as term:
        term.prompt.text = "who is @face.png ?"
        await term.until(lambda: f"{MODEL} cannot see pictures" in str(term.prompt.border_subtitle))
        term.prompt.text = ""
        await term.answer("who is @face.png ?")
        first = house.runner.asked[0][0]
        (picture,) = first.pictures
        assert (picture.width, picture.height) == (30, 20)
        assert first.text == f"who is @face.png ?\n\n{picture.mark}"
        await term.answer("how old?")
        assert house.runner.asked[1][0].pictures == (picture,)


async def test_the_paths_of_a_folder_are_offered_and_completed(house: House, folder: Path) -> None:
    async with running(house) as term:
        prompt = term.prompt
        await term.press(*"see @my")
        await term.until(lambda: offered(prompt) == ["my notes.md"])
        await term.press("enter")
        await term.until(lambda: prompt.text == 'see @"my notes.md"')
        assert house.runner.asked == [], "Enter takes the path and does not send yet"
        await term.press("enter")
        await term.answered(1)
        assert "delta" in house.runner.asked[0][0].text


async def test_what_cannot_be_attached_is_refused_and_the_question_comes_back(
    house: House, folder: Path
) -> None:
    async with running(house) as term:
        for question, said in (
            ("who is @cat.png", "cat.png is damaged: it is cut off"),
            ("sum up @notse.md", "there is no file notse.md"),
            ("sum up @./missing", "there is no file ./missing"),
        ):
            await term.ask(question)
            await term.told(said)
            await term.until(lambda question=question: term.prompt.text == question)
        assert house.runner.asked == []
        await term.answer("who is @alice there")  # which can only be a name
        assert house.runner.asked[0][0].text == "who is @alice there"


async def test_a_file_too_long_offers_a_part(house: House, folder: Path) -> None:
    async with running(house) as term:
        prompt = term.prompt
        await term.ask("sum up @long.txt")
        await term.at(PartModal)
        await term.press("escape")
        await term.until(lambda: prompt.text == "sum up @long.txt")
        assert house.runner.asked == []
        await term.press("end", "escape", "enter")
        await term.at(PartModal)
        what = str(term.app.screen.query_one(".title", Static).content)
        assert "long.txt has 6,0" in what
        assert "holds 2,000" in what
        await term.press("down", "down", "enter")
        await term.answered(1)
        query = house.runner.asked[0][0].text
        assert "line 0\n" in query
        assert "line 2999\n" in query
        assert "lines left out" in query
        assert len(query.split()) < 2000


async def test_a_long_paste_too_long_for_the_context_offers_a_part_too(house: House) -> None:
    async with running(house) as term:
        prompt = term.prompt
        prompt.post_message(events.Paste("word\r" * 5000))
        await term.until(lambda: "[paste 1:" in prompt.text)
        await term.press("enter")
        await term.at(PartModal)
        await term.press("enter")
        await term.answered(1)
        assert "Paste 1:\n```text\nword\nword\n" in house.runner.asked[0][0].text


async def test_the_forecast_of_the_text_is_in_the_frame(house: House) -> None:
    async with running(house) as term:
        prompt = term.prompt
        await term.press(*"one two three four")
        await term.until(lambda: prompt.border_subtitle == "4 tokens · ≈2.0 J")
        house.runner.forecast_arms = (("quick", 0.5), ("think", 10.0))
        await term.press(*" five")
        await term.until(lambda: prompt.border_subtitle == "5 tokens · quick ≈2.5 J · think ≈50 J")
        house.runner.exact = False
        house.runner.forecast_arms = (("quick", None),)
        await term.press(*" six")
        await term.until(lambda: prompt.border_subtitle == "≈6 tokens")
        prompt.text = ""
        await term.until(lambda: prompt.border_subtitle == "")


async def test_the_vocabulary_is_loaded_once_the_model_is_and_before_a_key(house: House) -> None:
    async with running(house) as term:
        await term.until(lambda: house.runner.counted_for)
        assert house.runner.counted_for == [MODEL]
        assert house.runner.forecast_asked == []


async def test_a_forecast_of_another_text_is_never_shown(house: House) -> None:
    house.runner.forecast_go.clear()
    async with running(house) as term:
        prompt = term.prompt
        seen: set[str] = set()
        prompt.watch(prompt, "_border_subtitle", lambda: seen.add(prompt.border_subtitle))
        await term.press(*"one")
        await term.until(lambda: house.runner.forecast_asked)
        await term.press(*" two three")
        await term.until(lambda: prompt.text == "one two three")
        assert len(house.runner.forecast_asked) == 1, "the next one waits for it"
        assert prompt.border_subtitle == "≈4 tokens", "an estimate of this text, without joules"
        house.runner.forecast_go.set()
        await term.until(lambda: prompt.border_subtitle == "3 tokens · ≈1.5 J")
        assert house.runner.forecast_asked[-1] == "one two three"
        assert len(house.runner.forecast_asked) == 2, "what lay between is skipped"
        assert "1 token · ≈0.50 J" not in seen


async def test_a_forecast_that_fails_says_why_and_another_one_works(house: House) -> None:
    house.runner.forecast_error = EtuiError("no [model] here", "pull one")
    async with running(house) as term:
        prompt = term.prompt
        await term.press(*"one")
        await term.until(lambda: "no \\[model] here" in prompt.border_subtitle)
        house.runner.forecast_error = None
        await term.press(*" two")
        await term.until(lambda: prompt.border_subtitle == "2 tokens · ≈1.0 J")
        assert term.app.is_running


async def test_a_saved_prompt_asks_for_its_variables_and_is_for_its_turn_alone(
    house: House,
) -> None:
    save_prompt(
        house, "tr", "text: Say {{what}} in {{language}}.\nsystem: You translate.\narm: think\n"
    )
    async with running(house) as term:
        prompt = term.prompt
        await term.press("slash", *"tr")
        await term.until(lambda: offered(prompt)[:1] == ["tr"])
        await term.press("enter")
        await term.at(VariablesModal)
        await term.until(lambda: isinstance(term.app.focused, Input))
        await term.press(*"hi", "enter", "enter")
        await term.at(VariablesModal)
        await term.press(*"French", "enter")
        await term.answered(1)
        query, route = house.runner.asked[0]
        assert (query.text, query.system) == ("Say hi in French.", "You translate.")
        assert route == Route("balanced", arm="think")
        assert house.runner.saved[0].settings == {"prompt": "tr"}
        await term.answer("plain")
        query, route = house.runner.asked[1]
        assert query.system is None
        assert route == Route("balanced")


async def test_a_turn_with_a_saved_prompt_keeps_it_when_it_is_edited_or_asked_again(
    house: House,
) -> None:
    save_prompt(house, "tr", "text: Say {{what}}\nsystem: You translate.\narm: think\n")
    house.runner.other = Route("balanced", arm="large")
    async with running(house) as term:
        prompt = term.prompt
        prompt.text = "/tr good morning"
        await term.press("enter")
        await term.answered(1)
        assert house.runner.asked[0][0].text == "Say good morning", "words fill its one variable"
        await term.press("shift+tab", "e")
        await term.until(lambda: prompt.text == "Say good morning")
        await term.press("end", *"!", "enter")
        await term.answered(2)
        query, route = house.runner.asked[1]
        assert (query.text, query.system) == ("Say good morning!", "You translate.")
        assert route.arm == "think"
        await term.press("shift+tab", "plus")
        await term.answered(3)
        query, route = house.runner.asked[2]
        assert query.system == "You translate."
        assert route.arm == "large"
        assert house.runner.saved[2].settings["prompt"] == "tr"


async def test_a_broken_prompt_is_named_with_its_line_and_the_others_work(house: House) -> None:
    save_prompt(house, "bad", "text: x\nsytem: y\n")
    save_prompt(house, "good", "text: Hello\n")
    async with running(house) as term:
        prompt = term.prompt
        await term.press("slash")
        await term.told("bad.yaml:2:1")
        assert offered(prompt)[:2] == ["explain", "good"]
        await term.press(*"good", "enter")
        await term.answered(1)
        assert house.runner.asked[0][0].text == "Hello"
        assert term.source(0)
        await term.press("slash")
        await term.until(lambda: offered(prompt))
        assert notices(term.app).count("bad.yaml:2:1") == 1, "not again for each slash"


async def test_a_saved_prompt_that_was_put_back_keeps_its_system_prompt_until_it_is_emptied(
    house: House, folder: Path
) -> None:
    save_prompt(house, "tr", "text: Say @./none\nsystem: You translate.\n")
    async with running(house) as term:
        prompt = term.prompt
        prompt.text = "/tr"
        await term.press("enter")
        await term.until(lambda: prompt.text == "Say @./none")
        prompt.text = ""
        await term.until(lambda: prompt.edited is None)
        await term.answer("plain")
        assert house.runner.asked[0][0].system is None, "nothing is left of what was emptied"
        prompt.text = "/tr"
        await term.press("enter")
        await term.until(lambda: prompt.text == "Say @./none")
        prompt.text = "Say @notes.md"
        await term.press("enter")
        await term.answered(2)
        assert house.runner.asked[1][0].system == "You translate."
        await term.answer("plain")
        assert house.runner.asked[2][0].system is None


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (40, 10)])
async def test_the_list_lies_over_the_transcript_one_line_an_item(
    house: House, size: tuple[int, int]
) -> None:
    async with running(house, size) as term:
        prompt = term.prompt
        await term.press("slash")
        await term.until(lambda: prompt.menu.region.height > 0)
        region = prompt.menu.region
        assert region.height == min(8, len(offered(prompt)))
        assert region.y >= 0
        assert region.bottom <= prompt.region.y
        assert region.right <= size[0]
        lines = term.drawn.split("\n")[region.y : region.bottom]
        for line, title in zip(lines, offered(prompt), strict=False):
            assert line.strip().startswith(title[:20])


def test_commands_are_found_by_any_of_their_words() -> None:
    titles = ["chat: new", "chat: open …", "model: qwen", "energy: quiet mode"]
    entries = [MenuEntry(title, "") for title in titles]
    assert [e.title for e in match_entries("/", entries)] == titles
    assert match_entries("/new", entries)[0].title == "chat: new"
    assert match_entries("/Quiet", entries)[0].title == "energy: quiet mode"
    assert match_entries("/chat: o", entries)[0].title == "chat: open …"
    assert match_entries("/xyz", entries) == ()
    assert find_near("/opne", entries) == ["chat: open …"]
    assert find_near("/", entries) == []
