"""Print what ``etui sweep`` does without measuring: plans, earlier sweeps, applied settings."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import print_event, print_lines, print_notes, print_result, table_lines
from etui.codec import pick
from etui.config.config import Config
from etui.errors import EtuiError
from etui.models.spec import TunedSettings
from etui.models.tuned import describe_values
from etui.sweep.config import Goal, SweepConfig
from etui.sweep.folder import REPORT, find_sweep, list_sweeps, read_sweep, sweeps_dir
from etui.text import local_time
from etui.units import count_text, seconds_text

if TYPE_CHECKING:
    from etui.sweep.result import SweepResult

_LEAST_WIDTH, _SENTENCE_WIDTH = 40, 100
"""Least width for a table, and most of a sentence, in cells of the terminal."""


def print_plan(asked: SweepConfig, config: Config, *, as_json: bool, as_line: bool = False) -> None:
    """Print the settings, the blocks and the expected time of a sweep, without measuring."""
    from etui.sweep.run import describe_plan

    plan = describe_plan(asked, config)
    if as_line:
        print_event("plan", **plan)
        return
    print_result(plan, _format_plan(plan, asked.design.goal), as_json)
    if not as_json:
        print_notes(plan["notes"])


def _format_plan(plan: dict[str, Any], goal: Goal) -> Iterator[str]:
    from etui.sweep.apply import describe_goal

    yield f"{plan['model']}, workload {plan['workload']}, goal {describe_goal(goal)}"
    for number, key in enumerate(plan["settings"]):
        yield f"  {key}{'  (in use)' if number == 0 else ''}"
    blocks = plan["blocks"]
    yield (
        f"{count_text(len(plan['settings']), 'setting')}: {blocks['floor']} blocks for the "
        f"detection floor, at most {blocks['race']} in the race, {blocks['confirm']} to confirm"
    )
    if plan["questions"]:
        yield (
            f"accuracy on {count_text(plan['questions'], 'question')} of {plan['suite']}: "
            f"{count_text(plan['answers'], 'answer')}, as settings that compute the same numbers "
            "are asked once"
        )
    yield f"about {seconds_text(plan['seconds'])} (an estimate before anything is measured)"


def print_sweeps(config: Config, *, as_json: bool) -> None:
    """Print the sweeps of the default folder, the newest last."""
    rows: list[dict[str, Any]] = []
    for folder in list_sweeps(config):
        try:
            recorded = read_sweep(folder)
        except EtuiError as error:
            print_notes([error.what])
            continue
        rows.append(
            {
                "sweep": recorded.config.id,
                **pick(recorded.config, "created", "model"),
                "settings": len(recorded.config.design.settings),
                "blocks": len(recorded.blocks),
                "complete": recorded.is_finished,
                "folder": str(folder),
            }
        )
    cells = [
        (
            row["sweep"],
            row["model"],
            str(row["settings"]),
            str(row["blocks"]),
            "complete" if row["complete"] else "not complete",
            local_time(row["created"]),
        )
        for row in rows
    ]
    head = ("sweep", "model", "settings", "blocks", "state", "started")
    print_result({"sweeps": rows}, table_lines(head, cells) if rows else (), as_json)
    if not rows and not as_json:
        click.echo(f"there are no sweeps in {sweeps_dir(config)}", err=True)


def print_sweep(name: str, config: Config, *, as_json: bool) -> None:
    """Print the result of a recorded sweep, finished or not."""
    from etui.sweep.document import build_document
    from etui.sweep.run import analyse_folder

    recorded = read_sweep(find_sweep(name, config))
    result = analyse_folder(recorded)
    document = build_document(recorded.config, result, recorded.blocks)
    print_result(document, format_result(result), as_json)
    if not as_json and (recorded.folder / REPORT).exists():
        click.echo(f"report: {recorded.folder / REPORT}", err=True)


def format_result(result: SweepResult) -> list[str]:
    """Format a result: its sentence and its table, as wide as the terminal.

    In a pipe or a file the sentence is one line.
    """
    from etui.sweep.verdict import format_table, format_verdict

    verdict = format_verdict(result)
    if not sys.stdout.isatty():
        return [verdict, "", *format_table(result)]
    width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns)
    sentence = textwrap.wrap(verdict, min(width, _SENTENCE_WIDTH), break_on_hyphens=False)
    return [*sentence, "", *format_table(result, width)]


def apply_result(
    config: Config,
    sweep_config: SweepConfig,
    result: SweepResult,
    goal: Goal,
) -> dict[str, Any]:
    """Apply the best setting of a sweep, and say on stderr what is used from now on.

    Returns:
        A document: ``applied`` has the settings, None if none is better than those in use, and
        ``why`` says which of both it is.
    """
    from etui.sweep.apply import NothingToApply, apply_best

    try:
        tuned = apply_best(config, sweep_config, result, goal)
    except NothingToApply as nothing:
        click.echo(nothing.what, err=True)
        return {"model": sweep_config.model, "applied": None, "why": nothing.what}
    print_lines(_describe_applied(tuned), err=True)
    return {"model": sweep_config.model, "applied": tuned, "why": tuned.verdict}


def _describe_applied(tuned: TunedSettings) -> list[str]:
    values = describe_values(tuned.values)
    lines = [
        f"{tuned.model} uses {values} on this machine from now on: {tuned.verdict}"
        if values
        else f"{tuned.model} needs no other settings than those of models.yaml, which are used",
    ]
    if tuned.power_limit is not None:
        limit = tuned.power_limit
        lines.append(
            f"etui does not keep a power limit of {limit.watts:g} W; to set it: {limit.command}"
        )
    lines += tuned.notes
    lines.append(f"undo it with: etui sweep --revert {tuned.model}")
    return lines
