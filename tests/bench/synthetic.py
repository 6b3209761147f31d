"""A run that never ran: seeded samples of several arms, as a run folder holds them."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

from etui.bench.config import BenchModel, NamedText, RunConfig
from etui.bench.folder import RunFolder
from etui.bench.sample import Sample
from etui.datasets.mmlu import SUBJECT_GROUPS
from etui.turn.record import Tokens

MODEL = BenchModel(
    name="small",
    sha256="ab" * 32,
    file_bytes=400_000_000,
    gpu_layers=0,
    context_tokens=4096,
    sequences=8,
    batch_tokens=512,
    kv_type="f16",
    flash_attention="auto",
    letters="single",
)

ARMS = {
    # skill, joules a question, thinking tokens, watts
    "direct": (0.41, 3.0, 0, 24.0),
    "think": (0.50, 42.0, 150, 31.0),
    "vote-5": (0.53, 118.0, 620, 38.0),
    "large": (0.58, 9.5, 0, 33.0),
}


def config(arms=("direct", "think", "vote-5", "large"), per_subject=10, **changes) -> RunConfig:
    subjects = sorted(SUBJECT_GROUPS)
    made = RunConfig(
        run_id="20260101-120000-demo",
        started_at="2026-01-01T12:00:00+00:00",
        suite="mmlu",
        split="test",
        data_path=None,
        data_sha256="cd" * 32,
        sizes=dict.fromkeys(subjects, 100),
        drawn=dict.fromkeys(subjects, per_subject),
        format="letters",
        format_version=1,
        shots=5,
        seed=0,
        limit=None,
        per_subject=per_subject,
        subjects=None,
        arms={
            arm: {"model": "large" if arm == "large" else "small", "reasoning": "direct"}
            for arm in arms
        },
        policy=None,
        routed=False,
        models=(MODEL, replace(MODEL, name="large", sha256="ef" * 32)),
        prefix_reuse=True,
        group_questions=8,
        threads=2,
        versions={"etui": "0.1.0", "llama_cpp": "0.3.36"},
        machine={"cpu": "A processor", "cores": 8},
        energy={"channels": {"package:0": "counter"}, "unmeasured": ["dram:0"]},
    )
    return replace(made, **changes)


def routed(policy: str = "balanced", **changes) -> RunConfig:
    return config(policy=NamedText(policy, "version: 1"), routed=True, **changes)


def samples(run: RunConfig, seed: int = 0, kind: str | None = "counter") -> list[Sample]:
    """Samples of every arm on the same questions; ``kind`` None leaves the energy unmeasured."""
    draw = random.Random(seed)
    found = []
    hard = {subject: draw.gauss(0, 0.9) for subject in run.drawn}
    for subject, count in run.drawn.items():
        for row in range(count):
            answer, question = draw.choice("ABCD"), draw.gauss(0, 1.2)
            for arm in run.arms:
                found.append(
                    _sample(draw, arm, subject, row, answer, question - hard[subject], kind)
                )
    return found


def _sample(draw, arm, subject, row, answer, ease, kind) -> Sample:
    skill, joules, thinking, watts = ARMS.get(arm, (0.45, 5.0, 0, 25.0))
    level = math.log(skill / (1 - skill))
    right = draw.random() < 1 / (1 + math.exp(-(1.4 * level + ease)))
    status = "answered"
    if thinking and draw.random() < 0.04:
        status = draw.choice(("no_answer", "truncated"))
    choice = answer if right else draw.choice([letter for letter in "ABCD" if letter != answer])
    if status != "answered":
        choice = None
    odds = {letter: draw.gauss(0, 1) + (2.5 if letter == choice else 0) for letter in "ABCD"}
    total = sum(math.exp(value) for value in odds.values())
    mass = min(0.999, max(0.3, draw.gauss(0.96, 0.02)))
    logs = {letter: value - math.log(total) + math.log(mass) for letter, value in odds.items()}
    cost = joules * draw.lognormvariate(0, 0.35)
    decode = cost * (0.93 if thinking else 0.0)
    output = round(thinking * draw.lognormvariate(0, 0.3)) + (4 if thinking else 0)
    computed = 110 + draw.randrange(80)
    return Sample(
        arm=arm,
        subject=subject,
        row=row,
        answer=answer,
        choice=choice,
        correct=choice == answer,
        status=status,
        text="So the answer is " + (choice or "...") if thinking else "",
        logprobs=None if thinking else logs,
        letter_mass=None if thinking else mass,
        confidence=None,
        margin=None,
        shots=5,
        tokens=Tokens(534 + computed, 534, computed, max(0, output - 4), output),
        prefix_tokens=53.4,
        joules=cost if kind else None,
        uncertainty=0.05 * cost if kind else None,
        kind=kind,
        prefill_joules=cost - decode if kind else None,
        decode_joules=decode if kind else None,
        seconds=cost / (watts * draw.lognormvariate(0, 0.05)),
        prompt_sha256="0123456789abcdef",
    )


def write(folder: Path, run: RunConfig, rows: list[Sample]) -> Path:
    """A run folder with these answers, as a run would have left it."""
    with RunFolder.start(folder, run) as opened:
        opened.add_samples(rows)
    return folder
