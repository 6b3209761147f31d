"""Run a benchmark on the nodes of a cluster; ``etui bench --cluster`` without the command line.

This process writes the run folder, the log and the reports; the nodes only answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event

from etui.backends.local import LocalBackend
from etui.bench.config import RunConfig, plan_differences
from etui.bench.folder import RUN, RunFolder, new_run_id, runs_dir
from etui.bench.machines import add_machines, assign_keys, is_comparison, join_machines, undo_join
from etui.bench.plan import RunPlan
from etui.bench.progress import RunProgress
from etui.bench.results import write_results
from etui.bench.run import (
    RunOutcome,
    log_run,
    read_answers,
    refuse_merged,
    refuse_other_plan,
)
from etui.bench.sample import Sample
from etui.bench.schedule import build_schedule
from etui.bench.setup import build_run_config
from etui.cluster.drive import ClusterLoop, RunNode
from etui.cluster.messages import Opening
from etui.cluster.open_nodes import DEFAULT_PATIENCE, NodeDriver, Patience, read_versions
from etui.cluster.ray_carrier import RayCarrier
from etui.cluster.tally import (
    CLUSTER,
    Losses,
    NodeTally,
    read_tallies,
    sum_losses,
    write_document,
)
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.folder import check_new
from etui.measure.run import NO_LIMITS, Ending, RunLimits
from etui.runtime.runtime import Runtime

_SHOWN_DIFFERENCES = 6
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class ClusterOutcome:
    """How a run on a cluster ended."""

    run: RunOutcome
    losses: Losses  # Joules without an answer that counts, since the start of the run


@dataclass(slots=True)
class ClusterBench:
    """Runs one plan on the nodes of a cluster."""

    runtime: Runtime[LocalBackend]
    """This machine: its folders, its models' hashes, its log. It answers nothing."""
    progress: RunProgress  # Shows the progress
    stopped: Event  # Set when the user wants to stop
    carrier: RayCarrier
    patience: Patience = DEFAULT_PATIENCE  # Limits of silence
    now: Callable[[], float] = time.monotonic  # Monotonic clock in seconds
    _driver: NodeDriver = field(init=False)

    def __post_init__(self) -> None:
        self._driver = NodeDriver(
            self.carrier, self.progress.say, self.stopped.is_set, self.patience, self.now
        )

    def start(
        self,
        plan: RunPlan,
        out: Path | None,
        limits: RunLimits = NO_LIMITS,
        *,
        compare: bool = False,
    ) -> ClusterOutcome:
        """Run a plan in a new folder.

        Args:
            out: The run folder; None creates one in the folder of all runs.
            limits: Stop once these are reached.
            compare: Whether every node answers all questions, instead of sharing them.

        Raises:
            UsageError: The nodes do not fit together, or the plan cannot be compared.
            EtuiError: The run cannot start, or did not finish; its answers are kept.
        """
        if compare and plan.policy is not None:
            raise UsageError(
                "--compare cannot be used with a policy that chooses the arms",
                "select arms with --arms, or let the nodes share the questions: --shard",
            )
        if out is not None:
            check_new(out, RUN)
        run_id = new_run_id(plan.suite.name, plan.format.name, plan.systems, datetime.now())
        opening, configs = self._open(plan, run_id)
        keys = {name: f"m{at}" for at, name in enumerate(configs, 1)}
        found = {keys[name]: config for name, config in configs.items()}
        config = join_machines(opening.config, found, compare=compare)
        nodes = self._list_nodes(keys, configs)
        place = out or runs_dir(self.runtime.config) / run_id
        with RunFolder.start(place, config) as folder:
            return self._run(plan, config, folder, (), limits, opening, nodes)

    def resume(
        self,
        folder: Path,
        plan_again: Callable[[RunConfig], RunPlan],
        limits: RunLimits = NO_LIMITS,
    ) -> ClusterOutcome:
        """Resume a run that was started on a cluster, on the nodes that are there now.

        Args:
            plan_again: Builds the plan of a run from its configuration.
            limits: Stop once these are reached; joules used before count, time does not.

        Raises:
            UsageError: It was started on one machine, with other data, models or programs, or was
                merged.
            EtuiError: The run cannot resume, or did not finish; its answers are kept.
        """
        reopened, recorded = RunFolder.resume(folder)
        with reopened:
            before = recorded.config
            refuse_merged(before)
            if before.machines is None:
                raise UsageError(
                    f"run {before.run_id} was started on one machine",
                    "resume it there, without --cluster",
                )
            plan = plan_again(undo_join(before))
            opening, configs = self._open(plan, before.run_id)
            for each in configs.values():
                refuse_other_plan(before, each)
            assigned = assign_keys(before.machines, configs)
            config = before
            if not is_comparison(before):
                config = add_machines(before, list(assigned.values()))
            known = {machine.key for machine in config.machines or ()}
            keys = {name: machine.key for name, machine in assigned.items() if machine.key in known}
            if not keys:
                raise UsageError(
                    f"run {before.run_id} compares {', '.join(sorted(known))}, and no node of this "
                    "cluster is one of them",
                    "resume it on one of them",
                )
            if config != before:
                reopened.add_machines(config)
            nodes = self._list_nodes(keys, configs)
            return self._run(plan, config, reopened, recorded.samples, limits, opening, nodes)

    def _open(self, plan: RunPlan, run_id: str) -> tuple[Opening, dict[str, RunConfig]]:
        """Start the nodes, compare them, and have them load data and models."""
        runtime = self.runtime
        self._driver.start()
        self._refuse_stopped()
        asked = build_run_config(plan, run_id, (), runtime.config, runtime.recorder, None)
        opening = Opening(asked, self._known_hashes(plan))
        configs = self._driver.open(opening)
        self._refuse_stopped()
        _refuse_other_plans(configs)
        return opening, configs

    def _refuse_stopped(self) -> None:
        if self.stopped.is_set():
            raise Stopped("stopped before the first question")

    def _known_hashes(self, plan: RunPlan) -> dict[str, str | None]:
        """Return what this machine knows of the files of the models, without needing them."""
        from etui.models.files import content_sha256, expected_sha256

        config = self.runtime.config
        specs = [self.runtime.catalogue.get(name) for name in plan.models]
        return {
            spec.name: content_sha256(spec, config)
            or (None if spec.adapters else expected_sha256(spec, config))
            for spec in specs
            if spec.backend is None
        }

    def _list_nodes(
        self, keys: Mapping[str, str], configs: Mapping[str, RunConfig]
    ) -> list[RunNode]:
        return [
            RunNode(key, name, self._driver.nodes[name], configs[name].versions, NodeTally())
            for name, key in keys.items()
        ]

    def _run(
        self,
        plan: RunPlan,
        config: RunConfig,
        folder: RunFolder,
        before: Sequence[Sample],
        limits: RunLimits,
        opening: Opening,
        nodes: Sequence[RunNode],
    ) -> ClusterOutcome:
        machines = {machine.key: machine for machine in config.machines or ()}
        tallies = {key: NodeTally() for key in machines} | read_tallies(folder.path, before)
        for node in nodes:
            node.tally = tallies[node.key]
            self.progress.say(f"{node.key} is {node.name}: {machines[node.key].name}")
        self.progress.begin(config, folder.path, before)
        running = [node.key for node in nodes]
        kept: object = None

        def keep() -> None:
            folder.write(CLUSTER, write_document(tallies, read_versions()["Ray"], running))

        with log_run(self.runtime.writer, config, folder.path, before) as log:

            def write(new: Sequence[Sample]) -> None:
                folder.add_samples(new)  # on the disk before anyone sees them
                log.add(new)
                self.progress.see(new)

            pieces = tuple(build_schedule(plan, undo_join(config).contenders))
            loop = ClusterLoop(self._driver, nodes, opening, config, pieces, before, write)
            limit = limits.start(self.stopped.is_set)

            def check(joules: float) -> Ending | None:
                nonlocal kept
                lost = {key: (tally.deaths, tally.losses) for key, tally in tallies.items()}
                if lost != kept:  # what was wasted survives a crash of this process
                    keep()
                    kept = lost
                return limit(joules + sum_losses(tallies.values()).reported_joules)

            try:
                ending = loop.run(check)
                samples = read_answers(folder.path)
                running = []
            except EtuiError as error:
                running = []
                if isinstance(error, Stopped):
                    error.fix = error.fix or f"resume with: etui bench --resume {folder.path}"
                raise
            finally:
                keep()
            log.conclude(ending)
            self.progress.say("writing the report")
            log.summary = write_results(folder, config, samples, self.runtime.config)
        outcome = RunOutcome(ending, folder.path, config, samples, log.summary)
        return ClusterOutcome(outcome, sum_losses(tallies.values()))


def _refuse_other_plans(configs: Mapping[str, RunConfig]) -> None:
    """Refuse nodes that would not answer the same questions with the same models."""
    (first, plan), *others = configs.items()
    for name, config in others:
        found = plan_differences(plan, config)
        if found:
            what = "; ".join(
                f"{path} is {_shorten(one)} on {first} and {_shorten(other)} on {name}"
                for path, (one, other) in list(found.items())[:_SHOWN_DIFFERENCES]
            )
            raise UsageError(
                f"the nodes differ: {what}", "put the same models, data and settings on every node"
            )


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
