"""A chat as a value: its record, its turns, and which of them are current."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from etui.chat import Message, Query
from etui.log.records import ChatRecord
from etui.prompts.attachments import Attachment, fold
from etui.routing.signals.text_measures import estimate_tokens
from etui.runtime.route import Route
from etui.text.sanitize import sanitize, shorten
from etui.text.timestamps import utc_now
from etui.turn.record import REPLACES, SAVED_PROMPT, TurnRecord

MOST_NAME_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Asking:
    """A question to be answered.

    Attributes:
        text: The question.
        route: How its arm is chosen; None for the route that is active when its turn begins.
        replaces: Id of the turn that it replaces (edited or asked again); None for a new question.
        prompt: Name of the saved prompt that it is made with; None without one.
        system: System prompt of that prompt, for this turn alone; None leaves that of the chat.
        counted: Attachments whose tokens are known; the text has all of them.
    """

    text: str
    route: Route | None = None
    replaces: str | None = None
    prompt: str | None = None
    system: str | None = None
    counted: tuple[Attachment, ...] = ()

    @property
    def shown(self) -> str:
        """The question with each attachment as one line."""
        return fold(self.text, estimate_tokens, self.counted)

    @classmethod
    def from_record(cls, record: TurnRecord) -> Asking:
        """Build the question of a logged turn, with what its saved prompt set for it alone."""
        prompt = record.settings.get(SAVED_PROMPT)
        return cls(
            record.query, prompt=prompt, system=record.system if prompt is not None else None
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """One chat with all its saved turns, oldest first."""

    chat: ChatRecord
    records: tuple[TurnRecord, ...] = ()

    @property
    def name(self) -> str:
        """Name of the chat, or the beginning of its first question; empty before that."""
        if self.chat.name or not self.records:
            return self.chat.name
        return name_from_question(self.records[0].query)

    @property
    def named(self) -> ChatRecord:
        """Record of the chat with its displayed name."""
        return replace(self.chat, name=self.name)

    def with_record(self, record: TurnRecord) -> Conversation:
        """Return the chat with one more turn."""
        return replace(self, records=(*self.records, record))

    def query(self, asking: Asking) -> Query:
        """Build the query to the engine: the question and the messages before it."""
        history = _build_messages(self.before(asking.replaces))
        system = asking.system or self.chat.system
        return Query(asking.text, system, history, self.chat.chat_id)

    def before(self, turn_id: str | None) -> tuple[TurnRecord, ...]:
        """Return the current turns before ``turn_id``; before the next question for None."""
        ids = [record.turn_id for record in self.records]
        if turn_id is None or turn_id not in ids:
            return current_turns(self.records)
        return current_turns(self.records[: ids.index(turn_id)])

    def replaced(self) -> frozenset[str]:
        """Return the ids of the turns that were replaced."""
        kept = {record.turn_id for record in current_turns(self.records)}
        return frozenset(record.turn_id for record in self.records if record.turn_id not in kept)


def new_chat(system: str | None = None) -> Conversation:
    """Create a chat without turns; it enters the log with its first answer."""
    created_at = utc_now()
    return Conversation(ChatRecord(uuid4().hex[:12], created_at, "", system))


def name_from_question(question: str) -> str:
    """Build a name for a chat from its first question."""
    words = " ".join(sanitize(question[:1000]).split())
    kept, left_out = shorten(words, MOST_NAME_CHARACTERS - 1, 1)
    return f"{kept}…" if left_out > 1 else words


def current_turns(records: Sequence[TurnRecord]) -> tuple[TurnRecord, ...]:
    """Return the turns that count: a turn that replaces another removes it and all after it.

    A turn without an answer replaces nothing: the earlier answer is better than none.
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


def _build_messages(records: Sequence[TurnRecord]) -> tuple[Message, ...]:
    """Return the turns as messages for a model; leave out questions without an answer."""
    answered = (record for record in records if record.answer.strip())
    pairs = ((Message("user", r.query), Message("assistant", r.answer)) for r in answered)
    return tuple(message for pair in pairs for message in pair)
