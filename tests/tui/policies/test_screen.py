"""The policies screen on real files: list, check, inquiries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from etui.config.config import Config, shipped_dir
from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance, format_fitted
from etui.learning.graded import ArmFacts, Graded
from etui.learning.predictor import FITTED_ENDING
from etui.log.writer import TurnWriter
from tests.fixtures.turns import TURN
from tests.tui.policies_app import OWN, editing, keep, put_models


async def test_the_policy_in_use_is_open_and_the_list_says_whose_each_is(config: Config) -> None:
    keep(config, "frugal", OWN)
    keep(config, "mine", OWN.replace("joules", "\x1b[31mjoules"))
    async with editing(config, None, "balanced") as app:
        lines = app.shelf_lines()
        assert [line.split()[0] for line in lines] == ["●", "best", "frugal", "mine"]
        assert "balanced  in use  shipped" in lines[0]
        assert "frugal  yours, replaces the shipped one" in lines[2]
        assert "\x1b" not in lines[3]
        assert app.pane.text == (shipped_dir() / "policies" / "balanced.yaml").read_text()


async def test_faults_and_warnings_stand_at_their_lines_and_space_goes_there(
    config: Config,
) -> None:
    async with editing(config) as app:
        app.type_over("arm: quick", "arm: careful")
        await app.says("✓ valid, 1 warning")
        (told,) = app.problem_lines()
        assert told.startswith("! warning")
        assert "probe: arm quick, expected careful" in told
        assert {is_error for is_error, _ in app.pane.editor._marks.values()} == {False}
        app.type_over("reasoning: direct", "reasoning: driect")
        await app.says("✗ 1 error")
        (line,) = [n for n, text in enumerate(app.pane.text.splitlines()) if "driect" in text]
        assert {at: is_error for at, (is_error, _) in app.pane.editor._marks.items()} == {
            line: True
        }
        (told,) = app.problem_lines()
        assert told.startswith(f"✗ error {line + 1}:")
        assert "did you mean 'direct'?" in told
        assert "✗" in app.drawn().splitlines()[line + 1]
        app.screen.query_one("#problems").focus()
        await app.press("space")
        await app.until(lambda: app.pane.editor.has_focus)
        row, column = app.pane.editor.cursor_location
        assert app.pane.editor.document.get_line(row)[column:].startswith("driect")


async def test_a_question_is_explained_by_the_text_that_is_not_saved(config: Config) -> None:
    put_models(config, "smollm2-135m")
    async with editing(config) as app:
        await app.press("ctrl+e", *"why")
        await app.until(lambda: "everything-else" in app.answer)
        assert "arm quick" in app.answer
        assert "no long" in app.answer
        app.type_over("use: quick", "use: careful")
        await app.until(lambda: "arm careful" in app.answer)
        app.type_over("use: careful", "use: nobody")
        await app.until(lambda: "the policy has 1 error" in app.answer)


def keep_fit(config: Config, *arms: str, model: str = "smollm2-135m") -> None:
    """Save a fit of the policy mine, of 40 answers of each arm."""
    table = Graded(
        arms, ("",) * 40, tuple(range(40)), (), np.tile([[True], [False]], (20, len(arms))),
        facts={arm: ArmFacts(model) for arm in arms},
    )  # fmt: skip
    origin = Provenance(
        fitted_at="2026-01-01T00:00:00Z", source=("run",), data_sha256="", n=40, etui="0"
    )
    text = format_fitted(fit_accuracy(table, origin, agreements=()))
    (config.policies_dir / f"mine{FITTED_ENDING}").write_text(text, encoding="utf-8")


async def test_the_title_tells_the_age_of_the_fit_and_what_is_amiss(config: Config) -> None:
    put_models(config, "smollm2-135m")
    keep(config, "mine", OWN)
    keep_fit(config, "quick")
    async with editing(config) as app:
        await app.until(lambda: "yours · fit" in app.drawn())
        assert " days ago" in app.drawn()
        await app.press("ctrl+e", *"why")
        await app.until(lambda: "fit of 2026-01-01, " in app.answer)
        assert "not fitted: careful" in app.answer
    keep_fit(config, "gone")
    async with editing(config) as app:
        await app.until(lambda: "of other arms" in app.drawn())
    (config.policies_dir / f"mine{FITTED_ENDING}").write_text("{", encoding="utf-8")
    async with editing(config) as app:
        await app.until(lambda: "its fit is damaged" in app.drawn())
        await app.press("ctrl+e", *"why")
        await app.until(lambda: "is not valid JSON, or truncated" in app.answer)


async def test_arms_of_another_model_than_the_fitted_one_are_marked(config: Config) -> None:
    keep(config, "mine", OWN)
    keep_fit(config, "quick", "careful", model="qwen3-0.6b")
    async with editing(config) as app:
        await app.until(lambda: "with another model" in app.drawn())
        await app.until(lambda: any("fit of arm" in line for line in app.problem_lines()))
        assert False in [is_error for is_error, _ in app.pane.editor._marks.values()]


async def test_a_replay_tells_what_would_move_before_anything_is_saved(config: Config) -> None:
    put_models(config, "smollm2-135m")
    with TurnWriter(config) as writer:
        for number in range(3):
            turn = replace(TURN, turn_id=f"id{number:010}", query="Why?", arm="quick", hops=())
            writer.save_turn(replace(turn, model="smollm2-135m"))
    async with editing(config) as app:
        await app.press("ctrl+r")
        await app.until(lambda: "0 of 3 questions" in app.answer)
        app.type_over("use: quick", "use: careful")
        await app.press("ctrl+r")
        await app.until(lambda: "3 of 3 questions" in app.answer)
        assert "3 quick on smollm2-135m → careful on smollm2-135m" in app.answer
        assert "measured:" in app.answer
        assert "expected accuracy" in app.answer
        assert (config.policies_dir / "mine.yaml").read_text() == OWN


async def test_a_diff_shows_values_answers_and_lines(config: Config) -> None:
    keep(config, "frugal", OWN)
    async with editing(config, None, "frugal") as app:
        await app.press("ctrl+b")
        await app.until(lambda: "no differences" in app.answer)
        app.type_over("use: quick", "use: careful # dearer")
        await app.press("ctrl+b")
        await app.until(lambda: "~ rules.everything-else.use: quick -> careful" in app.answer)
        assert "1 of 1 questions are answered differently" in app.answer
        assert "+ use: careful # dearer" in app.answer
        app.policies.action_compare("shipped")
        await app.until(lambda: "signals.fenced" in app.answer)


async def test_control_characters_are_drawn_and_never_obeyed(config: Config) -> None:
    async with editing(config, OWN + "# \x1b]0;title\x07 \x9b31m\n") as app:
        app.pane.editor.go_to(app.pane.editor.document.line_count, 1)
        await app.until(lambda: "␛]0;title␇" in app.drawn())
        assert not {"\x1b", "\x07", "\x9b"} & set(app.drawn())


async def test_a_policy_named_by_its_path_is_in_the_list(config: Config) -> None:
    path = config.home / "elsewhere.yaml"
    path.write_text(OWN, encoding="utf-8")
    async with editing(config, None, str(path)) as app:
        assert app.pane.text == OWN
        assert "in use" in app.shelf_lines()[-1]


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
async def test_a_narrow_terminal_shows_one_side_at_a_time(
    config: Config, size: tuple[int, int]
) -> None:
    async with editing(config, size=size) as app:
        aside, desk = app.screen.query_one("#aside"), app.screen.query_one("#desk")
        assert (aside.display, desk.display) == (True, False)
        await app.press("enter")
        await app.until(lambda: app.pane.editor.has_focus)
        assert (aside.display, desk.display) == (False, True)
        assert "version: 1" in app.drawn()
        app.type_over("direct", "driect")
        await app.says("✗ 1 error")
        await app.press("ctrl+e")
        await app.until(lambda: app.screen.query_one("#question").has_focus)
        await app.press("x")
        await app.until(lambda: "1 error" in app.answer)
        await app.press("escape")
        await app.until(lambda: app.screen.query_one("#shelf").has_focus)
        await app.pilot.resize_terminal(140, 40)
        await app.until(lambda: aside.display and desk.display)


async def test_without_a_highlighter_the_text_is_plain(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textual.widgets._text_area.get_language", lambda _name: None)
    async with editing(config) as app:
        assert app.pane.editor.language is None
        assert "version: 1" in app.drawn()


async def test_a_huge_text_is_refused_without_being_coloured(config: Config) -> None:
    async with editing(config) as app:
        assert app.pane.editor.language == "yaml"
        app.pane.editor.insert("# " + "x" * 1_000_000 + "\n", (0, 0))
        await app.says("✗ 1 error")
        assert "larger than" in app.problem_lines()[0]
        assert app.pane.editor.language is None
