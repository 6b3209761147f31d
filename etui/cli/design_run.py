"""``etui bench --design``: plan the run of a design, price it, and write its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from etui.cli.bench_options import format_option, list_given
from etui.cli.output import print_json
from etui.errors import Stopped, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from etui.bench.plan import RunPlan, RunRequest
    from etui.bench.run import BenchRunner
    from etui.design.dry_run import PlanPrice
    from etui.design.load import Design
    from etui.measure.run import RunLimits

_ALLOWED = frozenset(
    {
        "design", "models", "data", "limit", "per_subject", "subjects", "seed", "part",
        "out", "fail_under", "max_joules", "max_hours", "dry_run", "pilot",
        "as_json", "as_lines", "quiet",
    }
)  # fmt: skip
"""Options that a design leaves open."""
_UNSTATED = frozenset({"precision", "precision_of", "difficulty", "prefix_reuse"})
"""Options that no key of a design replaces."""


def build_design_request(ctx: click.Context, options: dict[str, Any]) -> RunRequest:
    """Build the request of a design from the options.

    Raises:
        UsageError: An option sets what the design states.
    """
    from etui.bench.plan import RunRequest

    given = list_given(ctx)
    for name in given:
        if name not in _ALLOWED:
            flag = format_option(ctx, name)
            if name in _UNSTATED:
                raise UsageError(
                    f"{flag} cannot be used with --design",
                    "remove it, or set --limit, --max-hours or --max-joules",
                )
            raise UsageError(
                f"{flag} cannot be used with --design, which states it",
                f"copy the design, change it and pass the file: etui bench designs show "
                f"{options['design']} > mine.yaml",
            )
    if options["pilot"] is not None and not options["dry_run"]:
        raise UsageError("--pilot needs --dry-run", "add --dry-run, or remove it")
    return RunRequest(
        suite="",
        design=options["design"],
        models=options["models"],
        data=options["data"],
        limit=options["limit"],
        per_subject=options["per_subject"],
        subjects=options["subjects"],
        seed=options["seed"] if "seed" in given else None,
        part=options.get("part"),
    )


def plan_design_run(request: RunRequest, runner: BenchRunner) -> RunPlan:
    """Plan a run of a design; a run on this machine also measures its curves.

    Raises:
        EtuiError: The design cannot be planned.
    """
    from etui.design.plan import connect_curves, plan_design

    design, plan = plan_design(request, runner.runtime, runner.progress.say)
    describe_design(design, runner.progress.say)
    if plan.suite.notice:
        runner.progress.say(plan.suite.notice)
    runner.build_between_blocks = connect_curves(runner.runtime, runner.progress.say)
    return plan


def price_design_run(
    request: RunRequest, runner: BenchRunner, limits: RunLimits, pilot: int | None, as_json: bool
) -> None:
    """Print what a design costs, after a pilot if one is asked for.

    Raises:
        EtuiError: The design cannot be planned, or the pilot failed.
    """
    from etui.design.plan import plan_design, plan_pilot, price_new_run

    say = runner.progress.say
    design, plan = plan_design(request, runner.runtime, say)
    if pilot is not None:
        describe_design(design, say)
        outcome = runner.start(plan_pilot(plan, pilot), None)
        if outcome.ending != "complete":
            raise Stopped(
                "the pilot was stopped", f"resume it: etui bench --resume {outcome.folder}"
            )
    print_plan_price(price_new_run(design, plan, runner.runtime), plan, limits, as_json)


def print_plan_price(price: PlanPrice, plan: RunPlan, limits: RunLimits, as_json: bool) -> None:
    """Print the price of a plan as a table, or as one JSON document."""
    from etui.design.dry_run import build_price_document, format_price
    from etui.design.plan import count_within

    within = count_within(price, plan, limits.seconds)
    if as_json:
        print_json(build_price_document(price, within))
        return
    for line in format_price(price, within):
        click.echo(line)


def describe_design(design: Design, say: Callable[[str], None]) -> None:
    """Say which model serves each role."""
    served = ", ".join(f"{role} is {model}" for role, model in design.models.items())
    say(f"{design.title}: {served}")


def write_report(folder: Path, say: Callable[[str], None]) -> None:
    """Write the report of a design run into its folder."""
    from etui.design.report import write_design_report

    say("writing the report of the design")
    write_design_report(folder, folder)
