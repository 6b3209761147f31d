"""One turn that asks a backend: its requests, and the token that ends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etui.backends.base import AnswerRequest, Cancel
from etui.events import Event


class Asker:
    """Asks a backend, one request after the other.

    Args:
        sticky: Whether a cancel also ends the answers that begin later, as in one turn; without
            it, each answer has a token of its own.
    """

    def __init__(self, backend: Any, *, sticky: bool = False) -> None:
        self.backend = backend
        self.sticky = sticky
        self.token = Cancel()

    @property
    def numbers(self) -> tuple[int, ...]:
        return self.token.numbers

    def answer(self, request: AnswerRequest, **number: int) -> Iterator[Event]:
        if self.sticky:
            self.token.begin_answer()
        else:
            before, self.token = self.token, Cancel()
            self.token.numbers = before.numbers
        events: Iterator[Event] = self.backend.answer(request, self.token, **number)
        return events

    def cancel(self) -> None:
        self.token.cancel()

    def hurry(self) -> None:
        self.token.end_thinking()
