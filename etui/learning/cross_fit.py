"""Cross-fitted probabilities of a right answer, for judging routers: no question in its own fit.

* ``subject``: the shrunken rate of the question's subject, by arm;
* ``logistic``: a logistic regression for each arm on light features, subject and hashed tf-idf;
* ``joint``: one model of all arms (:mod:`etui.learning._joint`), the one that decides live.

Where subjects are unknown or hidden, the probabilities of the shipped classifier of fields take
their place in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from etui.learning._joint import QuestionColumns, fit_joint, fit_mix, is_mixed
from etui.learning.features import predict_fields
from etui.learning.fit import one_thread
from etui.learning.graded import Graded, assign_folds, same_questions
from etui.learning.regressions import (
    STRENGTHS,
    Corpus,
    build_corpus,
    compute_idf,
    compute_soft_rates,
    compute_tf_idf,
    expect_rates,
    fit_linear,
    fit_scale,
    has_enough,
    number_bands,
)
from etui.stats.arrays import Flags, Floats

ROUTERS = ("subject", "logistic", "joint")
"""The routers of a replay."""
FOLDS = 5
TREES = 200
"""Trees of ``joint``: twice those of a fitted file, to judge with less noise."""


def compute_shares(graded: Graded, *, hide_subjects: bool = False) -> Floats:
    """Compute the share that each question has of each band, shape (questions, bands).

    The bands are the subjects, of which a question has one; without them, the fields that the
    shipped classifier predicts from the words.
    """
    names, number = number_bands(graded.subjects)
    if graded.questions and (hide_subjects or len(names) < 2):
        return predict_fields(graded.questions)
    if hide_subjects:
        return np.ones((len(graded), 1))
    return np.asarray(number[:, None] == np.arange(len(names)), dtype=np.float64)


@one_thread()
def cross_fit(
    graded: Graded,
    *,
    routers: Sequence[str] = ROUTERS,
    hide_subjects: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Floats]:
    """Compute the probability that each arm is right, for each router.

    Args:
        graded: The answers; without question texts only the router ``subject`` is fitted.
        hide_subjects: Whether to use the words of a question only, as in a chat.

    Returns:
        Router -> probabilities, shape (questions, arms), the best last.
    """
    folds = assign_folds(graded, FOLDS, seed)
    shares = compute_shares(graded, hide_subjects=hide_subjects)
    corpus = build_corpus(graded.questions, len(graded))
    ways: tuple[Floats, ...] = (shares,)
    if "joint" in routers and not corpus.empty and not hide_subjects:
        ways = (shares, predict_fields(graded.questions))
    names = [name for name in ROUTERS if name in routers]
    if corpus.empty:
        names = ["subject"]
    found = {name: np.empty(graded.correct.shape) for name in names}
    count = int(folds.max()) + 1
    for fold in range(count):
        say(f"fold {fold + 1} of {count}")
        held, used = folds == fold, folds != fold
        if "subject" in found:
            rates, overall = compute_soft_rates(
                graded.correct[used], shares[used], graded.label_weights[used]
            )
            found["subject"][held] = expect_rates(shares[held], rates, overall)
        if len(names) > ("subject" in names):
            part = _Fold(graded, corpus, ways, used, held, seed)
            for name in names:
                if name != "subject":
                    found[name][held] = part.logistic if name == "logistic" else part.joint()
    return found


class _Fold:
    """One fold: the columns of the questions used and of those held out."""

    def __init__(
        self,
        graded: Graded,
        corpus: Corpus,
        ways: tuple[Floats, ...],
        used: Flags,
        held: Flags,
        seed: int,
    ) -> None:
        self._graded, self._used, self._held, self._seed = graded, used, held, seed
        self._corpus, self._ways, self._shares = corpus, ways, ways[0]
        self._words = compute_tf_idf(corpus.counts, compute_idf(corpus.counts, used))

    def joint(self) -> Floats:
        """Predict by the model of all arms; with few questions, also by the regressions."""
        graded, used, held = self._graded, self._used, self._held
        columns = QuestionColumns(self._corpus.features, self._words, self._ways)
        inner = assign_folds(graded, FOLDS, self._seed + 1)
        fit = fit_joint(
            graded.correct[used],
            columns.take(used),
            inner[used],
            weights=graded.label_weights[used],
            seed=self._seed,
            trees=TREES,
        )
        if fit is None:
            return self.logistic
        p, questions = fit.predict(columns.take(held)), int(used.sum())
        if not is_mixed(questions):
            return p
        # The mean differences of the held-out questions are predictions, too: no answer is in them.
        mix = fit_mix(p, self.logistic, questions)
        return p if mix is None else mix.apply(p, self.logistic)

    @cached_property
    def _columns(self) -> Any:
        from scipy import sparse

        light = fit_scale(self._corpus.features, self._used).apply(self._corpus.features)
        parts = [sparse.csr_matrix(light), sparse.csr_matrix(self._shares), self._words]
        return sparse.hstack(parts).tocsr()

    @cached_property
    def logistic(self) -> Floats:
        """The probability that each arm is right by its own logistic regression."""
        used, found = self._used, []
        for right in self._graded.correct[used].T:
            strength = self._strength if has_enough(right) else None
            linear = fit_linear(self._columns[used], right, strength)
            found.append(linear.probability(self._columns[self._held]))
        return np.column_stack(found)

    @cached_property
    def _strength(self) -> float:
        """Regularisation strength with the lowest log loss on a third of the questions used.

        All arms share it: a router compares them, and unequal shrinkage would look like a gain.
        """
        from sklearn.metrics import log_loss

        groups = same_questions(self._graded)
        different = int(groups.max()) + 1
        third = (np.random.default_rng(self._seed + 2).permutation(different) % 3)[groups]
        inside, judged = self._used & (third > 0), self._used & (third == 0)
        losses = dict.fromkeys(STRENGTHS, 0.0)
        for strength in STRENGTHS:
            for right in self._graded.correct.T:
                linear = fit_linear(self._columns[inside], right[inside], strength)
                p = linear.probability(self._columns[judged])
                losses[strength] += log_loss(right[judged], p, labels=[False, True])
        return min(losses, key=lambda strength: losses[strength])
