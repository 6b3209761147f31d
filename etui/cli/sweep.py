"""``etui sweep``: measure which settings of a model cost the fewest joules on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.cli.bench_options import list_given
from etui.cli.cluster import cluster_option
from etui.cli.output import (
    open_watch,
    print_event,
    print_json,
    print_lines,
    print_result,
    stop_signals,
)
from etui.cli.param_types import (
    TEXT,
    FiniteNumber,
    WholeNumber,
    choice_option,
    flag,
    number_option,
    path_option,
    text_option,
)
from etui.cli.when import wait_for_price, when_options
from etui.codec import pick
from etui.config.config import Config, load_config, make_home
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.progress import Progress
from etui.models.catalogue import load_catalogue
from etui.runtime.model_resolution import catalogue_name
from etui.sweep.config import Goal, SweepConfig, SweepDesign
from etui.sweep.folder import REPORT, find_sweep, read_config, read_sweep
from etui.units import count_text, watts_text

if TYPE_CHECKING:
    from etui.energy.power_limits.limit import CapRequest
    from etui.sweep.run import SweepOutcome


def check_terminal(*, jsonl: bool) -> None:
    """Check that someone can be asked for a power limit: a user, or with ``jsonl`` a program."""
    if not jsonl and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "--cap user asks you to set power limits, which needs a terminal",
            "run it in one, or use --cap set as root or with zeusd",
        )


def ask_for_limit(asked: CapRequest, *, jsonl: bool) -> None:
    """Ask for a power limit, and return once a line of stdin says that it is set."""
    check_terminal(jsonl=jsonl)
    if jsonl:
        more = pick(asked, "scope", "current_watts", "command", "problem")
        print_event("ask_cap", watts=asked.watts, device=asked.label, **more)
    else:
        # A whole line: a progress bar keeps an unfinished one back.
        ready = "press Enter when it is set, or Ctrl-C to stop"
        print_lines([format_request(asked), ready], err=True)
    if not sys.stdin.readline():
        raise Stopped("the input ended before the power limit was set", "resume the sweep to go on")


def format_request(asked: CapRequest) -> str:
    """Format the question: ``set the power limit of GPU 0 to 200 W (now 250 W): COMMAND``."""
    now = "" if asked.current_watts is None else f" (now {watts_text(asked.current_watts)})"
    problem = f"{asked.problem}; " if asked.problem else ""
    text = f"{problem}set the power limit of {asked.label} to {asked.watts:g} W{now}"
    return f"{text}: {asked.command}" if asked.command else text


AFTER = ""
"""Value of ``--apply`` without a sweep: apply the one that this command measures."""

_MODES = {
    "apply": ("it applies the result of a finished sweep", {"goal", "within", "as_json"}),
    "resume": (
        "a sweep continues with the settings it was started with",
        {"apply", "force", "as_json", "jsonl", "when", "by"},
    ),
    "revert": ("it measures nothing", {"as_json"}),
    "show": ("it measures nothing", {"as_json"}),
    "list": ("it measures nothing", {"as_json"}),
}
"""Option that measures nothing new -> why little else may be given with it, and what may."""


def find_mode(given: set[str], applies_a_sweep: bool) -> str:
    """Find what the options ask for: ``measure``, or the name of an option that does other work."""
    asked = [name for name in _MODES if (applies_a_sweep if name == "apply" else name in given)]
    if len(asked) > 1:
        raise UsageError(
            f"--{asked[0]} and --{asked[1]} cannot be combined", "pass only one of them"
        )
    if not asked:
        return "measure"
    mode = asked[0]
    why, allowed = _MODES[mode]
    if extra := sorted(given - allowed - {mode}):
        raise UsageError(
            f"{_name_option(extra[0])} cannot be used with --{mode}: {why}",
            _fix_combination(mode, extra[0]),
        )
    return mode


def _fix_combination(mode: str, extra: str) -> str:
    if mode == "apply" and extra == "model":
        return "to measure a model and apply the result, put --apply last: etui sweep MODEL --apply"
    if mode == "apply" and extra == "resume":
        return "put --apply last: etui sweep --resume SWEEP --apply"
    return "remove it, or start a new sweep" if mode == "resume" else "remove it"


def _name_option(name: str) -> str:
    names = {"model": "MODEL", "axes": "--axis", "as_json": "--json"}
    return names.get(name, f"--{name.replace('_', '-')}")


def build_goal(options: dict[str, Any]) -> Goal:
    """Build the goal that the options ask for."""
    return Goal(options["goal"], options["within"])


def build_request(options: dict[str, Any]) -> SweepConfig:
    """Build what is asked of a new sweep."""
    from etui.sweep.plan import parse_axes

    if options["suite"] is None:
        for name in ("data", "limit"):
            if options[name] is not None:
                raise UsageError(
                    f"--{name} has no effect without --suite", "remove it, or add --suite"
                )
    if options["model"] is None and options["arm"] is None:
        fix = "etui sweep MODEL, or --policy NAME --arm NAME"
        if options["policy"] is not None:
            raise UsageError("--policy needs the arm to measure", "add --arm NAME")
        if options["apply"] == AFTER:
            fix = "etui sweep MODEL --apply, or --apply SWEEP for a finished one"
        raise UsageError("no model given", fix)
    if options["model"] is not None and (options["policy"] or options["arm"]):
        raise UsageError("MODEL cannot be combined with --policy or --arm", "pass only one of them")
    data = options["data"]

    def given(**names: str) -> dict[str, Any]:
        found = {name: options[option] for name, option in names.items()}
        return {name: value for name, value in found.items() if value is not None}

    design = SweepDesign(
        goal=build_goal(options),
        seed=options["seed"],
        halving=not options["no_halving"],
        **given(race_rounds="rounds", confirm_blocks="blocks"),
    )
    return SweepConfig(
        axes=parse_axes(options["axes"]),
        design=design,
        data=None if data is None else str(Path(data).expanduser().absolute()),
        **given(
            model="model",
            policy="policy",
            arm="arm",
            workload="workload",
            output_tokens="output_tokens",
            window_s="window",
            cool_down_s="cool_down",
            cool_down_celsius="cool_to",
            cap="cap",
            suite="suite",
            questions="limit",
        ),
    )


@click.command()
@click.argument("model", type=TEXT, required=False)
@text_option(
    "--axis",
    "axes",
    multiple=True,
    metavar="NAME=V,V",
    help="Values of a setting to compare: threads, decode_threads, prefill_threads, batch_tokens, "
    "kv_type, flash_attention, gpu_layers, cpu_moe, split, speculate, draft_tokens, model or "
    "power_limit. Repeatable; all combinations are measured. Default: axes chosen for this "
    "machine and model.",
)
@text_option("-p", "--policy", metavar="NAME|FILE", help="Policy whose --arm is measured.")
@text_option("-a", "--arm", metavar="NAME", help="Arm of the policy to measure, instead of MODEL.")
@text_option(
    "--workload",
    default="chat",
    show_default=True,
    metavar="chat|code|long|letters|log|FILE",
    help="Texts to compute: shipped ones, the latest questions of the log, or a file.",
)
@choice_option(
    ["joules", "time", "joules*time"],
    "--goal",
    default="joules",
    show_default=True,
    help="What to minimize, for one answer.",
)
@number_option(
    FiniteNumber(0, 1000),
    "--within",
    metavar="PERCENT",
    help="With --goal joules: the best setting may be slower than the fastest by this much.",
)
@text_option(
    "--suite",
    metavar="NAME|FILE",
    help="Also measure the accuracy on these questions, of every model and quantisation.",
)
@text_option("--data", metavar="DIR|FILE", help="Local copy of the suite.")
@number_option(
    WholeNumber(1, 100_000), "-n", "--limit", help="Number of questions of --suite (default 100)."
)
@choice_option(
    ["user", "set"],
    "--cap",
    help="Who sets the values of a power_limit axis: you, when asked, or etui (as root, or through "
    "zeusd). The limit found at the beginning is restored in any case.",
)
@number_option(
    WholeNumber(2, 1000),
    "--blocks",
    help="Blocks that confirm the best settings (default 8): more show smaller differences.",
)
@number_option(
    WholeNumber(1, 100), "--rounds", help="Most rounds in which settings are dropped (default 5)."
)
@flag("--no-halving", help="Keep all settings until the last round, however bad.")
@number_option(
    FiniteNumber(0, 600, open_low=True),
    "--window",
    metavar="S",
    help="Measure each phase of a visit for at least S seconds (default: by the meter, 1 to 10).",
)
@number_option(
    FiniteNumber(0, 3600),
    "--cool-down",
    metavar="S",
    help="Idle seconds before each visit (default 0.5).",
)
@number_option(
    FiniteNumber(0, 120),
    "--cool-to",
    metavar="CELSIUS",
    help="Before each visit, also wait until the device is no hotter than this.",
)
@number_option(
    WholeNumber(1, 100_000),
    "--output-tokens",
    help="Output tokens of each answer (default: by the workload).",
)
@number_option(
    WholeNumber(0, 2**32 - 1),
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the orders and of the drawn questions.",
)
@path_option("-o", "--out", metavar="DIR", help="Folder for the sweep.")
@flag("--force", help="Measure even if other programs use the machine.")
@flag("--fresh", help="Start over instead of resuming an interrupted sweep.")
@flag("--dry-run", help="Print settings, blocks and the expected time; measure nothing.")
@when_options
@cluster_option
@flag("--json", "as_json", help="Print the result as one JSON document.")
@flag("--jsonl", help="Print a JSON line per block, and the result last.")
@text_option(
    "--resume",
    metavar="SWEEP",
    help="Resume a sweep: its folder, its id or a prefix of it, or 'last'.",
)
@flag("--list", "list_", help="List the sweeps on this machine.")
@text_option("--show", metavar="SWEEP", help="Print the result of a sweep.")
@click.option(
    "--apply",
    type=TEXT,
    is_flag=False,
    flag_value=AFTER,
    metavar="[SWEEP]",
    help="Use the best setting for this model on this machine from now on: that of SWEEP, or of "
    "the sweep that this command measures.",
)
@text_option(
    "--revert",
    metavar="MODEL",
    help="Undo --apply: use the settings of models.yaml and config.yaml again.",
)
@click.pass_context
def sweep(ctx: click.Context, /, **options: Any) -> None:
    """Measure which settings of a model cost the fewest joules on this machine.

    All combinations of the axes' values are measured in blocks, in random order, on the same
    tokens. Settings that are worse beyond doubt are dropped, and the best are confirmed against
    the settings in use now. The smallest difference that can be shown is measured first. Ctrl-C
    keeps what was measured, and the same command resumes.

    \b
    etui sweep smollm2-135m
    etui sweep smollm2-135m --axis threads=1,2,4 --axis kv_type=f16,q8_0 --suite sample
    etui sweep --policy balanced --arm quick --workload log --goal joules --within 10
    etui sweep qwen2.5-coder-1.5b --axis power_limit=150,200,250 --cap user
    etui sweep qwen2.5-coder-1.5b --cluster desk:6379
    etui sweep --apply last
    etui sweep --revert smollm2-135m
    """  # noqa: D301
    from etui.cli.cluster import sweep_on_cluster
    from etui.cli.sweep_text import print_sweep, print_sweeps

    given = {name.rstrip("_") for name in list_given(ctx)}
    applies_a_sweep = options["apply"] not in (None, AFTER)
    mode = find_mode(given, applies_a_sweep)
    if options["as_json"] and options["jsonl"]:
        raise UsageError("--json and --jsonl cannot be combined", "pass only one of them")
    if options["within"] is not None and options["goal"] != "joules":
        raise UsageError(
            f"--within {options['within']:g} cannot be used with --goal {options['goal']}",
            "it limits the time of the setting with the fewest joules: use --goal joules",
        )

    config = load_config()
    if mode in ("measure", "resume"):
        estimate = partial(_estimate_sweep, mode, options, config)
        wait_for_price(options, config, estimate, dry_run=options["dry_run"])
    if options["cluster"] is not None:
        make_home(config)
        sweep_on_cluster(options, build_request(options), config)
    elif mode == "list":
        print_sweeps(config, as_json=options["as_json"])
    elif mode == "show":
        print_sweep(options["show"], config, as_json=options["as_json"])
    elif mode == "apply":
        _apply_recorded(options, given, config)
    elif mode == "revert":
        _revert(options["revert"], config, as_json=options["as_json"])
    else:
        _measure(mode, options, config)


def _estimate_sweep(
    mode: str, options: dict[str, Any], config: Config
) -> tuple[float | None, float | None]:
    """Estimate the seconds of what is to be measured; the joules are not known."""
    from etui.sweep.run import describe_plan, estimate_rest

    if mode == "resume":
        return estimate_rest(read_sweep(find_sweep(options["resume"], config))), None
    return float(describe_plan(build_request(options), config)["seconds"]), None


def _measure(mode: str, options: dict[str, Any], config: Config) -> None:
    from etui.cli.sweep_text import print_plan
    from etui.log.writer import TurnWriter
    from etui.sweep.run import SweepRunner
    from etui.sweep.workbench import open_workbench

    begin: Callable[[SweepRunner], SweepOutcome]
    if mode == "resume":
        place = find_sweep(options["resume"], config)
        cap = read_config(place).cap
        begin = partial(SweepRunner.resume, place=place)
    else:
        request = build_request(options)
        if options["dry_run"]:
            print_plan(request, config, as_json=options["as_json"], as_line=options["jsonl"])
            return
        cap = request.cap
        begin = partial(
            SweepRunner.start, asked=request, out=options["out"], fresh=options["fresh"]
        )
    if cap == "user":
        check_terminal(jsonl=options["jsonl"])  # report now that there is no one to ask
    make_home(config)
    with (
        stop_signals(),
        open_watch(jsonl=options["jsonl"], texts=not options["jsonl"]) as watch,
        TurnWriter(config) as writer,
    ):
        writer.ready()

        def note(text: str) -> None:
            watch(Progress(text, fields={"text": text}))

        open_bench = partial(
            open_workbench,
            config,
            writer,
            note,
            partial(ask_for_limit, jsonl=options["jsonl"]),
            force=options["force"],
        )
        outcome = begin(SweepRunner(config, watch, writer, open_bench))
    _print_outcome(outcome, options, config)
    if cap is not None and config.power_limits_file.exists():
        raise EtuiError(
            "the power limit is not as it was found",
            "run the command above; every start of etui says so until the limit is as found",
        )


def _print_outcome(outcome: SweepOutcome, options: dict[str, Any], config: Config) -> None:
    from etui.cli.sweep_text import apply_result, format_result
    from etui.sweep.document import build_document

    document = build_document(outcome.config, outcome.result, outcome.blocks)
    if options["jsonl"]:
        print_event("result", **document)
    else:
        print_result(document, format_result(outcome.result), options["as_json"])
    click.echo(f"report: {outcome.folder / REPORT}", err=True)
    if outcome.why_stopped:
        if options["apply"] is not None:
            click.echo("nothing was applied: the sweep is not complete", err=True)
        raise Stopped(
            f"{outcome.why_stopped} after {count_text(outcome.result.blocks, 'block')}",
            f"run the same command again, or: etui sweep --resume {outcome.folder}",
        )
    if options["apply"] is not None:
        apply_result(config, outcome.config, outcome.result, outcome.result.goal)


def _apply_recorded(options: dict[str, Any], given: set[str], config: Config) -> None:
    from etui.cli.sweep_text import apply_result
    from etui.sweep.run import analyse_folder

    name = options["apply"]
    try:
        folder = find_sweep(name, config)
    except UsageError as error:
        raise UsageError(
            error.what, f"{error.fix}; to sweep a model and apply: etui sweep {name} --apply"
        ) from error
    recorded = read_sweep(folder)
    result = analyse_folder(recorded)
    if not result.is_complete:
        raise UsageError(
            f"{folder.name} is not complete", f"resume it: etui sweep --resume {folder} --apply"
        )
    goal = build_goal(options) if given & {"goal", "within"} else recorded.config.design.goal
    document = apply_result(config, recorded.config, result, goal)
    if options["as_json"]:
        print_json(document)


def _revert(model: str, config: Config, *, as_json: bool) -> None:
    from etui.models.tuned import remove_tuned

    catalogue = load_catalogue(config)
    name = catalogue_name(model, config, catalogue)
    tuned = remove_tuned(config, name)
    if tuned is None:
        catalogue.get(name)  # a wrong name is an error, with the nearest one
    if as_json:
        print_json({"model": name, "reverted": tuned})
    elif tuned is None:
        click.echo(f"{name} has no settings of a sweep on this machine", err=True)
    else:
        click.echo(f"{name} uses the settings of models.yaml and config.yaml again", err=True)
