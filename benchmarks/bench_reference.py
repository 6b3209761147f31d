"""Letter scores against those of an independent scorer that prefills every prompt whole.

The reference is a folder of ``letters_MODEL.json``: subject, row, log-probabilities of the letters,
and the hash of the prompt. It lies beside MMLU (``$ETUI_MMLU/../reference``) or is named.

    ETUI_MMLU=DIR python -m benchmarks.bench_reference [MODEL ...] [--reference DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Skipped
from benchmarks.sides import starter
from etui.arm import Arm
from etui.backends.local import LocalBackend
from etui.bench.formats import FORMATS
from etui.bench.scoring import ScoringArm, SubjectWork
from etui.config.config import load_config
from etui.datasets.questions import Suite
from etui.datasets.suites import load_suite
from etui.engine.residency import finish_load
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.runtime.model_resolution import find_model_file

MARGIN_NATS = 0.1
"""What the first letter must be ahead of the second for a choice to count as clear."""


QUICK_QUESTIONS = 10


def quick() -> Iterator[Figure]:
    """The first ten questions of the starter model's reference."""
    starter()
    named = os.environ.get("ETUI_MMLU")
    if not named:
        raise Skipped("ETUI_MMLU names no folder of MMLU's files")
    file = Path(named).parent / "reference" / f"letters_{STARTER}.json"
    if not file.is_file():
        raise Skipped(f"there is no reference {file}")
    suite = load_suite("mmlu", "test", Path(named), load_config())
    found = compare(STARTER, file, suite, QUICK_QUESTIONS)
    if not found["prompts_equal"]:
        raise RuntimeError("the prompts are not those of the reference")
    questions = found["questions"]
    yield Figure(
        "log-probability of a letter off the reference, median",
        found["median_difference"],
        "nats",
        "absolute",
        4 * questions,
    )
    yield Figure(
        "log-probability of a letter off the reference, worst",
        found["largest_difference"],
        "nats",
        "absolute",
        4 * questions,
    )
    clear = found["clear"]
    if clear:
        yield Figure(
            "another choice : clear choices of the reference",
            100 * (1 - found["same_choice"] / clear),
            "%",
            n=clear,
        )


def main() -> None:
    """Score each model's questions and print how far the two scorers are apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", help="names in models.yaml; default: all there are")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    named = os.environ.get("ETUI_MMLU")
    if not named:
        sys.exit("ETUI_MMLU names no folder of MMLU's files")
    folder = chosen.reference or Path(named).parent / "reference"
    files = {path.stem.removeprefix("letters_"): path for path in folder.glob("letters_*.json")}
    suite = load_suite("mmlu", "test", Path(named), load_config())
    found = {name: compare(name, files[name], suite) for name in chosen.models or sorted(files)}
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    for name, one in found.items():
        print(
            f"{name}: {one['questions']} questions, prompts equal {one['prompts_equal']}, "
            f"median |difference| {one['median_difference']:.4f} nats (at most 0.05 wanted), "
            f"largest {one['largest_difference']:.3f}, same choice on {one['same_choice']} of "
            f"{one['clear']} with a margin over {MARGIN_NATS} (at least 95 % wanted)"
        )


def compare(name: str, file: Path, suite: Suite, most: int | None = None) -> dict[str, Any]:
    """How one model's scores differ from the reference, on its first questions or on all."""
    known: dict[str, dict[int, Any]] = {}
    for entry in json.loads(file.read_text(encoding="utf-8"))[:most]:
        known.setdefault(entry["subject"], {})[entry["row"]] = entry
    config = load_config()
    spec, path = find_model_file(Arm(name, name), config, load_catalogue(config))
    differences: list[float] = []
    clear = same = equal = 0
    with closing(LocalBackend(config)) as engine:
        session, _ = finish_load(engine.load(spec, path))
        arm = ScoringArm(name, lambda: session, FORMATS["letters"])
        for subject, entries in known.items():
            questions = [suite.questions[subject][row] for row in sorted(entries)]
            examples = tuple(suite.examples[subject])[:5]
            for group in arm.answer(SubjectWork(subject, questions, frozenset(), examples)):
                for one in group.scored:
                    entry = entries[one.prompt.question.row]
                    theirs = dict(zip("ABCD", entry["logprobs"], strict=True))
                    equal += one.prompt.sha == entry["sha"]
                    differences += [abs(one.logprobs[x] - theirs[x]) for x in "ABCD"]
                    second, first = sorted(theirs.values())[-2:]
                    if first - second > MARGIN_NATS:
                        clear += 1
                        same += one.choice == max(theirs, key=theirs.__getitem__)
    return {
        "questions": len(differences) // 4,
        "prompts_equal": equal == len(differences) // 4,
        "median_difference": statistics.median(differences),
        "largest_difference": max(differences),
        "same_choice": same,
        "clear": clear,
    }


if __name__ == "__main__":
    main()
