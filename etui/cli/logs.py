"""``etui logs``: list, search and export turns with their questions, answers and energy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import count_progress, json_option, print_json, print_result
from etui.cli.param_types import (
    FC,
    TEXT,
    WholeNumber,
    choice_option,
    flag,
    join_options,
    number_option,
    parse_since,
    text_option,
)
from etui.cli.streams import data_stream
from etui.codec import to_document
from etui.config.config import load_config
from etui.energy.tariff import Cost
from etui.errors import UsageError
from etui.log.filters import Sort, TurnFilter
from etui.text import format_utc, one_line
from etui.units import count_text

if TYPE_CHECKING:
    from etui.log.queries import LogReader


_SORTS = ("time", "joules", "joules-per-token", "seconds", "tokens", "model", "rule")
_GROUPS = ("all", "model", "rule", "policy", "status", "day", "hour", "chat", "key")
_filter_options = join_options(
    text_option("--model", metavar="NAME", help="Only turns that this model answered."),
    text_option("--rule", metavar="NAME", help="Only turns that this rule routed."),
    text_option("--policy", metavar="NAME", help="Only turns that this policy routed."),
    text_option(
        "--status",
        metavar="STATUS",
        help="Only turns of this status: complete, stopped, truncated, budget, error or "
        "interrupted.",
    ),
    text_option("--chat", metavar="ID", help="Only turns of this chat."),
    text_option(
        "--key",
        metavar="NAME",
        help="Only turns that a client of etui serve asked for with this key.",
    ),
    text_option(
        "--endpoint",
        metavar="PATH",
        help="Only turns that were asked for at this path, such as /v1/responses.",
    ),
    text_option(
        "--since", metavar="WHEN", help="Only turns since WHEN: today, 12h, 7d, or a date or time."
    ),
)


def _limit_option(help_: str) -> Callable[[FC], FC]:
    return number_option(WholeNumber(0), "-n", "--limit", default=20, show_default=True, help=help_)


_list_options = join_options(
    _limit_option("Maximum number of turns to show; 0 shows all."),
    choice_option(
        _SORTS, "--sort", default="time", show_default=True, help="Sort the turns by this."
    ),
    flag("--reverse", help="Reverse the order: oldest, cheapest or shortest first."),
)


class _LogsGroup(click.Group):
    """A group that lists turns where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` before options of its own."""
        is_list = not args or (args[0].startswith("-") and args[0] != "--help")
        if is_list and not ctx.resilient_parsing:  # which completes the names of the commands
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_LogsGroup)
def logs() -> None:
    """List, show, search and export the turns in the log.

    Without a command it lists the latest turns, with the options of `etui logs list`.
    """


@logs.command("list")
@_filter_options
@_list_options
@json_option
def list_(limit: int, sort: str, reverse: bool, as_json: bool, **chosen: str | None) -> None:
    """List turns, the latest (or most expensive, or longest) first."""
    with _open_log() as log:
        _show_list(log, _build_filter(chosen), limit, sort, reverse, as_json)


@logs.command()
@click.argument("text", type=TEXT)
@_filter_options
@_list_options
@json_option
def search(
    text: str, limit: int, sort: str, reverse: bool, as_json: bool, **chosen: str | None
) -> None:
    """List turns whose question or answer contains all words of TEXT.

    Words in quotes must be adjacent and in this order. The last word may be incomplete.
    """
    if not text.strip():
        raise UsageError(
            "nothing to search for", "pass a word, for example: etui logs search joule"
        )
    with _open_log() as log:
        _show_list(log, _build_filter(chosen, search=text), limit, sort, reverse, as_json)


@logs.command()
@click.argument("turn_id", type=TEXT, metavar="ID|last")
@json_option
def show(turn_id: str, as_json: bool) -> None:
    """Show one turn in full.

    The first characters of its id are enough, if no other id begins with them.
    """
    from etui.log.export import build_turn_document
    from etui.log.labels import read_audits, read_grades
    from etui.log.prices import read_prices
    from etui.log.text import format_audit, format_turn

    with _open_log() as log:
        prices = read_prices(log, load_config())
        turn = log.get_turn(turn_id)
        loads = log.loads(turn_id=turn.turn_id)
        unloads = log.unloads(turn_id=turn.turn_id)
        good = read_grades(log, [turn.turn_id]).get(turn.turn_id)
        audits = read_audits(log, turn_id=turn.turn_id)
    grade = None if good is None else "good" if good else "bad"
    if as_json:
        labels = {
            "grade": grade,
            "audits": audits,
        }
        print_json(build_turn_document(turn, _read_weights(), prices) | labels)
        return
    lines = format_turn(turn, loads, unloads, prices)
    lines += [f"grade: {grade}"] if grade is not None else []
    click.echo("\n".join([*lines, *map(format_audit, audits)]))


@logs.command()
@click.argument("turn_id", type=TEXT, metavar="ID|last")
@click.argument("grade", type=click.Choice(("good", "bad", "clear")))
@json_option
def grade(turn_id: str, grade: str, as_json: bool) -> None:
    """Say whether the answer of a turn is good or bad.

    `etui policy fit --log` learns from it. A second grade replaces the first, and clear removes
    it. The first characters of the id are enough, if no other id begins with them.
    """
    from etui.log.records import GradeRecord
    from etui.log.writer import TurnWriter

    with _open_log() as log:
        turn = log.get_turn(turn_id)
    if grade != "clear" and not turn.answer.strip():
        raise UsageError(f"turn {turn.turn_id} has no answer to grade", "choose another turn")
    with TurnWriter(load_config()) as writer:
        if grade == "clear":
            writer.clear_grade(turn.turn_id)
        else:
            now = format_utc(datetime.now().astimezone())
            writer.save_grade(GradeRecord(turn.turn_id, now, grade == "good"))
    given = None if grade == "clear" else grade
    line = f"{turn.turn_id[:8]}: {given or 'grade removed'} ({one_line(turn.query)[:60]})"
    print_result({"turn_id": turn.turn_id, "grade": given}, [line], as_json)


@logs.command()
@_limit_option("Maximum number to show; 0 shows all.")
@json_option
def loads(limit: int, as_json: bool) -> None:
    """List models loaded into and unloaded from memory, latest first."""
    from etui.log.text import format_loads

    with _open_log() as log:
        loaded, unloaded = log.loads(limit or None), log.unloads(limit or None)
    if as_json:
        print_json({"loads": loaded, "unloads": unloaded})
    elif not loaded and not unloaded:
        click.echo("no model has been loaded yet", err=True)
    else:
        click.echo("\n".join(format_loads(loaded, unloaded, limit or None)))


@logs.command()
@choice_option(_GROUPS, "--by", default="model", show_default=True, help="Group turns by this.")
@_filter_options
@json_option
def totals(by: str, as_json: bool, **chosen: str | None) -> None:
    """Sum joules, tokens and seconds per model, rule, day, hour, chat or key.

    Carbon and cost are included if config.yaml states prices or carbon: each turn at the price of
    its time.
    """
    from etui.log.prices import read_prices, sum_costs
    from etui.log.text import format_totals

    with _open_log() as log:
        prices, turn_filter = read_prices(log, load_config()), _build_filter(chosen)
        sums = log.totals(by, turn_filter)
        costs = None if prices is None else sum_costs(log, prices, by, turn_filter)
        if as_json:
            rows = [to_document(total) | _build_costs(total.key, costs) for total in sums]
            print_json({"by": by, "totals": rows})
        elif sums:
            click.echo("\n".join(format_totals(by, sums, costs)))
        else:
            _report_empty(log, filtered=any(chosen.values()))


@logs.command()
@_filter_options
@text_option("--search", metavar="TEXT", help="Only turns that contain these words.")
@choice_option(
    ("jsonl", "csv", "markdown", "json"),
    "--format",
    "form",
    default="jsonl",
    show_default=True,
    help="Output format; markdown and json export one chat (--chat).",
)
def export(form: str, search: str | None, **chosen: str | None) -> None:
    """Write turns, oldest first, or one chat to standard output.

    --chat ID chooses the chat.
    """
    from etui.log import export as writing
    from etui.log.prices import read_prices

    chat_id = chosen.get("chat")
    if form in ("markdown", "json") and chat_id is None:
        raise UsageError(f"--format {form} exports one chat", "choose it with --chat ID")
    turn_filter = _build_filter(chosen, search=search)
    with _open_log() as log:
        prices = read_prices(log, load_config())
        if chat_id is not None and form in ("markdown", "json"):
            chat, turns = log.get_chat(chat_id), list(log.turns(turn_filter))
            is_whole = turn_filter == TurnFilter(chat_id=chat_id)
            if form == "json":
                print_json(writing.build_chat_document(chat, turns, _read_weights(), prices))
            else:
                # A filter leaves turns out, so what is left is no tree.
                click.echo(writing.format_chat(chat, turns, is_whole=is_whole), nl=False)
        else:
            # In a terminal the turns themselves show the progress.
            with count_progress("exporting turns", shown=not sys.stdout.isatty()) as report:
                turns_found = log.turns(turn_filter, report=report)
                if form == "csv":
                    writing.write_csv(turns_found, data_stream(), prices)
                else:
                    writing.write_json_lines(turns_found, data_stream(), _read_weights(), prices)
        if not log.count_turns(turn_filter):
            _report_empty(log, filtered=any(chosen.values()) or search is not None)


@logs.command()
@click.argument("chats", type=TEXT, nargs=-1, metavar="[CHAT]...")
@flag("--caches", help="Delete the KV caches of all chats instead; the log stays.")
@flag("--yes", help="Do not ask.")
def delete(chats: tuple[str, ...], caches: bool, yes: bool) -> None:
    """Delete chats, each with its turns and what is kept of its KV cache.

    CHAT is an id, a title, or a unique beginning of one. The joules of loads stay in the log.
    """
    from etui.engine.kv_folder import KvFolder
    from etui.log.chat_queries import find_chat
    from etui.log.queries import LogReader
    from etui.log.writer import TurnWriter
    from etui.runtime.delete_chat import delete_chat

    if caches == bool(chats):
        raise UsageError("delete either chats or --caches", "pass the title of a chat, or --caches")
    config = load_config()
    if caches:
        deleted = KvFolder(config.kv_dir, 0).clear()
        click.echo(f"deleted {count_text(deleted, 'KV cache')}")
        return
    with LogReader(config) as log, TurnWriter(config) as writer:
        found = {chat.chat_id: chat for chat in (find_chat(log, name) for name in chats)}
        for chat in found.values():
            if yes or click.confirm(f"Delete the chat {one_line(chat.name)!r}?"):
                deleted = delete_chat(chat.chat_id, config, log, writer)
                what = f" and {count_text(deleted, 'KV cache')}" if deleted else ""
                click.echo(f"deleted {one_line(chat.name)!r}{what}")


@logs.command()
def path() -> None:
    """Print the path of the log."""
    database = load_config().database
    click.echo(str(database))
    if not database.exists():
        click.echo("it is created with the first answer", err=True)


def _build_costs(
    key: str, costs: Mapping[tuple[str, bool], Cost] | None
) -> dict[str, dict[str, Any] | None]:
    """Build the documents of the costs of a total, readings and estimates apart."""
    if costs is None:
        return {}
    found = {"cost": costs.get((key, False)), "estimated_cost": costs.get((key, True))}
    return {name: None if cost is None else cost.to_json() for name, cost in found.items()}


def _read_weights() -> dict[str, str]:
    from etui.runtime.provenance import read_weights

    return read_weights(load_config())


def _open_log() -> LogReader:
    from etui.log.queries import LogReader

    return LogReader(load_config())


def _build_filter(chosen: dict[str, str | None], search: str | None = None) -> TurnFilter:
    since = chosen.get("since")
    return TurnFilter(
        model=chosen.get("model"),
        rule=chosen.get("rule"),
        policy=chosen.get("policy"),
        status=chosen.get("status"),
        chat_id=chosen.get("chat"),
        key=chosen.get("key"),
        endpoint=chosen.get("endpoint"),
        since=parse_since(since, datetime.now().astimezone()) if since else None,
        search=search,
    )


def _show_list(
    log: LogReader, turn_filter: TurnFilter, limit: int, sort: str, reverse: bool, as_json: bool
) -> None:
    from etui.log.chat_queries import find_branch
    from etui.log.text import format_turns

    turns = log.list_turns(
        turn_filter, sort=Sort(sort), descending=not reverse, limit=limit or None
    )
    total, elsewhere = log.count_turns(turn_filter), 0
    if as_json:
        print_json({"total": total, "turns": turns})
        return
    if not total:
        _report_empty(log, filtered=turn_filter != TurnFilter())
        return
    if turn_filter.chat_id is not None and turn_filter == TurnFilter(chat_id=turn_filter.chat_id):
        branch = find_branch(log, turn_filter.chat_id)
        elsewhere, total = total - len(branch), len(branch)
        turns = log.list_turns(turn_filter, sort=Sort(sort), descending=not reverse, limit=None)
        turns = [turn for turn in turns if turn.turn_id in branch][: limit or None]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo("\n".join(format_turns(turns, width)))
    if elsewhere:
        found = count_text(elsewhere, "turn")
        click.echo(f"{found} on other branches of this chat; --json lists all", err=True)
    if len(turns) < total:
        click.echo(f"{len(turns)} of {count_text(total, 'turn')}; -n shows more", err=True)


def _report_empty(log: LogReader, *, filtered: bool) -> None:
    if filtered and log.exists and log.count_turns():
        click.echo("no turn in the log matches", err=True)
    else:
        click.echo("the log is empty: no question has been asked yet", err=True)
