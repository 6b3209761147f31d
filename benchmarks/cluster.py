"""A bench run on 1, 2 and 4 nodes of this machine: its time and its joules against one node.

The nodes answer the sample suite with a real model, and share the power meter. ``: meter`` divides
the joules of all answers by what the meter of this process read from the first question to the last
answer, in which the time without any node at work (the first call, hand-overs of a single node) is
no answer's. ``while any computed`` leaves that out: 1 if nothing is charged twice or lost, but for
the milliseconds between two pieces. A round runs each number of nodes once, every other round in
the opposite order; no round is begun that would not end within ``--minutes``.

With ``--kill``, one of two nodes is killed by SIGKILL in the middle of a piece: no answer may be
lost, doubled or another than that of a run without Ray, its death must be counted once, and its
joules named as unknown, with an estimate. The exit code is 1 if any of this fails.

With ``--overhead``, one node whose engine only waits, 50 ms a question, against the same loop
without Ray: the cost of the carrier.

Everything listens on 127.0.0.1 only.

    python -m benchmarks.cluster [--processes 1,2,4] [--questions 60] [--rounds 5] [--minutes 9]
    python -m benchmarks.cluster --kill [--questions 60]
    python -m benchmarks.cluster --overhead [--questions 1000] [--seconds 0.05] [--rounds 1]

Each with ``--json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, cast

from benchmarks.fake_node import (
    MODEL,
    OPENER,
    SECONDS,
    SteadyMeter,
    WaitingSystem,
    describe_fake,
)
from benchmarks.figures import Figure, Skipped, in_turn, median_of
from etui.bench.config import RunConfig
from etui.bench.folder import read_run
from etui.bench.plan import RunPlan, RunRequest, make_plan
from etui.bench.progress import RunProgress
from etui.bench.run import BenchRunner, RunOutcome
from etui.bench.sample import Sample
from etui.bench.scoring import QuestionAnswerer
from etui.bench.setup import build_run_config
from etui.cluster.bench_cluster import ClusterBench
from etui.cluster.connect import open_ray
from etui.cluster.host import RayLedger
from etui.cluster.node import OPENER as MACHINE
from etui.cluster.open_nodes import NodeDriver
from etui.cluster.ray_carrier import RayCarrier
from etui.config.config import Config, load_config, make_home
from etui.models.catalogue import load_catalogue
from etui.runtime.runtime import Runtime, open_runtime
from etui.units import count_text


@dataclass(slots=True)
class Watch:
    """An audience that takes the time, and can act after some answers.

    Attributes:
        act: Called with new answers.
        began_ns, ended_ns: Monotonic time of the begin of the run and of its last answer.
        spans: Those in which some node of a shared host computed, monotonic ns.
    """

    act: Callable[[Sequence[Sample]], None] = lambda samples: None
    began_ns: int = 0
    ended_ns: int = 0
    count: int = 0
    lines: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds of the answers."""
        return (self.ended_ns - self.began_ns) / 1e9

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """Start the time."""
        self.began_ns = time.monotonic_ns()

    def expect(self, questions: int) -> None:
        """Ignore how many questions a precision needs."""

    def see(self, samples: Sequence[Sample]) -> None:
        """Take the time of answers."""
        self.ended_ns = time.monotonic_ns()
        self.count += len(samples)
        self.act(samples)


class PlainRunner(BenchRunner):
    """The loop without Ray, with the waiting engine in this process."""

    seconds = 0.05

    def configure(self, plan: RunPlan, run_id: str) -> RunConfig:
        """Describe the run without loading a model."""
        runtime = self.runtime
        vars(runtime)["recorder"] = _Recorder(runtime.recorder)
        made = build_run_config(plan, run_id, (), runtime.config, runtime.recorder, None)
        return describe_fake(made, dict.fromkeys(plan.models))

    def build_systems(self, plan: RunPlan) -> dict[str, QuestionAnswerer]:
        """Build the waiting systems."""
        return {name: WaitingSystem(name, self.seconds) for name in plan.arms}


class _Recorder(SteadyMeter):
    """The steady meter in place of this machine's, with the rest of the recorder's interface."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def start(self) -> None:
        """Ignore it: nothing is sampled."""


@contextmanager
def start_nodes(count: int, seconds: float = 0.0) -> Iterator[Any]:
    """Start Ray with some nodes on this machine, whose engines wait if they are fakes.

    Raises:
        Skipped: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise Skipped("Ray is not installed: extra `cluster`")
    here = str(Path(__file__).parent.parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    with _set_variables({SECONDS: str(seconds), "PYTHONPATH": path}), open_ray(count) as ray:
        yield ray


@contextmanager
def _set_variables(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def write_questions(folder: Path, count: int) -> Path:
    """Write a suite of one subject for each hundred questions."""
    path = folder / "waiting.csv"
    rows = [f"Question {n}?,a,b,c,d,A,subject {n // 100}" for n in range(count)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def run_plain(plan: RunPlan, config: Config, out: Path, seconds: float) -> Watch:
    """Run the loop without Ray."""
    watch = Watch()
    runner = type("Runner", (PlainRunner,), {"seconds": seconds})
    with open_runtime(config) as runtime:
        runner(runtime, watch, Event()).start(plan, out)
    return watch


class LedgerCarrier(RayCarrier):
    """A carrier that keeps when nodes of this host computed."""

    ledger: RayLedger | None = None

    def open_ledger(self, nodes: Sequence[str]) -> RayLedger:
        """Start the ledger."""
        self.ledger = super().open_ledger(nodes)
        return self.ledger

    def read_spans(self) -> list[tuple[int, int]]:
        """Return the spans in which some node computed; empty without a shared host."""
        if self.ledger is None:
            return []
        now_ns, changes = self.ledger.read(0)
        times = pairwise([*changes, (now_ns, {})])
        return [(start_ns, end_ns) for (start_ns, working), (end_ns, _) in times if working]


def run_carried(
    ray: Any, plan: RunPlan, runtime: Runtime[Any], out: Path, opener: str, watch: Watch
) -> tuple[RunOutcome, ClusterBench]:
    """Run the same plan over Ray."""
    carrier = LedgerCarrier(ray, opener)
    try:
        driver = NodeDriver(carrier, watch.say)
        bench = ClusterBench(runtime, cast(RunProgress, watch), Event(), driver=driver)
        outcome = bench.start(plan, out)
        watch.spans = carrier.read_spans()
        return outcome, bench
    finally:
        carrier.close()


@dataclass(frozen=True, slots=True)
class NodesRun:
    """A run on some nodes.

    Attributes:
        seconds: From the first question to the last answer.
        joules: Of all answers, and of what gave none.
        meter_joules: What the meter of the driver read in these seconds.
        computing_joules: The same, while any node computed; None for a node alone on its host.
    """

    seconds: float
    joules: float
    meter_joules: float
    computing_joules: float | None = None


def measure_processes(
    counts: Sequence[int], questions: int, rounds: int, minutes: float
) -> dict[int, list[NodesRun]]:
    """Measure a run on some numbers of nodes, in turn; return those of each number.

    Raises:
        Skipped: Ray, the model or a power meter is not there.
    """
    found: dict[int, list[NodesRun]] = {count: [] for count in counts}
    began = time.monotonic()
    longest = 0.0
    with TemporaryDirectory() as place, _open_home(Path(place)) as config:
        plan = _plan_sample(config, questions)
        for number in range(rounds):
            start = time.monotonic()
            if start - began + longest > 60 * minutes:
                break
            for count in counts if number % 2 == 0 else reversed(counts):
                out = Path(place) / f"run-{number}-{count}"
                found[count].append(_run_nodes(count, plan, config, out))
            longest = max(longest, time.monotonic() - start)
            print(f"round {number + 1}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    return found


def _plan_sample(config: Config, questions: int | None) -> RunPlan:
    request = RunRequest("sample", models=(MODEL,), limit=questions)
    return make_plan(request, config, load_catalogue(config))


def _run_nodes(count: int, plan: RunPlan, config: Config, out: Path) -> NodesRun:
    watch = Watch()
    with start_nodes(count) as ray, open_runtime(config) as runtime:
        meter = runtime.meter
        run, bench = run_carried(ray, plan, runtime, out, MACHINE, watch)
        meter.settle(watch.ended_ns)
        whole = meter.energy(watch.began_ns, watch.ended_ns).joules
        parts = [meter.energy(*span).joules or 0.0 for span in watch.spans]
    joules = [sample.joules for sample in run.samples if sample.joules is not None]
    if whole is None or len(joules) < len(run.samples):
        raise Skipped("no power meter: the joules of an answer are unknown")
    spent = sum(joules) + bench.losses.reported_joules
    return NodesRun(watch.seconds, spent, whole, sum(parts) if parts else None)


def compare_processes(found: dict[int, list[NodesRun]]) -> Iterator[Figure]:
    """Compare the runs of each number of nodes with those of the first one in the same round."""
    first, *others = found
    ones, base = found[first], count_text(first, "node")
    yield median_of(f"{base}, time", [one.seconds for one in ones], "s", "absolute")
    yield median_of(f"{base}, joules", [one.joules for one in ones], "J", "absolute")
    for count in others:
        pairs = list(zip(found[count], ones, strict=True))
        for what, name in (
            ("time", "seconds"),
            ("joules of the answers", "joules"),
            ("joules of the meter", "meter_joules"),
        ):
            ratios = [getattr(run, name) / getattr(one, name) for run, one in pairs]
            yield median_of(f"{count} nodes, {what} : {base}", ratios)
    for count, runs in found.items():
        parts = [run.joules / run.meter_joules for run in runs]
        yield median_of(f"{count_text(count, 'node')}, joules of the answers : meter", parts)
        shared = [run.joules / run.computing_joules for run in runs if run.computing_joules]
        if shared:
            yield median_of(f"{count} nodes, answers : meter while any computed", shared)


@contextmanager
def _open_home(folder: Path) -> Iterator[Config]:
    """Make a home with the starter model, here and for the nodes."""
    from benchmarks.sides import starter

    model = starter()
    config = replace(load_config(), home=folder / "home", models_dir=model.parent, loop_guard=False)
    make_home(config)
    with _set_variables({"ETUI_HOME": str(config.home), "ETUI_MODELS": str(model.parent)}):
        yield config


def measure_overhead(questions: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure both sides in turn, and return the seconds of each and the overhead in percent."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        config = replace(load_config(), home=folder / "home", loop_guard=False)
        make_home(config)
        request = RunRequest(str(write_questions(folder, questions)), models=(MODEL,), shots=0)
        plan = make_plan(request, config, load_catalogue(config))
        number = iter(range(10_000))
        began = time.monotonic()
        with start_nodes(1, seconds) as ray:
            started = time.monotonic() - began

            def carried() -> float:
                watch = Watch()
                out = folder / f"run-{next(number)}"
                with open_runtime(config) as runtime:
                    run_carried(ray, plan, runtime, out, OPENER, watch)
                assert len(read_run(out).samples) == questions
                return watch.seconds

            def plain() -> float:
                watch = run_plain(plan, config, folder / f"run-{next(number)}", seconds)
                assert watch.count == questions
                return watch.seconds

            pairs = in_turn(carried, plain, rounds)
    return {
        "questions": questions,
        "seconds_per_question": seconds,
        "start_seconds": started,
        "carried_seconds": [one for one, _ in pairs],
        "plain_seconds": [other for _, other in pairs],
        "overhead_percent": [100 * (one / other - 1) for one, other in pairs],
    }


@dataclass(slots=True)
class Killer:
    """Kills the process of a node once a third of the questions are answered.

    It waits until the node that answered last has questions of its piece left, so that a death
    loses one; the other is between two answers nearly always.

    Attributes:
        asked: Subject -> questions; a piece is a subject.
        killed: Process id of what was killed; None so far.
    """

    asked: Counter[str]
    killed: int | None = None
    answered: Counter[str] = field(default_factory=Counter)

    def __call__(self, samples: Sequence[Sample]) -> None:
        """Take new answers."""
        self.answered.update(sample.subject for sample in samples)
        due = 3 * self.answered.total() >= self.asked.total()
        subject = samples[-1].subject
        if due and self.killed is None and self.answered[subject] < self.asked[subject]:
            self.killed = kill_node()


def kill_node() -> int | None:
    """Kill the process of one node by SIGKILL; return its id, or None if there is none."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            words = child.cmdline()
            if words and words[0].startswith("ray::NodeActor"):
                child.kill()
                return int(child.pid)
        except (psutil.Error, ProcessLookupError):  # it has ended since it was listed
            continue
    return None


def measure_kill(questions: int | None) -> dict[str, Any]:
    """Kill one of two nodes in the middle of a run with a real model, and compare with a plain run.

    Returns:
        What came of it; ``failures`` is empty if nothing was lost, doubled, changed or hidden.

    Raises:
        Skipped: Ray or the model is not there.
    """
    with TemporaryDirectory() as place, _open_home(Path(place)) as config:
        folder = Path(place)
        plan = _plan_sample(config, questions)
        with open_runtime(config) as runtime:
            alone: RunOutcome = BenchRunner(runtime, cast(RunProgress, Watch()), Event()).start(
                plan, folder / "alone"
            )
        killer = Killer(Counter({subject: len(drawn) for subject, drawn in plan.drawn.items()}))
        watch = Watch(killer)
        with start_nodes(2) as ray, open_runtime(config) as runtime:
            run, bench = run_carried(ray, plan, runtime, folder / "killed", MACHINE, watch)
        recorded = read_run(folder / "killed").samples  # what is on the disk
    expected = {sample.key: sample.choice for sample in alone.samples}
    given = Counter(sample.key for sample in recorded)
    losses = bench.losses
    found = {
        "questions": len(expected),
        "killed": killer.killed,
        "machines": len(run.config.machines or ()),
        "lost": len(expected.keys() - given.keys()),
        "doubled": given.total() - len(given),
        "changed": sum(sample.choice != expected.get(sample.key) for sample in recorded),
        "deaths": sum(tally.deaths for tally in bench.tallies.values()),
        "lost_tries": losses.lost_tries,
        "lost_questions": losses.lost_questions,
        "wasted_joules": losses.wasted_joules,
        "estimated_joules": losses.estimated_joules,
        "said": losses.text(),
        "notes": [line for line in watch.lines if line.startswith("node ")],
    }
    return {**found, "failures": list(find_failures(found))}


def find_failures(found: dict[str, Any]) -> Iterator[str]:
    """Name what a run with a killed node got wrong."""
    if found["killed"] is None:
        yield "no process of a node was found to be killed, so nothing was shown"
        return
    for what in ("lost", "doubled", "changed"):
        if found[what]:
            yield f"of {found['questions']} answers {found[what]} were {what}"
    if found["deaths"] != 1:
        yield f"one death was counted {found['deaths']} times"
    if not found["lost_tries"]:
        yield "the killed process had just ended its piece and lost nothing: run it again"
    elif found["wasted_joules"] is not None or found["estimated_joules"] is None:
        yield "the joules that the killed process spent are not unknown with an estimate"
    elif "died or hung" not in found["said"]:
        yield "the joules that the killed process spent are not named at the end"


def quick() -> Iterator[Figure]:
    """Measure the short form: 100 questions of 50 ms."""
    found = measure_overhead(100, 0.05, 1)
    yield median_of("overhead of the carrier", found["overhead_percent"], "%")
    yield Figure("start of a node", found["start_seconds"], "s", "absolute")


def print_processes(found: dict[int, list[NodesRun]], questions: int, *, as_json: bool) -> None:
    """Print the runs and the medians over the rounds."""
    figures = list(compare_processes(found))
    rounds = len(next(iter(found.values())))
    if as_json:
        document = {
            "questions": questions,
            "rounds": rounds,
            "processes": {count: [asdict(run) for run in found[count]] for count in found},
            "figures": [asdict(figure) for figure in figures],
        }
        print(json.dumps(document, indent=2))
        return
    for count, runs in found.items():
        for run in runs:
            nodes, part = count_text(count, "node"), run.joules / run.meter_joules
            print(
                f"{nodes}: {run.seconds:.1f} s, {run.joules:.0f} J in the answers, "
                f"{run.meter_joules:.0f} J by the meter ({part:.3f})"
            )
    print(f"medians of {rounds} rounds of {questions} questions, with 90 % intervals:")
    for figure in figures:
        low, high = figure.low, figure.high
        width = "" if low is None or high is None else f"  [{low:.3f}, {high:.3f}]"
        print(f"  {figure.name:44} {figure.value:.3f} {figure.unit}{width}")


def main() -> int:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", default="1,2,4", help="numbers of nodes; the first is 1")
    parser.add_argument("--questions", type=int, help="number of questions")
    parser.add_argument("--seconds", type=float, default=0.05, help="time of a question")
    parser.add_argument("--rounds", type=int, help="rounds of all sides")
    parser.add_argument("--minutes", type=float, default=9.0, help="most minutes of all rounds")
    parser.add_argument("--overhead", action="store_true", help="measure the cost of the carrier")
    parser.add_argument("--kill", action="store_true", help="kill a node of a run instead")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    try:
        if options.kill:
            found = measure_kill(options.questions)
        elif options.overhead:
            rounds = options.rounds or 1
            found = measure_overhead(options.questions or 1000, options.seconds, rounds)
        else:
            counts = [int(each) for each in options.processes.split(",")]
            questions = options.questions or 60
            runs = measure_processes(counts, questions, options.rounds or 5, options.minutes)
            print_processes(runs, questions, as_json=options.json)
            return 0
    except Skipped as skipped:
        print(f"skipped: {skipped}", file=sys.stderr)
        return 1
    failures = found.get("failures", [])
    if options.json:
        print(json.dumps(found, indent=2))
        return int(bool(failures))
    for name, value in found.items():
        if not isinstance(value, list):
            print(f"{name}: {value}")
        elif all(isinstance(each, float) for each in value):
            print(f"{name}: {', '.join(f'{each:.2f}' for each in value)}")
        else:
            print(f"{name}:", *(f"  {line}" for line in value), sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
