"""How far the price of a design is from what its run then takes, in joules and seconds.

    python -m benchmarks.design_price [--design quick] [--pilot 4] [--questions 20] [--json] ...

A pilot answers other questions than the run (another seed), the rest is what a user does: the price
of ``--dry-run``, then the run, in an empty home. Compared are joules and seconds of a question of
each arm, and their sums. Further options go to both commands, such as
``--data DIR`` and ``--model small=smollm2-135m``. ETUI_MODELS names the models.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import Figure
from benchmarks.sides import starter
from etui.bench.folder import read_run
from etui.models.spec import STARTER


@dataclass(frozen=True, slots=True)
class Compared:
    """Predicted and actual cost of a question; ``sure`` is the predicted half width, joules."""

    arm: str
    answers: int
    joules: float
    sure: float
    actual_joules: float
    seconds: float
    actual_seconds: float


def quick() -> Iterator[Figure]:
    """The quick design with the starter: how far joules and time are from their price."""
    starter()
    options = argparse.Namespace(design="quick", pilot=6, questions=24)
    with TemporaryDirectory() as home:
        found = measure(options, ("--model", f"small={STARTER}"), Path(home))
    joules = abs(found["joules"] / found["actual_joules"] - 1)
    seconds = abs(found["seconds"] / found["actual_seconds"] - 1)
    yield Figure("joules of a run, predicted - actual", 100 * joules, "%")
    yield Figure("seconds of a run, predicted - actual", 100 * seconds, "%")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--design", default="quick")
    parser.add_argument("--pilot", type=int, default=4)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options, more = parser.parse_known_args(argv)
    with TemporaryDirectory() as home:
        document = measure(options, more, Path(home))
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print_table(document)
    return 0


def measure(options: argparse.Namespace, more: Sequence[str], home: Path) -> dict[str, Any]:
    """Price the design after a pilot, run it, and compare."""
    ask = ("--design", options.design, "--limit", str(options.questions), *more)
    _etui(home, *ask, "--seed", "1", "--pilot", str(options.pilot), "--dry-run", "--json")
    price = json.loads(_etui(home, *ask, "--dry-run", "--json"))["left"]
    out = home / "run"
    begun = time.monotonic()
    _etui(home, *ask, "--out", str(out), "--json")
    wall = time.monotonic() - begun
    samples = read_run(out).samples
    found = []
    for arm in price["arms"]:
        own = [sample for sample in samples if sample.arm == arm["arm"]]
        found.append(
            Compared(
                arm["arm"],
                len(own),
                arm["joules"]["value"],
                arm["joules"]["scatter"],
                fmean(sample.joules or 0.0 for sample in own),
                arm["seconds"]["value"],
                fmean(sample.seconds for sample in own),
            )
        )
    return {
        "arms": [asdict(each) for each in found],
        "joules": price["joules"]["value"],
        "actual_joules": sum(sample.joules or 0.0 for sample in samples),
        "seconds": price["seconds"]["value"],
        "actual_seconds": sum(sample.seconds for sample in samples),
        "wall_seconds": wall,
    }


def print_table(document: dict[str, Any]) -> None:
    """Print predicted and actual cost of each arm, and the relative error."""
    print(f"{'arm':24}{'J predicted':>16}{'J actual':>10}{'error':>8}{'s actual':>10}{'error':>8}")
    for arm in document["arms"]:
        joules = arm["joules"] / arm["actual_joules"] - 1
        seconds = arm["seconds"] / arm["actual_seconds"] - 1
        predicted = f"{arm['joules']:.1f} ± {arm['sure']:.1f}"
        print(
            f"{arm['arm']:24}{predicted:>16}{arm['actual_joules']:10.1f}{joules:+8.0%}"
            f"{arm['actual_seconds']:10.2f}{seconds:+8.0%}"
        )
    joules = document["joules"] / document["actual_joules"] - 1
    seconds = document["seconds"] / document["actual_seconds"] - 1
    wall = document["wall_seconds"]
    print(
        f"all: joules {joules:+.0%}, seconds {seconds:+.0%}; {wall:.1f} s with loads and the report"
    )


def _etui(home: Path, *args: str) -> str:
    environ = {**os.environ, "ETUI_HOME": str(home / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "etui", "bench", *args, "--quiet"],
        check=True, env=environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
