"""``--cluster`` of commands that measure a machine: every node runs the command on itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import print_json_line, stop_signals
from etui.cli.param_types import TEXT
from etui.errors import EtuiError, ExitCode, Stopped
from etui.units import seconds_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from etui.cluster.open_nodes import NodeResult

cluster_option = click.option(
    "--cluster",
    type=TEXT,
    metavar="ADDRESS|local",
    help="Measure every node of a Ray cluster: HOST:PORT of its head, or 'local'.",
)


def build_words(ctx: click.Context, leave_out: Collection[str]) -> tuple[str, ...]:
    """Build the command line of a node from the options that were given here.

    Paths of files become absolute; the same file must be there on every node. ``leave_out`` names
    the parameters that the nodes do not get.
    """
    words: list[str] = [str(ctx.command.name)]
    arguments: list[str] = []
    for param in ctx.command.params:
        assert param.name is not None
        value = ctx.params.get(param.name)
        source = ctx.get_parameter_source(param.name)
        if param.name in leave_out or source is click.core.ParameterSource.DEFAULT:
            continue
        values = value if isinstance(value, tuple | list) else (value,)
        for each in values:
            text = _make_absolute(each)
            if isinstance(param, click.Argument):
                arguments.append(text)
            elif isinstance(each, bool):
                words.append(_choose_long(param.opts if each else param.secondary_opts))
            else:
                words.append(f"{_choose_long(param.opts)}={text}")
    return (*words, *(["--", *arguments] if arguments else []))


def _choose_long(names: Sequence[str]) -> str:
    return max(names, key=len)


def _make_absolute(value: object) -> str:
    text = str(value)
    with suppress(OSError, ValueError):
        if Path(text).exists() and ("/" in text or Path(text).is_file()):
            return str(Path(text).absolute())
    return text


def run_on_nodes(
    address: str,
    commands: tuple[tuple[str, ...], ...],
    *,
    collect: bool,
    as_lines: bool,
) -> tuple[dict[str, NodeResult], bool]:
    """Run commands on every node and show their progress.

    Args:
        address: HOST:PORT, or ``local``.
        commands: The words of each command; the last one prints lines of JSON.
        collect: Whether the folder that the last one writes is sent back.
        as_lines: Whether its lines are printed, each with its machine.

    Returns:
        Key of the machine -> how the last command ended; and whether the user stopped it.
    """
    from etui.cli.bench_cluster import open_carrier
    from etui.cluster.messages import Command
    from etui.cluster.open_nodes import DEFAULT_PATIENCE, NodeDriver

    requests = [
        Command(words, collect=collect and at == len(commands) - 1)
        for at, words in enumerate(commands)
    ]
    stopped = Event()

    def say(text: str) -> None:
        click.echo(text, err=True)

    show: Callable[[str, str], None] = _print_line if as_lines else _show_line
    with stop_signals(stopped) as on_stop, open_carrier(address) as carrier:
        on_stop(lambda: None)
        nodes = NodeDriver(carrier, say, stopped.is_set, DEFAULT_PATIENCE)
        return nodes.run(requests, show), stopped.is_set()


def read_event(result: NodeResult, event: str) -> dict[str, Any] | None:
    """Read the last line of an event that a command printed; None if it printed none."""
    for line in reversed(result.lines):
        document = _parse_line(line)
        if document is not None and document.get("event") == event:
            return document
    return None


def refuse_failed(results: Mapping[str, NodeResult], stopped: bool, again: str) -> None:
    """Raise what went wrong on nodes, after everything else was shown.

    Raises:
        Stopped: A command was interrupted; what it measured is kept on its node.
        EtuiError: A command failed.
    """
    failed = {
        machine: result
        for machine, result in results.items()
        if result.exit_code not in (ExitCode.DONE, ExitCode.PARTIAL)
    }
    if failed and not stopped:
        what = "; ".join(
            f"node {machine}: {_last_error(result.errors)}" for machine, result in failed.items()
        )
        raise EtuiError(what, again)
    unfinished = [m for m, result in results.items() if result.exit_code != ExitCode.DONE]
    if unfinished:
        raise Stopped(f"stopped on {', '.join(unfinished)} before the end", again)


def _last_error(text: str) -> str:
    lines = [line.strip().removeprefix("etui: ") for line in text.splitlines() if line.strip()]
    return " ".join(lines[-2:]) if lines else "it failed without a message"


def _parse_line(line: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _print_line(machine: str, line: str) -> None:
    document = _parse_line(line)
    if document is not None:
        print_json_line({"node": machine, **document})


def _show_line(machine: str, line: str) -> None:
    document = _parse_line(line)
    if document is None:
        return
    match document.get("event"):
        case "note":
            click.echo(f"{machine}: {document.get('text')}", err=True)
        case "measured":
            left = document.get("seconds_left")
            about = "" if left is None else f", about {seconds_text(left)} left"
            done = f"{document.get('done')} of {document.get('points')}"
            click.echo(f"{machine}: {done}{about}", err=True)
        case "block":
            left = seconds_text(float(document.get("seconds_left") or 0.0))
            click.echo(
                f"{machine}: block {document.get('block')}, {document.get('remaining')} settings "
                f"left, best {document.get('best')}, about {left} left",
                err=True,
            )
        case "dropped":
            click.echo(f"{machine}: dropped {document.get('setting')}", err=True)
