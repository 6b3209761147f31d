"""A bench run on one node of Ray against the same loop without Ray, and a run with a kill.

The engine only waits, 50 ms a question, so that the difference is the cost of the carrier: texts,
processes, the driver. Both sides write the same run folder and the log. The time is that from the
begin of the run to its last answer; starting Ray and the nodes is shown apart.

With ``--kill``, two nodes of one CPU answer the sample suite with a real model, and one of their
processes is killed by SIGKILL in the middle: the accuracies must be those of a run without Ray,
with no answer lost or doubled.

Everything listens on 127.0.0.1 only.

    python -m benchmarks.cluster [--questions 1000] [--seconds 0.05] [--rounds 1] [--json]
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

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
from etui.bench.run import BenchRunner, RunOutcome
from etui.bench.sample import Sample
from etui.bench.scoring import QuestionAnswerer
from etui.bench.setup import build_run_config
from etui.cluster.bench_cluster import ClusterBench, ClusterOutcome
from etui.cluster.connect import ClusterAddress, build_environment, open_ray, parse_address
from etui.cluster.node import OPENER as MACHINE
from etui.cluster.ray_carrier import RayCarrier
from etui.config.config import Config, load_config, make_home
from etui.models.catalogue import load_catalogue
from etui.runtime.runtime import open_runtime

TOKEN = "ab" * 32
STORE_BYTES = 80 << 20
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
def start_nodes(count: int, seconds: float, home: Path) -> Iterator[ClusterAddress]:
    """Start raylets of one CPU on loopback, and end all of their processes.

    Raises:
        Skipped: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise Skipped("Ray is not installed: extra `cluster`")
    import psutil

    here = str(Path(__file__).parent.parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    before = dict(os.environ)
    os.environ.update(build_environment(ClusterAddress("127.0.0.1", 1), {}, home))
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, PYTHONPATH=path)
    os.environ.update({SECONDS: str(seconds), "RAY_worker_niceness": "0"})
    known = {child.pid for child in psutil.Process().children(recursive=True)}
    cluster: Any = None
    try:
        from ray.cluster_utils import Cluster

        options = {
            "num_cpus": 1,
            "num_gpus": 0,
            "node_ip_address": "127.0.0.1",
            "object_store_memory": STORE_BYTES,
        }
        head = {**options, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(count - 1):
            cluster.add_node(**options)
        address = parse_address(cluster.address)
        assert address is not None
        yield address
    finally:
        with suppress(Exception):
            cluster.shutdown()
        for child in psutil.Process().children(recursive=True):
            if child.pid not in known:
                with suppress(psutil.Error):
                    child.kill()
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
    plan: RunPlan, config: Config, out: Path, address: ClusterAddress, opener: str, watch: Watch
) -> ClusterOutcome:
    """Run the same plan over Ray."""
    with open_ray(address) as ray, open_runtime(config) as runtime:
        carrier = RayCarrier(ray, opener)
        try:
            return ClusterBench(runtime, watch, Event(), carrier).start(plan, out)
        finally:
            carrier.close()


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
        with start_nodes(1, seconds, folder) as address:
            started = time.monotonic() - began

            def carried() -> float:
                watch = Watch()
                out = folder / f"run-{next(number)}"
                run_carried(plan, config, out, address, OPENER, watch)
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

    from benchmarks.sides import starter

    model = starter()
    with TemporaryDirectory() as place:
        folder = Path(place)
        config = replace(
            load_config(), home=folder / "home", models_dir=model.parent, loop_guard=False
        )
        make_home(config)
        os.environ["ETUI_HOME"], os.environ["ETUI_MODELS"] = str(config.home), str(model.parent)
        plan = make_plan(RunRequest("sample", models=(MODEL,)), config, load_catalogue(config))
        with open_runtime(config) as runtime:
            alone: RunOutcome = BenchRunner(runtime, Watch(), Event()).start(plan, folder / "alone")
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
        with start_nodes(2, 0.0, folder) as address:
            found = run_carried(plan, config, folder / "killed", address, MACHINE, watch)
        keys = [sample.key for sample in found.run.samples]
        expected = {sample.key for sample in alone.samples}
        same = [arm.accuracy for arm in found.run.summary.arms.values()] == [
            arm.accuracy for arm in alone.summary.arms.values()
        ]
    return {
        "questions": len(expected),
        "killed": len(killed),
        "lost": len(expected - set(keys)),
        "doubled": len(keys) - len(set(keys)),
        "same_accuracy": same,
        "machines": len(found.run.config.machines or ()),
        "lost_tries": found.losses.lost_tries,
        "lost_questions": found.losses.lost_questions,
        "wasted_joules": found.losses.wasted_joules,
        "estimated_joules": found.losses.estimated_joules,
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
    parser.add_argument("--questions", type=int, default=1000, help="number of questions")
    parser.add_argument("--seconds", type=float, default=0.05, help="time of a question")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of both sides")
    parser.add_argument("--kill", action="store_true", help="kill a node of a run instead")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    found = (
        measure_kill()
        if options.kill
        else measure_overhead(options.questions, options.seconds, options.rounds)
    )
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], str):
            print(*(f"  {line}" for line in value), sep="\n")
        elif isinstance(value, list):
            print(f"{name}: {', '.join(f'{each:.2f}' for each in value)}")
        else:
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
