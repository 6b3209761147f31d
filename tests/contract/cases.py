"""The command lines whose JSON is pinned, in the order in which each machine runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["json", "lines", "none"]
"""One document, one document a line, or a preparation that is not pinned."""

QUESTION = "Which is a colour?\nA) seven\nB) red\nC) Monday"
BENCH = ("bench", "--suite", "sample", "--seed", "1", "--shots", "1", "--quiet")
TWO_SUBJECTS = ("--subjects", "geometry,biology", "--per-subject", "2")
GRID = ("--grid", "8,24x2,4,8", "--repeats", "1", "--window", "0")
CALIBRATE = ("calibrate", "tiny-b", "--quick", *GRID)
SWEEP = ("sweep", "tiny-b", "--axis", "kv_type=f16,q8_0", "--axis", "batch_tokens=32,64")
COSTS = ("--costs", "quick=1,large=10")


@dataclass(frozen=True, slots=True)
class Watch:
    """A file to keep a copy of, as it is once a command has printed so many lines."""

    pattern: str
    lines: int
    target: str


@dataclass(frozen=True, slots=True)
class Case:
    """One command line.

    Attributes:
        name: Name of its golden file.
        args: Arguments; ``{root}`` is the machine's folder.
        form: What it prints.
        code: Its exit code; None where it depends on how busy this machine is.
        floats: Whether its floating-point numbers are the same on every machine.
        watch: A file to look at while it runs.
    """

    name: str
    args: tuple[str, ...]
    form: Form = "json"
    code: int | None = 0
    floats: bool = False
    watch: Watch | None = None


def _ask(name: str, question: str, *options: str) -> Case:
    return Case(name, ("ask", question, *options, "--json"))


CHAT = (
    Case("logs-list-empty", ("logs", "list", "--json")),
    Case("stats-empty", ("stats", "--json")),
    Case("stats-idle-empty", ("stats", "--idle", "--json")),
    Case("policy-replay-log-empty", ("policy", "replay", "--json"), floats=True),
    Case("models-pull", ("models", "pull", "tiny-b", "tiny-c", "--quiet", "--json")),
    Case("models-verify", ("models", "verify", "--json")),
    Case("models-list", ("models", "list", "--json")),
    Case("models-update", ("models", "update", "newer.yaml", "--json")),
    Case("models-info", ("models", "info", "tiny-c", "--json")),
    Case("models-info-absent", ("models", "info", "absent", "--json")),
    Case("models-status-empty", ("models", "status", "--json")),
    Case("models-path", ("models", "path", "tiny-b", "--json")),
    Case("models-path-folder", ("models", "path", "--json")),
    Case("doctor", ("doctor", "--json")),
    Case("tools", ("tools", "--json")),
    Case("idle", ("power", "idle", "--seconds", "0.5", "--json"), "none"),
    Case(
        "calibrate-lines",
        (*CALIBRATE, "--jsonl"),
        "lines",
        watch=Watch("home/calibrations/*.jsonl", 4, "checkpoint.jsonl"),
    ),
    _ask("ask", "What is a joule?", "--model", "tiny-b", "--system", "Be brief."),
    _ask("ask-thinking", "Add 2 and 3.", "--policy", "mine"),
    _ask("ask-cascade", QUESTION),
    _ask("ask-votes", "Tell me.", "--arm", "poll", "--seed", "3"),
    _ask("ask-objective", "Why is that?"),
    _ask("ask-once-more", "Hello there"),
    Case("logs-list", ("logs", "list", "--json")),
    Case("logs-search", ("logs", "search", "joule", "--json")),
    Case("logs-show", ("logs", "show", "last", "--json")),
    Case("logs-loads", ("logs", "loads", "--json")),
    Case("logs-grade", ("logs", "grade", "last", "good", "--json")),
    Case("models-status", ("models", "status", "--json")),
    Case("logs-totals", ("logs", "totals", "--by", "policy", "--json")),
    Case("logs-export", ("logs", "export"), "lines"),
    Case("stats", ("stats", "--json")),
    Case("stats-idle", ("stats", "--idle", "--json")),
    Case("curves", ("curves", "--json")),
    Case("policy-replay-log", ("policy", "replay", "trial", "--log", "--json")),
    Case("policy-diff-logged", ("policy", "diff", "mine", "trial", "--logged", "9", "--json")),
    Case("models-compare", ("models", "compare", "tiny-b", "tiny-c", "--json")),
    Case("models-rm", ("models", "rm", "tiny-c", "--json")),
)
"""Questions, and what the log says of them afterwards."""

RUNS = (
    Case("pull", ("models", "pull", "tiny-b", "tiny-c", "--quiet"), "none"),
    Case(
        "bench-dry-run",
        (*BENCH, *TWO_SUBJECTS, "--model", "tiny-b", "--dry-run", "--json"),
    ),
    Case("bench-designs", ("bench", "designs", "--json")),
    Case("bench-design-price", ("bench", "--design", "study", "--dry-run", "--quiet", "--json")),
    Case("bench", (*BENCH, *TWO_SUBJECTS, *("-m", "tiny-b", "-m", "tiny-c"), "-o", "r1", "--json")),
    Case(
        "bench-lines",
        (*BENCH, *TWO_SUBJECTS, *("-m", "tiny-b", "-r", "cot", "-o", "r2", "--jsonl")),
        "lines",
    ),
    Case(
        "bench-policy",
        (*BENCH, *TWO_SUBJECTS, *("--policy", "mine", "-f", "chat", "-o", "r3", "--json")),
    ),
    Case(
        "bench-resume",
        ("bench", "--resume", "r1", "--fail-under", "99", "--quiet", "--json"),
        code=4,
    ),
    Case(
        "bench-part",
        (*BENCH, *TWO_SUBJECTS, "-m", "tiny-b", "--part", "1/2", "-o", "half-1"),
        "none",
    ),
    Case(
        "bench-other-part",
        (*BENCH, *TWO_SUBJECTS, "-m", "tiny-b", "--part", "2/2", "-o", "half-2"),
        "none",
    ),
    Case("bench-merge", ("bench", "merge", "half-1", "half-2", "-o", "r4", "--json")),
    Case(
        "bench-compare",
        ("bench", "compare", "old-run:tiny-b", "old-run:tiny-c", "--json"),
        floats=True,
    ),
    Case(
        "bench-compare-gate",
        ("bench", "compare", "old-run:tiny-c", "old-run:tiny-b", "--max-regression", "0", "--json"),
        code=4,
        floats=True,
    ),
    Case("bench-export", ("bench", "export", "old-run:tiny-b", "--lm-eval"), floats=True),
    Case("bench-report", ("bench", "report", "old-run"), "none"),
    Case("bench-report-changed", ("bench", "report", "changed-run"), "none"),
    Case("policy-list", ("policy", "list", "--json")),
    Case("policy-check", ("policy", "check", "mine", "broken.yaml", "--json"), code=2),
    Case("policy-explain", ("policy", "explain", QUESTION, "--json"), floats=True),
    Case("policy-explain-objective", ("policy", "explain", "Why?", "--json"), floats=True),
    Case("policy-test", ("policy", "test", "mine", "trial", "--json"), code=4),
    Case("policy-diff", ("policy", "diff", "mine", "trial", "--json"), floats=True),
    Case("policy-replay-runs", ("policy", "replay", "--runs", "old-run", "--json"), floats=True),
    Case(
        "policy-fit",
        ("policy", "fit", "mine", "--outcomes", "outcomes.csv", "--data", "data", "--json"),
        floats=True,
    ),
    Case(
        "policy-explain-fitted",
        ("policy", "explain", "What is the sum of 2 and 3?", "--json"),
        floats=True,
    ),
    Case(
        "policy-replay-outcomes",
        ("policy", "replay", "--outcomes", "outcomes.csv", "--data", "data", *COSTS, "--json"),
    ),
    Case(
        "policy-replay-policy",
        (
            *("policy", "replay", "trial", "--outcomes", "outcomes.csv", "--data", "data"),
            *(*COSTS, "--json"),
        ),
        floats=True,
    ),
)
"""Bench runs, and policies over answers that exist."""

METER = (
    Case("pull", ("models", "pull", "tiny-b", "--quiet"), "none"),
    Case("power", ("power", "--seconds", "0.4", "--json")),
    Case("power-lines", ("power", "--seconds", "0.6", "--interval", "0.3", "--jsonl"), "lines"),
    Case("power-top", ("power", "top", "--json")),
    Case("power-selftest", ("power", "selftest", "--seconds", "1.5", "--json"), code=None),
    Case("power-idle", ("power", "idle", "--seconds", "0.5", "--json")),
    Case(
        "power-idle-model",
        ("power", "idle", "--model", "tiny-b", "--seconds", "0.5", "--json"),
    ),
    Case("record", ("power", "record", "trace.jsonl", "--seconds", "0.6"), "none"),
    Case("power-replay", ("power", "replay", "trace.jsonl", "--json")),
    Case("power-compare", ("power", "compare", "trace.jsonl", "--json")),
    Case("power-calibrate", ("power", "calibrate", "--seconds", "4.4", "--json")),
)
"""The meter alone."""

CURVE = (
    Case("pull", ("models", "pull", "tiny-b", "--quiet"), "none"),
    Case("calibrate", (*CALIBRATE, "--json")),
    # What a sweep measures depends on the machine; tests/cli/test_sweep.py has its lines and its
    # document, files/sweep-result.json all keys of the document.
    Case("sweep-plan", (*SWEEP, "--dry-run", "--json")),
    Case("sweep-plan-lines", (*SWEEP, "--dry-run", "--jsonl"), "lines"),
    Case("sweep-list", ("sweep", "--list", "--json")),
)
"""One operating curve, and what a sweep would measure."""

MACHINES: dict[str, tuple[Case, ...]] = {"chat": CHAT, "runs": RUNS, "meter": METER, "curve": CURVE}

PINNED = tuple(case for cases in MACHINES.values() for case in cases if case.form != "none")
