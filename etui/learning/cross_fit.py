"""Cross-fitted probabilities of a right answer, for judging routers: no question in its own fit.

* ``subject``: the shrunken rate of the question's subject, by arm;
* ``joint``: one model of all arms (:mod:`etui.learning._joint`), the one that decides live.

Where subjects are unknown or hidden, the probabilities of the shipped classifier of fields take
their place in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from etui.learning._joint import QuestionColumns, fit_joint
from etui.learning.features import predict_fields
from etui.learning.fit import one_thread
from etui.learning.graded import Graded, assign_folds
from etui.learning.regressions import (
    build_corpus,
    compute_idf,
    compute_soft_rates,
    compute_tf_idf,
    expect_rates,
    number_bands,
)
from etui.stats.arrays import Floats

ROUTERS = ("subject", "joint")
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
    inner = assign_folds(graded, FOLDS, seed + 1)
    count = int(folds.max()) + 1
    for fold in range(count):
        say(f"fold {fold + 1} of {count}")
        held, used = folds == fold, folds != fold
        correct, weights = graded.correct[used], graded.label_weights[used]
        rates, overall = compute_soft_rates(correct, shares[used], weights)
        expected = expect_rates(shares[held], rates, overall)
        if "subject" in found:
            found["subject"][held] = expected
        if "joint" in found:
            words = compute_tf_idf(corpus.counts, compute_idf(corpus.counts, used))
            columns = QuestionColumns(corpus.features, words, ways)
            fit = fit_joint(
                correct, columns.take(used), inner[used], weights=weights, seed=seed, trees=TREES
            )
            found["joint"][held] = expected if fit is None else fit.predict(columns.take(held))
    return found
