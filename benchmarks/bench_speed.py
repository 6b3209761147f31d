"""Letter scoring with shared worked examples against whole prefills, and our own time in it.

Both sides use the same session and batches and take turns. A prefill of a whole prompt takes as
long for the sixtieth question of a subject as for the first, so that side is timed on the first few
of each; the other pays for a subject's examples once, and so needs many to be fair (MMLU has 246 of
them a subject). Questions are MMLU's where ETUI_MMLU names its folder, else those of the sample.

    python -m benchmarks.bench_speed [MODEL.gguf] [--subjects N] [--questions N] [--rounds N]
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.figures import Figure, in_turn, ratio_of
from benchmarks.sides import arguments, make_session, opened_session, starter
from etui.bench.formats import FORMATS
from etui.bench.scoring import ScoringArm, SubjectWork
from etui.config.config import load_config
from etui.datasets.questions import Suite, draw
from etui.datasets.suites import load_suite
from etui.engine.llama_session import LlamaSession

CONTEXT_TOKENS = 4096
MARGIN_NATS = 0.1

Letters = dict[tuple[str, int], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over all questions.

    Attributes:
        seconds: Wall clock.
        engine_seconds: Of them inside llama.cpp.
        computed: Tokens computed.
        logprobs: Subject and row -> log-probability of each letter, in nats.
        rss_bytes: Memory of this process afterwards.
    """

    seconds: float
    engine_seconds: float
    computed: int
    logprobs: Letters
    rss_bytes: int


def quick() -> Iterator[Figure]:
    """Five questions of one subject of the sample, three rounds."""
    work = _work(load_suite("sample", "test", None, load_config()), subjects=1, questions=5)
    with opened_session(starter(), CONTEXT_TOKENS) as session:
        score(session, work, reuse=True)  # warms the weights up
        rounds = in_turn(
            lambda: score(session, work, reuse=True), lambda: score(session, work, reuse=False), 3
        )
    yield ratio_of(
        "seconds a question, shared examples : whole prefills",
        [(shared.seconds, whole.seconds) for shared, whole in rounds],
    )
    yield ratio_of(
        "time outside llama.cpp : all, shared examples",
        [(shared.seconds - shared.engine_seconds, shared.seconds) for shared, _ in rounds],
        "%",
    )


def main() -> None:
    """Run the rounds and print the figures."""
    parser = arguments(__doc__, tokens=0, rounds=3)
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--questions", type=int, default=60, help="of each subject, shared")
    parser.add_argument("--whole", type=int, default=6, help="of each subject, whole")
    chosen = parser.parse_args()
    suite = _suite()
    work = _work(suite, chosen.subjects, chosen.questions)
    few = [replace(one, questions=one.questions[: chosen.whole]) for one in work]
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    shared: list[Round] = []
    whole: list[Round] = []
    for _ in range(chosen.rounds):
        shared.append(score(session, work, reuse=True))
        whole.append(score(session, few, reuse=False))
    count, few_count = (sum(len(one.questions) for one in side) for side in (work, few))
    fast = count / statistics.median(r.seconds for r in shared)
    slow = few_count / statistics.median(r.seconds for r in whole)
    own = statistics.median(1 - r.engine_seconds / r.seconds for r in shared)
    moved, flipped, certain = differences(shared[0].logprobs, whole[0].logprobs)
    found = {
        "model": chosen.model.stem,
        "suite": suite.name,
        "questions": count,
        "batch_tokens": session.options.batch_tokens,
        "threads": chosen.threads,
        "questions_per_second": fast,
        "whole_questions_per_second": slow,
        "speedup": fast / slow,
        "tokens_per_question": shared[0].computed / count,
        "whole_tokens_per_question": whole[0].computed / few_count,
        "own_share": own,
        "moved_median_nats": statistics.median(moved),
        "moved_most_nats": max(moved),
        "flipped": flipped,
        "flipped_beyond_margin": certain,
        "compared": len(whole[0].logprobs),
        "rss_growth_bytes": shared[-1].rss_bytes - shared[0].rss_bytes,
    }
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    lean, fat = found["tokens_per_question"], found["whole_tokens_per_question"]
    print(f"{found['model']}, {count} questions of {suite.name}, {chosen.threads} threads")
    print(f"  shared examples  {fast:8.2f} questions/s, {lean:4.0f} tokens each")
    print(f"  whole prefills   {slow:8.2f} questions/s, {fat:4.0f} tokens each")
    print(f"  speedup          {fast / slow:8.2f} x    (at least 5 wanted)")
    print(f"  own time         {100 * own:8.2f} %    (at most 2 wanted)")
    print(
        f"  log-probabilities {found['moved_median_nats']:7.3f} nats apart in the median, "
        f"{found['moved_most_nats']:.3f} at most"
    )
    print(
        f"  other choice in  {flipped:4d} of {found['compared']} questions, {certain} of them with "
        f"a margin above {MARGIN_NATS}"
    )
    print(f"  memory grew by   {found['rss_growth_bytes'] / 1e6:8.1f} MB in {chosen.rounds} rounds")


def score(session: LlamaSession, work: list[SubjectWork], *, reuse: bool) -> Round:
    """Score all questions once."""
    arm = ScoringArm("bench", lambda: session, FORMATS["letters"], reuse=reuse)
    logprobs: Letters = {}
    start = time.perf_counter()
    for one in work:
        for group in arm.answer(one):
            for scored in group.scored:
                question = scored.prompt.question
                logprobs[question.subject, question.row] = dict(scored.logprobs)
    seconds = time.perf_counter() - start
    rss = psutil.Process().memory_info().rss
    return Round(seconds, arm.decode_ns / 1e9, arm.computed_tokens, logprobs, rss)


def differences(shared: Letters, whole: Letters) -> tuple[list[float], int, int]:
    """How far the letters of the two lie apart (nats), how often the likeliest is another one,
    and how often that although the whole prefill sets it apart by more than the margin."""
    moved: list[float] = []
    flipped = certain = 0
    for key, letters in whole.items():
        moved += [abs(shared[key][letter] - value) for letter, value in letters.items()]
        best, second = sorted(letters.values(), reverse=True)[:2]
        if max(shared[key], key=shared[key].__getitem__) != max(letters, key=letters.__getitem__):
            flipped += 1
            certain += best - second > MARGIN_NATS
    return moved, flipped, certain


def _suite() -> Suite:
    config = load_config()
    named = os.environ.get("ETUI_MMLU")
    if named:
        return load_suite("mmlu", "test", Path(named), config)
    return load_suite("sample", "test", None, config)


def _work(suite: Suite, subjects: int, questions: int) -> list[SubjectWork]:
    drawn = draw(suite.sizes, 0, per_subject=questions)
    return [
        SubjectWork(
            subject,
            [suite.questions[subject][row] for row in rows],
            frozenset(),
            tuple(suite.examples[subject])[:5],
        )
        for subject, rows in list(drawn.items())[:subjects]
    ]


if __name__ == "__main__":
    main()
