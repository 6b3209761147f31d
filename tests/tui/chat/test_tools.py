"""Tools in the app: a scripted model behind the real services, real servers of tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from textual.widgets import Collapsible, Static

from etui.config.config import apply_settings
from etui.log.queries import LogReader
from etui.runtime.routes import Route
from etui.tui.chat._dialogs import CallModal, ToolsModal, format_arguments
from etui.tui.chat._turn_view import TurnView
from etui.tui.open_services import open_services
from etui.tui.start import EtuiApp
from tests.tools.remote_model import MODEL, calls, remote_model, says
from tests.tui.fakes import until

SCRIPT = str(Path(__file__).parents[2] / "tools" / "mcp_servers.py")
SUM = ("calculate", {"expression": "6*7"})


@pytest.fixture
def app_with(config):
    """``with app_with(rounds, settings) as (app, stub)``: the app before it runs."""

    def build(rounds, settings=""):
        return remote_model(config, rounds, f"estimate: never\n{settings}")

    def make():
        return EtuiApp(apply_settings(config), Route("balanced", MODEL), open_services)

    build.make = make
    return build


async def turn_on(pilot, app):
    await until(pilot, lambda: app.screen.queue.services is not None)
    await pilot.press(*"/tools", "enter")
    await until(pilot, lambda: isinstance(app.screen, ToolsModal))
    await pilot.press("t")
    await until(pilot, lambda: not isinstance(app.screen, ToolsModal))


async def ask(pilot, text="How much?"):
    await pilot.press(*text, "enter")


def folded(app):
    return [str(box.title) for box in app.screen.query(TurnView).last().query(Collapsible)
            if box.has_class("hop")]  # fmt: skip


async def test_a_call_is_asked_before_it_runs_and_its_result_is_folded(app_with, config):
    with app_with([calls(SUM, text="Let me see."), says("It is 42.")]) as model:
        app = app_with.make()
        async with app.run_test(size=(100, 30)) as pilot:
            await turn_on(pilot, app)
            assert app.screen.queue.tools_on
            await ask(pilot)
            await until(pilot, lambda: isinstance(app.screen, CallModal))

            def shown():
                return " ".join(str(line.content) for line in app.screen.query(Static))

            await until(pilot, lambda: '"expression": "6*7"' in shown())
            assert "Run calculate?" in shown()
            await pilot.press("c")
            await until(pilot, lambda: any("calculate" in title for title in folded(app)))
            await until(pilot, lambda: app.screen.query(TurnView).last().record is not None)
            record = app.screen.query(TurnView).last().record
            assert record.answer == "It is 42."
            assert record.tools.calls[0].status == "done"
            assert folded(app)[-1].startswith("✓ calculate")
            await until(pilot, lambda: not app.screen.queue.busy)
            model.scripts["/v1/chat/completions"] = [calls(SUM), says("Again 42.")]
            await ask(pilot)
            await until(pilot, lambda: len(app.screen.query(TurnView)) == 2)
            await until(pilot, lambda: app.screen.query(TurnView).last().record is not None)
            again = app.screen.query(TurnView).last().record
            assert again.answer == "Again 42."  # and nobody was asked
    with LogReader(config) as log:
        for each in (record, again):
            read = log.find_turn(each.turn_id)
            assert read is not None
            assert read.tools == each.tools


async def test_a_refused_call_is_told_to_the_model(app_with):
    with app_with([calls(SUM), says("Then not.")]) as model:
        app = app_with.make()
        async with app.run_test(size=(80, 24)) as pilot:
            await turn_on(pilot, app)
            await ask(pilot)
            await until(pilot, lambda: isinstance(app.screen, CallModal))
            await pilot.press("escape")
            await until(pilot, lambda: bool(app.screen.query(TurnView))
                        and app.screen.query(TurnView).last().record is not None)  # fmt: skip
        content = model.bodies("/v1/chat/completions")[1]["messages"][-1]["content"]
        assert content == "error: the user refused it"


async def test_never_is_written_to_config_yaml(app_with, config):
    with app_with([calls(SUM), says("Then not.")]):
        app = app_with.make()
        async with app.run_test(size=(80, 24)) as pilot:
            await turn_on(pilot, app)
            await ask(pilot)
            await until(pilot, lambda: isinstance(app.screen, CallModal))
            await pilot.press("v")
            await until(pilot, lambda: bool(app.screen.query(TurnView))
                        and app.screen.query(TurnView).last().record is not None)  # fmt: skip
    assert apply_settings(config).tool_permissions == {"calculate": "deny"}


async def test_faulty_servers_leave_the_app_alive(app_with):
    words = {
        name: f"{name}: {{command: {json.dumps([sys.executable, SCRIPT, name])}, "
        "timeout_seconds: 1}"
        for name in ("crash", "silent", "endless", "liar")
    }
    settings = f"tools: {{servers: {{{', '.join(words.values())}}}}}\n"
    rounds = [calls(("silent__x", {}), ("liar__true_name", {})), says("I go on.")]
    with app_with(rounds, settings + "tool_permissions: {'*': allow}\n"):
        app = app_with.make()
        async with app.run_test(size=(100, 30)) as pilot:
            await turn_on(pilot, app)
            await ask(pilot)
            await until(pilot, lambda: bool(app.screen.query(TurnView))
                        and app.screen.query(TurnView).last().record is not None)  # fmt: skip
            record = app.screen.query(TurnView).last().record
            assert record.answer == "I go on."
            assert {each.status for each in record.tools.calls} <= {"refused", "failed", "timeout"}


async def test_leaving_while_a_call_is_asked(app_with, config):
    with app_with([calls(SUM), says("Never.")]):
        app = app_with.make()
        async with app.run_test(size=(80, 24)) as pilot:
            await turn_on(pilot, app)
            await ask(pilot)
            await until(pilot, lambda: isinstance(app.screen, CallModal))
            chat = app.screen_stack[0]
            chat.queue.leave()
            app.screen.dismiss(None)
            await until(pilot, lambda: not chat.queue.busy)


def test_arguments_are_shown_as_they_are():
    assert format_arguments('{"a": 1}') == '{\n  "a": 1\n}'
    assert format_arguments("{not json\x1b[2J") == "{not json␛[2J"
    assert "characters more" in format_arguments(json.dumps(["x"] * 10_000))


async def test_the_thread_of_a_turn_does_not_wait_for_an_app_that_has_gone(app_with):
    with app_with([calls(SUM), says("Never.")]):
        app = app_with.make()
        async with app.run_test(size=(80, 24)) as pilot:
            await turn_on(pilot, app)
            await ask(pilot)
            await until(pilot, lambda: isinstance(app.screen, CallModal))
            queue = app.screen_stack[0].queue
        assert queue._ask(lambda: CallModal) is None


@pytest.mark.slow
async def test_fifty_rounds_of_bad_servers(app_with, config):
    """A faulty, slow, lying and endless server: the app lives, and all is in the log."""
    kinds = [
        ("good__boom", {}),
        ("good__slow", {"seconds": 60}),
        ("liar__true_name", {}),
        ("good__huge", {"characters": 3_000_000}),
        ("good__escapes", {}),
        ("good__leave", {}),
        ("nothing__there", {}),
        ("good__add", "{not json"),
        ("good__add", {"a": 1, "b": 2}),
    ]
    servers = ", ".join(
        f"{name}: {{command: {json.dumps([sys.executable, SCRIPT, name])}, timeout_seconds: 3}}"
        for name in ("good", "liar")
    )
    settings = f"tools: {{calls: 60, servers: {{{servers}}}}}\ntool_permissions: {{'*': allow}}\n"
    rounds = [calls(kinds[n % len(kinds)]) for n in range(50)]
    with app_with([*rounds, says("I am still here.")], settings):
        app = app_with.make()
        async with app.run_test(size=(100, 30)) as pilot:
            await turn_on(pilot, app)
            await ask(pilot)
            await until(pilot, lambda: bool(app.screen.query(TurnView))
                        and app.screen.query(TurnView).last().record is not None)  # fmt: skip
            record = app.screen.query(TurnView).last().record
            assert record.answer == "I am still here."
            await until(pilot, lambda: len(folded(app)) == 50)
    found = record.tools.calls
    assert len(found) == 50
    assert {each.status for each in found} == {"done", "failed", "timeout", "refused"}
    assert all(len(each.result) < 9_000 for each in found)
    assert not any("\x1b" in each.result for each in found)
    assert found[8].result == "3"
    assert len({hop.round for hop in record.hops}) == 51
    with LogReader(config) as log:
        read = log.find_turn(record.turn_id)
    assert read is not None
    assert read.tools == record.tools
