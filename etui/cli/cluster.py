"""``--cluster`` of ``etui bench``, ``etui calibrate`` and ``etui sweep``.

The nodes of a bench run answer questions. Those of a calibration or a sweep measure themselves, and
what they measured is collected here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from etui.atomic import write_bytes
from etui.cli.output import open_watch, print_event, print_json, print_lines, stop_signals
from etui.cli.param_types import text_option
from etui.errors import EtuiError, ExitCode, Stopped, UsageError, writing

if TYPE_CHECKING:
    from etui.bench.plan import RunPlan
    from etui.bench.run import BenchRunner, RunOutcome
    from etui.cluster.messages import Failed, Measured, Measurement
    from etui.cluster.ray_carrier import RayCarrier
    from etui.config.config import Config
    from etui.curves.operating_curve import OperatingCurve
    from etui.measure.progress import Progress
    from etui.measure.run import RunLimits
    from etui.sweep.config import SweepConfig

cluster_option = text_option(
    "--cluster",
    metavar="ADDRESS|local",
    help="Measure every machine of a Ray cluster: HOST:PORT of its head, or 'local'.",
)
_AGAIN = "run the same command again to resume"


@contextmanager
def open_carrier(address: str) -> Iterator[RayCarrier]:
    """Connect to a cluster, or start Ray on this machine, for the time of the body."""
    from etui.cluster.connect import open_ray, parse_address

    with open_ray(parse_address(address)) as ray:
        from etui.cluster.ray_carrier import RayCarrier

        carrier = RayCarrier(ray)
        try:
            yield carrier
        finally:
            carrier.close()


def check_cluster_options(options: dict[str, Any]) -> None:
    """Refuse options of ``etui bench`` that need a cluster."""
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
    """Run a benchmark on a cluster and show what was wasted; without a plan, resume one."""
    from etui.bench.folder import find_run
    from etui.bench.plan import restore_plan
    from etui.cluster.bench_cluster import ClusterBench
    from etui.cluster.open_nodes import NodeDriver, build_patience

    runtime = runner.runtime
    config = runtime.config
    folder = find_run(options["resume"], config) if plan is None else None
    with open_carrier(options["cluster"]) as carrier:
        runner.on_stop(lambda: None)  # the first Ctrl-C lets the nodes end their questions
        bench = ClusterBench(
            runtime,
            runner.progress,
            runner.stopped,
            driver=NodeDriver(
                carrier,
                runner.progress.say,
                runner.stopped.is_set,
                build_patience(options["node_timeout"]),
            ),
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


def calibrate_on_cluster(address: str, asked: Measurement, form: str, config: Config) -> None:
    """Calibrate a model on every machine, and save the curves to the log of this one too."""
    from etui.cli.curves import print_curve
    from etui.cluster.messages import Measured
    from etui.log.curve_lookup import build_curve_row

    results, stopped = _measure_on_nodes(address, asked, jsonl=form == "jsonl")
    curves = {
        name: (result.curve, "complete" if result.complete else "stopped")
        for name, result in results.items()
        if isinstance(result, Measured) and result.curve is not None
    }
    _save_curves([curve for curve, _ in curves.values()], config)
    if form == "json":
        print_json(
            {
                "curves": [
                    {"node": name, "status": status, **build_curve_row(curve)}
                    for name, (curve, status) in curves.items()
                ]
            }
        )
    else:
        for name, (curve, status) in curves.items():
            print_curve(curve, form, status, name)
    _refuse_failed(results, stopped)


def sweep_on_cluster(options: dict[str, Any], asked: SweepConfig, config: Config) -> None:
    """Sweep on every machine, and keep a copy of each sweep in the folder of all sweeps here."""
    from etui.cli.sweep_text import format_result
    from etui.cluster.messages import Failed, Measurement
    from etui.sweep.document import build_document
    from etui.sweep.folder import read_sweep
    from etui.sweep.run import analyse_folder

    for name, given, fix in (
        ("--apply", options["apply"] is not None, "apply it on its machine: etui sweep --apply"),
        ("--dry-run", options["dry_run"], "a plan depends on the machine: run --dry-run there"),
    ):
        if given:
            raise UsageError(f"{name} cannot be used with --cluster", fix)
    if asked.cap == "user":
        raise UsageError(
            "--cap user asks a person at the machine, and a node has none",
            "use --cap set, where etui may set power limits",
        )
    asked = replace(  # the same files must be there on every node
        asked,
        policy=asked.policy and _make_absolute(asked.policy),
        workload=_make_absolute(asked.workload),
        suite=asked.suite and _make_absolute(asked.suite),
    )
    request = Measurement(asked.model, asked, options["force"], options["fresh"])
    results, stopped = _measure_on_nodes(options["cluster"], request, jsonl=options["jsonl"])
    documents = []
    for name, result in results.items():
        if isinstance(result, Failed):
            continue
        folder = _keep_sweep(name, result, options["out"], config)
        recorded = read_sweep(folder)
        found = analyse_folder(recorded)
        documents.append({"node": name, **build_document(recorded.config, found, recorded.blocks)})
        if options["jsonl"]:
            print_event("result", **documents[-1])
        elif not options["as_json"]:
            click.echo(f"{name}:")
            print_lines(format_result(found))
        click.echo(f"{name}: {folder}", err=True)
    if options["as_json"]:
        print_json({"sweeps": documents})
    _refuse_failed(results, stopped)


def _make_absolute(value: str) -> str:
    with suppress(OSError, ValueError):
        if Path(value).exists() and ("/" in value or Path(value).is_file()):
            return str(Path(value).absolute())
    return value


def _measure_on_nodes(
    address: str, request: Measurement, *, jsonl: bool
) -> tuple[dict[str, Measured | Failed], bool]:
    """Have nodes measure; return what came of it by their names, and whether the user stopped."""
    from etui.cluster.open_nodes import NodeDriver

    stopped = Event()
    with (
        stop_signals(stopped, lambda: None),
        open_watch(jsonl=jsonl, texts=not jsonl) as watch,
        open_carrier(address) as carrier,
    ):

        def hear(name: str, step: Progress) -> None:
            fields = {"node": name, **step.fields} if step.fields else step.fields
            watch(replace(step, text=step.text and f"{name}: {step.text}", fields=fields))

        nodes = NodeDriver(carrier, lambda text: click.echo(text, err=True), stopped.is_set)
        return nodes.measure(request, hear), stopped.is_set()


def _refuse_failed(results: Mapping[str, Measured | Failed], stopped: bool) -> None:
    """Raise what went wrong on nodes, after everything else was shown."""
    from etui.cluster.messages import Failed

    errors = [
        f"node {name}: {each.what} {each.fix}".strip()
        for name, each in results.items()
        if isinstance(each, Failed) and each.exit_code != ExitCode.PARTIAL
    ]
    if errors and not stopped:
        raise EtuiError("; ".join(errors), _AGAIN)
    unfinished = [n for n, each in results.items() if isinstance(each, Failed) or not each.complete]
    if unfinished:
        raise Stopped(f"stopped on {', '.join(unfinished)} before the end", _AGAIN)


def _save_curves(curves: Iterable[OperatingCurve], config: Config) -> None:
    """Save the curves to the log here; a node of this machine has saved its own already."""
    from etui.log.queries import LogReader
    from etui.log.writer import TurnWriter

    with TurnWriter(config) as writer:
        writer.ready()
        with LogReader(config) as log:
            known = {curve.curve_id for curve in log.curves(None)}
        for curve in curves:
            if curve.curve_id not in known:
                writer.save_curve(curve)


def _keep_sweep(name: str, result: Measured, out: Path | None, config: Config) -> Path:
    """Write the files of a node's sweep: into OUT/NODE, or into the folder of all sweeps."""
    from etui.sweep.folder import sweeps_dir

    folder = out / name if out is not None else sweeps_dir(config) / Path(result.folder).name
    with writing(folder, "use another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in result.files.items():
            path = folder / Path(file).name  # a node names files, never other folders
            if not path.is_file() or path.read_bytes() != content:
                write_bytes(path, content)
    return folder
