"""Whether votes that say the same are counted as one answer: ``python -m benchmarks.agreement``.

Each labelled pair of answers in tests/reasoning/agreement.tsv is compared by its keys. Nothing is
timed but the imports, in a fresh interpreter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from etui.multiple_choice import parse_options
from etui.reasoning.extraction import extract

PAIRS = Path(__file__).parents[1] / "tests" / "reasoning" / "agreement.tsv"
MODULES = ("etui.reasoning.extraction", "math_verify", "pint", "dateutil.parser")
"""Modules whose import is timed, if they are installed."""

Same = Callable[[str, str, str], bool]
"""Whether two answers to a question (first) are the same."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a question, and whether a person says that they are the same.

    ``origin`` is ``tuned`` for pairs that the rules were written with, and ``later`` for those that
    were written afterwards and scored once before any rule was changed for them.
    """

    origin: str
    kind: str
    same: bool
    question: str
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Score:
    """Result of one class of pairs.

    Attributes:
        kind: The class.
        pairs: Number of pairs.
        right: Pairs that are judged as they are labelled.
        false_merges: Different answers that are counted as one.
        missed: Equal answers that are counted as two.
    """

    kind: str
    pairs: int
    right: int
    false_merges: int
    missed: int


def read_pairs(path: Path = PAIRS) -> list[Pair]:
    """Read the labelled pairs; a line break in a text is written as ``\\n`` before a capital."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [
        Pair(origin, kind, label == "same", *(_unescape(text) for text in texts))
        for origin, kind, label, *texts in rows
    ]


def _unescape(text: str) -> str:
    r"""Put line breaks back; LaTeX commands such as ``\neq`` are lower-case, texts are not."""
    for letter in "ABCDT":
        text = text.replace(f"\\n{letter}", f"\n{letter}")
    return text


def same_key(question: str, one: str, other: str) -> bool:
    """Compare two answers as a majority vote does; answers without a key agree with nothing."""
    options = parse_options(question)
    keys = [extract(text, question, options).key for text in (one, other)]
    return keys[0] is not None and keys[0] == keys[1]


def same_by_math_verify(question: str, one: str, other: str) -> bool:
    """Compare two answers by math-verify, which is not a dependency of etui."""
    from math_verify import parse, verify

    first, second = (parse(text, parsing_timeout=None) for text in (one, other))
    return bool(verify(first, second, timeout_seconds=None))


def score(pairs: Iterable[Pair], same: Same) -> list[Score]:
    """Score a comparison, class by class, in the order of the file."""
    found: dict[str, list[tuple[bool, bool]]] = {}
    for pair in pairs:
        judged = same(pair.question, pair.one, pair.other)
        found.setdefault(pair.kind, []).append((pair.same, judged))
    return [
        Score(
            kind,
            len(judged),
            sum(label == given for label, given in judged),
            sum(given and not label for label, given in judged),
            sum(label and not given for label, given in judged),
        )
        for kind, judged in found.items()
    ]


def total(scores: Sequence[Score]) -> Score:
    """Add up the classes."""
    return Score(
        "all",
        sum(each.pairs for each in scores),
        sum(each.right for each in scores),
        sum(each.false_merges for each in scores),
        sum(each.missed for each in scores),
    )


def import_seconds(module: str, rounds: int = 5) -> float | None:
    """Measure the import of a module in fresh interpreters; None if it is not installed."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    seconds = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            return None
        seconds.append(float(done.stdout))
    return median(seconds)


def main() -> None:
    """Print the agreement with the labels, and how long the imports take."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--wrong", action="store_true", help="Also list the pairs judged wrong.")
    parser.add_argument("--math-verify", action="store_true", help="Judge by math-verify instead.")
    options = parser.parse_args()
    same = same_by_math_verify if options.math_verify else same_key
    pairs = read_pairs()
    scores = score(pairs, same)
    imports = {module: import_seconds(module) for module in MODULES}
    if options.json:
        shown = [asdict(each) for each in (*scores, total(scores))]
        print(json.dumps({"scores": shown, "import_seconds": imports}, indent=1))
        return
    print(f"{'class':8} {'pairs':>5} {'right':>6} {'false merges':>13} {'missed':>7}")
    for each in (*scores, total(scores)):
        share = f"{each.right / each.pairs:.0%}"
        print(f"{each.kind:8} {each.pairs:5} {share:>6} {each.false_merges:13} {each.missed:7}")
    for module, seconds in imports.items():
        taken = "not installed" if seconds is None else f"{1000 * seconds:.0f} ms"
        print(f"import {module}: {taken}")
    if options.wrong:
        for pair in pairs:
            if same(pair.question, pair.one, pair.other) != pair.same:
                label = "same" if pair.same else "different"
                print(f"{pair.kind}, {label}: {pair.one!r} | {pair.other!r} | {pair.question!r}")


if __name__ == "__main__":
    main()
