"""Made-up questions and answers whose difficulty shows in their words."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np

from etui.learning.fitted_file import Provenance
from etui.learning.graded import ArmFacts, Graded
from etui.routing.text_measures import QuestionText

WORDS = {
    "algebra": ["equation", "matrix", "ring", "group", "polynomial", "root", "field", "solve"],
    "history": ["empire", "king", "treaty", "war", "century", "revolt", "trade", "church"],
    "anatomy": ["nerve", "muscle", "bone", "artery", "tissue", "organ", "cell", "gland"],
}
ARMS = ("weak", "strong")
ORIGIN = Provenance(fitted_at="2026", source=("made",), data_sha256="", n=1, excluded=0, etui="0")


def rows(count: int, seed: int = 0) -> list[tuple[str, int, list[str], bool, bool]]:
    """(subject, row, [question, A, B, C, D, answer], weak right, strong right)."""
    draw = random.Random(seed)
    found = []
    for at in range(count):
        subject = list(WORDS)[at % len(WORDS)]
        hard = draw.random() < 0.5
        words = draw.sample(WORDS[subject], 4)
        text = f"Which {' '.join(words)} number {at}"
        text += f" where x = {draw.randrange(99)}?" if hard else " is it?"
        options = [f"{word} {at}" for word in draw.sample(WORDS[subject], 4)]
        ease = {"algebra": -0.15, "history": 0.15, "anatomy": 0.0}[subject]
        weak = draw.random() < (0.35 if hard else 0.85) + ease
        strong = draw.random() < 0.85 + ease / 2
        found.append(
            (subject, at // len(WORDS), [text, *options, draw.choice("ABCD")], weak, strong)
        )
    return found


def graded(count: int = 300, seed: int = 0) -> Graded:
    """The table of such questions, with confidences that tell something."""
    made = rows(count, seed)
    generator = np.random.default_rng(seed)
    correct = np.array([[weak, strong] for *_, weak, strong in made], dtype=bool)
    margin = np.clip(0.35 * correct + generator.uniform(0, 0.65, correct.shape), 0, 1)
    return Graded(
        ARMS,
        tuple(subject for subject, *_ in made),
        tuple(row for _, row, *_ in made),
        tuple(QuestionText(fields[0], tuple(fields[1:5])) for _, _, fields, *_ in made),
        correct,
        joules=np.array([1.0, 10.0]) * generator.lognormal(0, 0.2, correct.shape),
        confidence=np.clip(0.25 + 0.75 * margin, 0, 1),
        margin=margin,
        facts={"weak": ArmFacts("small", "direct", 10), "strong": ArmFacts("large", "direct", 20)},
    )


def write(folder: Path, count: int = 300, seed: int = 0, split: str = "test") -> tuple[Path, Path]:
    """An outcomes file and the folder of its questions."""
    made = rows(count, seed)
    data = folder / "data" / split
    data.mkdir(parents=True, exist_ok=True)
    for subject in WORDS:
        with (data / f"{subject}_{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(row[2] for row in made if row[0] == subject)
    outcomes = folder / "outcomes.csv"
    with outcomes.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "row", *ARMS])
        writer.writerows((s, row, int(weak), int(strong)) for s, row, _, weak, strong in made)
    return outcomes, folder / "data"
