"""``etui logs``: what was asked, what was answered and what it cost."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from etui.cli.common import print_json
from etui.errors import UsageError
from etui.text.codec import to_document

if TYPE_CHECKING:
    from etui.energy.carbon_cost import CostDocument, Factors
    from etui.log.filters import TurnFilter
    from etui.log.queries import LogReader
    from etui.log.totals import Total

_SORTS = ("time", "joules", "joules-per-token", "seconds", "tokens", "model", "rule")
_GROUPS = ("all", "model", "rule", "policy", "status", "day", "chat")
_Command = TypeVar("_Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def _choosing(command: _Command) -> _Command:
    """Add the options that say which turns are meant."""
    for option in reversed(
        (
            click.option("--model", metavar="NAME", help="Only turns this model answered."),
            click.option("--rule", metavar="NAME", help="Only turns this rule routed."),
            click.option("--policy", metavar="NAME", help="Only turns this policy routed."),
            click.option("--status", metavar="STATUS", help="complete, stopped, truncated, ..."),
            click.option("--chat", metavar="ID", help="Only turns of this chat."),
            click.option("--since", metavar="WHEN", help="today, 12h, 7d, or a date or time."),
        )
    ):
        command = option(command)
    return command


def _listed(command: _Command) -> _Command:
    """Add the options that say how many turns are shown, and in which order."""
    for option in reversed(
        (
            click.option(
                *("-n", "--limit"),
                type=click.IntRange(0),
                default=20,
                show_default=True,
                metavar="N",
                help="The most turns to show; 0 shows them all.",
            ),
            click.option(
                "--sort",
                type=click.Choice(_SORTS),
                default="time",
                show_default=True,
                help="What comes first.",
            ),
            click.option("--reverse", is_flag=True, help="Oldest, cheapest or shortest first."),
        )
    ):
        command = option(command)
    return command


@click.group()
def logs() -> None:
    """List, show, search and export the turns in the log."""


@logs.command("list")
@_choosing
@_listed
@as_json
def list_(limit: int, sort: str, reverse: bool, as_json: bool, **chosen: str | None) -> None:
    """List turns, the latest (or dearest, or longest) first."""
    with _reader() as log:
        _show_list(log, _wanted(chosen), limit, sort, reverse, as_json)


@logs.command()
@click.argument("text")
@_choosing
@_listed
@as_json
def search(
    text: str, limit: int, sort: str, reverse: bool, as_json: bool, **chosen: str | None
) -> None:
    """List turns whose question or answer holds every word of TEXT.

    Quoted words must follow each other; the last word may be the beginning of one.
    """
    if not text.strip():
        raise UsageError("nothing to search for", "give a word: etui logs search joule")
    with _reader() as log:
        _show_list(log, _wanted(chosen, search=text), limit, sort, reverse, as_json)


@logs.command()
@click.argument("turn_id", metavar="ID|last")
@as_json
def show(turn_id: str, as_json: bool) -> None:
    """Show one turn in full; the beginning of its id is enough."""
    from etui.log.export import turn_document
    from etui.log.text import turn_lines

    with _reader() as log:
        turn = log.get_turn(turn_id)
        loads = log.loads(turn_id=turn.turn_id)
        unloads = log.unloads(turn_id=turn.turn_id)
    if as_json:
        print_json(turn_document(turn))
    else:
        click.echo("\n".join(turn_lines(turn, loads, unloads)))


@logs.command()
@click.option(
    *("-n", "--limit"),
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="The most to show; 0 shows them all.",
)
@as_json
def loads(limit: int, as_json: bool) -> None:
    """List what was brought into memory and what was given up, the latest first."""
    from etui.log.text import loads_table

    with _reader() as log:
        loaded, unloaded = log.loads(limit or None), log.unloads(limit or None)
    if as_json:
        print_json(
            {
                "loads": [to_document(record) for record in loaded],
                "unloads": [to_document(record) for record in unloaded],
            }
        )
    elif not loaded and not unloaded:
        click.echo("no model was loaded yet", err=True)
    else:
        click.echo("\n".join(loads_table(loaded, unloaded, limit or None)))


@logs.command()
@click.option(
    "--by",
    type=click.Choice(_GROUPS),
    default="model",
    show_default=True,
    help="What to add up over.",
)
@_choosing
@as_json
def totals(by: str, as_json: bool, **chosen: str | None) -> None:
    """Add up joules, tokens and seconds per model, rule, day or chat.

    Carbon and cost are added where the config states a factor for them.
    """
    from etui.config.load import load_config
    from etui.energy.carbon_cost import factors_of
    from etui.log.text import totals_table

    factors = factors_of(load_config())
    with _reader() as log:
        sums = log.totals(by, _wanted(chosen))
        if as_json:
            rows = [to_document(total) | _costs(total, factors) for total in sums]
            print_json({"by": by, "totals": rows})
        elif sums:
            click.echo("\n".join(totals_table(by, sums, factors)))
        else:
            _say_empty(log, filtered=any(chosen.values()))


@logs.command()
@_choosing
@click.option("--search", metavar="TEXT", help="Only turns that hold these words.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("jsonl", "csv", "markdown", "json")),
    default="jsonl",
    show_default=True,
    help="markdown and json take one chat.",
)
def export(form: str, search: str | None, **chosen: str | None) -> None:
    """Write turns to standard output, oldest first, or one chat (--chat ID)."""
    from etui.log import export as writing
    from etui.turn.text import energy_line

    chat_id = chosen.get("chat")
    if form in ("markdown", "json") and chat_id is None:
        raise UsageError(f"--format {form} exports one chat", "name it: --chat ID")
    wanted = _wanted(chosen, search=search)
    with _reader() as log:
        if chat_id is not None and form in ("markdown", "json"):
            chat, turns = log.get_chat(chat_id), list(log.turns(wanted))
            if form == "json":
                print_json(writing.chat_document(chat, turns))
            else:
                click.echo(writing.chat_markdown(chat, turns, energy_line), nl=False)
        elif form == "csv":
            writing.write_csv(log.turns(wanted), sys.stdout)
        else:
            writing.write_json_lines(log.turns(wanted), sys.stdout)
        if not log.count_turns(wanted):
            _say_empty(log, filtered=any(chosen.values()) or search is not None)


@logs.command()
def path() -> None:
    """Print where the log is."""
    from etui.config.load import load_config

    database = load_config().database
    click.echo(str(database))
    if not database.exists():
        click.echo("it is made with the first answer", err=True)


def _costs(total: Total, factors: Factors | None) -> dict[str, CostDocument | None]:
    """What a total comes to by the user's factors, readings and estimates apart."""
    from etui.energy.carbon_cost import cost_document, cost_of

    if factors is None:
        return {}
    sums = {"cost": total.joules, "estimated_cost": total.estimated_joules}
    costs = {name: cost_of(joules, factors) for name, joules in sums.items()}
    return {name: None if cost is None else cost_document(cost) for name, cost in costs.items()}


def _reader() -> LogReader:
    from etui.config.load import load_config
    from etui.log.queries import LogReader

    return LogReader(load_config())


def _wanted(chosen: dict[str, str | None], search: str | None = None) -> TurnFilter:
    from etui.cli.time_option import parse_since
    from etui.log.filters import TurnFilter

    since = chosen.get("since")
    return TurnFilter(
        model=chosen.get("model"),
        rule=chosen.get("rule"),
        policy=chosen.get("policy"),
        status=chosen.get("status"),
        chat_id=chosen.get("chat"),
        since=parse_since(since, datetime.now().astimezone()) if since else None,
        search=search,
    )


def _show_list(
    log: LogReader, wanted: TurnFilter, limit: int, sort: str, reverse: bool, as_json: bool
) -> None:
    from etui.log.filters import Sort, TurnFilter
    from etui.log.text import turns_table
    from etui.units import count_text

    turns = log.list_turns(wanted, sort=Sort(sort), descending=not reverse, limit=limit or None)
    total = log.count_turns(wanted)
    if as_json:
        print_json({"total": total, "turns": [to_document(turn) for turn in turns]})
        return
    if not total:
        _say_empty(log, filtered=wanted != TurnFilter())
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo("\n".join(turns_table(turns, width)))
    if len(turns) < total:
        click.echo(f"{len(turns)} of {count_text(total, 'turn')}; -n shows more", err=True)


def _say_empty(log: LogReader, *, filtered: bool) -> None:
    if filtered and log.exists and log.count_turns():
        click.echo("no turn in the log is like that", err=True)
    else:
        click.echo("the log is empty: nothing was asked yet", err=True)
