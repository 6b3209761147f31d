"""Divide the energy of a batch among the requests that share it.

A batch of k requests with n_i tokens takes about E = F + m * (n_1 + ... + n_k) joules: F is paid
once for the batch (the weights are read once), and m for each token. A request that joins others
adds m * n_i, and the first one to come adds F + m * n_i. Each request is the first in 1/k of all
orders, so the mean of what it adds over all orders, its Shapley value, is

    w_i = F / k + m * n_i

and these sum to E. The measured joules of the batch are divided in proportion to the w_i, so that
nothing of them is lost or counted twice, however well the formula fits.

m and F come from what is known of the model: m = J per computed prompt token, where so many tokens
share a batch that F does not count, and F + m = J per decoded token, which has a batch to itself:
F = max(0, J per decoded token - m).

Sources: L. S. Shapley, A Value for n-Person Games, 1953; of batches of language models: Han and
others, ISCA 2025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from etui.arm import TokenCost


@dataclass(frozen=True, slots=True)
class BatchCost:
    """The joules of a batch as a function of its tokens: ``fixed + per_token * tokens``."""

    fixed: float  # F, joules of a batch besides those of its tokens
    per_token: float  # M, joules of each token


def find_batch_cost(cost: TokenCost | None) -> BatchCost | None:
    """Return the cost of a batch by the token cost of its model.

    Returns:
        None without a usable cost: it is unknown, known from shares of batches alone, or has no
        joules of a prompt token, which is 0 where none was measured, or is not finite.
    """
    if cost is None or cost.batched:
        return None
    per_token, decoded = cost.joules_per_prompt_token, cost.joules_per_token
    if not (math.isfinite(per_token) and math.isfinite(decoded) and per_token > 0):
        return None
    return BatchCost(max(0.0, decoded - per_token), per_token)


def weigh_requests(tokens: Sequence[int], cost: BatchCost | None) -> list[float]:
    """Return the weights by which requests share the joules of a batch.

    Args:
        tokens: Tokens of each request in the batch, of its prompt and decoded ones together.
        cost: Cost of the batch; None weighs by tokens.

    Returns:
        Shapley values in joules, or tokens; a request without tokens in a batch of others weighs 0.
        Where none has tokens, all weigh the same.
    """
    count = sum(1 for each in tokens if each > 0)
    if not count:
        return [1.0 for _ in tokens]
    if cost is None:
        return [float(max(each, 0)) for each in tokens]
    fixed = cost.fixed / count
    return [fixed + cost.per_token * each if each > 0 else 0.0 for each in tokens]


def compute_shares(tokens: Sequence[int], cost: BatchCost | None) -> list[float]:
    """Return the share of each request in a batch, 0..1; they sum to 1.

    Args:
        tokens: Tokens of each request in the batch; at least one request.
        cost: Cost of the batch; None divides by tokens.
    """
    return split_by_weights(1.0, weigh_requests(tokens, cost))


def split_by_weights(joules: float, weights: Sequence[float]) -> list[float]:
    """Split joules in proportion to weights.

    The parts sum to the whole: the last request with a weight takes the rounding.

    Args:
        joules: Energy of the batch.
        weights: At least one of them is positive, none negative.
    """
    total = math.fsum(weights)
    parts = [joules * (weight / total) for weight in weights]
    last = max(index for index, weight in enumerate(weights) if weight > 0)
    parts[last] = joules - math.fsum(parts[:last])
    return parts
