"""Replay the turns of the log under another policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from etui import units
from etui.arm import Arm, Reasoning, Speculate
from etui.chat import Message, Query
from etui.codec import pick
from etui.errors import EtuiError
from etui.routing.decision import Decision, Predictor
from etui.routing.text_measures import count_history_tokens
from etui.text import sanitize

if TYPE_CHECKING:
    from etui.log.records import LoggedQuestion


TurnsDocument = dict[str, Any]
"""A replay of the log as plain JSON values; see :func:`build_turns_document`."""

_CONFIDENCE = 0.9
"""Confidence of the predicted bounds; only the middle value is used here."""


class TurnReplay(NamedTuple):
    """A logged turn, and the arm that would answer it under the policy.

    A named tuple for the same reason as ``LoggedQuestion``.

    Attributes:
        before, after: (arm, model); ``after`` is None if the policy finds no arm.
        predicted_before, predicted_after: Joules predicted for the question now, without loads;
            None if nothing is known about the model. ``predicted_after`` of a cascade is that
            of its first arm, and of those that have to agree with it.
        right_before, right_after: Predicted accuracies, 0..1; None if nothing was fitted.
    """

    turn_id: str
    query: str
    before: tuple[str, str]
    after: tuple[str, str] | None
    joules: float | None  # Measured joules; None if unmeasured
    kind: str | None  # How they were measured
    predicted_before: float | None
    predicted_after: float | None
    why: str  # Reason for the decision, or for the lack of one
    right_before: float | None = None
    right_after: float | None = None
    cascade: bool = False
    """Whether a cascade would answer; ``after`` is its first arm, or ``before`` if the turn itself
    started with that arm."""

    @property
    def moves(self) -> bool:
        """Whether another arm or model would answer."""
        return self.after is not None and self.after != self.before


def replay_turns(
    turns: Iterable[LoggedQuestion],
    decide: Callable[[Query], Decision],
    predictor: Predictor,
) -> list[TurnReplay]:
    """Decide every turn again, with the history its chat had before the turn."""
    return [_replay_turn(turn, query, decide, predictor) for turn, query in iter_queries(turns)]


def replayed_lines(document: TurnsDocument) -> Iterator[str]:
    """Yield the number of questions that would move, and joules and accuracy of both sides."""
    if not document["n"]:
        yield "the log has no turns yet"
        return
    yield sanitize(
        f"policy {document['policy']}: {document['moved']:,} of "
        f"{units.count_text(document['n'], 'question')} would move to another arm"
    )
    if document["undecided"]:
        count = units.count_text(document["undecided"], "question")
        yield f"{count} for which no arm is available on this machine"
    yield from _joules_lines(document["joules"])
    yield _accuracy_line(document["accuracy"])
    if document["cascades"]:
        count = units.count_text(document["cascades"], "question")
        yield f"{count} to a cascade, counted by its first step unless the turn started with it"


def move_rows(document: TurnsDocument) -> list[tuple[str, str, str]]:
    """Return (from, to, questions) of every move, most frequent first."""
    return [
        (sanitize(move["from"]), sanitize(move["to"]), f"{move['n']:,}")
        for move in document["moves"]
    ]


def _joules_lines(joules: dict[str, Any]) -> Iterator[str]:
    kinds = joules["kinds"]
    measured = units.energy_text(joules["measured"], None, kinds[0] if len(kinds) == 1 else None)
    mixed = f" ({', '.join(kinds)})" if len(kinds) > 1 else ""
    turns = units.count_text(joules["measured_turns"], "turn")
    yield f"measured: {measured}{mixed} over {turns}"
    if not joules["predicted_turns"]:
        yield "predicted: unknown, no data about the models yet; see `etui calibrate`"
        return
    before, after = joules["predicted_before"] or 0.0, joules["predicted_after"] or 0.0
    yield (
        f"predicted, without loads: {units.about_joules(before)} before, "
        f"{units.about_joules(after)} after, over "
        f"{units.count_text(joules['predicted_turns'], 'turn')}"
    )


def _accuracy_line(accuracy: dict[str, Any]) -> str:
    if not accuracy["predicted_turns"]:
        return "expected accuracy: unknown, nothing was fitted; see `etui policy fit`"
    before, after = accuracy["predicted_before"], accuracy["predicted_after"]
    return (
        f"expected accuracy: {units.accuracy_text(before)} before, "
        f"{units.accuracy_text(after)} after, over "
        f"{units.count_text(accuracy['predicted_turns'], 'turn')}"
    )


def iter_queries(turns: Iterable[LoggedQuestion]) -> Iterator[tuple[LoggedQuestion, Query]]:
    """Yield every turn with its query, whose history is what its chat had before the turn."""
    chats: dict[str, _ReplayedChat] = {}
    for turn in turns:
        chat = _ReplayedChat()
        if turn.chat_id is not None:
            chat = chats.setdefault(turn.chat_id, chat)
        history = tuple(chat.history_of(turn))
        asked = turn.query, turn.system, history, turn.chat_id
        yield turn, Query(*asked, history_tokens=chat.tokens)
        chat.add(turn)


class _ReplayedChat:
    """The turns of one chat so far, which may have branches.

    Only a turn that leaves the branch before it has its history collected, and counted, again.
    """

    def __init__(self) -> None:
        self.tokens = 0  # Those of the history that was read last, estimated
        self._turns: dict[str, tuple[str | None, tuple[Message, ...]]] = {}
        self._last: str | None = None
        self._messages: list[Message] = []

    def history_of(self, turn: LoggedQuestion) -> list[Message]:
        """Return the messages before a turn; a parent that is not replayed is the last turn."""
        known = turn.parent_id is None or turn.parent_id in self._turns
        if known and turn.parent_id != self._last:
            at, branch = turn.parent_id, list[tuple[Message, ...]]()
            while at is not None:
                at, messages = self._turns[at]
                branch.append(messages)
            self._messages = [message for each in reversed(branch) for message in each]
            self.tokens = count_history_tokens(self._messages)
        return self._messages

    def add(self, turn: LoggedQuestion) -> None:
        messages: tuple[Message, ...] = ()
        if turn.answer:
            messages = Message("user", turn.query), Message("assistant", turn.answer)
        known = turn.parent_id if turn.parent_id in self._turns else None
        if turn.parent_id is not None and known is None:
            known = self._last
        self._turns[turn.turn_id] = known, messages
        self._messages += messages
        self.tokens += count_history_tokens(messages)
        self._last = turn.turn_id


_REASONINGS: dict[str, Reasoning] = {name: name for name in get_args(Reasoning)}
_METHODS: dict[str, Speculate] = {name: name for name in get_args(Speculate)}


def arm_from_turn(turn: LoggedQuestion) -> Arm:
    """Rebuild the arm that answered a turn, as far as the log records it."""
    plain, settings = Arm(turn.arm, turn.model), turn.settings

    def read(name: str, default: int) -> int:
        return int(settings.get(name) or default)  # a limit of 0 is not recorded

    return replace(
        plain,
        reasoning=_REASONINGS.get(turn.reasoning, "direct"),
        think_tokens=read("think_tokens", plain.think_tokens),
        max_tokens=read("max_tokens", plain.max_tokens),
        votes=read("votes", plain.votes),
        speculate=_METHODS.get(str(settings.get("speculate")), "off"),
    )


def _replay_turn(
    turn: LoggedQuestion, query: Query, decide: Callable[[Query], Decision], predictor: Predictor
) -> TurnReplay:
    before = arm_from_turn(turn)
    after: Arm | None = None
    cascade = False
    together: tuple[Arm, ...] = ()
    try:
        decision = decide(query)
        after, why, cascade = decision.arm, decision.why, decision.cascade is not None
        together = _list_asked_too(decision)
        if cascade and turn.first_hop == _arm_and_model(after):
            # The same cascade would start and continue in the same way.
            after, together = before, ()
        elif _arm_and_model(after) == _arm_and_model(before):
            after = before  # keep the token budget of the turn, or it would look like a change
    except EtuiError as error:
        why = error.what.splitlines()[0]

    def predict(arm: Arm) -> tuple[float | None, float | None]:
        energy = predictor.joules(arm, query)
        accuracy = predictor.accuracy(arm, query, _CONFIDENCE)
        return (
            None if energy is None else energy.answer,
            None if accuracy is None else accuracy.p,
        )

    joules_before, right_before = joules_after, right_after = predict(before)
    if after is None:
        joules_after = right_after = None
    elif after is not before:
        joules_after, right_after = predict(after)
    for arm in together:
        energy = predictor.joules(arm, query)
        if joules_after is not None:
            joules_after = None if energy is None else joules_after + energy.answer
    return TurnReplay(
        turn.turn_id,
        turn.query,
        _arm_and_model(before),
        None if after is None else _arm_and_model(after),
        turn.joules,
        turn.kind,
        joules_before,
        joules_after,
        why,
        right_before,
        right_after,
        cascade,
    )


def _list_asked_too(decision: Decision) -> tuple[Arm, ...]:
    """List the arms that have to agree with the first: they answer in any case."""
    if decision.cascade is None:
        return ()
    step = decision.cascade.find_agreement(decision.arm.name)
    names = step.arms[1:] if step is not None else ()
    return tuple(arm for arm in decision.cascade.arms if arm.name in names)


def _arm_and_model(arm: Arm) -> tuple[str, str]:
    return arm.name, arm.model


def build_turns_document(policy: str, replayed: list[TurnReplay]) -> TurnsDocument:
    """Build the document of a replay of the log, of plain JSON values.

    Predicted joules are summed over the turns with both predictions; accuracies are means.
    """
    joules = [(each.predicted_before, each.predicted_after) for each in replayed]
    both = [(one, other) for one, other in joules if one is not None and other is not None]
    rights = [(each.right_before, each.right_after) for each in replayed]
    accuracies = [(one, other) for one, other in rights if one is not None and other is not None]
    measured = [turn.joules for turn in replayed if turn.joules is not None]
    count = len(accuracies)
    return {
        "policy": policy,
        "n": len(replayed),
        "moved": sum(turn.moves for turn in replayed),
        "undecided": sum(turn.after is None for turn in replayed),
        "cascades": sum(turn.cascade for turn in replayed),
        "moves": [
            {"from": before, "to": after, "n": count}
            for before, after, count in count_moves(replayed, " on ".join)
        ],
        "joules": {
            "measured": sum(measured) if measured else None,
            "measured_turns": len(measured),
            "kinds": sorted({turn.kind for turn in replayed if turn.kind is not None}),
            "predicted_turns": len(both),
            "predicted_before": sum(one for one, _ in both) or None,
            "predicted_after": sum(other for _, other in both) or None,
        },
        "accuracy": {
            "predicted_turns": count,
            "predicted_before": sum(one for one, _ in accuracies) / count if count else None,
            "predicted_after": sum(other for _, other in accuracies) / count if count else None,
        },
        "turns": [_build_turn_document(turn) for turn in replayed],
    }


def count_moves(
    replayed: Sequence[TurnReplay], name: Callable[[tuple[str, str]], str]
) -> list[tuple[str, str, int]]:
    """Count the turns that another arm answers: name before, name after and number, most first."""
    moves = Counter(
        (name(turn.before), name(turn.after))
        for turn in replayed
        if turn.moves and turn.after is not None
    )
    return [(before, after, count) for (before, after), count in moves.most_common()]


def _build_turn_document(turn: TurnReplay) -> dict[str, Any]:
    after = turn.after
    return {
        "turn_id": turn.turn_id,
        "before": {"arm": turn.before[0], "model": turn.before[1]},
        "after": None if after is None else {"arm": after[0], "model": after[1]},
        **pick(turn, "moves", "joules", "kind", "predicted_before", "predicted_after"),
        **pick(turn, "right_before", "right_after", "why"),
    }
