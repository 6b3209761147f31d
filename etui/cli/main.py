"""The root of the command line: ``etui`` alone opens the chat; commands are imported lazily."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from etui import __version__
from etui.cli.lazy_group import LazyGroup
from etui.cli.param_types import WholeNumber, flag, number_option, text_option
from etui.cli.streams import (
    is_broken_pipe,
    is_output_error,
    open_streams,
    raw_streams,
    release_streams,
    safe_streams,
)
from etui.errors import EtuiError, ExitCode, format_internal_error

_NO_HOME = "Could not determine home directory"
"""Begin of the RuntimeError of :meth:`pathlib.Path.expanduser` for a user that does not exist."""

_COMMANDS = {
    "ask": "Answer one question and show what it cost.",
    "bench": "Measure accuracy and joules on multiple-choice questions.",
    "calibrate": "Measure what a model's tokens cost on this machine.",
    "chat": "Open an earlier chat.",
    "completion": "Print a script that completes etui's commands and options.",
    "curves": "List and draw operating curves.",
    "doctor": "Report what etui finds: GPU, power channels, models, folders.",
    "engine": "Show which llama.cpp is used; build a faster one.",
    "logs": "List, show, search and export the turns in the log.",
    "mcp": "Offer etui to agents as an MCP server.",
    "models": "List, find, pull, check, compare and remove models.",
    "policy": "List, check, explain and edit routing policies.",
    "power": "Show the watts and joules of every channel.",
    "serve": "Answer programs over HTTP, with the protocols of OpenAI, Anthropic and Ollama.",
    "stats": "Compare predicted with measured joules.",
    "sweep": "Measure which settings of a model cost the fewest joules on this machine.",
    "tools": "List the tools that a model may call.",
}
"""Each command, which is in the module of its name, and its line in ``etui --help``."""


class Root(LazyGroup):
    """The group of all commands; it names the nearest one for an unknown name."""

    commands_of = _COMMANDS

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name."""
        # While a shell completes a line, an unknown command has no completions and is no error.
        if args and args[0] not in _COMMANDS and not ctx.resilient_parsing:
            from etui.text import suggest

            hint = suggest(args[0], _COMMANDS) or "see `etui --help`"
            raise click.UsageError(f"no such command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Root, invoke_without_command=True)
@click.version_option(__version__, "-V", "--version", message="etui %(version)s")
@flag("--debug", help="Show the traceback of an error.")
@text_option("--policy", metavar="NAME|FILE", help="Policy for the chat (without a command).")
@text_option("--model", metavar="NAME", help="Model for the chat, instead of a policy.")
@flag("--continue", "go_on", help="Open the chat that was used last (`etui chat NAME`).")
@flag("--web", help="Serve the chat to a browser on this machine.")
@number_option(
    WholeNumber(1, 65535), "--web-port", metavar="PORT", help="Port for --web (default 8000)."
)
@click.pass_context
def cli(
    ctx: click.Context,
    debug: bool,
    policy: str | None,
    model: str | None,
    go_on: bool,
    web: bool,
    web_port: int | None,
) -> None:
    """Chat with local language models and see what every answer costs in joules.

    Without a command, etui opens the chat.
    """
    notices = (*_restore_power_limits(), *_tighten_home())
    if ctx.invoked_subcommand is not None:
        _print_error(*(f"etui: {line}" for line in notices))
        if policy or model:
            raise click.UsageError(
                f"--policy and --model before {ctx.invoked_subcommand!r} have no effect: "
                "put them after it"
            )
        if web or web_port:
            raise click.UsageError(f"--web serves the chat, not {ctx.invoked_subcommand!r}")
        if go_on:
            raise click.UsageError(f"--continue opens a chat, not {ctx.invoked_subcommand!r}")
        return
    from etui.config.config import load_config

    if web:
        from etui.tui.web import PORT, serve_app

        load_config()  # report an invalid setting in the terminal, not in the browser
        _print_error(*(f"etui: {line}" for line in notices))
        with raw_streams():
            ctx.exit(serve_app(policy=policy, model=model, go_on=go_on, port=web_port or PORT))
    if web_port:
        raise click.UsageError("--web-port has no effect without --web")
    from etui.cli.chat import NO_CHAT, find_last_chat, open_chat

    config = load_config()
    chat = find_last_chat(config) if go_on else None
    if go_on and chat is None:
        notices = (*notices, NO_CHAT)
    ctx.exit(open_chat(config, policy=policy, model=model, notices=notices, chat=chat))


def _restore_power_limits() -> tuple[str, ...]:
    """Restore power limits that a killed sweep has left; return what was done.

    Without a journal this is one look at the disk, and nothing else is imported.
    """
    from etui.config.config import find_folders

    try:
        config = find_folders()
        if not os.path.exists(config.power_limits_file):
            return ()
        from etui.energy.power_limits.hold import restore_left_over

        return restore_left_over(config)
    except Exception as error:  # noqa: BLE001 - no command may fail because of it
        return (f"cannot restore power limits: {format_internal_error(error)}",)


def _tighten_home() -> tuple[str, ...]:
    """Keep the log from other users; return what was done."""
    from etui.config.config import find_folders
    from etui.config.private import tighten

    try:
        return tighten(find_folders())
    except Exception:  # noqa: BLE001 - no command may fail because of it
        return ()


def run(args: Sequence[str]) -> int:
    """Run the command line and return the exit code; errors become two lines on stderr."""
    if not open_streams():
        _print_error("etui: standard output is closed")
        return ExitCode.FAILED
    with safe_streams():
        return _run(args)


def _run(args: Sequence[str]) -> int:
    debug = "--debug" in args
    try:
        result: Any = cli.main(list(args), prog_name="etui", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.DONE
    except EtuiError as error:
        if debug:
            traceback.print_exc()
        _print_error(f"etui: {error.what}", error.fix)
        return error.exit_code
    except click.ClickException as error:
        with suppress(OSError):
            error.show(sys.stderr)
        return ExitCode.USAGE if isinstance(error, click.UsageError) else ExitCode.FAILED
    except (KeyboardInterrupt, click.Abort):
        _print_error("etui: stopped")
        return ExitCode.PARTIAL
    except Exception as error:
        if is_broken_pipe(error):
            # The reader has closed it (`etui logs list | head`); nothing can be printed.
            return ExitCode.FAILED
        if debug:
            raise
        if is_output_error(error):
            _print_error(f"etui: cannot write to standard output: {error.strerror}")
            return ExitCode.FAILED
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            name = str(error.filename)
            _print_error(
                f"etui: {name[:40]!r}... ({len(name):,} characters) is too long for a file"
            )
            return ExitCode.USAGE
        if isinstance(error, RuntimeError) and str(error).startswith(_NO_HOME):
            _print_error(
                "etui: a path begins with ~ and the name of no user",
                "write the path in full, or ./~NAME for a file of that name",
            )
            return ExitCode.USAGE
        _print_error(
            f"etui: {format_internal_error(error)}",
            "run it again with --debug before the command and report the output",
        )
        return ExitCode.FAILED
    finally:
        release_streams()


def _print_error(*lines: str) -> None:
    for line in lines:
        if line:
            with suppress(OSError):  # standard error is on a full disk, or its reader is gone
                click.echo(line, err=True)
