"""``etui policy cases``: make cases of a policy from the log."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.cli.common import load_context, print_json_line
from etui.cli.param_types import TEXT, WholeNumber
from etui.cli.progress import count_progress
from etui.errors import EtuiError, UsageError
from etui.units import count_text

if TYPE_CHECKING:
    from etui.replay.logged_cases import LoggedCases


@click.command()
@click.argument("name", type=TEXT, metavar="NAME|FILE")
@click.option("--from-log", is_flag=True, help="Make cases from the questions of the log.")
@click.option(
    "--since",
    type=TEXT,
    metavar="WHEN",
    help="Only questions since WHEN: today, 12h, 7d, or a date or time.",
)
@click.option(
    "--limit",
    type=WholeNumber(1, 100_000),
    default=200,
    show_default=True,
    metavar="N",
    help="Maximum number of cases.",
)
@click.option(
    *("-o", "--output"),
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a new file, which only you can read, instead of printing.",
)
def cases(name: str, from_log: bool, since: str | None, limit: int, output: Path | None) -> None:
    """Make cases for `etui policy test` from your own questions.

    Each distinct question becomes a case, near-duplicates one, spread over the rules and arms that
    decide them now, the newest first. The policy has to decide it as it does now, unless you
    corrected that: by asking the same question again of another arm, or by a grade. Questions that
    are cases already are left out, so `>> NAME.cases.jsonl` adds what is new.

    The cases hold your questions as you typed them. They stay on this machine; read them before
    you give them to others.
    """
    from etui.cli.time_option import parse_since
    from etui.log.filters import TurnFilter
    from etui.log.queries import LogReader
    from etui.replay.logged_cases import read_logged_cases
    from etui.routing.cases import load_cases
    from etui.routing.library import load_policy

    if not from_log:
        raise UsageError(
            "nothing says what to make cases from", "add --from-log: the questions of the log"
        )
    if output is not None and output.exists():
        raise UsageError(
            f"{output} exists already",
            "name a new file, or add to this one with `>>` in place of -o",
        )
    moment = None if since is None else parse_since(since, datetime.now().astimezone())
    config, catalogue, _ = load_context()
    policy = load_policy(name, config, catalogue.models)
    known = [case.query for case in (*policy.probes, *load_cases(policy, config))]
    turn_filter = None if moment is None else TurnFilter(since=moment)
    with LogReader(config) as log, count_progress("reading questions") as report:
        found = read_logged_cases(
            log, policy, turn_filter=turn_filter, limit=limit, known=known, report=report
        )
    if not found.cases:
        raise EtuiError(
            f"no new case in {count_text(found.questions, 'question')} of the log",
            "ask something first, or choose an earlier time with --since",
        )
    if output is None:
        for case in found.cases:
            print_json_line(case.document())
    else:
        _write(output, found)
    _report(found, output)


def _write(path: Path, found: LoggedCases) -> None:
    """Write a new file that only the user can read."""
    import json

    text = "".join(json.dumps(case.document(), ensure_ascii=False) + "\n" for case in found.cases)
    try:
        with open(path, "xb", opener=partial(os.open, mode=0o600)) as file:
            try:
                file.write(text.encode("utf-8", "replace"))
                file.flush()
            except BaseException:
                with suppress(OSError):
                    path.unlink()
                raise
    except OSError as error:
        raise EtuiError(
            f"cannot write {path}: {error.strerror or error}", "choose another file with -o"
        ) from error


def _report(found: LoggedCases, output: Path | None) -> None:
    corrected = sum(case.is_corrected for case in found.cases)
    parts = [f"{count_text(len(found.cases), 'case')} of {count_text(found.questions, 'question')}"]
    if corrected:
        parts.append(f"{corrected} expect what you corrected")
    if found.left_out:
        parts.append(f"{found.left_out} too long or undecided")
    click.echo(", ".join(parts), err=True)
    where = "these lines hold" if output is None else f"{output} holds"
    click.echo(f"{where} your questions as you typed them: nothing has left this machine", err=True)
