"""A bench run on 1, 2 and 4 nodes of this machine: its time and its joules against one node.

The nodes answer the sample suite with a real model, and share the power meter. ``of the meter``
divides the joules of all answers by what the meter of this process read from the first question to
the last answer: 1 if nothing is charged twice and nothing is lost; the time without any node at
work (the first start, hand-overs) is missing in it.

With ``--overhead``, one node whose engine only waits, 50 ms a question, against the same loop
without Ray: the cost of the carrier. With ``--kill``, one of two nodes is killed by SIGKILL in the
middle: the accuracies must be those of a run without Ray, with no answer lost or doubled.

Everything listens on 127.0.0.1 only.

    python -m benchmarks.cluster [--processes 1,2,4] [--questions 60] [--rounds 1] [--json]
    python -m benchmarks.cluster --overhead [--questions 1000] [--seconds 0.05] [--json]
    python -m benchmarks.cluster --kill [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from etui.cluster.node import OPENER as MACHINE
from etui.cluster.ray_carrier import RayCarrier
from etui.cluster.tally import Losses
from etui.config.config import Config, load_config, make_home
from etui.models.catalogue import load_catalogue
from etui.runtime.runtime import Runtime, open_runtime

KILL_AFTER = 20


@dataclass(slots=True)
class Watch:
    """An audience that takes the time, and can act after some answers.

    Attributes:
        began, ended: Monotonic seconds of the begin of the run and of its last answer.
        act: Called with the number of answers so far.
    """

    act: Callable[[int], None] = lambda count: None
    began: float = 0.0
    ended: float = 0.0
    count: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds of the answers."""
        return self.ended - self.began

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """Start the time."""
        self.began = time.monotonic()

    def expect(self, questions: int) -> None:
        """Ignore how many questions a precision needs."""

    def see(self, samples: Sequence[Sample]) -> None:
        """Take the time of answers."""
        self.ended = time.monotonic()
        self.count += len(samples)
        self.act(self.count)


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
    before = dict(os.environ)
    here = str(Path(__file__).parent.parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.update({SECONDS: str(seconds), "PYTHONPATH": path})
    try:
        with open_ray(count) as ray:
            yield ray
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


def run_carried(
    ray: Any, plan: RunPlan, runtime: Runtime[Any], out: Path, opener: str, watch: Watch
) -> tuple[RunOutcome, Losses]:
    """Run the same plan over Ray."""
    carrier = RayCarrier(ray, opener)
    try:
        bench = ClusterBench(runtime, cast(RunProgress, watch), Event(), carrier=carrier)
        return bench.start(plan, out), bench.losses
    finally:
        carrier.close()


def measure_processes(counts: Sequence[int], questions: int, rounds: int) -> dict[str, Any]:
    """Measure a run on some numbers of nodes, in turn.

    Raises:
        Skipped: Ray or the model is not there.
    """
    with TemporaryDirectory() as place, _open_home(Path(place)) as config:
        request = RunRequest("sample", models=(MODEL,), limit=questions)
        plan = make_plan(request, config, load_catalogue(config))
        found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
        for number in range(rounds):
            for count in counts if number % 2 == 0 else reversed(counts):
                watch = Watch()
                with start_nodes(count) as ray, open_runtime(config) as runtime:
                    meter = runtime.meter
                    out = Path(place) / f"run-{number}-{count}"
                    run, losses = run_carried(ray, plan, runtime, out, MACHINE, watch)
                    whole = meter.energy(round(watch.began * 1e9), round(watch.ended * 1e9))
                joules = sum(sample.joules or 0.0 for sample in run.samples)
                found[count].append(
                    {
                        "seconds": watch.seconds,
                        "joules": joules,
                        "wasted_joules": losses.reported_joules,
                        "of_the_meter": (joules + losses.reported_joules) / (whole.joules or 0.0),
                    }
                )
        first = found[counts[0]]
    return {
        "questions": plan.questions,
        "processes": {
            str(count): [
                {
                    **each,
                    "seconds_of_first": each["seconds"] / one["seconds"],
                    "joules_of_first": each["joules"] / one["joules"],
                }
                for each, one in zip(rows, first, strict=True)
            ]
            for count, rows in found.items()
        },
    }


@contextmanager
def _open_home(folder: Path) -> Iterator[Config]:
    """Make a home with the starter model, here and for the nodes."""
    from benchmarks.sides import starter

    model = starter()
    config = replace(load_config(), home=folder / "home", models_dir=model.parent, loop_guard=False)
    make_home(config)
    names = {"ETUI_HOME": str(config.home), "ETUI_MODELS": str(model.parent)}
    before = dict(os.environ)
    os.environ.update(names)
    try:
        yield config
    finally:
        os.environ.clear()
        os.environ.update(before)


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


def measure_kill() -> dict[str, Any]:
    """Kill one of two nodes in the middle of a run with a real model, and compare with a plain run.

    Raises:
        Skipped: Ray or the model is not there.
    """
    import psutil

    with TemporaryDirectory() as place, _open_home(Path(place)) as config:
        folder = Path(place)
        plan = make_plan(RunRequest("sample", models=(MODEL,)), config, load_catalogue(config))
        with open_runtime(config) as runtime:
            alone: RunOutcome = BenchRunner(runtime, cast(RunProgress, Watch()), Event()).start(
                plan, folder / "alone"
            )
        killed: list[int] = []

        def kill(count: int) -> None:
            if count >= KILL_AFTER and not killed:
                for child in psutil.Process().children(recursive=True):
                    words = child.cmdline()
                    if words and words[0].startswith("ray::NodeActor"):
                        child.send_signal(signal.SIGKILL)
                        killed.append(child.pid)
                        return

        watch = Watch(kill)
        with start_nodes(2) as ray, open_runtime(config) as runtime:
            run, losses = run_carried(ray, plan, runtime, folder / "killed", MACHINE, watch)
        keys = [sample.key for sample in run.samples]
        expected = {sample.key for sample in alone.samples}
        same = [arm.accuracy for arm in run.summary.arms.values()] == [
            arm.accuracy for arm in alone.summary.arms.values()
        ]
    return {
        "questions": len(expected),
        "killed": len(killed),
        "lost": len(expected - set(keys)),
        "doubled": len(keys) - len(set(keys)),
        "same_accuracy": same,
        "machines": len(run.config.machines or ()),
        "lost_tries": losses.lost_tries,
        "lost_questions": losses.lost_questions,
        "wasted_joules": losses.wasted_joules,
        "estimated_joules": losses.estimated_joules,
        "alone_seconds": sum(sample.seconds for sample in alone.samples),
        "seconds": watch.seconds,
        "notes": [line for line in watch.lines if "node" in line],
    }


def quick() -> Iterator[Figure]:
    """Measure the short form: 100 questions of 50 ms."""
    found = measure_overhead(100, 0.05, 1)
    yield median_of("overhead of the carrier", found["overhead_percent"], "%")
    yield Figure("start of a node", found["start_seconds"], "s", "absolute")


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", default="1,2,4", help="numbers of nodes, the first is 1")
    parser.add_argument("--questions", type=int, help="number of questions")
    parser.add_argument("--seconds", type=float, default=0.05, help="time of a question")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of both sides")
    parser.add_argument("--overhead", action="store_true", help="measure the cost of the carrier")
    parser.add_argument("--kill", action="store_true", help="kill a node of a run instead")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if options.kill:
        found = measure_kill()
    elif options.overhead:
        found = measure_overhead(options.questions or 1000, options.seconds, options.rounds)
    else:
        counts = [int(each) for each in options.processes.split(",")]
        found = measure_processes(counts, options.questions or 60, options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for count, rows in found.pop("processes", {}).items():
        for each in rows:
            print(
                f"{count} nodes: {each['seconds']:.1f} s ({each['seconds_of_first']:.2f}x), "
                f"{each['joules']:.0f} J ({each['joules_of_first']:.2f}x), "
                f"{each['of_the_meter']:.3f} of the meter"
            )
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], str):
            print(*(f"  {line}" for line in value), sep="\n")
        elif isinstance(value, list):
            print(f"{name}: {', '.join(f'{each:.2f}' for each in value)}")
        else:
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
