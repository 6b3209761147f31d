"""Build the log records of a turn, what it reused, a load and an unload from their events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

from etui.arm import Arm
from etui.backends.base import AnswerSoFar
from etui.chat import Query
from etui.energy.types import EnergyOf, sum_known
from etui.events import Finished, Loaded, Residence, Status, Unloaded
from etui.routing.decision import Decision
from etui.text import utc_now
from etui.turn.accounting import (
    Leg,
    LegSpans,
    attribute_turn,
    compute_account,
    compute_spans,
    curve_of_legs,
    energy_over,
    joules_per_token,
    machine_of,
    measure_pictures,
    measure_tool_loop,
    split_vote_joules,
    sum_tokens,
    widen_legs,
)
from etui.turn.attempt import LiveAttempt
from etui.turn.cascade import choose_hop, describe_hops
from etui.turn.interfaces import Meter, Origin
from etui.turn.record import (
    CONTINUES,
    DRAFTS_STOPPED,
    INTERRUPTED,
    OWN_SYSTEM,
    CacheRecord,
    HopRecord,
    LoadRecord,
    LoopRecord,
    Seconds,
    SpeculationRecord,
    ToolLoopRecord,
    TurnEnergy,
    TurnRecord,
    UnloadRecord,
)
from etui.turn.speculation import account_speculation, sum_speculation
from etui.units import count_text


def account_reuse(attempts: Sequence[LiveAttempt], spans: Sequence[LegSpans]) -> CacheRecord | None:
    """Account for the KV caches of the attempts on this machine; None if it reused nothing.

    The joules saved are those that the curve of the model says for computing the tokens, or the
    mean of its last turns: nothing measured them. Bringing a cache back is a part of the turn's
    prefill, so its joules are in those of the turn, too.
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


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn that has ended; its energy readings are complete once its meters have settled."""

    query: Query
    decision: Decision
    origin: Origin
    created_at: str  # Start of the turn, ISO 8601 in UTC
    attempts: Sequence[LiveAttempt]
    status: Status
    error: str | None  # The error that ended it, in one line; None without one
    predicted_joules: float | None
    """Predicted joules of its attempts together, loads excluded; None if unknown."""
    settings: Mapping[str, Any]  # Settings needed to repeat it
    tools: ToolLoopRecord | None = None  # Calls of tools, not yet measured; None without any
    read_settings: Callable[[], Mapping[str, Any]] = dict
    """Returns further settings, which are known once the meters have settled."""


def build_turn_record(ended: Ended, meter: Meter) -> TurnRecord:
    """Build the record of a turn from its attempts; ``meter`` is the turn's own."""
    query, decision, attempts = ended.query, ended.decision, ended.attempts
    chosen = choose_hop([each for each in attempts if each.round == attempts[-1].round])
    index = next(i for i, attempt in enumerate(attempts) if attempt is chosen)
    legs = widen_legs([attempt.leg for attempt in attempts])
    spans = compute_spans(legs)
    energy, tokens, seconds = compute_account(legs, meter.energy, index)
    energy = replace(energy, attribution=attribute_turn(energy, legs, meter))
    seen, end, arm = chosen.seen, chosen.end, chosen.arm
    vote_joules = split_vote_joules(seen.batches, chosen.meter.energy)
    speculations = [
        account_speculation(attempt.seen.verified, each.decode, attempt.meter.energy)
        for attempt, each in zip(attempts, spans, strict=True)
    ]
    summary, tools = describe_hops(decision, attempts, chosen), None
    if ended.tools is not None:
        tools = measure_tool_loop(ended.tools, legs, energy, meter)
        calls = count_text(len(tools.calls), "call of a tool", "calls of tools")
        summary = f"{count_text(attempts[-1].round or 1, 'round')} with {calls}"
    return TurnRecord(
        turn_id=ended.origin.turn_id,
        created_at=ended.created_at,
        chat_id=query.chat_id,
        query=query.text,
        system=query.system,
        answer=join_answer(query, end.answer),
        thinking=end.thinking,
        status=ended.status,
        error=ended.error,
        model=chosen.model,
        model_sha256=chosen.sha256,
        arm=arm.name,
        reasoning=arm.reasoning,
        policy=decision.policy,
        rule=decision.rule,
        why="; ".join(part for part in (decision.why, summary) if part),
        tokens=tokens,
        seconds=seconds,
        energy=energy,
        predicted_joules=ended.predicted_joules,
        predicted_accuracy=decision.predicted_accuracy,
        confidence=end.confidence,
        votes=tuple(replace(vote, joules=vote_joules.get(vote.index)) for vote in seen.votes),
        probes=tuple(seen.probes),
        power_watts=curve_of_legs(energy, legs),
        hops=_build_hop_records(ended, legs, speculations, chosen),
        settings=_build_settings(ended, chosen),
        trace=decision.trace(),
        speculation=sum_speculation(speculations),
        ended=end.ended,
        loop=_build_loop_record(end, spans[index], chosen.meter.energy),
        tool_calls=end.tool_calls,
        client=ended.origin.client,
        parent_id=query.parent_id,
        cache=account_reuse(attempts, spans),
        tools=tools,
        pictures=measure_pictures(
            legs,
            spans,
            sum(event.tokens for attempt in attempts for event in attempt.seen.pictures),
            meter.energy,
        ),
    )


def build_open_record(
    query: Query,
    decision: Decision,
    origin: Origin,
    created_at: str,
    ends: Sequence[Finished],
    spent: Sequence[tuple[float | None, str | None]],
    settings: Mapping[str, Any],
) -> TurnRecord:
    """Build the record that a turn has if its process is killed now.

    Its joules are a lower bound, with the flag ``lower-bound``: more is spent before the process
    dies, and what is unknown is left out. ``ends`` are those of its attempts, if they ended now.
    """
    last = ends[-1] if ends else None
    known = [(joules, kind) for joules, kind in spent if joules]
    prefill = math.fsum(end.prefill_end_ns - end.start_ns for end in ends) / 1e9
    decode = math.fsum(end.end_ns - end.prefill_end_ns for end in ends) / 1e9
    return TurnRecord(
        turn_id=origin.turn_id,
        created_at=created_at,
        chat_id=query.chat_id,
        query=query.text,
        system=query.system,
        answer="" if last is None else join_answer(query, last.answer),
        thinking="" if last is None else last.thinking,
        status=INTERRUPTED,
        error=None,
        model=decision.arm.model,
        model_sha256=None,
        arm=decision.arm.name,
        reasoning=decision.arm.reasoning,
        policy=decision.policy,
        rule=decision.rule,
        why=decision.why,
        tokens=sum_tokens(ends),
        seconds=Seconds(0.0, prefill, decode, prefill + decode, None),
        energy=TurnEnergy(
            joules=math.fsum(joules for joules, _ in known) if known else None,
            uncertainty=None,
            net_joules=None,
            idle_watts=None,
            kind=known[-1][1] if known else None,
            coverage=1.0 if known else 0.0,
            mean_watts=None,
            peak_watts=None,
            joules_per_token=None,
            phases=dict.fromkeys(("load", "prefill", "decode")),
            thinking_joules=None,
            channels={},
            unmeasured=(),
            flags=("lower-bound",) if known else (),
            start_ns=ends[0].start_ns if ends else 0,
            end_ns=ends[-1].end_ns if ends else 0,
        ),
        settings={**settings, **origin.settings},
        client=origin.client,
        parent_id=query.parent_id,
    )


def build_work_record(
    origin: Origin, what: str, arm: Arm, created_at: str, start_ns: int, meter: Meter
) -> TurnRecord:
    """Build the record of measuring work that has no turn, if its process is killed now."""
    end_ns = max(start_ns, time.monotonic_ns())
    energy = meter.energy(start_ns, end_ns)
    end = AnswerSoFar(start_ns).build_end(end_ns, "stopped", "")
    decision = Decision(arm, None, None, "it is measured")
    spent = [(energy.joules, energy.kind)]
    return build_open_record(Query(what), decision, origin, created_at, [end], spent, {})


def _build_settings(ended: Ended, chosen: LiveAttempt) -> dict[str, Any]:
    """Build the settings of a turn: what its answer was decoded with, as needed to repeat it."""
    arm, seen, continues = chosen.arm, chosen.seen, ended.query.options.continues
    sampling, prefilled = arm.sampling, seen.prefilled
    threads = ended.settings.get("threads")  # in effect until the engine changes them
    prefill_threads = ended.settings.get("prefill_limit") or threads
    last = seen.threads[-1] if seen.threads else None
    stopped = next((event.stopped for event in seen.verified if event.stopped), "")
    return {
        **ended.settings,
        **({DRAFTS_STOPPED: stopped} if stopped else {}),
        **({CONTINUES: continues} if continues else {}),
        **({OWN_SYSTEM: True} if ended.query.takes_own_system and ended.query.system else {}),
        "ended": chosen.end.why,
        "think_tokens": arm.think_tokens if arm.reasoning != "direct" else 0,
        "max_tokens": arm.max_tokens,
        "margin": chosen.end.margin,
        "probability": chosen.probability,
        "votes": arm.votes if arm.reasoning == "vote" else 0,
        **({"readout": arm.readout} if arm.readout != "text" else {}),
        "style": arm.style,
        "loop_guard": bool(arm.loop_guard),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "speculate": arm.speculate,
        "repeat_penalty": sampling.repeat_penalty,
        "repeat_last_n": sampling.repeat_last_n,
        "presence_penalty": sampling.presence_penalty,
        "sampling_from": asdict(arm.sampling_from),
        "dropped_messages": prefilled.dropped_messages if prefilled else 0,
        "batch_tokens": prefilled.batch_tokens if prefilled else None,
        "recomputed_tokens": prefilled.recomputed_tokens if prefilled else 0,
        "recomputed_why": prefilled.recomputed_why if prefilled else "",
        "decode_threads": last.decode_threads if last else threads,
        "prefill_threads": last.prefill_threads if last else prefill_threads,
        "thread_changes": [
            {
                "seconds": max(0, change.t_ns - seen.started_ns) / 1e9,
                "decode_threads": change.decode_threads,
                "prefill_threads": change.prefill_threads,
                "why": change.why,
            }
            for change in seen.threads
        ],
    }


def join_answer(query: Query, answer: str) -> str:
    """Return the whole answer of a turn that goes on with one that was cut off.

    A remote backend, and an engine that was lost, report only what is new.
    """
    begun = query.last.content if query.options.continues and query.last is not None else ""
    return answer if answer.startswith(begun.rstrip().rstrip("\ufffd")) else begun + answer


def _build_loop_record(end: Finished, spans: LegSpans, energy_of: EnergyOf) -> LoopRecord | None:
    if not end.ended and not end.saved_tokens:
        return None
    per_token = joules_per_token(energy_over(spans.decode, energy_of).joules, end.output_tokens)
    return LoopRecord(
        raw_answer=end.raw_answer,
        raw_thinking=end.raw_thinking,
        saved_tokens=end.saved_tokens,
        saved_joules=None if per_token is None else per_token * end.saved_tokens,
    )


def _build_hop_records(
    ended: Ended,
    legs: Sequence[Leg],
    speculations: Sequence[SpeculationRecord | None],
    chosen: LiveAttempt,
) -> tuple[HopRecord, ...]:
    """Build the records of the attempts, if the turn had several, or a cascade."""
    cascade = ended.decision.cascade
    if len(ended.attempts) == 1 and cascade is None and ended.tools is None:
        return ()
    records = []
    for attempt, spans, speculation in zip(
        ended.attempts, compute_spans(legs), speculations, strict=True
    ):
        end, load, meter = attempt.end, attempt.seen.load, attempt.meter
        energy = energy_over(spans.work, meter.energy)
        load_joules = 0.0 if energy.joules is not None else None
        if load is not None:
            load_joules = machine_of(meter).energy(load.start_ns, load.end_ns).joules
        records.append(
            HopRecord(
                arm=attempt.arm.name,
                model=attempt.model,
                model_sha256=attempt.sha256,
                reasoning=attempt.arm.reasoning,
                answer=end.answer,
                status=end.status,
                confidence=end.confidence,
                margin=end.margin,
                probability=attempt.probability,
                accepted=attempt.accepted,
                taken=attempt is chosen,
                tokens=sum_tokens([end]),
                joules=energy.joules,
                uncertainty=energy.uncertainty,
                load_joules=load_joules,
                seconds=spans.seconds,
                why=attempt.why,
                speculation=speculation,
                kind=energy.kind.value if energy.kind else None,
                step=cascade.number_step(attempt.arm.name) if cascade is not None else None,
                round=attempt.round,
            )
        )
    return tuple(records)


def build_load_record(
    event: Loaded, model_sha256: str | None, energy_of: EnergyOf, turn_id: str | None = None
) -> LoadRecord:
    """Build the record of a load; ``turn_id`` is the turn that waited for it."""
    return LoadRecord(
        load_id=uuid4().hex[:12],
        model_sha256=model_sha256,
        gpu_layers=event.gpu_layers,
        size_bytes=event.size_bytes,
        **_describe_residence(event, energy_of, turn_id),
    )


def build_unload_record(
    event: Unloaded, energy_of: EnergyOf, turn_id: str | None = None
) -> UnloadRecord:
    """Build the record of an unload; ``turn_id`` is the turn that needed the memory."""
    return UnloadRecord(
        unload_id=uuid4().hex[:12],
        model_sha256=event.model_sha256,
        reason=event.reason,
        freed_bytes=event.freed_bytes,
        **_describe_residence(event, energy_of, turn_id),
    )


def _describe_residence(
    event: Residence, energy_of: EnergyOf, turn_id: str | None
) -> dict[str, Any]:
    energy = energy_of(event.start_ns, event.end_ns)
    return {
        "created_at": utc_now(),
        "model": event.model,
        "turn_id": turn_id,
        "seconds": (event.end_ns - event.start_ns) / 1e9,
        "joules": energy.joules,
        "uncertainty": energy.uncertainty,
        "kind": energy.kind,
    }
