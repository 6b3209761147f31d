"""Log-probabilities of the tokens of an answer, reported as their text is shown."""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass

from etui.engine.session import LikelyToken, Sampled, Session, TokenSequence
from etui.events import TokenLogprob


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A token, and the characters of the text that it adds: from ``start`` to ``end``."""

    sampled: Sampled
    top: tuple[LikelyToken, ...]
    t_ns: int
    start: int
    end: int


class TokenLog:
    """Keeps each drawn token with its alternatives until its text is shown.

    Text is held back while it may begin a stop string, and a character until all its bytes are
    there. Tokens of a stop string are never shown, so they are never reported.

    Args:
        session: The session, whose logits are read right after each step.
        sequence: The sequence that draws the answer.
        count: Number of alternatives; 0 reports the drawn tokens alone.
        index: Number of the answer, if several are drawn.
    """

    def __init__(
        self, session: Session, sequence: TokenSequence, count: int, index: int = 0
    ) -> None:
        self._session = session
        self._sequence = sequence
        self._count = count
        self._index = index
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoded = 0
        self._shown = 0
        self._waiting: deque[_Drawn] = deque()

    def take(self, sampled: Sampled, t_ns: int) -> None:
        """Take a token of the answer, right after the step that drew it."""
        top = self._session.top_logprobs(self._sequence, self._count) if self._count else ()
        start = self._decoded
        self._decoded += len(self._decoder.decode(sampled.piece))
        self._waiting.append(_Drawn(sampled, top, t_ns, start, self._decoded))

    def show(self, text: str, *, last: bool = False) -> list[TokenLogprob]:
        """Return the tokens whose text is shown now; with ``last``, a part of it is enough."""
        self._shown += len(text)
        events: list[TokenLogprob] = []
        while self._waiting:
            drawn = self._waiting[0]
            begun = drawn.start < self._shown
            if not begun or (not last and drawn.end > self._shown):
                break
            events.append(self._build(self._waiting.popleft()))
        return events

    def _build(self, drawn: _Drawn) -> TokenLogprob:
        return TokenLogprob(
            t_ns=drawn.t_ns,
            piece=tuple(drawn.sampled.piece),
            logprob=drawn.sampled.logprob,
            top=tuple((tuple(each.piece), each.logprob) for each in drawn.top),
            index=self._index,
        )
