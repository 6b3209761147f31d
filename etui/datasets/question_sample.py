"""Which questions a run asks, and in what order: drawn by a seed, never the first of a file."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from etui.errors import UsageError
from etui.text.suggest import suggest


def draw(
    sizes: Mapping[str, int], seed: int, limit: int | None = None, per_subject: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Subject -> indices of its questions, ascending; the subjects in the order of the run.

    Subjects are shuffled, so that a run that is stopped has seen all kinds of them. A larger sample
    of the same seed holds a smaller one whole, if both are ``per_subject``.

    Args:
        sizes: Subject -> its number of questions.
        seed: Of the sample and of the order.
        limit: Questions in all, shared out in proportion to the subjects' sizes; None is no limit.
        per_subject: Questions of each subject; None is no limit.
    """
    if limit is not None:
        counts = proportional(sizes, limit)
    else:
        counts = {name: min(size, per_subject or size) for name, size in sizes.items()}
    order = sorted(name for name, count in counts.items() if count)
    random.Random(f"subjects {seed}").shuffle(order)
    drawn: dict[str, tuple[int, ...]] = {}
    for name in order:
        indices = list(range(sizes[name]))
        random.Random(f"questions {seed} {name}").shuffle(indices)
        drawn[name] = tuple(sorted(indices[: counts[name]]))
    return drawn


def proportional(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """``limit`` shared out in proportion to sizes by the largest remainder.

    No share exceeds its size; they sum to ``limit``, or to all there is.
    """
    total = sum(sizes.values())
    if limit >= total:
        return dict(sizes)
    shares = {name: limit * size // total for name, size in sizes.items()}
    left = limit - sum(shares.values())
    by_remainder = sorted(sizes, key=lambda name: (-(limit * sizes[name] % total), name))
    for name in by_remainder[:left]:
        shares[name] += 1
    return shares


def chosen_subjects(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The subjects that were named, spaces or hyphens for underscores allowed.

    Raises:
        UsageError: One does not exist; the nearest names are offered.
    """
    found: list[str] = []
    for name in wanted:
        plain = name.strip().lower().replace(" ", "_").replace("-", "_")
        match = next((k for k in known if k.lower() == plain or k == name.strip()), None)
        if match is None:
            near = suggest(plain, known, most=3, cutoff=0.5, quoted=False)
            raise UsageError(
                f"no subject is called {name.strip()!r}", near or f"there are: {_some(known)}"
            )
        if match not in found:
            found.append(match)
    return tuple(found)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
