"""Design runs that never ran: every truth about them is an argument."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from etui.arm import Arm, Sampling
from etui.bench.arms import to_json
from etui.bench.config import NamedText, RunConfig
from etui.bench.folder import RunFolder
from etui.bench.sample import Sample
from etui.calibration.grid import CurveVisit
from etui.calibration.measure import MeasuredPoint
from etui.curves.fit import TurnPoint
from etui.curves.operating_curve import looked_back
from etui.datasets.mmlu import SUBJECT_GROUPS
from etui.design.curve_visits import append_curve_point
from etui.energy.types import Kind
from etui.turn.record import Tokens
from tests.bench import synthetic

ROLES = {"small": "qwen2.5-coder-0.5b", "large": "qwen2.5-coder-1.5b"}
DESIGN = """\
version: 1
title: Reasoning strategies and model size, in joules
models:
  small: [qwen2.5-coder-0.5b]
  large: [qwen2.5-coder-1.5b]
arms:
  direct: {reasoning: direct}
  cot: {reasoning: cot, think_tokens: [64, 128, 256]}
  vote: {reasoning: vote, votes: [1, 3, 5, 7], think_tokens: 64, temperature: 0.7, batch: 1}
questions: {suite: mmlu, split: test, format: chat, shots: 0, order: balanced, block: 8, seed: 0}
curves: {prompt_tokens: [32, 128, 512], output_tokens: [8, 32, 128], repeats: 3}
"""


@dataclass(frozen=True)
class Truth:
    """What is true of an arm: its accuracy, its joules of a question, its output tokens."""

    accuracy: float
    joules: float
    tokens: int


def seed_truths() -> dict[str, Truth]:
    """The seed's arms, about as two small coder models answer MMLU."""
    found = {}
    for role, base, size in (("small", 0.33, 1.0), ("large", 0.44, 2.9)):
        found[f"{role}-direct"] = Truth(base, 9.0 * size, 3)
        for tokens in (64, 128, 256):
            found[f"{role}-cot-{tokens}"] = Truth(
                base + 0.0002 * tokens, (9 + 0.42 * tokens) * size, round(0.8 * tokens)
            )
        for votes in (1, 3, 5, 7):
            found[f"{role}-vote-{votes}"] = Truth(
                base - 0.02 + 0.012 * votes, (6 + 22.0 * votes) * size, 52 * votes
            )
    return found


def build_arm(name: str, roles: Mapping[str, str] = ROLES) -> Arm:
    role, way, *rest = name.split("-")
    settings = {"cot": "think_tokens", "vote": "votes"}
    extra = {settings[way]: int(rest[0])} if way in settings else {}
    if way == "vote":
        extra |= {"think_tokens": 64, "batch": 1}
    temperature = 0.7 if way == "vote" else 0.0
    return Arm(name, roles[role], way, sampling=Sampling(temperature), **extra)


def config(
    truths: Mapping[str, Truth] | None = None,
    per_subject: int = 2,
    roles: Mapping[str, str] = ROLES,
    **changes,
) -> RunConfig:
    truths = seed_truths() if truths is None else truths
    sizes = (398_000_000, 986_000_000, 1_900_000_000)
    models = tuple(
        replace(
            synthetic.MODEL, name=model, sha256=f"{at + 10:02x}" * 32, file_bytes=sizes[at],
            letters=None,
        )
        for at, model in enumerate(roles.values())
    )  # fmt: skip
    arms = {name: to_json(build_arm(name, roles)) for name in truths}
    made = synthetic.config(
        per_subject=per_subject,
        run_id="20260101-120000-seed",
        arms=tuple(truths),
        format="chat",
        shots=0,
        models=models,
        order="balanced",
        block=8,
        design=NamedText("seed", DESIGN),
        machine={"name": "AMD EPYC 7763, 2 CPUs, Linux x86_64", "memory_bytes": 8 << 30},
        energy={"channels": {"estimate:cpu": "estimate"}, "unmeasured": ["package:0"]},
    )
    return replace(made, arms=arms, **changes)


def subjects(count: int) -> dict[str, int]:
    """Some subjects of all groups, without questions."""
    return dict.fromkeys(sorted(SUBJECT_GROUPS)[:: max(1, 57 // count)][:count], 0)


def samples(
    run: RunConfig,
    truths: Mapping[str, Truth] | None = None,
    seed: int = 0,
    kind: str | None = "estimate",
    gains: Mapping[str, float] | None = None,
    stated: float | None = None,
) -> list[Sample]:
    """Answers of every arm; correlated by the question, as those of models are.

    Args:
        gains: Group -> what every thinking arm gains there, beyond its truth.
        stated: Share of the answers whose text states their letter, the others none; None if no
            letter was read behind the text.
    """
    truths = seed_truths() if truths is None else truths
    draw = random.Random(seed)
    found = []
    for subject, count in run.drawn.items():
        gain = (gains or {}).get(SUBJECT_GROUPS.get(subject, ""), 0.0)
        for row in range(count):
            luck = draw.random()
            for name in run.arms:
                found.append(_sample(draw, name, truths[name], subject, row, luck, kind, gain))
    if stated is None:
        return found
    said = random.Random(seed)
    return [replace(one, stated=one.choice if said.random() < stated else "") for one in found]


def _sample(draw, name, truth, subject, row, luck, kind, gain) -> Sample:
    thinks = "direct" not in name
    chance = min(1.0, max(0.0, truth.accuracy + (gain if thinks else 0.0)))
    own = luck if draw.random() < 0.5 else draw.random()
    right = own < chance
    tokens = max(1, round(truth.tokens * draw.uniform(0.7, 1.3)))
    joules = truth.joules * draw.lognormvariate(-0.045, 0.3)
    decode = joules * tokens / (tokens + 20)
    prompt = 90 + len(subject) * 3 + draw.randrange(80)
    return Sample(
        arm=name,
        subject=subject,
        row=row,
        answer="A",
        choice="A" if right else "B",
        correct=right,
        status="answered",
        text="",
        logprobs=None,
        letter_mass=None,
        confidence=None,
        margin=None,
        shots=0,
        tokens=Tokens(prompt, 0, prompt, tokens if thinks else 0, tokens),
        prefix_tokens=0.0,
        joules=joules if kind else None,
        uncertainty=(0.4 if kind == "estimate" else 0.03) * joules if kind else None,
        kind=kind,
        prefill_joules=joules - decode if kind else None,
        decode_joules=decode if kind else None,
        seconds=joules / 30,
        prompt_sha256="0123456789abcdef",
        ttft_seconds=0.2 * draw.uniform(0.8, 1.2),
    )


def points(bend: float = 2e-4, size: float = 1.0, seed: int = 0) -> list[MeasuredPoint]:
    """Points of a curve on the seed's grid, with a spread of 2 %."""
    draw = random.Random(seed)
    found = []
    for computed in (32, 128, 512):
        for output in (8, 32, 128):
            for _ in range(3):
                prefill = 0.5 + 0.045 * computed + 0.2 * bend * looked_back(0, computed)
                steps = output - 1
                decode = 0.3 + 0.41 * steps + bend * looked_back(computed, steps)
                point = TurnPoint(
                    computed, 0, output,
                    size * prefill * draw.gauss(1, 0.02), size * decode * draw.gauss(1, 0.02),
                    0.4 * size * prefill, 0.4 * size * decode, 0.01 * computed, 0.02 * steps,
                )  # fmt: skip
                visit = CurveVisit(computed, output)
                found.append(MeasuredPoint(visit.held_out, point, Kind.ESTIMATE, shared=False))
    return found


def write(
    folder: Path,
    run: RunConfig,
    rows: list[Sample],
    curves: Mapping[str, list[MeasuredPoint]] | None = None,
) -> Path:
    """A run folder, as a design run would have left it."""
    with RunFolder.start(folder, run) as opened:
        opened.add_samples(rows)
    for model, measured in (curves or {}).items():
        for point in measured:
            append_curve_point(folder, model, None, point)
    return folder
