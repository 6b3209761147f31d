"""Run a benchmark on the nodes of a cluster; ``etui bench --cluster`` without the command line.

This process writes the run folder, the log and the reports; the nodes only answer.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from etui.bench.config import RunConfig, parse_run_config, plan_differences
from etui.bench.folder import RUN, RunFolder, new_run_id, runs_dir
from etui.bench.machines import (
    MachineShare,
    add_machines,
    assign_keys,
    is_comparison,
    join_machines,
    name_system,
    split_system,
    undo_join,
)
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
from etui.bench.schedule import Piece, build_schedule
from etui.bench.setup import build_run_config
from etui.cluster.drive import ClusterLoop, NodeTally, OpenNode
from etui.cluster.losses import Losses, MeanJoules, sum_losses
from etui.cluster.messages import Carrier, ClusterNode, Opening, write_request
from etui.cluster.open_nodes import DEFAULT_PATIENCE, NodeDriver, Patience, read_versions
from etui.cluster.piece_board import BoundPiece, PieceBoard
from etui.codec import DocumentError, from_document, to_document
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.folder import check_new
from etui.measure.run import NO_LIMITS, Ending, RunLimits

if TYPE_CHECKING:
    from etui.backends.local import LocalBackend
    from etui.runtime.runtime import Runtime


CLUSTER = "cluster.json"

_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Machine:
    """What one machine lost, over all parts of a run that was resumed."""

    deaths: int
    losses: Losses = field(default_factory=Losses)


@dataclass(frozen=True, slots=True)
class _Document:
    cluster_version: int
    ray: str | None
    machines: Mapping[str, _Machine]
    running: tuple[str, ...] = ()


def write_document(
    tallies: Mapping[str, NodeTally], ray: str | None, running: Collection[str] = ()
) -> str:
    """Write the document as text.

    ``wasted_joules`` is null once a part of the waste is unknown; ``estimated_joules`` is then an
    estimate for the questions that died with their node.

    Args:
        tallies: Key of the machine -> what it did.
        running: Keys of the machines that may be answering now. If this process dies, so do theirs,
            and what they spent on their current question stays unknown.
    """
    total = sum_losses(tally.losses for tally in tallies.values())
    document = {
        "cluster_version": _VERSION,
        "ray": ray,
        "running": sorted(running),
        "wasted": {"wasted_joules": total.wasted_joules, **to_document(total)},
        "machines": {
            key: {**to_document(tally), "wasted_joules": tally.losses.wasted_joules}
            for key, tally in tallies.items()
        },
    }
    return json.dumps(document, indent=2) + "\n"


def read_tallies(folder: Path, samples: Iterable[Sample]) -> dict[str, NodeTally]:
    """Read what the machines of a run did before it is resumed.

    Answers are counted in the samples, which are complete after a crash too, and hold those of a
    part without a cluster. Losses come from the document; without a valid one there are none.

    Args:
        samples: All answers of the run.

    Returns:
        Key of the machine -> what it did.
    """
    tallies: dict[str, NodeTally] = {}
    with suppress(OSError, UnicodeDecodeError, ValueError, DocumentError, RecursionError):
        document: Any = json.loads((folder / CLUSTER).read_text(encoding="utf-8"))
        found = from_document(_Document, document, extra="ignore")
        for key, each in found.machines.items():
            crashed = each.losses.add_lost(0, None) if key in found.running else each.losses
            tallies[key] = NodeTally(deaths=each.deaths, losses=crashed)
    for sample in samples:
        if sample.machine is not None:
            tallies.setdefault(sample.machine, NodeTally()).add(sample)
    return tallies


_SHOWN_DIFFERENCES = 6
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class ClusterOutcome:
    """How a run on a cluster ended."""

    run: RunOutcome
    losses: Losses  # Joules without an answer that counts, since the start of the run


@dataclass(frozen=True, slots=True)
class _Opened:
    """The nodes of a run that are ready."""

    nodes: Mapping[str, ClusterNode]  # Key of the machine -> its node
    configs: Mapping[str, RunConfig]  # Key of the machine -> the configuration of the run there
    names: Mapping[str, str]  # Key of the machine -> the name of the node
    request: str

    def rename(self, keys: Mapping[str, str]) -> _Opened:
        """Return those nodes that get a key: the one used so far -> the new one."""
        return _Opened(
            {new: self.nodes[old] for old, new in keys.items()},
            {new: self.configs[old] for old, new in keys.items()},
            {new: self.names[old] for old, new in keys.items()},
            self.request,
        )


@dataclass(slots=True)
class ClusterBench:
    """Runs plans on the nodes of a cluster."""

    runtime: Runtime[LocalBackend]
    """This machine: its folders, its models' hashes, its log. It answers nothing."""
    progress: RunProgress  # Shows the progress
    stopped: Event  # Set when the user wants to stop
    carrier: Carrier  # Carries text to the nodes
    patience: Patience = DEFAULT_PATIENCE  # Limits of silence
    now: Callable[[], float] = time.monotonic  # Monotonic clock in seconds

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
        if plan.precision is not None or plan.design is not None:
            option = "--design" if plan.design is not None else "--precision"
            raise UsageError(
                f"{option} cannot be used with --cluster",
                "run a part of the plan on each machine with --part, and join them: etui bench "
                "merge",
            )
        if compare and plan.policy is not None:
            raise UsageError(
                "--compare cannot be used with a policy that chooses the arms",
                "select arms with --arms, or let the nodes share the questions: --shard",
            )
        if out is not None:
            check_new(out, RUN)
        run_id = new_run_id(plan.suite.name, plan.format.name, plan.systems, datetime.now())
        opened = self._open(plan, run_id)
        opened = opened.rename({name: f"m{at}" for at, name in enumerate(opened.nodes, 1)})
        asked = self._describe(plan, run_id)
        config = join_machines(asked, opened.configs, compare=compare)
        place = out or runs_dir(self.runtime.config) / run_id
        with RunFolder.start(place, config) as folder:
            return self._run(plan, config, folder, (), limits, opened)

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
            opened = self._open(plan, before.run_id)
            for config in opened.configs.values():
                refuse_other_plan(before, config)
            assigned = assign_keys(before.machines, opened.configs)
            config = before
            if not is_comparison(before):
                config = add_machines(before, list(assigned.values()))
            known = {machine.key for machine in config.machines or ()}
            kept = {name: machine.key for name, machine in assigned.items() if machine.key in known}
            if not kept:
                raise UsageError(
                    f"run {before.run_id} compares {', '.join(sorted(known))}, and no node of this "
                    "cluster is one of them",
                    "resume it on one of them",
                )
            if config != before:
                reopened.add_machines(config)
            opened = opened.rename(kept)
            return self._run(plan, config, reopened, recorded.samples, limits, opened)

    def _describe(self, plan: RunPlan, run_id: str) -> RunConfig:
        """Describe a plan as this machine sees it, without loading a model."""
        runtime = self.runtime
        return build_run_config(plan, run_id, (), runtime.config, runtime.recorder, None)

    def _open(self, plan: RunPlan, run_id: str) -> _Opened:
        """Start the nodes, compare them, and have them load data and models."""
        driver = self._driver
        ready = driver.start()
        self._refuse_stopped()
        document = self._describe(plan, run_id).to_json()
        request = write_request(Opening(document, self._known_hashes(plan)))
        opened = driver.open(ready, request)
        self._refuse_stopped()
        configs = {key: parse_run_config(each.config) for key, each in opened.items()}
        _refuse_other_plans(configs)
        names = {name: name for name in configs}
        return _Opened({name: ready[name] for name in configs}, configs, names, request)

    @property
    def _driver(self) -> NodeDriver:
        return NodeDriver(
            self.carrier, self.progress.say, self.stopped.is_set, self.patience, self.now
        )

    def _refuse_stopped(self) -> None:
        if self.stopped.is_set():
            raise Stopped("stopped before the first question")

    def _known_hashes(self, plan: RunPlan) -> dict[str, str | None]:
        """Return what this machine knows of the files of the models, without needing them."""
        from etui.models.files import expected_sha256, recorded_sha256

        config = self.runtime.config
        known: dict[str, str | None] = {}
        for name in plan.models:
            spec = self.runtime.catalogue.get(name)
            if spec.backend is None:
                known[name] = recorded_sha256(spec, config) or expected_sha256(spec, config)
        return known

    def _run(
        self,
        plan: RunPlan,
        config: RunConfig,
        folder: RunFolder,
        before: Sequence[Sample],
        limits: RunLimits,
        opened: _Opened,
    ) -> ClusterOutcome:
        for key, node_name in opened.names.items():
            machine = next(each for each in config.machines or () if each.key == key)
            self.progress.say(f"{key} is {node_name}: {machine.name}")
        self.progress.begin(config, folder.path, before)
        tallies = {each.key: NodeTally() for each in config.machines or ()}
        tallies |= read_tallies(folder.path, before)
        ray = read_versions()["ray"]
        running: tuple[str, ...] = tuple(opened.nodes)

        def keep() -> None:
            folder.write(CLUSTER, write_document(tallies, ray, running))

        with log_run(self.runtime.writer, config, folder.path, before) as log:

            def see(new: Sequence[Sample]) -> None:
                log.add(new)
                self.progress.see(new)

            sink = _Sink(config, folder, see)
            try:
                ending = self._answer(plan, before, limits, opened, sink, tallies, keep)
                samples = read_answers(folder.path)
                running = ()
            except EtuiError as error:
                running = ()
                if isinstance(error, Stopped):
                    error.fix = error.fix or f"resume with: etui bench --resume {folder.path}"
                raise
            finally:
                keep()
            log.conclude(ending)
            self.progress.say("writing the report")
            log.summary = write_results(folder, config, samples, self.runtime.config)
        losses = sum_losses(tally.losses for tally in tallies.values())
        outcome = RunOutcome(ending, folder.path, config, samples, log.summary)
        return ClusterOutcome(outcome, losses)

    def _answer(
        self,
        plan: RunPlan,
        before: Sequence[Sample],
        limits: RunLimits,
        opened: _Opened,
        sink: _Sink,
        tallies: dict[str, NodeTally],
        keep: Callable[[], None],
    ) -> Ending:
        by_system: dict[str, list[Sample]] = {}
        for sample in before:
            by_system.setdefault(sink.system_of(sample), []).append(sample)
        answered = {(sink.system_of(each), each.subject, each.row) for each in before}
        systems = undo_join(sink.config).contenders
        pieces = bind_pieces(build_schedule(plan, systems), sink.config)
        nodes = {
            key: OpenNode(node, opened.names[key], opened.configs[key].versions)
            for key, node in opened.nodes.items()
        }
        board = PieceBoard(pieces, answered)
        mean = MeanJoules.of(by_system)
        loop = ClusterLoop(self._driver, nodes, opened.request, board, sink, mean, tallies)
        spent = math.fsum(sample.joules for sample in before if sample.joules is not None)
        limit = limits.start(self.stopped.is_set)
        kept: object = None

        def check(joules: float) -> Ending | None:
            nonlocal kept
            lost = {key: (tally.deaths, tally.losses) for key, tally in tallies.items()}
            if lost != kept:  # what was wasted survives a crash of this process
                keep()
                kept = lost
            return limit(joules)

        return loop.run(spent, check)


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


def bind_pieces(pieces: Iterable[Piece], config: RunConfig) -> tuple[BoundPiece, ...]:
    """Bind pieces to machines: all of them to every machine of a comparison, else to none."""
    if not is_comparison(config):
        return tuple(BoundPiece(piece) for piece in pieces)
    machines = tuple(machine.key for machine in config.machines or ())
    return tuple(
        BoundPiece(replace(piece, system=name_system(piece.system, machine)), machine)
        for piece in pieces
        for machine in machines
    )


@dataclass(frozen=True, slots=True)
class _Sink:
    """The run folder and whoever looks; see :class:`etui.cluster.drive.RunSink`."""

    config: RunConfig
    folder: RunFolder
    see: Callable[[Sequence[Sample]], None]

    def place(self, machine: str, sample: Sample) -> Sample:
        """Return an answer as the run records it."""
        return MachineShare(machine, is_comparison(self.config)).place(sample)

    def system_of(self, sample: Sample) -> str:
        """Return the system of a recorded answer."""
        return self.config.contender(sample.arm)

    def task_system(self, system: str) -> str:
        """Return the name that a node knows a system by."""
        return split_system(system)[0] if is_comparison(self.config) else system

    def write(self, samples: Sequence[Sample]) -> None:
        """Write answers to the disk, then show them."""
        self.folder.add_samples(samples)
        self.see(samples)
