"""Cross-fitted probabilities of a right answer, for judging routers: no question in its own fit.

Three routers of growing reach, each over the questions of known subjects:

* ``subject``: the shrunken rate of the question's subject, by arm;
* ``logistic``: a logistic regression for each arm on light features, subject and hashed tf-idf;
* ``blend``: the mean of that, of extremely randomised trees and of gradient-boosted trees on light
  features, subject rates and the leading components of the words.

The members of the blend err differently (trees find interactions, the regression single words),
and the mean of their probabilities ranks questions better than each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from etui.routing.accuracy.blas_threads import one_thread
from etui.routing.accuracy.logistic import STRENGTHS, enough, fit_linear, scale_of
from etui.routing.accuracy.rates import logits, numbered, shrunken_rates
from etui.routing.accuracy.table import Graded, folds_of, same_questions
from etui.routing.accuracy.words import Corpus, corpus_of, idf_of, tf_idf_matrix

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole

FOLDS = 5
COMPONENTS = 50
TREES = 200


def cross_fitted(
    graded: Graded, *, seed: int = 0, say: Callable[[str], None] = lambda text: None
) -> dict[str, Floats]:
    """Router -> probability that each arm is right, shape (questions, arms).

    Args:
        graded: The answers; without texts there is only the router ``subject``.
        seed: Of the folds and of the trees.
        say: Told of each fold.
    """
    with one_thread():
        return _cross_fitted(graded, seed, say)


def _cross_fitted(graded: Graded, seed: int, say: Callable[[str], None]) -> dict[str, Floats]:
    import numpy as np

    folds = folds_of(graded, FOLDS, seed)
    names, number = numbered(graded.subjects)
    corpus = corpus_of(graded.questions, len(graded))
    found = {"subject": np.empty(graded.correct.shape)}
    if not corpus.empty:
        found |= {name: np.empty(graded.correct.shape) for name in ("logistic", "blend")}
    count = int(folds.max()) + 1
    for fold in range(count):
        say(f"fold {fold + 1} of {count}")
        held, used = folds == fold, folds != fold
        rates, _ = shrunken_rates(graded.correct, number, len(names), used)
        found["subject"][held] = rates[number[held]]
        if corpus.empty:
            continue
        part = _Part(graded, corpus, number, len(names), used, held, seed)
        for arm in range(len(graded.arms)):
            one = part.logistic(arm)
            found["logistic"][held, arm] = one
            found["blend"][held, arm] = np.mean([one, *part.trees(arm)], axis=0)
    return found


class _Part:
    """One fold: the questions used and those held out, as columns."""

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
        words = tf_idf_matrix(corpus.counts, idf_of(corpus.counts, used))
        light = scale_of(corpus.features, used).of(corpus.features)
        rows = np.arange(len(graded))
        subject = sparse.csr_matrix(
            (np.ones(len(graded)), (rows, number)), shape=(len(graded), bands)
        )
        self._columns = sparse.hstack([sparse.csr_matrix(light), subject, words]).tocsr()
        components = min(COMPONENTS, int(used.sum()) - 1, words.shape[1] - 1)
        svd = TruncatedSVD(components, random_state=seed).fit(words[used])
        self._dense = np.column_stack(
            [corpus.features, svd.transform(words), self._rates(number, bands)]
        )

    def logistic(self, arm: int) -> Floats:
        """p of the held-out questions."""
        right = self._graded.correct[:, arm]
        strength = self._strength if enough(right[self._used]) else None
        linear = fit_linear(self._columns[self._used], right[self._used], strength)
        return linear.probability(self._columns[self._held])

    def trees(self, arm: int) -> list[Floats]:
        """p of the held-out questions by both kinds of trees; none where there is too little."""
        from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier

        right = self._graded.correct[self._used, arm]
        if not enough(right):
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
        members[0].set_params(n_jobs=1)  # threads would add the trees up in any order
        return [member.predict_proba(outside)[:, 1] for member in members]

    def _rates(self, number: Whole, bands: int) -> Floats:
        """Logits of the subjects' rates; of a question that is used, from the others' folds."""
        import numpy as np

        def of(part: Flags) -> Floats:
            rates, _ = shrunken_rates(self._graded.correct, number, bands, part)
            return logits(rates[number])

        found = of(self._used)
        inner = folds_of(self._graded, FOLDS, self._seed + 1)
        for fold in range(int(inner.max()) + 1):
            held = self._used & (inner == fold)
            found[held] = of(self._used & (inner != fold))[held]
        # Differences between arms say where one of them is better; trees find them hardly alone.
        return np.column_stack([found, found - found[:, :1]]) if found.shape[1] > 1 else found

    @cached_property
    def _strength(self) -> float:
        """The strength of least log loss on a third of the questions used, over all arms.

        All arms share it: a router compares them, and unequal shrinking would look like a gain.
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
