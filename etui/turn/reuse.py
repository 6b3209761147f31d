"""Count the tokens of a turn that were not computed again, and the joules that this saved."""

from __future__ import annotations

from collections.abc import Sequence

from etui.energy.types import sum_known
from etui.turn.accounting import LegSpans, energy_over
from etui.turn.attempt import LiveAttempt
from etui.turn.record import CacheRecord


def account_reuse(attempts: Sequence[LiveAttempt], spans: Sequence[LegSpans]) -> CacheRecord | None:
    """Account for the KV caches of the attempts on this machine.

    The joules saved are those that the curve of the model says for computing the tokens, or the
    mean of its last turns: nothing measured them. Bringing a cache back is a part of the turn's
    prefill, so its joules are in those of the turn, too.

    Args:
        spans: Working times of the attempts.

    Returns:
        The record; None if nothing was reused, and nothing saved for later.
    """
    parts = [
        part
        for attempt, each in zip(attempts, spans, strict=True)
        if attempt.is_local and (part := _account_attempt(attempt, each)) is not None
    ]
    if not parts:
        return None
    most = max(parts, key=lambda part: part.tokens)
    reused = [part for part in parts if part.tokens]
    return CacheRecord(
        tier=most.tier,
        tokens=sum(part.tokens for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        restore_seconds=sum(part.restore_seconds for part in parts),
        keep_seconds=sum(part.keep_seconds for part in parts),
        saved_joules=sum_known([part.saved_joules for part in reused]) if reused else 0.0,
        saved_uncertainty=sum_known([part.saved_uncertainty for part in reused]),
        cost_joules=sum_known([part.cost_joules for part in parts]),
        source=most.source,
    )


def _account_attempt(attempt: LiveAttempt, spans: LegSpans) -> CacheRecord | None:
    tokens, event, price = attempt.end.cached_tokens, attempt.seen.reused, attempt.price
    if not tokens and event is None:
        return None
    saved = uncertainty = None
    if price is not None and price.joules_per_prompt_token > 0:
        saved = price.prompt_joules(tokens)
        if price.prompt_uncertainty is not None:
            uncertainty = saved * price.prompt_uncertainty
    restore_seconds = keep_seconds = 0.0
    costs: list[float | None] = [0.0]
    if event is not None:
        restore_seconds, keep_seconds = (event.end_ns - event.start_ns) / 1e9, event.keep_seconds
        if restore_seconds:
            costs.append(attempt.meter.energy(event.start_ns, event.end_ns).joules)
        if keep_seconds:
            energy = energy_over(spans.work, attempt.meter.energy)
            watts = energy.mean_watts
            costs.append(None if watts is None else watts * keep_seconds)
    return CacheRecord(
        tier="context" if event is None else event.tier,
        tokens=tokens,
        size_bytes=0 if event is None else event.size_bytes,
        restore_seconds=restore_seconds,
        keep_seconds=keep_seconds,
        saved_joules=saved,
        saved_uncertainty=uncertainty,
        cost_joules=sum_known(costs),
        source="" if price is None else price.source,
    )
