"""Labels that count less than others, or not at all, in the fit of accuracies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance
from etui.learning.graded import Graded
from etui.routing.question_text import split_question

ORIGIN = Provenance(
    fitted_at="2026-01-01T00:00:00Z", source=("made",), data_sha256="", n=1, excluded=0, etui="0"
)
WORDS = ("river", "stone", "number", "poem", "cell", "court")


def make_table(count: int = 400, seed: int = 0) -> Graded:
    """Make answers of two arms: the small one is right where the question has an even word."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(WORDS), count)
    texts = [
        split_question(f"What is the {WORDS[at]} of case {n} {WORDS[n % 6]}?")
        for n, at in enumerate(kind)
    ]
    small = (kind % 2 == 0) ^ (rng.random(count) < 0.1)
    large = rng.random(count) < 0.9
    subjects = tuple("" for _ in texts)
    return Graded(
        ("small", "large"), subjects, tuple(range(count)), tuple(texts), np.c_[small, large]
    )


def test_weights_of_one_change_nothing() -> None:
    plain = make_table()
    weighted = replace(plain, weights=np.ones(plain.correct.shape))
    for name, head in fit_accuracy(plain, ORIGIN).arms.items():
        other = fit_accuracy(weighted, ORIGIN).arms[name]
        assert other.rate == pytest.approx(head.rate)
        assert other.n == head.n
        assert other.logistic.intercept == pytest.approx(head.logistic.intercept, abs=1e-3)
        assert other.quality.brier == pytest.approx(head.quality.brier, abs=1e-4)


def test_labels_of_weight_zero_are_ignored() -> None:
    plain = make_table()
    half = np.arange(len(plain)) % 2 == 0
    weights = np.ones(plain.correct.shape)
    weights[~half, 0] = 0
    wrong = plain.correct.copy()
    wrong[~half, 0] ^= True  # what an ignored label says must not matter
    first = fit_accuracy(replace(plain, weights=weights), ORIGIN).arms["small"]
    second = fit_accuracy(replace(plain, weights=weights, correct=wrong), ORIGIN).arms["small"]
    assert first == second
    assert first.n == half.sum()


def test_an_arm_without_any_label_keeps_an_even_chance() -> None:
    plain = make_table()
    weights = np.ones(plain.correct.shape)
    weights[:, 1] = 0
    head = fit_accuracy(replace(plain, weights=weights), ORIGIN).arms["large"]
    assert head.rate == 0.5
    assert head.logistic.c is None


def test_a_probable_label_is_two_rows() -> None:
    plain = make_table()
    twice = replace(
        plain,
        subjects=plain.subjects * 2,
        rows=plain.rows * 2,
        questions=plain.questions * 2,
        correct=np.r_[plain.correct, ~plain.correct],
        weights=np.r_[np.full(plain.correct.shape, 0.8), np.full(plain.correct.shape, 0.2)],
    )
    head, sure = (
        fit_accuracy(twice, ORIGIN).arms["small"],
        fit_accuracy(plain, ORIGIN).arms["small"],
    )
    share = (plain.correct[:, 0] * 0.6 + 0.2).sum()
    assert head.rate == pytest.approx((share + 1) / (len(plain) + 2))
    assert head.n == len(plain)
    assert abs(head.rate - 0.5) < abs(sure.rate - 0.5)


def test_tables_keep_their_weights() -> None:
    plain = make_table(20)
    weights = np.arange(40).reshape(20, 2) / 40
    table = replace(plain, weights=weights)
    assert table.of_arms(["large"]).weights.tolist() == weights[:, [1]].tolist()  # type: ignore[union-attr]
    assert table.take(np.arange(20) < 3).weights.tolist() == weights[:3].tolist()  # type: ignore[union-attr]
