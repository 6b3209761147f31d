"""``etui chat NAME`` and ``etui --continue``: which chat they open, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from etui.cli.main import run
from etui.log.records import ChatRecord
from etui.log.writer import TurnWriter

CHATS = ("Python chat", "Zig or Rust?", "Python packaging")


@pytest.fixture
def opened(config, monkeypatch):
    """What the app was opened with; the log has three chats, the last one the newest."""
    calls: list[dict[str, Any]] = []

    def run_app(_config, **options):
        calls.append(options)
        return 0

    monkeypatch.setenv("TEXTUAL_DRIVER", "a driver that needs no terminal")
    monkeypatch.setattr("etui.tui.start.run_app", run_app)
    return calls


@pytest.fixture
def chats(config):
    writer = TurnWriter(config)
    for at, name in enumerate(CHATS):
        writer.save_chat(ChatRecord(f"chat-{at}", f"2026-01-0{at + 1}T00:00:00Z", name))
    writer.close()


@pytest.mark.parametrize(
    ("name", "chat_id"),
    [("Python chat", "chat-0"), ("zig", "chat-1"), ("chat-2", "chat-2"), ("last", "chat-2")],
)
def test_a_chat_is_opened_by_its_name(opened, chats, name, chat_id):
    assert run(["chat", name, "--policy", "frugal"]) == 0
    assert opened[0]["chat"].chat_id == chat_id
    assert opened[0]["policy"] == "frugal"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "balancd"], "did you mean 'balanced'?"),
        (["--model", "smollm2-135"], "did you mean smollm2-135m"),
        (["chat", "zig", "--policy", "nothing-like-it"], "known policies: balanced"),
    ],
)
def test_an_unknown_policy_or_model_is_refused_before_the_app_opens(
    opened, chats, capsys, arguments, said
):
    assert run(arguments) == 2
    assert said in capsys.readouterr().err
    assert opened == []


def test_an_unknown_name_ends_with_the_nearest_titles(opened, chats, cli):
    error = cli.err("chat", "Pyton chat", code=2)
    assert "no chat 'Pyton chat' in the log" in error
    assert "Python chat" in error
    assert opened == []


def test_a_name_that_several_chats_begin_with_is_refused(opened, chats, cli):
    error = cli.err("chat", "Python", code=2)
    assert "Python packaging" in error
    assert "Python chat" in error


def test_continue_opens_the_chat_used_last(opened, chats):
    assert run(["--continue"]) == 0
    assert opened[0]["chat"].name == "Python packaging"


def test_continue_without_a_chat_opens_a_new_one_and_says_so(opened):
    assert run(["--continue"]) == 0
    assert opened[0]["chat"] is None
    assert opened[0]["notices"] == ("no earlier chat in the log: this is a new one",)


def test_continue_before_a_command_is_refused(opened, cli):
    assert "--continue opens a chat, not 'models'" in cli.err(
        "--continue", "models", "list", code=2
    )


def test_a_chat_needs_a_terminal(opened, chats, monkeypatch, cli):
    monkeypatch.delenv("TEXTUAL_DRIVER")
    assert "needs a terminal" in cli.err("chat", "zig", code=2)


def test_a_tab_of_the_browser_continues_as_well():
    from etui.tui.web import build_command

    assert build_command(None, None, go_on=True).endswith("-m etui --continue")
    assert "--continue" not in build_command(None, None)
