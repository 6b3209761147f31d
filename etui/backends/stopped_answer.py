"""The last event of an answer that was cancelled where reasoning could not end it."""

from __future__ import annotations

from dataclasses import dataclass, field

from etui.events import Answer, Event, Finished, Prefilled, Thought


@dataclass(slots=True)
class StoppedAnswer:
    """What an answer has yielded, to finish it when it is cancelled in a queue or in a probe."""

    start_ns: int
    _prefilled: Prefilled | None = None
    _texts: dict[type[Thought] | type[Answer], list[str]] = field(
        default_factory=lambda: {Thought: [], Answer: []}
    )
    _tokens: dict[type[Thought] | type[Answer], int] = field(
        default_factory=lambda: {Thought: 0, Answer: 0}
    )
    _first_ns: int | None = None
    _thought_ns: int | None = None
    _last_ns: int | None = None

    def take(self, event: Event) -> None:
        """Take an event of the answer."""
        if isinstance(event, Prefilled):
            self._prefilled = event
        elif isinstance(event, Thought | Answer):
            self._texts[type(event)].append(event.text)
            self._tokens[type(event)] += event.tokens
            if event.tokens:
                self._first_ns = self._first_ns or event.t_ns
                self._last_ns = event.t_ns
            if isinstance(event, Thought):
                self._thought_ns = event.t_ns

    def finish(self, now_ns: int, why: str) -> Finished:
        """Build the last event."""
        prompt = self._prefilled
        prefill_end_ns = now_ns if prompt is None else prompt.end_ns
        thinking, answer = self._tokens[Thought], self._tokens[Answer]
        return Finished(
            start_ns=self.start_ns if prompt is None else prompt.start_ns,
            prefill_end_ns=prefill_end_ns,
            thinking_end_ns=max(prefill_end_ns, self._thought_ns or 0),
            end_ns=max(prefill_end_ns, self._last_ns or 0),
            first_token_ns=self._first_ns,
            status="stopped",
            why=why,
            answer="".join(self._texts[Answer]).strip(),
            thinking="".join(self._texts[Thought]).strip(),
            prompt_tokens=0 if prompt is None else prompt.prompt_tokens,
            cached_tokens=0 if prompt is None else prompt.cached_tokens,
            computed_tokens=0 if prompt is None else prompt.computed_tokens,
            thinking_tokens=thinking,
            output_tokens=thinking + answer,
        )
