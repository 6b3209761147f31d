"""Accumulate the events of a running answer, so that an interrupted turn is still recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from etui.events import (
    Answer,
    Batch,
    Event,
    Finished,
    Loaded,
    Prefilled,
    Prefilling,
    Probe,
    Thought,
    ThreadsChanged,
    ToolCall,
    Unloaded,
    Verified,
    Vote,
)
from etui.turn.record import ProbeRecord, VoteRecord


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
