"""``etui bench``: measure accuracy and joules, with error bars, on multiple-choice questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, ClassVar

import click

from etui.bench.folder import find_run, read_run
from etui.cli.bench_options import SECTIONS, bench_options, format_option, list_given
from etui.cli.lazy_group import LazyGroup
from etui.cli.output import open_watch, print_json, print_notes, print_result, stop_signals
from etui.cli.when import wait_for_price
from etui.config.config import Config, load_config, make_home
from etui.errors import ExitCode, Stopped, UsageError
from etui.extras import require_extra
from etui.measure.progress import Progress
from etui.measure.run import RunLimits

if TYPE_CHECKING:
    from etui.bench.plan import RunPlan, RunRequest
    from etui.bench.run import BenchRunner, RunOutcome
    from etui.design.plan import PlanPrice
    from etui.runtime.runtime import Runtime


_WHY = {
    "joules": "--max-joules reached",
    "time": "--max-hours reached",
    "stopped": "stopped",
}
"""How a run ended before its last answer -> the words for it."""


_ALLOWED = frozenset(
    {
        "design", "models", "data", "limit", "per_subject", "subjects", "seed", "part",
        "out", "fail_under", "max_joules", "max_hours", "dry_run", "pilot", "when", "by",
        "cluster", "compare", "node_timeout",
        "as_json", "as_lines", "quiet",
    }
)  # fmt: skip
"""Options that a design leaves open."""

_UNSTATED = frozenset({"precision", "precision_of", "difficulty", "prefix_reuse"})
"""Options that no key of a design replaces."""


class BenchGroup(LazyGroup):
    """A group that runs a benchmark without a subcommand, with its options in sections."""

    commands_of: ClassVar = {
        "compare": "Compare runs, or the arms of a run, question by question.",
        "difficulty": "Make the table of difficulties that --difficulty reads, from runs.",
        "merge": "Join the runs of one plan: parts, other machines, other days.",
        "publish": "Write a run as a folder for a public git repository.",
        "report": "Write a run's page, summary and table, and figures for a paper.",
        "designs": "List the designs of studies, and print one to copy it.",
        "export": "Write a run's results in the form that lm-eval's viewers read.",
    }
    modules_of: ClassVar = dict.fromkeys(commands_of.keys() - {"designs"}, "runs")
    place = "etui.cli.bench_"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in sections, then the subcommands."""
        rows: dict[str, list[tuple[str, str]]] = {}
        section = "Options"
        for param in self.get_params(ctx):
            section = SECTIONS.get(param.name or "", section)
            record = param.get_help_record(ctx)
            if record is not None:
                rows.setdefault(section, []).append(record)
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)
        self.format_commands(ctx, formatter)


@click.group(cls=BenchGroup, invoke_without_command=True)
@bench_options
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Measure accuracy and joules on multiple-choice questions.

    \b
    etui bench --suite sample --model smollm2-135m
    etui bench --suite mmlu --limit 570 --model qwen2.5-coder-0.5b
    etui bench --suite mmlu --limit 285 --model qwen2.5-coder-1.5b -r direct -r cot
    etui bench --suite mmlu --limit 570 --policy balanced
    etui bench --suite mmlu --precision 3 --model qwen2.5-coder-0.5b
    etui bench --design seed --dry-run --max-hours 2
    etui bench --resume last

    Half width of the 95 % interval of an accuracy near 50 %, by number of questions:

    \b
    100     285     570     1,140   2,850   5,700   14,042
    ±9.8    ±5.8    ±4.1    ±2.9    ±1.8    ±1.3    ±0.8   points

    With fewer than a thousand questions, differences of one to three points between two runs are
    not visible, unless both answered the same questions: `etui bench compare` is paired and needs
    far fewer.
    """  # noqa: D301
    if ctx.invoked_subcommand is not None:
        if given := list_given(ctx):
            raise click.UsageError(
                f"{format_option(ctx, given[0])} before {ctx.invoked_subcommand!r} has no effect"
            )
        return
    ctx.exit(_run_bench(ctx, options))


def _run_bench(ctx: click.Context, options: dict[str, Any]) -> int:
    from etui.bench.progress import RunProgress
    from etui.bench.run import BenchRunner
    from etui.cli.cluster import bench_on_cluster, check_cluster_options
    from etui.runtime.runtime import open_runtime

    if options["as_json"] and options["as_lines"]:
        raise click.UsageError("--json and --jsonl cannot be combined")
    check_cluster_options(options)
    # Only the arms of a run decide, which its config.json records.
    config = replace(load_config(), loop_guard=False)
    make_home(config)
    stopped, hours = Event(), options["max_hours"]
    limits = RunLimits(options["max_joules"], None if hours is None else 3600 * hours)
    estimate = partial(_estimate_run, ctx, config, options, limits)
    wait_for_price(options, config, estimate, dry_run=options["dry_run"])
    with (
        stop_signals(stopped) as on_stop,
        open_watch(jsonl=options["as_lines"], texts=not options["quiet"]) as watch,
        open_runtime(config, report_log=lambda text: watch(Progress(text))) as runtime,
    ):
        progress = RunProgress(watch, limits.seconds)
        if runtime.catalogue.problem:
            progress.say(runtime.catalogue.problem)
        runner = BenchRunner(runtime, progress, stopped, on_stop)
        plan = None
        if options["resume"] is None:
            plan = _plan_run(ctx, runner, options, limits)
        else:
            _check_resume_options(ctx)
            if options["dry_run"]:
                _price_rest(runner, options, limits)
        if options["dry_run"]:
            return ExitCode.DONE
        if options["cluster"] is not None:
            outcome = bench_on_cluster(runner, options, limits, plan)
        elif plan is not None:
            outcome = runner.start(plan, options["out"], limits)
        else:
            outcome = _resume(runner, options, limits)
        if outcome.config.design is not None:
            require_extra("figures", "the answers are kept; the report of the design")
            from etui.design.report import write_design_report

            progress.say("writing the report of the design")
            write_design_report(outcome.folder, outcome.folder)
    return _print_outcome(outcome, options)


def _estimate_run(
    ctx: click.Context, config: Config, options: dict[str, Any], limits: RunLimits
) -> tuple[float | None, float | None]:
    """Estimate the seconds and joules of what is to be answered; None where they are not known."""
    from etui.bench.plan import restore_plan
    from etui.bench.progress import RunProgress
    from etui.bench.run import BenchRunner
    from etui.design.plan import price_plan, price_rest
    from etui.runtime.runtime import open_runtime

    with open_runtime(config) as runtime:
        if options["resume"] is None:
            runner = BenchRunner(runtime, RunProgress(), Event())
            plan = _plan_run(ctx, runner, {**options, "dry_run": False, "pilot": None}, limits)
            price = None if plan.config.routed else price_plan(plan, runtime, {})
        else:
            run = read_run(find_run(options["resume"], config))
            plan = restore_plan(run.config, config, runtime.catalogue)
            routed = run.config.routed
            price = None if routed else price_rest(plan, runtime, run.config, run.samples)
    seconds = None if price is None else price.left.total_seconds
    if limits.seconds is not None:
        seconds = limits.seconds if seconds is None else min(seconds, limits.seconds)
    return seconds, None if price is None else price.left.total_joules


def _plan_run(
    ctx: click.Context, runner: BenchRunner, options: dict[str, Any], limits: RunLimits
) -> RunPlan:
    config, catalogue, say = runner.runtime.config, runner.runtime.catalogue, runner.progress.say
    if options["design"] is not None:
        _check_design_options(ctx, options)
        return _plan_design(_build_request(ctx, options), runner, options, limits)

    from etui.bench.plan import make_plan

    if not options["suite"]:
        raise UsageError(
            "no questions given",
            "add --suite mmlu, --suite sample, --design NAME or --resume RUN",
        )
    if options["pilot"] is not None:
        raise UsageError("--pilot needs --design", "add --design NAME, or remove it")
    plan = make_plan(_build_request(ctx, options), config, catalogue, say)
    plan = _add_precision(plan, options, say)
    if plan.suite.notice:
        say(plan.suite.notice)
    if options["dry_run"]:
        _print_token_counts(plan, runner.runtime, limits, as_json=options["as_json"])
    return plan


def _plan_design(
    request: RunRequest, runner: BenchRunner, options: dict[str, Any], limits: RunLimits
) -> RunPlan:
    """Plan a run of a design, which also measures its curves; or price it, after a pilot."""
    from etui.design.curve_visits import build_curve_visits
    from etui.design.plan import plan_design, plan_pilot, price_new_run

    require_extra("figures", "the report of a design")
    say, dry_run, pilot = runner.progress.say, options["dry_run"], options["pilot"]
    design, plan = plan_design(request, runner.runtime, say)
    if not dry_run or pilot is not None:
        served = ", ".join(f"{role} is {model}" for role, model in design.models.items())
        say(f"{design.title}: {served}")
    if not dry_run:
        if plan.suite.notice:
            say(plan.suite.notice)
        runner.build_between_blocks = partial(build_curve_visits, runtime=runner.runtime, say=say)
        return plan
    if pilot is not None:
        outcome = runner.start(plan_pilot(plan, pilot), None)
        if outcome.ending != "complete":
            raise Stopped(
                "the pilot was stopped", f"resume it: etui bench --resume {outcome.folder}"
            )
    _print_price(price_new_run(design, plan, runner.runtime), plan, limits, options["as_json"])
    return plan


def _check_design_options(ctx: click.Context, options: dict[str, Any]) -> None:
    for name in list_given(ctx):
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


def _print_price(price: PlanPrice, plan: RunPlan, limits: RunLimits, as_json: bool) -> None:
    from etui.design.plan import build_price_document, count_within, format_price

    within = count_within(price, plan, limits.seconds)
    print_result(build_price_document(price, within), format_price(price, within), as_json)


def _resume(runner: BenchRunner, options: dict[str, Any], limits: RunLimits) -> RunOutcome:
    from etui.bench.plan import restore_plan
    from etui.design.curve_visits import build_curve_visits

    runtime, say = runner.runtime, runner.progress.say
    runner.build_between_blocks = partial(build_curve_visits, runtime=runtime, say=say)
    return runner.resume(
        find_run(options["resume"], runtime.config),
        lambda run: restore_plan(run, runtime.config, runtime.catalogue),
        limits,
    )


def _check_resume_options(ctx: click.Context) -> None:
    allowed = {
        "resume", "fail_under", "max_joules", "max_hours", "dry_run", "when", "by",
        "as_json", "as_lines", "quiet", "cluster", "node_timeout",
    }  # fmt: skip
    extra = [name for name in list_given(ctx) if name not in allowed]
    if extra:
        raise UsageError(
            f"{format_option(ctx, extra[0])} cannot be used with --resume: a run continues with "
            "the settings it was started with",
            "remove it, or start a new run",
        )


def _price_rest(runner: BenchRunner, options: dict[str, Any], limits: RunLimits) -> None:
    from etui.bench.plan import restore_plan
    from etui.design.plan import price_rest

    runtime = runner.runtime
    recorded = read_run(find_run(options["resume"], runtime.config))
    if recorded.config.routed:
        raise UsageError(
            "the rest of a run whose arms a policy chooses cannot be priced",
            "price a run of arms: --design NAME, --model NAME or --arms A,B",
        )
    plan = restore_plan(recorded.config, runtime.config, runtime.catalogue)
    price = price_rest(plan, runtime, recorded.config, recorded.samples)
    _print_price(price, plan, limits, options["as_json"])


def _build_request(ctx: click.Context, options: dict[str, Any]) -> RunRequest:
    from etui.bench.arms import ArmOverrides
    from etui.bench.plan import RunRequest

    is_open = options["design"] is not None and "seed" not in list_given(ctx)
    return RunRequest(
        suite=options["suite"] or "",
        design=options["design"],
        split=options["split"],
        data=options["data"],
        format=options["format"],
        shots=options["shots"],
        seed=None if is_open else options["seed"],
        limit=options["limit"],
        per_subject=options["per_subject"],
        subjects=options["subjects"],
        models=options["models"],
        reasonings=tuple(dict.fromkeys(options["reasonings"])),
        arms=options["arms"],
        policy=options["policy"],
        overrides=ArmOverrides(
            think_tokens=options["think_tokens"],
            votes=options["votes"],
            stop=options["stop"],
            max_tokens=options["max_tokens"],
            temperature=options["temperature"],
            loop_guard=options["loop_guard"],
        ),
        reuse=options["prefix_reuse"],
        speculates=tuple(dict.fromkeys(options["speculates"])),
        part=options["part"],
    )


def _add_precision(plan: RunPlan, options: dict[str, Any], say: Callable[[str], None]) -> RunPlan:
    from etui.bench.plan import add_precision

    points, of, difficulty = (options[name] for name in ("precision", "precision_of", "difficulty"))
    if points is None:
        given = "--precision-of" if of else "--difficulty"
        if of or difficulty:
            raise UsageError(f"{given} needs --precision", "add --precision POINTS, or remove it")
        return plan
    return add_precision(plan, points, of, difficulty, say)


def _print_token_counts(
    plan: RunPlan, runtime: Runtime[Any], limits: RunLimits, *, as_json: bool
) -> None:
    from etui.bench import dry_run
    from etui.design.plan import build_price_document, count_within, format_price, price_plan

    counts = dry_run.count_tokens(plan, runtime.config, runtime.catalogue)
    price = price_plan(plan, runtime, {})
    within = None if plan.config.routed else count_within(price, plan, limits.seconds)
    counts["price"] = build_price_document(price, within)
    lines = [
        f"{model}: {count['computed']:,} tokens to compute for {counts['questions']:,} "
        f"questions ({count['prefix']:,} of them for worked examples, once per subject); "
        f"{count['whole']:,} without reuse"
        for model, count in counts["models"].items()
    ]
    if plan.config.routed:
        lines.append("each arm of the policy, as if it answered every question:")
    if price.left.unknown:
        lines.append(f"joules and seconds of {', '.join(price.left.unknown)} are unknown: first "
                     "answers here, or etui calibrate MODEL, show them")  # fmt: skip
    else:
        lines += format_price(price, within)
    if plan.config.precision is not None:
        counts["precision"] = dry_run.describe_expected_questions(plan)
        lines.insert(0, dry_run.format_expected_questions(plan))
    print_result(counts, lines, as_json)


def _print_outcome(outcome: RunOutcome, options: dict[str, Any]) -> int:
    from etui.bench.summary import summary_document
    from etui.bench.summary_text import headline

    summary = outcome.summary
    if options["as_json"]:
        print_json(summary_document(summary))
    elif not options["as_lines"]:
        click.echo(headline(summary))
    if not options["quiet"]:
        print_notes(summary.warnings)
        click.echo(f"report: {outcome.folder / 'report.html'}", err=True)
    if outcome.ending not in ("complete", "precise"):
        why = _WHY[outcome.ending]
        total = outcome.config.questions * len(outcome.config.contenders)
        raise Stopped(
            f"{why} after {len(outcome.samples):,} of {total:,} answers",
            f"resume with: etui bench --resume {outcome.folder}",
        )
    threshold = options["fail_under"]
    if threshold is None:
        return ExitCode.DONE
    low = {
        name: 100 * arm.accuracy.micro.value
        for name, arm in summary.arms.items()
        if 100 * arm.accuracy.micro.value < threshold
    }
    for name, percent in low.items():
        click.echo(f"etui: {name}: accuracy {percent:.1f} % is below {threshold:g} %", err=True)
    return ExitCode.GATE if low else ExitCode.DONE
