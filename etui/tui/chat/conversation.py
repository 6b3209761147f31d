"""A chat as a value: its record, its turns, and which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from etui.chat import Message, Query
from etui.log.records import ChatRecord
from etui.runtime.route import Route
from etui.text.sanitize import sanitize, shorten
from etui.text.timestamps import utc_now
from etui.turn.record import REPLACES, TurnRecord

MOST_NAME_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Asking:
    """A question on its way.

    Attributes:
        text: The question.
        route: How it finds its arm; None takes the route in force when its turn comes.
        replaces: The turn it takes the place of, edited or asked again; None for a new question.
    """

    text: str
    route: Route | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """One chat with every turn that was saved, oldest first."""

    chat: ChatRecord
    records: tuple[TurnRecord, ...] = ()

    @property
    def name(self) -> str:
        """Its name, or the beginning of its first question; empty before that."""
        if self.chat.name or not self.records:
            return self.chat.name
        return name_of(self.records[0].query)

    @property
    def named(self) -> ChatRecord:
        """The record under the name it goes by."""
        return replace(self.chat, name=self.name)

    def with_record(self, record: TurnRecord) -> Conversation:
        """The chat with one more turn."""
        return replace(self, records=(*self.records, record))

    def query(self, asking: Asking) -> Query:
        """The question as the engine takes it, with what was said before it."""
        history = _messages(self.before(asking.replaces))
        return Query(asking.text, self.chat.system, history, self.chat.chat_id)

    def before(self, turn_id: str | None) -> tuple[TurnRecord, ...]:
        """The turns that count before one of them; before the next question for None."""
        ids = [record.turn_id for record in self.records]
        if turn_id is None or turn_id not in ids:
            return in_force(self.records)
        return in_force(self.records[: ids.index(turn_id)])

    def replaced(self) -> frozenset[str]:
        """Turns that no longer count."""
        kept = {record.turn_id for record in in_force(self.records)}
        return frozenset(record.turn_id for record in self.records if record.turn_id not in kept)


def new_chat(system: str | None = None) -> Conversation:
    """A chat without turns; it is in the log once its first answer is."""
    created_at = utc_now()
    return Conversation(ChatRecord(uuid4().hex[:12], created_at, "", system))


def name_of(question: str) -> str:
    """A chat's name by its first question."""
    words = " ".join(sanitize(question[:1000]).split())
    kept, left_out = shorten(words, MOST_NAME_CHARACTERS - 1, 1)
    return f"{kept}…" if left_out > 1 else words


def in_force(records: Sequence[TurnRecord]) -> tuple[TurnRecord, ...]:
    """The turns that count: one that replaces another takes the place of it and of all after it.

    A turn without an answer replaces nothing: the answer that was there is better than none.
    """
    kept: list[TurnRecord] = []
    for record in records:
        replaced = record.settings.get(REPLACES)
        if replaced is not None and record.answer.strip():
            at = next((i for i, other in enumerate(kept) if other.turn_id == replaced), None)
            if at is not None:
                del kept[at:]
        kept.append(record)
    return tuple(kept)


def _messages(records: Sequence[TurnRecord]) -> tuple[Message, ...]:
    """The turns as a model reads them; a question without an answer is left out."""
    answered = (record for record in records if record.answer.strip())
    pairs = ((Message("user", r.query), Message("assistant", r.answer)) for r in answered)
    return tuple(message for pair in pairs for message in pair)
