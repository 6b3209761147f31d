"""Typing in the editor of policies: indent, completions, help, faults, and finding a text."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.pilot import Pilot
from textual.widgets import Input, Static

from etui.config.config import Config
from tests.tui.fakes import until
from tests.tui.policies_app import OWN, PoliciesApp, keep

SIZE = (140, 40)


@asynccontextmanager
async def editing(
    config: Config, text: str = OWN, at: str = "", size: tuple[int, int] = SIZE
) -> AsyncIterator[tuple[Pilot[None], PoliciesApp]]:
    """The editor with the cursor behind ``at``, and with the focus."""
    keep(config, "mine", text)
    app = PoliciesApp(config, "mine")
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "valid" in app.verdict or "error" in app.verdict)
        put_cursor(app, at)
        app.policies._go(app.pane.editor, aside=False)
        await until(pilot, lambda: app.pane.editor.has_focus)
        yield pilot, app


def put_cursor(app: PoliciesApp, behind: str) -> None:
    before = app.pane.text[: app.pane.text.index(behind) + len(behind)]
    app.pane.editor.move_cursor((before.count("\n"), len(before.rpartition("\n")[2])))


def offered(app: PoliciesApp) -> str:
    """What is shown behind the cursor."""
    return app.pane.editor.suggestion


def hint(app: PoliciesApp) -> str:
    return str(app.policies.query_one(".hint", Static).content)


async def test_enter_indents_the_new_line(config: Config) -> None:
    async with editing(config, at="  - name: long-questions") as (pilot, app):
        await pilot.press("enter", *"priority: 5", "enter", "x")
        assert "  - name: long-questions\n    priority: 5\n    x\n" in app.pane.text
        await pilot.press("ctrl+z")
        assert "priority: 5" in app.pane.text


async def test_an_arm_is_completed_from_what_is_typed(config: Config) -> None:
    async with editing(config, at="- name: everything-else\n    use: ") as (pilot, app):
        await pilot.press("delete", "delete", "delete", "delete", "delete", "c")
        assert offered(app) == "areful"
        await until(pilot, lambda: "use: careful" in app.drawn())
        await pilot.press("tab")
        assert "- name: everything-else\n    use: careful\n" in app.pane.text
        assert offered(app) == ""
        await pilot.press("ctrl+z")
        assert "everything-else\n    use: c\n" in app.pane.text


async def test_all_is_offered_when_asked_and_escape_drops_it(config: Config) -> None:
    async with editing(config, at="careful: {model: small, reasoning: cot") as (pilot, app):
        await pilot.press(*", m")
        assert offered(app) == "ax_tokens: "
        await pilot.press("ctrl+@")
        assert offered(app) == "in_p: "
        await pilot.press("right")
        assert "reasoning: cot, min_p: }" in app.pane.text
        await pilot.press(*"0.1, see")
        assert offered(app) == "d: "
        await pilot.press("escape")
        assert offered(app) == ""
        assert app.pane.editor.has_focus
        await pilot.press("escape")
        await until(pilot, lambda: app.policies.query_one("#shelf").has_focus)


async def test_enter_breaks_the_line_and_a_moved_cursor_drops_what_is_offered(
    config: Config,
) -> None:
    text = OWN.replace("probes:", "\nprobes:")
    async with editing(config, text, at="    use: quick\n") as (pilot, app):
        await pilot.press(*"shadow:", "enter", *"policy: b")
        assert offered(app) == "alanced"
        await pilot.press("left")
        assert offered(app) == ""
        await pilot.press("right", "backspace", "b", "enter")
        assert offered(app) == ""
        assert "shadow:\n  policy: b\n" in app.pane.text


async def test_the_key_under_the_cursor_is_explained(config: Config) -> None:
    async with editing(config, at="priori") as (pilot, app):
        await until(pilot, lambda: hint(app).startswith("priority · whole number"))
        assert "Rules of higher priority are tried first." in hint(app)
        app.type_over("model: small, reasoning: direct", "model: smal, reasoning: direct")
        await until(pilot, lambda: "✗ 1 error" in app.verdict)
        put_cursor(app, "model: smal")
        await until(pilot, lambda: "unknown role or model 'smal'" in hint(app))


async def test_enter_on_a_fault_takes_its_suggestion_and_undo_brings_it_back(
    config: Config,
) -> None:
    text = OWN.replace("direct", "driect").replace("use: quick", "use: quik")
    async with editing(config, text) as (pilot, app):
        await until(pilot, lambda: "✗ 1 error" in app.verdict)
        app.screen.query_one("#problems").focus()
        await pilot.press("enter")
        await until(pilot, lambda: "unknown arm 'quik'" in "".join(app.problem_lines()))
        await pilot.press("enter")
        await until(pilot, lambda: "✓ valid" in app.verdict)
        assert app.pane.text == OWN
        app.pane.editor.focus()
        await pilot.press("ctrl+z")
        assert "use: quik" in app.pane.text


async def test_f8_goes_from_fault_to_fault(config: Config) -> None:
    text = OWN.replace("when: long", "when: lang").replace("use: careful", "use: carefool")
    async with editing(config, text) as (pilot, app):
        await until(pilot, lambda: "✗ 2 errors" in app.verdict)
        put_cursor(app, "# kept")
        rows = []
        for _ in range(3):
            await pilot.press("f8")
            rows.append(app.pane.editor.cursor_location[0])
        lines = text.split("\n")
        assert "lang" in lines[rows[0]]
        assert "carefool" in lines[rows[1]]
        assert rows[2] == rows[0]


async def test_f8_says_so_without_faults(config: Config) -> None:
    async with editing(config) as (pilot, app):
        await pilot.press("f8")
        await until(pilot, lambda: "no faults" in app.told())


async def test_a_text_is_found_and_n_goes_on(config: Config) -> None:
    async with editing(config) as (pilot, app):
        put_cursor(app, "version")
        await pilot.press("ctrl+f")
        await until(pilot, lambda: isinstance(app.focused, Input) and app.focused.id != "question")
        await pilot.press(*"quick", "enter")
        place = [row for row, line in enumerate(OWN.split("\n")) if "quick" in line]
        await until(pilot, lambda: app.pane.editor.cursor_location[0] == place[0])
        assert "1 of 3" in app.drawn()
        for step, expected in (("n", 1), ("n", 2), ("n", 0), ("N", 2)):
            await pilot.press(step)
            await until(
                pilot, lambda row=place[expected]: app.pane.editor.cursor_location[0] == row
            )
        await pilot.press("escape")
        await until(pilot, lambda: app.pane.editor.has_focus)
        assert not app.policies.query_one("#find").display
        assert app.pane.text == OWN


async def test_a_file_added_on_disk_is_listed_while_the_list_is_shown(config: Config) -> None:
    async with editing(config) as (pilot, app):
        keep(config, "later", OWN)
        await until(pilot, lambda: any("later" in line for line in app.shelf_lines()))
        os.remove(config.policies_dir / "later.yaml")
        await until(pilot, lambda: not any("later" in line for line in app.shelf_lines()))


async def test_the_cursor_goes_to_a_new_policy(config: Config) -> None:
    async with editing(config) as (pilot, app):
        app.policies.query_one("#shelf").focus()
        await pilot.press("n")
        await until(pilot, lambda: app.screen is not app.policies and app.screen.query(Input))
        app.screen.query_one(Input).value = "zebra"
        await pilot.press("enter")
        await until(pilot, lambda: any("zebra" in line for line in app.shelf_lines()))
        shelf = app.policies._policy_list
        await until(pilot, lambda: shelf.under_cursor and shelf.under_cursor.named == "zebra")


async def test_the_list_of_policies_is_filtered(config: Config) -> None:
    async with editing(config) as (pilot, app):
        app.policies.query_one("#shelf").focus()
        await pilot.press("slash", *"few joules", "enter")
        await until(pilot, lambda: len(app.shelf_lines()) == 1)
        assert app.policies.query_one("#shelf").has_focus
        await pilot.press("escape")
        await until(pilot, lambda: len(app.shelf_lines()) == 4)
