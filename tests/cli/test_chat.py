"""``etui chat NAME`` and ``etui --continue``: which chat they open, and what they refuse."""

from __future__ import annotations

import pytest

from etui.log.records import ChatRecord
from etui.log.writer import TurnWriter
from etui.tui.web import build_command

CHATS = ("Python chat", "Zig or Rust?", "Python packaging")


@pytest.fixture
def opened(config, monkeypatch):
    """What the app was opened with, each time."""
    calls = []
    monkeypatch.setenv("TEXTUAL_DRIVER", "a driver that needs no terminal")
    monkeypatch.setattr("etui.tui.start.run_app", lambda _, **options: calls.append(options) or 0)
    return calls


@pytest.fixture
def chats(config):
    """The log has three chats, the last one the newest."""
    with TurnWriter(config) as writer:
        for at, name in enumerate(CHATS):
            writer.save_chat(ChatRecord(f"chat-{at}", f"2026-01-0{at + 1}T00:00:00Z", name))


@pytest.mark.parametrize(
    ("words", "chat_id"),
    [
        (("chat", "Python chat", "--policy", "frugal"), "chat-0"),
        (("chat", "zig", "--policy", "frugal"), "chat-1"),
        (("chat", "chat-2", "--policy", "frugal"), "chat-2"),
        (("chat", "last", "--policy", "frugal"), "chat-2"),
        (("--continue",), "chat-2"),
    ],
)
def test_a_chat_is_opened_by_its_name(opened, chats, cli, words, chat_id):
    cli.run(*words)
    assert opened[0]["chat"].chat_id == chat_id
    assert opened[0]["policy"] == ("frugal" if "--policy" in words else None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--policy", "balancd"), ["did you mean 'balanced'?"]),
        (("--model", "smollm2-135"), ["did you mean smollm2-135m"]),
        (("chat", "zig", "--policy", "nothing-like-it"), ["known policies: balanced"]),
        (("chat", "Pyton chat"), ["no chat 'Pyton chat' in the log", "Python chat"]),
        (("chat", "Python"), ["Python packaging", "Python chat"]),
        (("--continue", "models", "list"), ["--continue opens a chat, not 'models'"]),
    ],
)
def test_what_is_refused_before_the_app_opens(opened, chats, cli, words, said):
    error = cli.err(*words, code=2)
    assert all(text in error for text in said), error
    assert opened == []


def test_continue_without_a_chat_opens_a_new_one_and_says_so(opened, cli):
    cli.run("--continue")
    assert opened[0]["chat"] is None
    assert opened[0]["notices"] == ("no earlier chat in the log: this is a new one",)


def test_a_chat_needs_a_terminal(opened, chats, monkeypatch, cli):
    monkeypatch.delenv("TEXTUAL_DRIVER")
    assert "needs a terminal" in cli.err("chat", "zig", code=2)


def test_a_tab_of_the_browser_continues_as_well():
    assert build_command(None, None, go_on=True).endswith("-m etui --continue")
    assert "--continue" not in build_command(None, None)
