"""Build the log records of a turn, a load and an unload from their events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import uuid4

from etui.chat import Query
from etui.energy.types import EnergyOf
from etui.events import (
    Answer,
    Batch,
    Event,
    Finished,
    Loaded,
    Prefilled,
    Prefilling,
    Probe,
    Status,
    Thought,
    ThreadsChanged,
    ToolCall,
    Unloaded,
    Verified,
    Vote,
)
from etui.routing.decision import Decision
from etui.routing.limits import Cascade
from etui.text import utc_now
from etui.turn.accounting import (
    Leg,
    LegSpans,
    TimeInterval,
    attribute_turn,
    compute_account,
    compute_spans,
    curve_of_legs,
    energy_over,
    joules_per_token,
    machine_of,
    measure_leg_by,
    split_vote_joules,
    sum_tokens,
    widen_legs,
)
from etui.turn.cascade import Hop, choose_hop, describe_hops
from etui.turn.ports import Meter
from etui.turn.record import (
    CONTINUES,
    Attribution,
    ClientRecord,
    HopRecord,
    LoadRecord,
    LoopRecord,
    ProbeRecord,
    SpeculationRecord,
    TurnRecord,
    UnloadRecord,
    VoteRecord,
)
from etui.turn.speculation import account_speculation, sum_speculation


@dataclass(slots=True)
class AnswerAccumulator:
    """The events of a running answer, so that an interrupted turn is still recorded."""

    started_ns: int
    unloads: list[Unloaded] = field(default_factory=list)
    load: Loaded | None = None
    prefilled: Prefilled | None = None
    prefilling: Prefilling | None = None
    first_token_ns: int | None = None
    thinking_end_ns: int | None = None
    last_ns: int = 0
    answer: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    answer_tokens: int = 0
    thinking_tokens: int = 0
    votes: list[VoteRecord] = field(default_factory=list)
    probes: list[ProbeRecord] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    threads: list[ThreadsChanged] = field(default_factory=list)
    finished: Finished | None = None
    verified: list[Verified] = field(default_factory=list)
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Add one event."""
        match event:
            case Unloaded():
                self.unloads.append(event)
                self.started_ns = event.end_ns
            case Loaded():
                self.load = event
                self.started_ns = event.end_ns
            case Prefilling():
                self.prefilling = event
                self.last_ns = event.t_ns
            case Prefilled():
                self.prefilled = event
                self.started_ns = event.start_ns
                self.last_ns = event.end_ns
            case Thought() | Answer():
                self._add_text(event)
            case Vote():
                self.votes.append(_build_vote_record(event))
                self.last_ns = event.t_ns
            case Batch():
                self.batches.append(event)
                self.last_ns = event.end_ns
            case Verified():
                self.verified.append(event)
                self.last_ns = event.end_ns
            case Probe():
                probe = ProbeRecord(event.thinking_tokens, dict(event.probabilities), event.tokens)
                self.probes.append(probe)
                self.last_ns = event.t_ns
            case ToolCall():
                self._add_tool_call(event)
            case ThreadsChanged():
                self.threads.append(event)
            case Finished():
                self.finished = event
            case _:
                self.last_ns = event.t_ns

    def _add_text(self, event: Thought | Answer) -> None:
        self.last_ns = event.t_ns
        if self.first_token_ns is None and event.tokens:
            self.first_token_ns = event.t_ns
        if isinstance(event, Thought):
            self.thinking.append(event.text)
            self.thinking_tokens += event.tokens
            self.thinking_end_ns = event.t_ns
        else:
            self.answer.append(event.text)
            self.answer_tokens += event.tokens

    def _add_tool_call(self, part: ToolCall) -> None:
        self.last_ns = part.t_ns
        before = self.tool_calls.get(part.index)
        if before is not None:
            arguments = before.arguments + part.arguments
            part = replace(before, name=before.name + part.name, arguments=arguments)
        self.tool_calls[part.index] = part

    def build_finished(self, end_ns: int, status: str, why: str) -> Finished:
        """Return the engine's final event, or build one from the events so far if there is none."""
        if self.finished is not None:
            return self.finished
        prefilled, first = self.prefilled, self.first_token_ns
        prefill_end_ns = prefilled.end_ns if prefilled else end_ns
        return Finished(
            start_ns=self.started_ns,
            prefill_end_ns=prefill_end_ns,
            thinking_end_ns=max(prefill_end_ns, self.thinking_end_ns or 0),
            end_ns=end_ns,
            first_token_ns=first,
            status="stopped" if status == "stopped" else "error",
            why=why,
            answer="".join(self.answer),
            thinking="".join(self.thinking),
            prompt_tokens=prefilled.prompt_tokens if prefilled else self._prompt_tokens(),
            cached_tokens=prefilled.cached_tokens if prefilled else 0,
            computed_tokens=prefilled.computed_tokens if prefilled else self._computed_tokens(),
            thinking_tokens=self.thinking_tokens,
            output_tokens=self.thinking_tokens + self.answer_tokens,
            tool_calls=_format_tool_calls(self.tool_calls),
        )

    def _prompt_tokens(self) -> int:
        return self.prefilling.total_tokens if self.prefilling else 0

    def _computed_tokens(self) -> int:
        return self.prefilling.done_tokens if self.prefilling else 0


def _format_tool_calls(calls: Mapping[int, ToolCall]) -> str:
    """Format tool calls as in ``Finished.tool_calls``; the arguments of the last may be cut."""
    if not calls:
        return ""
    return json.dumps(
        [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for _, call in sorted(calls.items())
        ],
        ensure_ascii=False,
    )


def _build_vote_record(vote: Vote) -> VoteRecord:
    return VoteRecord(
        index=vote.index,
        answer=vote.answer,
        thinking=vote.thinking,
        tokens=vote.tokens,
        weight=vote.weight,
        choice=vote.choice,
        status=vote.status,
        ended=vote.ended,
        raw_answer=vote.raw_answer,
        raw_thinking=vote.raw_thinking,
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn that has ended."""

    turn_id: str
    created_at: str  # Start of the turn, ISO 8601 in UTC
    hops: Sequence[Hop]
    so_far: Sequence[AnswerAccumulator]  # The accumulated events of each hop
    status: Status
    error: str | None  # The error that ended it, in one line; None without one
    predicted_joules: float | None
    """Predicted joules of its hops together, loads excluded; None if unknown."""
    settings: Mapping[str, Any]  # Further settings needed to repeat it
    meters: Sequence[Meter] | None = None  # The meter of each hop; None is that of the turn
    client: ClientRecord | None = None
    """The request of a client that asked for it; None for other front ends."""
    attribution: Callable[[], Attribution | None] | None = None
    """Returns how its joules were separated from those of others; None asks the meter of the turn.
    """


def build_leg(hop: Hop, seen: AnswerAccumulator) -> Leg:
    """Build the leg of a hop: its times of work, load and unloads."""
    load = TimeInterval(hop.load.start_ns, hop.load.end_ns) if hop.load else None
    return Leg(hop.end, load, tuple(TimeInterval(u.start_ns, u.end_ns) for u in seen.unloads))


def build_turn_record(query: Query, decision: Decision, ended: Ended, meter: Meter) -> TurnRecord:
    """Build the record of a turn that has ended and whose energy readings are complete."""
    hops, meters = ended.hops, ended.meters or [meter for _ in ended.hops]
    chosen = choose_hop(hops)
    index = next(i for i, hop in enumerate(hops) if hop is chosen)
    legs = [build_leg(hop, seen) for hop, seen in zip(hops, ended.so_far, strict=True)]
    legs = [measure_leg_by(leg, each) for leg, each in zip(legs, meters, strict=True)]
    legs = widen_legs(legs, meters)
    energy, tokens, seconds = compute_account(legs, meter.energy, index)
    energy = replace(
        energy, attribution=attribute_turn(energy, legs, meters, meter, ended.attribution)
    )
    seen, end, arm = ended.so_far[index], chosen.end, chosen.arm
    energy_of = meters[index].energy
    vote_joules = split_vote_joules(seen.batches, energy_of)
    speculations = [
        account_speculation(seen.verified, spans.decode, each.energy)
        for seen, spans, each in zip(ended.so_far, compute_spans(legs), meters, strict=True)
    ]
    summary = describe_hops(decision, hops, chosen)
    several = len(hops) > 1 or decision.cascade is not None
    return TurnRecord(
        turn_id=ended.turn_id,
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
        power_watts=curve_of_legs(energy, legs, meters),
        hops=_build_hop_records(decision.cascade, hops, legs, speculations, chosen, meters)
        if several
        else (),
        settings=_build_settings(query, ended, chosen, seen),
        trace=decision.trace(),
        speculation=sum_speculation(speculations),
        ended=end.ended,
        loop=_build_loop_record(end, compute_spans(legs)[index], energy_of),
        tool_calls=end.tool_calls,
        client=ended.client,
        parent_id=query.parent_id,
    )


def _build_settings(
    query: Query, ended: Ended, hop: Hop, seen: AnswerAccumulator
) -> dict[str, Any]:
    """Build the settings of a turn: what its answer was decoded with, as needed to repeat it."""
    arm = hop.arm
    return {
        **ended.settings,
        **({CONTINUES: query.options.continues} if query.options.continues else {}),
        "ended": hop.end.why,
        "think_tokens": arm.think_tokens if arm.reasoning != "direct" else 0,
        "max_tokens": arm.max_tokens,
        "margin": hop.end.margin,
        "probability": hop.probability,
        "votes": arm.votes if arm.reasoning == "vote" else 0,
        "style": arm.style,
        "loop_guard": bool(arm.loop_guard),
        "temperature": arm.sampling.temperature,
        "top_p": arm.sampling.top_p,
        "top_k": arm.sampling.top_k,
        "min_p": arm.sampling.min_p,
        "seed": arm.sampling.seed,
        "speculate": arm.speculate,
        "repeat_penalty": arm.sampling.repeat_penalty,
        "repeat_last_n": arm.sampling.repeat_last_n,
        "sampling_from": asdict(arm.sampling_from),
        "dropped_messages": seen.prefilled.dropped_messages if seen.prefilled else 0,
        "batch_tokens": seen.prefilled.batch_tokens if seen.prefilled else None,
        **describe_threads(
            seen, ended.settings.get("threads"), ended.settings.get("prefill_limit")
        ),
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


def describe_threads(
    seen: AnswerAccumulator, threads: int | None, prefill_threads: int | None = None
) -> dict[str, Any]:
    """Describe the threads of an answer as settings of its turn.

    Args:
        threads: Threads of the settings, which hold without an event; None if unknown.
        prefill_threads: Those of prefill, where they differ.
    """
    last = seen.threads[-1] if seen.threads else None
    return {
        "decode_threads": last.decode_threads if last else threads,
        "prefill_threads": last.prefill_threads if last else prefill_threads or threads,
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


def _build_hop_records(
    cascade: Cascade | None,
    hops: Sequence[Hop],
    legs: Sequence[Leg],
    speculations: Sequence[SpeculationRecord | None],
    chosen: Hop,
    meters: Sequence[Meter],
) -> tuple[HopRecord, ...]:
    return tuple(
        replace(
            _build_hop_record(hop, leg, spans, speculation, hop is chosen, meter),
            step=cascade.number_step(hop.arm.name) if cascade is not None else None,
        )
        for hop, leg, spans, speculation, meter in zip(
            hops, legs, compute_spans(legs), speculations, meters, strict=True
        )
    )


def _build_hop_record(
    hop: Hop,
    leg: Leg,
    spans: LegSpans,
    speculation: SpeculationRecord | None,
    is_taken: bool,
    meter: Meter,
) -> HopRecord:
    energy = energy_over((*spans.prefill, *spans.decode), meter.energy)
    load_joules = 0.0 if energy.joules is not None else None
    if leg.load is not None:
        load_joules = machine_of(meter).energy(leg.load.start_ns, leg.load.end_ns).joules
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
        tokens=sum_tokens([hop.end]),
        joules=energy.joules,
        uncertainty=energy.uncertainty,
        load_joules=load_joules,
        seconds=spans.seconds,
        why=hop.why,
        speculation=speculation,
        kind=energy.kind.value if energy.kind else None,
    )


def build_load_record(
    event: Loaded, model_sha256: str | None, energy_of: EnergyOf, turn_id: str | None = None
) -> LoadRecord:
    """Build the record of a load; ``turn_id`` is the turn that waited for it."""
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


def build_unload_record(
    event: Unloaded, energy_of: EnergyOf, turn_id: str | None = None
) -> UnloadRecord:
    """Build the record of an unload; ``turn_id`` is the turn that needed the memory."""
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
