"""Run a benchmark on the nodes of a cluster; ``etui bench --cluster`` without the command line.

This process writes the run folder, the log and the reports; the nodes only answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from etui.bench.config import RunConfig, plan_differences
from etui.bench.machines import add_machines, assign_keys, is_comparison, join_machines, join_words
from etui.bench.plan import RunPlan
from etui.bench.run import Answering, BenchRunner, refuse_other_plan
from etui.bench.sample import Sample
from etui.bench.schedule import build_schedule
from etui.bench.setup import build_run_config
from etui.calibration.measure import MeasuredPoint
from etui.cluster.drive import ClusterLoop, RunNode
from etui.cluster.host import HostShare
from etui.cluster.messages import CurvePoint, Opening
from etui.cluster.open_nodes import NodeDriver, read_versions
from etui.cluster.tally import CLUSTER, Losses, NodeTally, read_tallies, sum_losses, write_document
from etui.design.curve_visits import append_curve_point, read_curve_points
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.folder import join_differences
from etui.measure.run import Ending


@dataclass(slots=True, kw_only=True)
class ClusterBench(BenchRunner):
    """Runs one plan on the nodes of a cluster.

    Of its own machine it uses the folders, the hashes of the models, and the log; it answers
    nothing.
    """

    driver: NodeDriver
    compare: bool = False  # Whether every node answers all questions, instead of sharing them
    tallies: dict[str, NodeTally] = field(default_factory=dict)
    """Key of the machine -> what it did, since the start of the run."""
    _openings: dict[str, Opening] = field(default_factory=dict)
    _nodes: dict[str, RunNode] = field(default_factory=dict)

    @property
    def losses(self) -> Losses:
        """Joules without an answer that counts, since the start of the run."""
        return sum_losses(self.tallies.values())

    def configure(self, plan: RunPlan, run_id: str) -> RunConfig:
        """Start the nodes, compare them, and have them load data and models.

        UsageError if the nodes do not fit together, or the plan cannot be compared; EtuiError if no
        node is ready.
        """
        for given, what, fix in (
            (plan.policy, "a policy that chooses the arms", "select arms with --arms"),
            (plan.config.design, "--design, which compares its arms", "use --part on each machine"),
            (plan.config.precision, "--precision: equal answers differ by 0", "set --limit"),
        ):
            if self.compare and given is not None:
                raise UsageError(
                    f"--compare cannot be used with {what}",
                    f"{fix}, or let the nodes share the questions: --shard",
                )
        asked, configs = self._open(plan, run_id)
        keys = {name: f"m{at}" for at, name in enumerate(configs, 1)}
        self._list_nodes(keys, configs)
        found = {keys[name]: config for name, config in configs.items()}
        return join_machines(asked, found, compare=self.compare)

    def _continue(self, plan: RunPlan, before: RunConfig) -> RunConfig:
        """Continue a run that was started on a cluster, on the nodes that are there now."""
        if before.machines is None:
            raise UsageError(
                f"run {before.run_id} was started on one machine",
                "resume it there, without --cluster",
            )
        self.compare = is_comparison(before)
        _, configs = self._open(plan, before.run_id)
        for each in configs.values():
            refuse_other_plan(before, each)
        assigned = assign_keys(before.machines, configs)
        config = before
        if not self.compare:
            config = add_machines(before, list(assigned.values()))
        known = {machine.key for machine in config.machines or ()}
        keys = {name: machine.key for name, machine in assigned.items() if machine.key in known}
        if not keys:
            raise UsageError(
                f"run {before.run_id} compares {', '.join(sorted(known))}, and no node of this "
                "cluster is one of them",
                "resume it on one of them",
            )
        self._list_nodes(keys, configs)
        return config

    def _open(self, plan: RunPlan, run_id: str) -> tuple[RunConfig, dict[str, RunConfig]]:
        """Return the configuration of the run as it is planned here, and on each node."""
        runtime = self.runtime
        self.driver.start()
        self._refuse_stopped()
        asked = build_run_config(plan, run_id, (), runtime.config, runtime.recorder, None)
        opening = Opening(asked, self._known_hashes(plan))
        if self.compare:
            self.driver.keep_one_per_host()
        points: dict[str, tuple[MeasuredPoint, ...]] | None = {} if plan.config.design else None
        self._openings = dict.fromkeys(self.driver.nodes, replace(opening, points=points))
        for names in self.driver.group_by_host():
            if len(names) > 1:
                self._share_host(names, opening)
        configs = self.driver.open(self._openings)
        self._refuse_stopped()
        _refuse_other_plans(configs)
        return asked, configs

    def _share_host(self, names: Sequence[str], opening: Opening) -> None:
        """Have nodes divide the joules of their host; no curve could be separated there."""
        self.progress.say(
            f"{join_words(names)} are on one host: they share its meter, and each is charged its "
            "part of the joules"
        )
        nodes = [self.driver.nodes[name] for name in names]
        ledger = self.driver.carrier.open_ledger([node.id for node in nodes])
        for number, (name, node) in enumerate(zip(names, nodes, strict=True)):
            share = HostShare(ledger, number, max(1, int(node.cpus)))
            self._openings[name] = replace(opening, host=share)

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

    def _list_nodes(self, keys: Mapping[str, str], configs: Mapping[str, RunConfig]) -> None:
        self._nodes = {}
        for name, key in keys.items():
            self._nodes[name] = RunNode(
                key, name, self.driver.nodes[name], configs[name].versions, self._openings[name]
            )
            self.progress.say(f"{key} is {name}: {configs[name].machine.get('name', '')}")

    def _answer(self, run: Answering, limit: Callable[[float], Ending | None]) -> Ending:
        """Answer what is left of a run on the nodes."""
        config, folder, before = run.config, run.folder, run.before
        nodes = list(self._nodes.values())
        self.tallies = {machine.key: NodeTally() for machine in config.machines or ()}
        self.tallies |= read_tallies(folder.path)
        for node in nodes:
            node.tally = self.tallies[node.key]
            if node.opening.points is not None:
                points = read_curve_points(folder.path, {node.key})
                seconds = sum(each.seconds for each in before if each.machine == node.key)
                node.opening = replace(node.opening, points=points, seconds=seconds)
        self.progress.begin(config, folder.path, before)
        run.open_precision()
        running = [node.key for node in nodes]
        kept: object = None

        def keep() -> None:
            document = write_document(self.tallies, read_versions()["Ray"], running)
            folder.write(CLUSTER, document)

        def write(new: Sequence[Sample]) -> None:
            folder.add_samples(new)  # on the disk before anyone sees them
            run.see(new)

        def keep_point(machine: str, found: CurvePoint) -> None:
            append_curve_point(folder.path, found.model, machine, found.point)

        def check(joules: float) -> Ending | None:
            nonlocal kept
            lost = {key: (tally.deaths, tally.losses) for key, tally in self.tallies.items()}
            if lost != kept:  # what was wasted survives a crash of this process
                keep()
                kept = lost
            return limit(joules + self.losses.reported_joules)

        loop = ClusterLoop(self.driver, nodes, config, before, write, keep_point)
        if run.precise is not None:
            blocks = run.precise.blocks(config.contenders)
        else:
            blocks = iter([build_schedule(run.plan, config.contenders)])
        try:
            ending = loop.run(blocks, check)
            self.driver.finish([node.name for node in nodes if node.stage == "idle"])
            running.clear()
        except EtuiError as error:
            running.clear()
            if isinstance(error, Stopped):
                error.fix = error.fix or f"resume with: etui bench --resume {folder.path}"
            raise
        finally:
            keep()
        return ending


def _refuse_other_plans(configs: Mapping[str, RunConfig]) -> None:
    """Refuse nodes that would not answer the same questions with the same models."""
    (first, plan), *others = configs.items()
    for name, config in others:
        if found := plan_differences(plan, config):
            what = join_differences(
                found, f"{{path}} is {{one}} on {first} and {{other}} on {name}"
            )
            raise UsageError(
                f"the nodes differ: {what}", "put the same models, data and settings on every node"
            )
