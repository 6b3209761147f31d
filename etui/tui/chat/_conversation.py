"""A chat as a value: its record, its turns as a tree, and the branch that is current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from etui.chat import Message, OutputOptions, Picture, Query
from etui.log.records import ChatRecord
from etui.prompts.attachments import Attachment, fold
from etui.routing.text_measures import estimate_tokens
from etui.runtime.routes import Route, with_route
from etui.text import title_from_question, utc_now
from etui.turn.chat_tree import ChatTree, tree_of
from etui.turn.record import SAVED_PROMPT, TurnRecord


@dataclass(frozen=True, slots=True)
class Asking:
    """A question to be answered."""

    text: str
    route: Route | None = None
    """How its arm is chosen; None for the route that is active when its turn begins."""
    replaces: str | None = None
    """Id of the turn that it replaces (edited or asked again); None for a new question."""
    prompt: str | None = None  # Name of the saved prompt that it is made with; None without one
    system: str | None = None
    """System prompt of that prompt, for this turn alone; None leaves that of the chat."""
    counted: tuple[Attachment, ...] = ()
    """Attachments whose tokens are known; the text has all of them."""
    pictures: tuple[Picture, ...] = ()  # Attached pictures, whose marks the text has
    continues: str | None = None
    """Id of the turn whose answer was cut off and is continued; None for a question."""

    @property
    def shown(self) -> str:
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
    """One chat with all its saved turns, those of every branch, oldest first."""

    chat: ChatRecord
    records: tuple[TurnRecord, ...] = ()
    pictures: tuple[Picture, ...] = ()  # Those that were sent since the app was started

    @property
    def name(self) -> str:
        """Name of the chat, or the beginning of its first question; empty before that."""
        if self.chat.name or not self.records:
            return self.chat.name
        return title_from_question(self.records[0].query)

    @property
    def named(self) -> ChatRecord:
        return replace(self.chat, name=self.name)

    @property
    def route(self) -> Route | None:
        """The route that was chosen for the chat; None where it follows the settings."""
        policy = self.chat.route_policy
        return None if policy is None else Route(policy, self.chat.route_model, self.chat.route_arm)

    @property
    def tree(self) -> ChatTree:
        return tree_of(self.records)

    @property
    def current(self) -> tuple[TurnRecord, ...]:
        """The turns of the current branch, oldest first."""
        tree = self.tree
        return self._path(tree, tree.leaf(self.chat.head))

    @property
    def context_tokens(self) -> int | None:
        """Tokens of the current branch that the next question follows; None before an answer."""
        answered = [record for record in self.current if record.answer.strip()]
        if not answered:
            return None
        counts = next((hop for hop in answered[-1].hops if hop.taken), answered[-1]).tokens
        return counts.prompt + counts.output - counts.thinking

    def find(self, turn_id: str | None) -> TurnRecord | None:
        return next((each for each in self.records if each.turn_id == turn_id), None)

    def with_record(self, record: TurnRecord) -> Conversation:
        """Return the chat with one more turn; its branch becomes current if it has an answer."""
        chat = replace(self.chat, head=None) if record.answer.strip() else self.chat
        return replace(self, chat=chat, records=(*self.records, record))

    def successor(self) -> Conversation:
        return new_chat(self.chat.system, self.route)

    def switched(self, turn_id: str) -> Conversation:
        """Return the chat with the newest branch below a turn as the current one."""
        tree = self.tree
        is_newest = tree.leaf() == tree.leaf(turn_id)
        return replace(self, chat=replace(self.chat, head=None if is_newest else turn_id))

    def query(self, asking: Asking) -> Query:
        tree = self.tree
        place = asking.continues or asking.replaces
        parent = tree.leaf(self.chat.head)
        if place is not None and place in tree.parents:
            parent = tree.parents[place]
        system = asking.system or self.chat.system
        query = Query(
            asking.text,
            system,
            _build_messages(self._path(tree, parent)),
            self.chat.chat_id,
            parent_id=parent,
            takes_own_system=system is None,
        )
        begun = self.find(asking.continues)
        if begun is not None:
            query = replace(
                query,
                history=(*query.history, Message("user", begun.query)),
                last=Message("assistant", begun.answer),
                options=OutputOptions(continues=begun.turn_id),
            )
        return replace(query, pictures=self._list_pictures(query, asking))

    def with_pictures(self, query: Query) -> Conversation:
        """Return the chat with the pictures of a question, which later questions send again."""
        known = {each.mark: each for each in (*self.pictures, *query.pictures)}
        return replace(self, pictures=tuple(known.values()))

    def _list_pictures(self, query: Query, asking: Asking) -> tuple[Picture, ...]:
        """List the pictures whose marks the messages have; those of an earlier run are lost."""
        known = {each.mark: each for each in (*self.pictures, *asking.pictures)}
        texts = [message.content for message in query.messages()]
        return tuple(each for mark, each in known.items() if any(mark in text for text in texts))

    def replaced(self) -> frozenset[str]:
        kept = {record.turn_id for record in self.current}
        return frozenset(record.turn_id for record in self.records if record.turn_id not in kept)

    def places(self) -> Mapping[str, tuple[int, int]]:
        """Return number, from 1, and count of the branches at each turn that has several."""
        tree = self.tree
        return {
            turn_id: (number, len(siblings))
            for siblings in tree.children.values()
            if len(siblings) > 1
            for number, turn_id in enumerate(siblings, 1)
        }

    def answers(self, turn_id: str) -> tuple[TurnRecord, ...]:
        """Return the answers to the question of a turn at its place, oldest first."""
        asked = self.find(turn_id)
        tree = self.tree
        beside = tree.place(turn_id).siblings if turn_id in tree.parents else ()
        found = (self.find(each) for each in beside)
        return tuple(
            each
            for each in found
            if each is not None
            and asked is not None
            and each.query == asked.query
            and each.answer.strip()
        )

    def beside(self, turn_id: str, step: int) -> str | None:
        """Return the turn some branches before (-1) or after (1) a turn; None at the ends."""
        tree = self.tree
        return tree.place(turn_id).step(step) if turn_id in tree.parents else None

    def _path(self, tree: ChatTree, turn_id: str | None) -> tuple[TurnRecord, ...]:
        by_id = {record.turn_id: record for record in self.records}
        return tuple(by_id[each] for each in tree.path(turn_id))


def continuation_route(record: TurnRecord, route: Route) -> Route:
    """Return the route to the arm, or else the model, that began an answer."""
    if record.policy is not None:
        return Route(record.policy, arm=record.arm)
    return Route(route.policy, model=record.model)


def refuse_continuation(record: TurnRecord) -> str:
    """Return why an answer cannot be continued; empty if it can."""
    if not record.answer.strip():
        return "no answer to continue: ask again with + or -"
    if record.status == "complete":
        return "the answer is complete"
    return ""


def new_chat(system: str | None = None, route: Route | None = None) -> Conversation:
    """Create a chat without turns; it enters the log with its first answer."""
    chat = ChatRecord(uuid4().hex[:12], utc_now(), "", system)
    return Conversation(chat if route is None else with_route(chat, route))


def _build_messages(records: Sequence[TurnRecord]) -> tuple[Message, ...]:
    """Return the turns as messages for a model; leave out questions without an answer."""
    answered = (record for record in records if record.answer.strip())
    pairs = ((Message("user", r.query), Message("assistant", r.answer)) for r in answered)
    return tuple(message for pair in pairs for message in pair)
