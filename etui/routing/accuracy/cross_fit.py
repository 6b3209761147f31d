"""Cross-fitted probabilities of a right answer, for judging routers: no question in its own fit.

Three routers of increasing complexity, for questions of known subjects:

* ``subject``: the shrunken rate of the question's subject, by arm;
* ``logistic``: a logistic regression for each arm on light features, subject and hashed tf-idf;
* ``blend``: the mean of ``logistic``, of extremely randomised trees and of gradient-boosted trees
  on light features, subject rates and the leading components of the words.

The members of the blend make different errors (trees find interactions, the regression single
words), and the mean of their probabilities ranks questions better than each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from etui.routing.accuracy.blas_threads import one_thread
from etui.routing.accuracy.logistic import STRENGTHS, fit_linear, fit_scale, has_enough
from etui.routing.accuracy.rates import compute_shrunken_rates, logits, number_bands
from etui.routing.accuracy.table import Graded, assign_folds, same_questions
from etui.routing.accuracy.words import Corpus, build_corpus, compute_idf, compute_tf_idf

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole

FOLDS = 5
COMPONENTS = 50
TREES = 200


def cross_fit(
    graded: Graded, *, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> dict[str, Floats]:
    """Compute the probability that each arm is right, for each router.

    Args:
        graded: The answers; without question texts only the router ``subject`` is fitted.
        seed: Random seed of the folds and of the trees.
        say: Called with a progress message for each fold.

    Returns:
        Router -> probabilities, shape (questions, arms).
    """
    with one_thread():
        return _cross_fit(graded, seed, say)


def _cross_fit(graded: Graded, seed: int, say: Callable[[str], None]) -> dict[str, Floats]:
    import numpy as np

    folds = assign_folds(graded, FOLDS, seed)
    names, number = number_bands(graded.subjects)
    corpus = build_corpus(graded.questions, len(graded))
    found = {"subject": np.empty(graded.correct.shape)}
    if not corpus.empty:
        found |= {name: np.empty(graded.correct.shape) for name in ("logistic", "blend")}
    count = int(folds.max()) + 1
    for fold in range(count):
        say(f"fold {fold + 1} of {count}")
        held, used = folds == fold, folds != fold
        rates, _ = compute_shrunken_rates(graded.correct, number, len(names), used)
        found["subject"][held] = rates[number[held]]
        if corpus.empty:
            continue
        part = _Fold(graded, corpus, number, len(names), used, held, seed)
        for arm in range(len(graded.arms)):
            one = part.logistic(arm)
            found["logistic"][held, arm] = one
            found["blend"][held, arm] = np.mean([one, *part.trees(arm)], axis=0)
    return found


class _Fold:
    """One fold: the columns of the questions used and of those held out."""

    def __init__(
        self,
        graded: Graded,
        corpus: Corpus,
        number: Whole,
        bands: int,
        used: Flags,
        held: Flags,
        seed: int,
    ) -> None:
        import numpy as np
        from scipy import sparse
        from sklearn.decomposition import TruncatedSVD

        self._graded, self._used, self._held, self._seed = graded, used, held, seed
        self._groups = same_questions(graded)
        words = compute_tf_idf(corpus.counts, compute_idf(corpus.counts, used))
        light = fit_scale(corpus.features, used).apply(corpus.features)
        rows = np.arange(len(graded))
        subject = sparse.csr_matrix(
            (np.ones(len(graded)), (rows, number)), shape=(len(graded), bands)
        )
        self._columns = sparse.hstack([sparse.csr_matrix(light), subject, words]).tocsr()
        components = min(COMPONENTS, int(used.sum()) - 1, words.shape[1] - 1)
        svd = TruncatedSVD(components, random_state=seed).fit(words[used])
        self._dense = np.column_stack(
            [corpus.features, svd.transform(words), self._compute_rates(number, bands)]
        )

    def logistic(self, arm: int) -> Floats:
        """Predict p of the held-out questions by the logistic regression of an arm."""
        right = self._graded.correct[:, arm]
        strength = self._strength if has_enough(right[self._used]) else None
        linear = fit_linear(self._columns[self._used], right[self._used], strength)
        return linear.probability(self._columns[self._held])

    def trees(self, arm: int) -> list[Floats]:
        """Predict p of the held-out questions by both kinds of trees.

        The result is empty if there are too few answers.
        """
        from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier

        right = self._graded.correct[self._used, arm]
        if not has_enough(right):
            return []
        members: list[Any] = [
            ExtraTreesClassifier(
                TREES, min_samples_leaf=10, max_features=0.3, n_jobs=-1, random_state=self._seed
            ),
            HistGradientBoostingClassifier(
                max_iter=100,
                learning_rate=0.05,
                max_leaf_nodes=8,
                min_samples_leaf=60,
                l2_regularization=5.0,
                early_stopping=False,
                random_state=self._seed,
            ),
        ]
        inside, outside = self._dense[self._used], self._dense[self._held]
        for member in members:
            member.fit(inside, right)
        members[0].set_params(n_jobs=1)  # several threads would sum the trees in varying order
        return [member.predict_proba(outside)[:, 1] for member in members]

    def _compute_rates(self, number: Whole, bands: int) -> Floats:
        """Compute logits of the subjects' rates, for used questions from the other inner folds."""
        import numpy as np

        def of(part: Flags) -> Floats:
            rates, _ = compute_shrunken_rates(self._graded.correct, number, bands, part)
            return logits(rates[number])

        found = of(self._used)
        inner = assign_folds(self._graded, FOLDS, self._seed + 1)
        for fold in range(int(inner.max()) + 1):
            held = self._used & (inner == fold)
            found[held] = of(self._used & (inner != fold))[held]
        # Differences between arms show where one of them is better; trees rarely find them alone.
        return np.column_stack([found, found - found[:, :1]]) if found.shape[1] > 1 else found

    @cached_property
    def _strength(self) -> float:
        """Regularisation strength with the lowest log loss on a third of the questions used.

        All arms share it: a router compares them, and unequal shrinkage would look like a gain.
        """
        import numpy as np
        from sklearn.metrics import log_loss

        different = int(self._groups.max()) + 1
        third = (np.random.default_rng(self._seed + 2).permutation(different) % 3)[self._groups]
        inside, judged = self._used & (third > 0), self._used & (third == 0)
        losses = dict.fromkeys(STRENGTHS, 0.0)
        for strength in STRENGTHS:
            for right in self._graded.correct.T:
                linear = fit_linear(self._columns[inside], right[inside], strength)
                p = linear.probability(self._columns[judged])
                losses[strength] += log_loss(right[judged], p, labels=[False, True])
        return min(losses, key=lambda strength: losses[strength])
