"""The branches of a chat as rows of the list of chats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui import units
from etui.text.title import title_from_question
from etui.turn.chat_tree import ChatTree, tree_of
from etui.turn.record import TurnRecord


@dataclass(frozen=True, slots=True)
class BranchRow:
    """One branch of a chat."""

    leaf: str  # Id of its last turn
    depth: int  # Number of forks on its way, from 1
    turns: int
    question: str  # Title of the question that begins it
    current: bool  # Whether it is the branch that is shown when the chat is opened
    last: bool = False

    @property
    def text(self) -> str:
        """The row: ``├ ● What is Rust? · 3 turns``."""
        line = "└" if self.last else "├"
        mark = "●" if self.current else "○"
        indent = "  " * (self.depth - 1)
        count = units.count_text(self.turns, "turn")
        return f"  {line} {indent}{mark} {self.question or self.leaf} · {count}"


def branch_rows(records: Sequence[TurnRecord], head: str | None) -> tuple[BranchRow, ...]:
    """Return the branches of a chat in the order of its tree; empty if there is only one.

    Args:
        records: All turns of the chat, oldest first.
        head: The turn that the user went back to; None for the newest branch.
    """
    tree = tree_of(records)
    leaves = _leaves_in_order(tree)
    if len(leaves) < 2:
        return ()
    by_id = {record.turn_id: record for record in records}
    current = tree.leaf(head)
    rows = []
    for leaf in leaves:
        path = tree.path(leaf)
        forks = [each for each in path if len(tree.place(each).siblings) > 1]
        question = title_from_question(by_id[forks[-1]].query)
        rows.append(
            BranchRow(
                leaf, len(forks), len(path), question, leaf == current, last=leaf == leaves[-1]
            )
        )
    return tuple(rows)


def _leaves_in_order(tree: ChatTree) -> list[str]:
    """Return the leaves from the first branch to the last, without recursion: chats are long."""
    leaves: list[str] = []
    waiting = list(reversed(tree.children.get(None, ())))
    while waiting:
        at = waiting.pop()
        following = tree.children.get(at, ())
        if following:
            waiting.extend(reversed(following))
        else:
            leaves.append(at)
    return leaves
