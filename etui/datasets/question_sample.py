"""Sample of the questions that a run asks, and their order: drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from etui.errors import UsageError
from etui.text import suggest


def draw(
    sizes: Mapping[str, int], seed: int, limit: int | None = None, per_subject: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Draw the questions of a run.

    Subjects are shuffled, so that an interrupted run has covered all kinds of them. With the same
    seed a larger ``per_subject`` sample includes every smaller one.

    Args:
        sizes: Subject -> its number of questions.
        seed: Seed of the sample and of the order.
        limit: Total number of questions, split in proportion to the sizes; None is no limit.
        per_subject: Questions of each subject; None is no limit.

    Returns:
        Subject -> indices of its questions, ascending; subjects in the order of the run.
    """
    if limit is not None:
        counts = split_proportionally(sizes, limit)
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


def order_balanced(sizes: Mapping[str, int], seed: int) -> tuple[tuple[str, int], ...]:
    """Order all questions so that every prefix is a stratified random sample.

    The questions of each subject are shuffled. The k-th of n questions of a subject gets the key
    (k + u) / n, with one u from [0, 1) per subject; sorted by key, a prefix holds of every subject
    its share of the questions, to within one (systematic sampling, Cochran, Sampling Techniques,
    3rd ed., chapter 8).

    Args:
        sizes: Subject -> its number of questions.

    Returns:
        Subject and index of each question, in the order in which they are asked.
    """
    keyed: list[tuple[float, str, int]] = []
    for name in sorted(sizes):
        indices = list(range(sizes[name]))
        random.Random(f"questions {seed} {name}").shuffle(indices)
        start = random.Random(f"start {seed} {name}").random()
        keyed += [((at + start) / sizes[name], name, index) for at, index in enumerate(indices)]
    return tuple((name, index) for _, name, index in sorted(keyed))


def split_proportionally(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Split ``limit`` in proportion to sizes by the largest remainder.

    No share exceeds its size. The shares sum to ``limit``, or to all questions if there are fewer.
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


def match_subjects(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Match subject names; spaces and hyphens may replace underscores.

    Raises:
        UsageError: A subject does not exist; the message suggests the nearest names.
    """
    found: list[str] = []
    for name in names:
        plain = name.strip().lower().replace(" ", "_").replace("-", "_")
        match = next((k for k in known if k.lower() == plain or k == name.strip()), None)
        if match is None:
            near = suggest(plain, known, most=3, cutoff=0.5, quoted=False)
            raise UsageError(
                f"unknown subject {name.strip()!r}", near or f"subjects: {_format_names(known)}"
            )
        if match not in found:
            found.append(match)
    return tuple(found)


def _format_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
