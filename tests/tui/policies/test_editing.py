"""Typing in the editor of policies: indent, completions, help, faults, and finding a text."""

from __future__ import annotations

import os

from textual.widgets import Input, Static

from etui.config.config import Config
from tests.tui.policies_app import OWN, PoliciesApp, editing, keep


async def go_behind(app: PoliciesApp, words: str) -> None:
    """Put the cursor behind some words, and the focus into the editor."""
    before = app.pane.text[: app.pane.text.index(words) + len(words)]
    app.pane.editor.move_cursor((before.count("\n"), len(before.rpartition("\n")[2])))
    app.policies._go(app.pane.editor, aside=False)
    await app.until(lambda: app.pane.editor.has_focus)


def offered(app: PoliciesApp) -> str:
    """What is shown behind the cursor."""
    return app.pane.editor.suggestion


def hint(app: PoliciesApp) -> str:
    return str(app.policies.query_one(".hint", Static).content)


async def test_enter_indents_and_an_arm_is_completed_from_what_is_typed(config: Config) -> None:
    async with editing(config) as app:
        await go_behind(app, "- name: everything-else\n    use: ")
        await app.press("delete", "delete", "delete", "delete", "delete", "c")
        assert offered(app) == "areful"
        await app.until(lambda: "use: careful" in app.drawn())
        await app.press("tab")
        assert "- name: everything-else\n    use: careful\n" in app.pane.text
        assert offered(app) == ""
        await app.press("ctrl+z")
        assert "everything-else\n    use: c\n" in app.pane.text
        await go_behind(app, "  - name: long-questions")
        await app.press("enter", *"priority: 5", "enter", "x")
        assert "  - name: long-questions\n    priority: 5\n    x\n" in app.pane.text
        await app.press("ctrl+z")
        assert "priority: 5" in app.pane.text


async def test_all_is_offered_when_asked_and_escape_drops_it(config: Config) -> None:
    async with editing(config) as app:
        await go_behind(app, "careful: {model: small, reasoning: cot")
        await app.press(*", m")
        assert offered(app) == "ax_tokens: "
        await app.press("ctrl+@")
        assert offered(app) == "in_p: "
        await app.press("right")
        assert "reasoning: cot, min_p: }" in app.pane.text
        await app.press(*"0.1, see")
        assert offered(app) == "d: "
        await app.press("escape")
        assert offered(app) == ""
        assert app.pane.editor.has_focus
        await app.press("escape")
        await app.until(lambda: app.policies.query_one("#shelf").has_focus)


async def test_enter_breaks_the_line_and_a_moved_cursor_drops_what_is_offered(
    config: Config,
) -> None:
    async with editing(config, OWN.replace("probes:", "\nprobes:")) as app:
        await go_behind(app, "    use: quick\n")
        await app.press(*"shadow:", "enter", *"policy: b")
        assert offered(app) == "alanced"
        await app.press("left")
        assert offered(app) == ""
        await app.press("right", "backspace", "b", "enter")
        assert offered(app) == ""
        assert "shadow:\n  policy: b\n" in app.pane.text


async def test_the_key_under_the_cursor_is_explained(config: Config) -> None:
    async with editing(config) as app:
        await go_behind(app, "priori")
        await app.until(lambda: hint(app).startswith("priority · whole number"))
        assert "Rules of higher priority are tried first." in hint(app)
        app.type_over("model: small, reasoning: direct", "model: smal, reasoning: direct")
        await app.says("✗ 1 error")
        await go_behind(app, "model: smal")
        await app.until(lambda: "unknown role or model 'smal'" in hint(app))


async def test_enter_on_a_fault_takes_its_suggestion_and_undo_brings_it_back(
    config: Config,
) -> None:
    text = OWN.replace("direct", "driect").replace("use: quick", "use: quik")
    async with editing(config, text) as app:
        await app.says("✗ 1 error")
        app.screen.query_one("#problems").focus()
        await app.press("enter")
        await app.until(lambda: "unknown arm 'quik'" in "".join(app.problem_lines()))
        await app.press("enter")
        await app.says("✓ valid")
        assert app.pane.text == OWN
        app.pane.editor.focus()
        await app.press("ctrl+z")
        assert "use: quik" in app.pane.text


async def test_f8_goes_from_fault_to_fault(config: Config) -> None:
    text = OWN.replace("when: long", "when: lang").replace("use: careful", "use: carefool")
    async with editing(config, text) as app:
        await app.says("✗ 2 errors")
        await go_behind(app, "# kept")
        rows = []
        for _ in range(3):
            await app.press("f8")
            rows.append(app.pane.editor.cursor_location[0])
        lines = text.split("\n")
        assert "lang" in lines[rows[0]]
        assert "carefool" in lines[rows[1]]
        assert rows[2] == rows[0]
        app.pane.editor.text = OWN
        await app.says("✓ valid")
        await app.press("f8")
        await app.notes("no faults")


async def test_a_text_is_found_and_n_goes_on(config: Config) -> None:
    async with editing(config) as app:
        await go_behind(app, "version")
        await app.press("ctrl+f")
        await app.until(lambda: isinstance(app.focused, Input) and app.focused.id != "question")
        await app.press(*"quick", "enter")
        place = [row for row, line in enumerate(OWN.split("\n")) if "quick" in line]
        await app.until(lambda: app.pane.editor.cursor_location[0] == place[0])
        assert "1 of 3" in app.drawn()
        for step, expected in (("n", 1), ("n", 2), ("n", 0), ("N", 2)):
            await app.press(step)
            await app.until(lambda row=place[expected]: app.pane.editor.cursor_location[0] == row)
        await app.press("escape")
        await app.until(lambda: app.pane.editor.has_focus)
        assert not app.policies.query_one("#find").display
        assert app.pane.text == OWN


async def test_the_list_is_filtered_and_follows_the_folder(config: Config) -> None:
    async with editing(config) as app:
        keep(config, "later", OWN.replace("Few joules", "Many joules"))
        await app.until(lambda: any("later" in line for line in app.shelf_lines()))
        os.remove(config.policies_dir / "later.yaml")
        await app.until(lambda: not any("later" in line for line in app.shelf_lines()))
        app.policies.query_one("#shelf").focus()
        await app.press("slash", *"few joules", "enter")
        await app.until(lambda: len(app.shelf_lines()) == 1)
        assert app.policies.query_one("#shelf").has_focus
        await app.press("escape")
        await app.until(lambda: len(app.shelf_lines()) == 4)
