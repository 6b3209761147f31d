"""How long a replay takes, and a prediction of fitted heads.

Run ``python -m benchmarks.replay [--json] [--questions 14000] [--arms 6] [--fit] [--turns N]``.
Questions and answers are made up here. ``judge`` is the replay itself: curve, hull, oracle,
intervals of 10,000 resamples. ``policy by rules`` decides every question by its text. Fits come
before a replay and are not counted as one. With ``--turns`` a log of so many turns is replayed
under ``balanced``, of which one model is on disk: ``log`` is the replay alone, ``log, command`` the
whole of ``etui policy replay --log balanced --json``, and ``log, command, user`` its user CPU time.
Figures named ``CPU`` are the CPU seconds of this process, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, ratio_of, timed_in_turn
from benchmarks.log import fill
from etui.arm import Arm
from etui.chat import Query
from etui.cli.output import format_json
from etui.config.config import Config
from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance, format_fitted, parse_fitted
from etui.learning.graded import Graded
from etui.learning.judge import ReplayTable, judge
from etui.learning.log_replay import build_turns_document
from etui.learning.policy_replay import cross_fit, replay_policy
from etui.learning.predictor import AccuracyPredictor
from etui.log.queries import LogReader
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.routing.decide import decide
from etui.routing.library import check_text, load_policy
from etui.routing.policy import Policy
from etui.routing.text_measures import QuestionText, format_question
from etui.runtime.replay import replay_log
from etui.runtime.runtime import open_runtime
from etui.yaml.named_files import NamedFile

SUBJECTS = 57
VOCABULARY = 6000


def made(questions: int, arms: int, seed: int = 0) -> Graded:
    """A table of so many questions; each arm is a little better than the one before."""
    draw = random.Random(seed)
    words = [f"w{draw.getrandbits(40):x}" for _ in range(VOCABULARY)]
    subjects = [f"subject_{at % SUBJECTS}" for at in range(questions)]
    texts = []
    for at in range(questions):
        own = draw.sample(words[100 * (at % SUBJECTS) : 100 * (at % SUBJECTS) + 400], 30)
        sums = " = 12" if draw.random() < 0.3 else ""
        texts.append(QuestionText(" ".join(own) + sums, tuple(draw.sample(words, 4))))
    generator = np.random.default_rng(seed)
    hard = np.array([0.3 * ("=" in text.stem) for text in texts])
    chance = 0.55 + 0.06 * np.arange(arms)[None, :] - hard[:, None]
    correct = generator.random((questions, arms)) < chance
    names = tuple(f"arm{at}" for at in range(arms))
    return Graded(names, tuple(subjects), tuple(range(questions)), tuple(texts), correct)


def rules(arms: tuple[str, ...]) -> Policy:
    """A policy that tells the arms apart by length and by signs."""
    lines = ["version: 1", "models: {m: [m]}", "arms:", *(f"  {a}: {{model: m}}" for a in arms)]
    lines += [
        "signals:",
        "  sums: {math_symbols: {at_least: 1}}",
        "  long: {tokens: {at_least: 90}}",
    ]
    lines += ["rules:", f"  - {{name: sums, priority: 2, when: sums, use: {arms[-1]}}}"]
    lines += [f"  - {{name: long, priority: 1, when: long, use: {arms[len(arms) // 2]}}}"]
    lines += [f"  - {{name: rest, use: {arms[0]}}}"]
    checked = check_text("\n".join(lines), NamedFile("p", Path("p.yaml"), "file"), ("m",))
    assert checked.policy is not None, checked.errors
    return checked.policy


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Duration of one call and what it gave."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def seconds_and_cpu(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Duration of one call, its CPU time over all threads, and what it gave."""
    before = time.process_time()
    wall, found = seconds(work)
    return wall, time.process_time() - before, found


def made_log(home: Path, turns: int) -> Config:
    """Folders with a log of so many turns and one model file, which is empty."""
    config = Config(home=home, models_dir=home / "models")
    config.models_dir.mkdir(parents=True, exist_ok=True)
    (config.models_dir / f"{STARTER}.gguf").touch()
    if not config.database.exists():
        fill(config, turns)
    return config


def replay_balanced(config: Config) -> int:
    """Replay the log under ``balanced``; returns the number of turns."""
    with open_runtime(config) as runtime:
        policy = load_policy("balanced", config, runtime.catalogue.models)
        return len(replay_log(policy, runtime))


def replay_command(config: Config) -> dict[str, float]:
    """Run ``etui policy replay --json`` over the log; returns its seconds, wall and user CPU."""
    environment = os.environ | {
        "ETUI_HOME": str(config.home),
        "ETUI_MODELS": str(config.models_dir),
    }
    command = [sys.executable, "-m", "etui", "policy", "replay", "--log", "balanced", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    wall, _ = seconds(
        lambda: subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    )
    user = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return {"log, command": wall, "log, command, user": user}


def replay_as_json(config: Config) -> int:
    """Replay the log under ``balanced`` and format the document; returns its length."""
    with open_runtime(config) as runtime:
        policy = load_policy("balanced", config, runtime.catalogue.models)
        return len(format_json(build_turns_document(policy.name, replay_log(policy, runtime))))


def decide_logged(config: Config) -> None:
    """Decide the questions of the log under ``balanced``, alone and without predictions."""
    policy = load_policy("balanced", config, load_catalogue(config).models)
    with LogReader(config) as log:
        for row in log.select("SELECT query FROM turns"):
            decide(Query(row[0]), policy, available={STARTER})


QUICK_QUESTIONS, QUICK_ARMS, QUICK_TURNS = 2_000, 4, 2_000


def quick() -> Iterator[Figure]:
    """A replay of 2,000 questions x 4 arms: against a quarter of it, and against bare decisions."""
    table = made(QUICK_QUESTIONS, QUICK_ARMS)
    stated = np.tile(2.0 ** np.arange(QUICK_ARMS), (QUICK_QUESTIONS, 1))
    p = np.random.default_rng(2).beta(2, 2, table.correct.shape)
    few = np.arange(QUICK_QUESTIONS) < QUICK_QUESTIONS // 4
    whole, part = ReplayTable(table, stated), ReplayTable(table.take(few), stated[few])
    pairs = timed_in_turn(
        lambda: judge(whole, {"made": p}), lambda: judge(part, {"made": p[few]}), 5
    )
    yield ratio_of("judge, four times the questions : once", pairs)
    policy = rules(table.arms)
    queries = [Query(format_question(question)) for question in table.questions]
    pairs = timed_in_turn(
        lambda: replay_policy(policy, table, stated, label="stated"),
        lambda: [decide(query, policy, available={"m"}) for query in queries],
        3,
    )
    yield ratio_of("replay of a policy by rules : its decisions alone", pairs)
    with tempfile.TemporaryDirectory() as folder:
        config = made_log(Path(folder), QUICK_TURNS)
        pairs = timed_in_turn(lambda: replay_balanced(config), lambda: decide_logged(config), 5)
        yield ratio_of("replay of a log, 2,000 turns : their decisions alone", pairs)
        pairs = timed_in_turn(lambda: replay_as_json(config), lambda: decide_logged(config), 5)
        yield ratio_of("the same as JSON : their decisions alone", pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--questions", type=int, default=14_000)
    parser.add_argument("--arms", type=int, default=6)
    parser.add_argument("--fit", action="store_true", help="also time fits (a minute or more)")
    parser.add_argument("--turns", type=int, help="also replay a log of so many turns")
    parser.add_argument("--home", type=Path, help="keep that log here, or reuse it")
    options = parser.parse_args()
    report: dict[str, float] = {}

    def note(what: str, value: float) -> None:
        report[what] = value
        if not options.json:
            unit = "" if ", M" in what or ", m" in what[-4:] else " s"
            print(f"{what:32}{value:>10.3f}{unit}", flush=True)

    def timed(what: str, work: Callable[[], Any]) -> Any:
        """Note the duration of one call and its CPU time; return what it gave."""
        wall, cpu, found = seconds_and_cpu(work)
        note(what, wall)
        note(f"{what}, CPU", cpu)
        return found

    if not options.json:
        print(f"{options.questions:,} questions x {options.arms} arms")
    table = made(options.questions, options.arms)
    stated = np.tile(2.0 ** np.arange(options.arms), (options.questions, 1))
    measured = stated * np.random.default_rng(1).lognormal(0, 0.3, stated.shape)
    p = np.clip(
        0.6 * table.correct.mean(axis=0)
        + 0.4 * np.random.default_rng(2).beta(2, 2, table.correct.shape),
        0,
        1,
    )
    judge(
        ReplayTable(table.take(np.arange(options.questions) < 100), stated[:100]), {"made": p[:100]}
    )
    timed("judge, stated costs", lambda: judge(ReplayTable(table, stated), {"made": p}))
    joules = ReplayTable(table, measured, "J", ("counter",))
    timed("judge, measured joules", lambda: judge(joules, {"made": p}))
    policy = rules(table.arms)
    timed("policy by rules", lambda: replay_policy(policy, table, stated, label="stated"))
    if options.fit:
        origin = Provenance(
            fitted_at="", source=(), data_sha256="", n=len(table), excluded=0, etui=""
        )
        model = timed("fit", lambda: fit_accuracy(table, origin))
        timed("cross-fit", lambda: cross_fit(table))
        text = format_fitted(model)
        note("fitted file, MB", len(text) / 1e6)
        loads = [
            seconds_and_cpu(lambda: AccuracyPredictor(parse_fitted(text, "benchmark")))
            for _ in range(9)
        ]
        note("load of it, ms", 1e3 * statistics.median(wall for wall, *_ in loads))
        note("load of it, CPU, ms", 1e3 * statistics.median(cpu for _, cpu, _ in loads))
        heads = AccuracyPredictor(model)
        queries = [Query(format_question(question)) for question in table.questions[:300]]
        arms = [Arm(name, "m") for name in table.arms]
        spent, _ = seconds(lambda: [heads.accuracy(a, q, 0.9) for q in queries for a in arms])
        note("prediction over all arms, ms", 1e3 * spent / len(queries))
    if options.turns:
        with tempfile.TemporaryDirectory() as folder:
            config = made_log(options.home or Path(folder), options.turns)
            count = timed("log", lambda: replay_balanced(config))
            assert count == options.turns
            for what, value in replay_command(config).items():
                note(what, value)
    if options.json:
        print(
            json.dumps({"questions": options.questions, "arms": options.arms, **report}, indent=2)
        )


if __name__ == "__main__":
    main()
