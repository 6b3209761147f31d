"""The turns of a chat as a tree: an edited or repeated question begins a branch beside the first.

Pure functions over ids: the chat, its list, the log and a replay read the same tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.turn.record import TurnRecord


@dataclass(frozen=True, slots=True)
class Node:
    """A turn as the tree sees it."""

    turn_id: str
    parent_id: str | None = None  # Id of the turn before it; None for the first turn of a branch
    answered: bool = True  # Whether it has an answer. A turn without one never replaces another.


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn is among those that answer at the same place of the chat."""

    index: int  # Its index, from 0, in the order of creation
    siblings: tuple[str, ...]  # Ids of the turns at this place, oldest first, itself included

    def step(self, by: int) -> str | None:
        """Return the id of the sibling so many places later; None beyond either end."""
        at = self.index + by
        return self.siblings[at] if 0 <= at < len(self.siblings) else None


@dataclass(frozen=True, slots=True)
class ChatTree:
    """The turns of one chat; build it with :func:`build_tree`."""

    parents: Mapping[str, str | None] = field(default_factory=dict)
    """Turn id -> id of its parent, oldest turn first; None at the root."""
    children: Mapping[str | None, tuple[str, ...]] = field(default_factory=dict)
    """Turn id, or None for the root -> ids of its children, oldest first."""
    answered: frozenset[str] = frozenset()  # Ids of the turns with an answer

    def path(self, turn_id: str | None) -> tuple[str, ...]:
        """Return the ids from the first turn to this one; empty for None or an unknown id."""
        path: list[str] = []
        at = turn_id if turn_id in self.parents else None
        while at is not None:
            path.append(at)
            at = self.parents[at]
        return tuple(reversed(path))

    def place(self, turn_id: str) -> Place:
        """Return where a turn is among its siblings; KeyError if it is not in the tree."""
        siblings = self.children[self.parents[turn_id]]
        return Place(siblings.index(turn_id), siblings)

    def leaf(self, below: str | None = None) -> str | None:
        """Return the last turn of the newest branch below a turn, or of the whole chat.

        The branch with the newest answer is followed, and only without any answer that with the
        newest turn: a question that failed does not hide the answers at its place. A turn that
        nothing follows is returned itself; None for an empty tree.
        """
        at = below if below in self.parents else None
        newest = self._newest_below()
        while following := self.children.get(at, ()):
            at = max(following, key=lambda each: newest[each])
        return at

    def leaves(self) -> tuple[str, ...]:
        """Return the last turn of every branch, oldest first."""
        return tuple(turn_id for turn_id in self.parents if not self.children.get(turn_id))

    def _newest_below(self) -> dict[str, tuple[int, int]]:
        """Return, for each turn, the numbers of its newest answered and its newest descendant."""
        newest: dict[str, tuple[int, int]] = {}
        numbers = {turn_id: number for number, turn_id in enumerate(self.parents)}
        # A child is always newer than its parent, so one pass from the newest turn is enough.
        for turn_id in reversed(list(self.parents)):
            own = numbers[turn_id]
            below = [newest[child] for child in self.children.get(turn_id, ())]
            answered = [own] if turn_id in self.answered else []
            newest[turn_id] = (
                max([*answered, *(each[0] for each in below)], default=-1),
                max([own, *(each[1] for each in below)]),
            )
        return newest


def build_tree(nodes: Iterable[Node]) -> ChatTree:
    """Build the tree of a chat.

    A turn whose parent is missing, or comes later, begins a branch at the root: so a turn that was
    deleted takes no other with it.

    Args:
        nodes: The turns, oldest first; of equal ids the first counts.
    """
    parents: dict[str, str | None] = {}
    children: dict[str | None, list[str]] = {}
    answered: set[str] = set()
    for node in nodes:
        if node.turn_id in parents:
            continue
        parent = node.parent_id if node.parent_id in parents else None
        parents[node.turn_id] = parent
        children.setdefault(parent, []).append(node.turn_id)
        if node.answered:
            answered.add(node.turn_id)
    return ChatTree(
        parents, {at: tuple(each) for at, each in children.items()}, frozenset(answered)
    )


def tree_of(turns: Iterable[TurnRecord]) -> ChatTree:
    """Build the tree of a chat from the records of its turns, oldest first."""
    return build_tree(Node(t.turn_id, t.parent_id, bool(t.answer.strip())) for t in turns)


def current_branch(turns: Sequence[TurnRecord], head: str | None = None) -> tuple[TurnRecord, ...]:
    """Return the turns of a chat that count, oldest first.

    Args:
        head: Id of the turn that the user went back to; None for the newest branch.
    """
    tree = tree_of(turns)
    by_id = {turn.turn_id: turn for turn in turns}
    return tuple(by_id[turn_id] for turn_id in tree.path(tree.leaf(head)))
