"""Running estimate of the probability that a drafted token is drawn too."""

from __future__ import annotations

from collections.abc import Sequence

_MEMORY = 0.95
"""Weight of the trials before, at each further one: the last twenty or so count."""

_STRENGTH = 3.0
"""A prior counts as this many trials."""


class Acceptance:
    """Probability of acceptance by class of evidence, given that all drafts before were accepted.

    A class is the position of a token in its draft, or the length of the match that proposed it. Of
    each, the decayed numbers of accepted and rejected tokens are kept, and a prior that they
    correct.

    Args:
        priors: Probability of each class before any trial.
    """

    def __init__(self, priors: Sequence[float]) -> None:
        self._priors = tuple(priors)
        self._accepted = [0.0] * len(priors)
        self._trials = [0.0] * len(priors)

    def probability(self, class_: int) -> float:
        """Return the probability for a class; classes beyond the last count as the last."""
        at = min(class_, len(self._priors) - 1)
        accepted = self._accepted[at] + _STRENGTH * self._priors[at]
        return accepted / (self._trials[at] + _STRENGTH)

    def observe(self, classes: Sequence[int], accepted: int, *, rejected: bool) -> None:
        """Learn from a verified draft.

        Args:
            classes: Class of each drafted token, in order.
            accepted: How many of them were accepted.
            rejected: Whether the next one was rejected; those after it are untried.
        """
        for position, class_ in enumerate(classes[: accepted + rejected]):
            at = min(class_, len(self._priors) - 1)
            self._trials[at] = _MEMORY * self._trials[at] + 1.0
            self._accepted[at] = _MEMORY * self._accepted[at] + (position < accepted)

    def relax(self, share: float) -> None:
        """Forget a share (0..1) of the trials, because the text has changed since."""
        self._accepted = [(1 - share) * value for value in self._accepted]
        self._trials = [(1 - share) * value for value in self._trials]
