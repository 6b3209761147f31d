"""Plan a batch: how many queued tokens of which sequence it computes. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

SHORT_QUEUE = 16
"""Queues up to this length are computed before prompts: those of a hand-over, or of a probe."""


def plan_batch(
    pending: Sequence[int],
    room: int,
    *,
    prompt_limit: int | None = None,
    decoding: bool = False,
) -> list[tuple[int, int]]:
    """Plan one batch: single tokens first, then longer queues, up to the size of a batch.

    Args:
        pending: Queued tokens of each sequence, at least one, in the order in which they are
            served.
        room: Maximum number of tokens of the batch.
        prompt_limit: Maximum number of tokens from longer queues while another sequence decodes,
            so that its next token waits for one chunk of a prompt and not for all of it. Short
            queues are then served first. None sets no limit and keeps the given order.
        decoding: Whether a sequence that is not in ``pending`` decodes, too.

    Returns:
        Pairs of index and number of tokens; sequences that have to wait are missing.
    """
    singles = [index for index, count in enumerate(pending) if count == 1][:room]
    plan = [(index, 1) for index in singles]
    room -= len(plan)
    longer = [index for index, count in enumerate(pending) if count > 1]
    if prompt_limit is not None:
        longer.sort(key=lambda index: pending[index] > SHORT_QUEUE)  # stable
        if singles or decoding:
            room = min(room, prompt_limit)
    for index in longer:
        count = min(pending[index], room)
        if count:
            plan.append((index, count))
            room -= count
    return plan


def rotate(ids: Sequence[int], last: int) -> list[int]:
    """Return the indices of ids in their order, beginning after the id that was served last.

    Args:
        last: Id of the sequence that was served last; it need not be one of them.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [index for index in order if ids[index] > last] + [
        index for index in order if ids[index] <= last
    ]
