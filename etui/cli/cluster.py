"""``--cluster`` of ``etui bench``, ``etui calibrate`` and ``etui sweep``.

The nodes of a bench run answer questions. Those of a calibration or a sweep run the command on
themselves and print lines of JSON, and what they measured is collected here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import print_json, print_json_line, stop_signals
from etui.cli.param_types import text_option
from etui.errors import EtuiError, ExitCode, Stopped, UsageError
from etui.units import seconds_text

if TYPE_CHECKING:
    from etui.bench.plan import RunPlan
    from etui.bench.run import BenchRunner, RunOutcome
    from etui.cluster.messages import NodeResult
    from etui.cluster.ray_carrier import RayCarrier
    from etui.config.config import Config
    from etui.measure.run import RunLimits

Document = dict[str, Any]

cluster_option = text_option(
    "--cluster",
    metavar="ADDRESS|local",
    help="Measure every machine of a Ray cluster: HOST:PORT of its head, or 'local'.",
)
_OURS = frozenset({"cluster", "as_json", "jsonl", "out"})
"""Parameters that the nodes do not get."""
_AGAIN = "run the same command again to resume"


@contextmanager
def open_carrier(address: str) -> Iterator[RayCarrier]:
    """Connect to a cluster, or start Ray on this machine, for the time of the body.

    Raises:
        UsageError: Ray is missing, or nothing like it is at the address.
    """
    from etui.cluster.connect import open_ray, parse_address

    with open_ray(parse_address(address)) as ray:
        from etui.cluster.ray_carrier import RayCarrier

        carrier = RayCarrier(ray)
        try:
            yield carrier
        finally:
            carrier.close()


def check_cluster_options(options: dict[str, Any]) -> None:
    """Refuse options of ``etui bench`` that need a cluster.

    Raises:
        UsageError: They have no effect.
    """
    for name, given in (
        ("--compare" if options["compare"] else "--shard", options["compare"] is not None),
        ("--node-timeout", options["node_timeout"] is not None),
    ):
        if given and options["cluster"] is None:
            raise UsageError(
                f"{name} has no effect without --cluster", "add --cluster ADDRESS, or remove it"
            )


def bench_on_cluster(
    runner: BenchRunner, options: dict[str, Any], limits: RunLimits, plan: RunPlan | None
) -> RunOutcome:
    """Run a benchmark on a cluster and show what was wasted.

    Args:
        runner: What runs it on this machine; its own engine is not used.
        options: The options of the command line.
        plan: The plan of a new run; None resumes one.
    """
    from etui.bench.folder import find_run
    from etui.bench.plan import restore_plan
    from etui.cluster.bench_cluster import ClusterBench
    from etui.cluster.open_nodes import build_patience

    runtime = runner.runtime
    config = runtime.config
    folder = find_run(options["resume"], config) if plan is None else None
    with open_carrier(options["cluster"]) as carrier:
        runner.on_stop(lambda: None)  # the first Ctrl-C lets the nodes end their questions
        bench = ClusterBench(
            runtime,
            runner.progress,
            runner.stopped,
            carrier=carrier,
            patience=build_patience(options["node_timeout"]),
            compare=bool(options["compare"]),
        )
        if plan is not None:
            outcome = bench.start(plan, options["out"], limits)
        else:
            assert folder is not None
            outcome = bench.resume(
                folder, lambda run: restore_plan(run, config, runtime.catalogue), limits
            )
    if (wasted := bench.losses.text()) and not options["quiet"]:
        click.echo(wasted, err=options["as_json"] or options["as_lines"])
    return outcome


def calibrate_on_cluster(ctx: click.Context, config: Config) -> int:
    """Calibrate a model on every node, and save the curves to the log of this machine too.

    Raises:
        Stopped: It was interrupted; the same command resumes.
        EtuiError: A node could not measure; the curves of the others are saved.
    """
    results, stopped = _run_on_nodes(ctx, collect=False)
    curves = _read_documents(results, "curve")
    _save_curves(curves, config)
    if ctx.params["as_json"]:
        print_json({"curves": [{"node": name, **each} for name, each in curves.items()]})
    elif not ctx.params["jsonl"]:
        for name, document in curves.items():
            _print_curve(name, document)
    _refuse_failed(results, stopped)
    return ExitCode.DONE


def sweep_on_cluster(ctx: click.Context, config: Config) -> int:
    """Sweep on every node, and keep a copy of each sweep in the folder of all sweeps here.

    Raises:
        UsageError: An option is for one machine only.
        Stopped: A sweep was interrupted; the same command resumes.
        EtuiError: A node could not measure; the results of the others are kept.
    """
    for name, fix in (
        ("apply", "apply the result on its machine: etui sweep --apply last"),
        ("dry_run", "a plan depends on the machine: run --dry-run there"),
    ):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(f"--{name.replace('_', '-')} cannot be used with --cluster", fix)
    if ctx.params["cap"] == "user":
        raise UsageError(
            "--cap user asks a person at the machine, and a node has none",
            "use --cap set, where etui may set power limits",
        )
    results, stopped = _run_on_nodes(ctx, collect=True)
    folders = {
        name: _keep_sweep(name, result, ctx.params["out"], config)
        for name, result in results.items()
        if result.files
    }
    if ctx.params["as_json"]:
        documents = _read_documents(results, "result")
        print_json({"sweeps": [{"node": name, **each} for name, each in documents.items()]})
    elif not ctx.params["jsonl"]:
        _print_sweeps(folders)
    for name, folder in folders.items():
        click.echo(f"{name}: {folder}", err=True)
    _refuse_failed(results, stopped)
    return ExitCode.DONE


def build_words(ctx: click.Context, leave_out: Collection[str] = _OURS) -> tuple[str, ...]:
    """Build the command line of a node from the options that were given here.

    Paths of files become absolute; the same file must be there on every node.
    """
    words: list[str] = []
    arguments: list[str] = []
    for param in ctx.command.params:
        assert param.name is not None
        value = ctx.params.get(param.name)
        source = ctx.get_parameter_source(param.name)
        if param.name in leave_out or source is click.core.ParameterSource.DEFAULT:
            continue
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(param, click.Argument):
                arguments.append(_make_absolute(each))
            elif isinstance(each, bool):
                words.append(max(param.opts if each else param.secondary_opts, key=len))
            else:
                words.append(f"{max(param.opts, key=len)}={_make_absolute(each)}")
    return (*words, *(["--", *arguments] if arguments else []))


def _make_absolute(value: object) -> str:
    text = str(value)
    with suppress(OSError, ValueError):
        if Path(text).exists() and ("/" in text or Path(text).is_file()):
            return str(Path(text).absolute())
    return text


def _run_on_nodes(ctx: click.Context, *, collect: bool) -> tuple[dict[str, NodeResult], bool]:
    """Run the command of this process on every node, after pulling its model there.

    Args:
        collect: Whether the folder that it writes is sent back.

    Returns:
        Name of the node -> how the command ended; and whether the user stopped it.
    """
    from etui.cluster.messages import Command
    from etui.cluster.open_nodes import NodeDriver

    command = Command((str(ctx.command.name), "--jsonl", *build_words(ctx)), collect)
    model = ctx.params["model"]
    pulls = [] if model is None else [Command(("models", "pull", str(model)))]
    show = _print_line if ctx.params["jsonl"] else _show_line
    stopped = Event()
    with (
        stop_signals(stopped, lambda: None),
        open_carrier(ctx.params["cluster"]) as carrier,
    ):
        nodes = NodeDriver(carrier, lambda text: click.echo(text, err=True), stopped.is_set)
        return nodes.run([*pulls, command], show), stopped.is_set()


def _read_documents(results: Mapping[str, NodeResult], event: str) -> dict[str, Document]:
    """Read the last line of an event that each node printed; nodes without one are left out."""
    found = {}
    for name, result in results.items():
        for document in map(_parse_line, result.lines):
            if document.pop("event", None) == event:
                found[name] = document
    return found


def _parse_line(line: str) -> Document:
    """Read a line of JSON that a command printed; empty if it is no object."""
    with suppress(ValueError):
        document = json.loads(line)
        if isinstance(document, dict):
            return document
    return {}


def _print_line(name: str, line: str) -> None:
    if document := _parse_line(line):
        print_json_line({"node": name, **document})


def _show_line(name: str, line: str) -> None:
    document = _parse_line(line)
    seconds = document.get("seconds_left")
    left = "" if seconds is None else f", about {seconds_text(seconds)} left"
    match document.get("event"):
        case "note":
            text = str(document.get("text"))
        case "measured":
            text = f"{document.get('done')} of {document.get('points')}{left}"
        case "block":
            text = (
                f"block {document.get('block')}, {document.get('remaining')} settings "
                f"left, best {document.get('best')}{left}"
            )
        case "dropped":
            text = f"dropped {document.get('setting')}"
        case _:
            return
    click.echo(f"{name}: {text}", err=True)


def _refuse_failed(results: Mapping[str, NodeResult], stopped: bool) -> None:
    """Raise what went wrong on nodes, after everything else was shown.

    Raises:
        Stopped: A command was interrupted; what it measured is kept on its node.
        EtuiError: A command failed.
    """
    unfinished = {
        name: result for name, result in results.items() if result.exit_code != ExitCode.DONE
    }
    failed = [
        f"node {name}: {_last_error(result.errors)}"
        for name, result in unfinished.items()
        if result.exit_code != ExitCode.PARTIAL
    ]
    if failed and not stopped:
        raise EtuiError("; ".join(failed), _AGAIN)
    if unfinished:
        raise Stopped(f"stopped on {', '.join(unfinished)} before the end", _AGAIN)


def _last_error(text: str) -> str:
    lines = [line.strip().removeprefix("etui: ") for line in text.splitlines() if line.strip()]
    return " ".join(lines[-2:]) if lines else "it failed without a message"


def _save_curves(curves: Mapping[str, Document], config: Config) -> None:
    """Save the curves to the log here; a node of this machine has saved its own already."""
    from etui.codec import from_document
    from etui.log.queries import LogReader
    from etui.log.records import CurveRecord
    from etui.log.writer import TurnWriter

    with TurnWriter(config) as writer:
        writer.ready()
        with LogReader(config) as log:
            known = {curve.curve_id for curve in log.curves(None)}
        for curve in curves.values():
            record = from_document(CurveRecord, curve, extra="ignore")
            if record.curve_id not in known:
                writer.save_curve(record)


def _print_curve(name: str, document: Document) -> None:
    from etui.curves.text import doubt_text, fit_lines, points_text
    from etui.log.curve_lookup import parse_curve

    curve = parse_curve(
        {
            key: json.dumps(value) if isinstance(value, dict) else value
            for key, value in document.items()
        }
    )
    if curve is not None:
        click.echo(f"{name}: {curve.model} on {curve.conditions.machine}, {points_text(curve)}")
        for line in fit_lines(curve):
            click.echo(f"  {line}")
        if doubt := doubt_text(curve):
            click.echo(f"{name}: {doubt}", err=True)


def _keep_sweep(name: str, result: NodeResult, out: Path | None, config: Config) -> Path:
    """Write the files of a node's sweep: into OUT/NODE, or into the folder of all sweeps."""
    from etui.atomic import write_bytes
    from etui.sweep.folder import sweeps_dir

    begun = _read_documents({name: result}, "begun").get(name, {})
    there = Path(str(begun.get("folder") or name)).name
    folder = out / name if out is not None else sweeps_dir(config) / there
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in result.files.items():
            content = text.encode("utf-8", "surrogateescape")
            path = folder / Path(file).name  # a node names files, never other folders
            if not path.is_file() or path.read_bytes() != content:
                write_bytes(path, content)
    except OSError as error:
        raise EtuiError(
            f"cannot write {folder}: {error.strerror or error}", "use another folder with --out"
        ) from error
    return folder


def _print_sweeps(folders: Mapping[str, Path]) -> None:
    from etui.cli.sweep_text import print_result
    from etui.sweep.folder import read_sweep
    from etui.sweep.run import analyse_folder

    for name, folder in folders.items():
        click.echo(f"{name}:")
        print_result(analyse_folder(read_sweep(folder)))
