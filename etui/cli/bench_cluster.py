"""``etui bench --cluster``: the options of a run on many machines, and how it is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.bench.plan import RunPlan
    from etui.bench.run import BenchRunner, RunOutcome
    from etui.cluster.messages import Carrier
    from etui.measure.run import RunLimits


def check_cluster_options(options: dict[str, Any]) -> None:
    """Refuse options of a cluster without one, and those that a cluster cannot keep.

    Raises:
        UsageError: They have no effect.
    """
    if options["cluster"] is not None:
        if options["precision"] is not None:
            raise UsageError(
                "--precision cannot be used with --cluster: a stop at a width looks at the answers "
                "of one machine",
                "measure the precision on one machine, or set --limit",
            )
        if options["design"] is not None:
            raise UsageError(
                "--design cannot be used with --cluster: the curves of a design are measured "
                "between its blocks, on the machine that answers them",
                "run a part of the design on each machine with --part, and join them: etui bench "
                "merge",
            )
        return
    for name, given in (
        ("--compare" if options["compare"] else "--shard", options["compare"] is not None),
        ("--node-timeout", options["node_timeout"] is not None),
    ):
        if given:
            raise UsageError(
                f"{name} has no effect without --cluster", "add --cluster ADDRESS, or remove it"
            )


@contextmanager
def open_carrier(address: str) -> Iterator[Carrier]:
    """Connect to a cluster, or start Ray on this machine, for the time of the body.

    Raises:
        UsageError: Ray is missing, or nothing like it is at the address.
    """
    from etui.cluster.connect import open_ray
    from etui.cluster.ray_carrier import RayCarrier
    from etui.cluster.settings import parse_address

    with open_ray(parse_address(address)) as ray:
        carrier = RayCarrier(ray)
        try:
            yield carrier
        finally:
            carrier.close()


def run_on_cluster(
    runner: BenchRunner, options: dict[str, Any], limits: RunLimits, plan: RunPlan | None
) -> RunOutcome:
    """Run a benchmark on a cluster and show what was wasted.

    Args:
        runner: What runs it on this machine; its own engine is not used.
        options: The options of the command line.
        limits: Stop once these are reached.
        plan: The plan of a new run; None resumes one.
    """
    from etui.bench.folder import find_run
    from etui.bench.plan import restore_plan
    from etui.cluster.bench_cluster import ClusterBench
    from etui.cluster.losses import losses_text
    from etui.cluster.open_nodes import build_patience

    runtime = runner.runtime
    config = runtime.config
    folder = find_run(options["resume"], config) if plan is None else None
    with open_carrier(options["cluster"]) as carrier:
        runner.on_stop(lambda: None)  # the first Ctrl-C lets the nodes end their questions
        patience = build_patience(options["node_timeout"])
        bench = ClusterBench(runtime, runner.progress, runner.stopped, carrier, patience)
        if plan is not None:
            outcome = bench.start(plan, options["out"], limits, compare=bool(options["compare"]))
        else:
            assert folder is not None
            outcome = bench.resume(
                folder, lambda run: restore_plan(run, config, runtime.catalogue), limits
            )
    if (wasted := losses_text(outcome.losses)) and not options["quiet"]:
        click.echo(wasted, err=options["as_json"] or options["as_lines"])
    return outcome.run
