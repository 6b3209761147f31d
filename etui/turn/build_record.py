"""Build the log records of a turn, a load and an unload from their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from etui.chat import Query
from etui.energy.types import EnergyOf
from etui.events import Loaded, Status, Unloaded
from etui.routing.decision import Decision
from etui.text.timestamps import utc_now
from etui.turn.accounting import account, joules_of_votes, power_curve, tokens_of
from etui.turn.accumulator import AnswerAccumulator
from etui.turn.cascade import Hop, course_words, taken
from etui.turn.intervals import Leg, LegSpans, TimeInterval, energy_over, spans_of
from etui.turn.ports import Meter
from etui.turn.record import HopRecord, LoadRecord, TurnRecord, UnloadRecord


@dataclass(frozen=True, slots=True)
class Ended:
    """How a turn ended.

    Attributes:
        hops: At least one.
        so_far: What was seen of each.
        status: Of the turn.
        error: What stopped it, in one line; None if nothing did.
        predicted_joules: Of its hops together, loads excluded; None where that is not known.
        settings: What else is needed to repeat it.
    """

    turn_id: str
    created_at: str
    hops: Sequence[Hop]
    so_far: Sequence[AnswerAccumulator]
    status: Status
    error: str | None
    predicted_joules: float | None
    settings: Mapping[str, Any]


def leg_of(hop: Hop, seen: AnswerAccumulator) -> Leg:
    """When a hop worked, loaded, and had others unloaded."""
    load = TimeInterval(hop.load.start_ns, hop.load.end_ns) if hop.load else None
    return Leg(hop.end, load, tuple(TimeInterval(u.start_ns, u.end_ns) for u in seen.unloads))


def turn_record(query: Query, decision: Decision, ended: Ended, meter: Meter) -> TurnRecord:
    """The record of a turn that has ended, all of its joules read by now."""
    hops, energy_of = ended.hops, meter.energy
    stands = taken(hops)
    index = next(i for i, hop in enumerate(hops) if hop is stands)
    legs = [leg_of(hop, seen) for hop, seen in zip(hops, ended.so_far, strict=True)]
    energy, tokens, seconds = account(legs, energy_of, index)
    seen, end, arm = ended.so_far[index], stands.end, stands.arm
    vote_joules = joules_of_votes(seen.batches, energy_of)
    course = course_words(decision, hops, stands)
    several = len(hops) > 1 or decision.cascade is not None
    return TurnRecord(
        turn_id=ended.turn_id,
        created_at=ended.created_at,
        chat_id=query.chat_id,
        query=query.text,
        system=query.system,
        answer=end.answer,
        thinking=end.thinking,
        status=ended.status,
        error=ended.error,
        model=stands.model,
        model_sha256=stands.sha256,
        arm=arm.name,
        reasoning=arm.reasoning,
        policy=decision.policy,
        rule=decision.rule,
        why="; ".join(part for part in (decision.why, course) if part),
        tokens=tokens,
        seconds=seconds,
        energy=energy,
        predicted_joules=ended.predicted_joules,
        predicted_accuracy=decision.predicted_accuracy,
        confidence=end.confidence,
        votes=tuple(replace(vote, joules=vote_joules.get(vote.index)) for vote in seen.votes),
        probes=tuple(seen.probes),
        power_watts=power_curve(energy.start_ns, energy.end_ns, meter),
        hops=_hop_records(hops, legs, stands, energy_of) if several else (),
        settings={
            **ended.settings,
            "ended": end.why,
            "think_tokens": arm.think_tokens if arm.reasoning != "direct" else 0,
            "max_tokens": arm.max_tokens,
            "margin": end.margin,
            "probability": stands.probability,
            "votes": arm.votes if arm.reasoning == "vote" else 0,
            "style": arm.style,
            "temperature": arm.sampling.temperature,
            "top_p": arm.sampling.top_p,
            "top_k": arm.sampling.top_k,
            "min_p": arm.sampling.min_p,
            "seed": arm.sampling.seed,
            "dropped_messages": seen.prefilled.dropped_messages if seen.prefilled else 0,
            "batch_tokens": seen.prefilled.batch_tokens if seen.prefilled else None,
        },
        trace=decision.trace(),
    )


def _hop_records(
    hops: Sequence[Hop], legs: Sequence[Leg], stands: Hop, energy_of: EnergyOf
) -> tuple[HopRecord, ...]:
    return tuple(
        _hop_record(hop, leg, spans, hop is stands, energy_of)
        for hop, leg, spans in zip(hops, legs, spans_of(legs), strict=True)
    )


def _hop_record(
    hop: Hop, leg: Leg, spans: LegSpans, is_taken: bool, energy_of: EnergyOf
) -> HopRecord:
    energy = energy_over((*spans.prefill, *spans.decode), energy_of)
    load_joules = 0.0 if energy.joules is not None else None
    if leg.load is not None:
        load_joules = energy_of(leg.load.start_ns, leg.load.end_ns).joules
    return HopRecord(
        arm=hop.arm.name,
        model=hop.model,
        model_sha256=hop.sha256,
        reasoning=hop.arm.reasoning,
        answer=hop.end.answer,
        status=hop.end.status,
        confidence=hop.end.confidence,
        margin=hop.end.margin,
        probability=hop.probability,
        accepted=hop.accepted,
        taken=is_taken,
        tokens=tokens_of([hop.end]),
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        load_joules=load_joules,
        seconds=spans.seconds,
        why=hop.why,
    )


def load_record(
    event: Loaded, model_sha256: str | None, energy_of: EnergyOf, turn_id: str | None = None
) -> LoadRecord:
    """The row of a load; ``turn_id`` is the turn that waited for it."""
    energy = energy_of(event.start_ns, event.end_ns)
    return LoadRecord(
        load_id=uuid4().hex[:12],
        created_at=utc_now(),
        model=event.model,
        model_sha256=model_sha256,
        turn_id=turn_id,
        seconds=(event.end_ns - event.start_ns) / 1e9,
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        kind=energy.kind,
        gpu_layers=event.gpu_layers,
        size_bytes=event.size_bytes,
    )


def unload_record(event: Unloaded, energy_of: EnergyOf, turn_id: str | None = None) -> UnloadRecord:
    """The row of a model given up; ``turn_id`` is the turn that needed the room."""
    energy = energy_of(event.start_ns, event.end_ns)
    return UnloadRecord(
        unload_id=uuid4().hex[:12],
        created_at=utc_now(),
        model=event.model,
        model_sha256=event.model_sha256,
        turn_id=turn_id,
        reason=event.reason,
        seconds=(event.end_ns - event.start_ns) / 1e9,
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        kind=energy.kind,
        freed_bytes=event.freed_bytes,
    )
