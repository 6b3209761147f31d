"""``etui chat NAME``: open an earlier chat; and how ``etui`` alone opens a new one or the last."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from etui.cli.param_types import TEXT, text_option
from etui.cli.streams import raw_streams
from etui.config.config import Config, load_config, shipped_dir
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.log.records import ChatRecord

NO_CHAT = "no earlier chat in the log: this is a new one"
"""Notice of ``--continue`` where there is nothing to continue."""


@click.command()
@click.argument("name", type=TEXT)
@text_option("--policy", metavar="NAME|FILE", help="Policy for the next questions.")
@text_option("--model", metavar="NAME", help="Model that answers, instead of a policy.")
def chat(name: str, policy: str | None, model: str | None) -> int:
    """Open an earlier chat.

    NAME is its title, its id, or a beginning of either that only one chat has; `last` is the chat
    used last. `etui --continue` opens that one too. An unknown name ends with exit code 2 and the
    nearest titles.
    """
    config = load_config()
    return open_chat(config, policy=policy, model=model, chat=_find_named(config, name))


def open_chat(
    config: Config,
    *,
    policy: str | None,
    model: str | None,
    notices: Sequence[str] = (),
    chat: ChatRecord | None = None,
) -> int:
    """Open the app in this terminal, on a new chat or an earlier one.

    Returns:
        The exit code.
    """
    # With --web, textual-serve runs this without a terminal and sets its own driver.
    if "TEXTUAL_DRIVER" not in os.environ and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("the chat needs a terminal; use `etui ask` in a pipe")
    _check_names(config, policy, model)
    from etui.tui.start import run_app  # textual: 300 ms, only for the chat

    with raw_streams():
        return run_app(config, policy=policy, model=model, notices=notices, chat=chat)


def _check_names(config: Config, policy: str | None, model: str | None) -> None:
    """Refuse an unknown name here: in the app each question would fail for it."""
    if policy is not None:
        from etui.routing.library import find_policy

        find_policy(policy, config)
    if model is not None and not _is_shipped(model):
        from etui.models.catalogue import load_catalogue  # 100 ms with pydantic

        load_catalogue(config).get(model)


def _is_shipped(model: str) -> bool:
    """Return whether the models.yaml of etui names a model, without parsing it."""
    text = (shipped_dir() / "models.yaml").read_text(encoding="utf-8")
    return re.search(rf"^  {re.escape(model)}:", text, re.MULTILINE) is not None


def find_last_chat(config: Config) -> ChatRecord | None:
    """Return the chat that was used last; None without any."""
    from etui.log.chat_queries import list_chats
    from etui.log.queries import LogReader

    with LogReader(config) as log:
        chats = list_chats(log, limit=1)
    return chats[0].chat if chats else None


def _find_named(config: Config, name: str) -> ChatRecord:
    from etui.log.chat_queries import find_chat
    from etui.log.queries import LogReader, UnknownId

    try:
        with LogReader(config) as log:
            return find_chat(log, name)
    except UnknownId as error:
        raise UsageError(error.what, error.fix) from error
