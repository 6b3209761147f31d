"""What the policies screen is told by its threads: frozen facts, one message for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from textual.message import Message

from etui.config.config import Config
from etui.errors import Problem
from etui.routing.library import Checked, PolicyPlace

if TYPE_CHECKING:
    from etui.models.catalogue import Catalogue
    from etui.replay.documents import TurnsDocument
    from etui.runtime.explain import Explanation

About: TypeAlias = Literal["", "explain", "replay", "compare"]
"""What asked for something that failed; empty for anything else."""


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What policies are checked against, read from disk once for many checks.

    Attributes:
        config: Folders and settings.
        catalogue: The models.
        names: Every policy that can be named.
    """

    config: Config
    catalogue: Catalogue
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One policy of the list.

    Attributes:
        named: What a route calls it: its name, or the path that was given.
        place: Where it lies.
        description: Its own; None where it has errors.
    """

    named: str
    place: PolicyPlace
    description: str | None


@dataclass(frozen=True, slots=True)
class PolicyCatalogue:
    """Every policy there is."""

    desk: PolicyContext
    policies: tuple[PolicyEntry, ...]

    def find(self, named: str) -> PolicyEntry | None:
        """The policy that a route calls so."""
        return next((on for on in self.policies if on.named == named), None)


@dataclass(frozen=True, slots=True)
class PolicyOpened:
    """A policy as it was read.

    Attributes:
        named: What a route calls it.
        place: Where it was found.
        text: What it holds.
        target: File that a change goes to.
        before: What that held; None where it was not there.
    """

    named: str
    place: PolicyPlace
    text: str
    target: Path
    before: bytes | None


@dataclass(frozen=True, slots=True)
class Reread:
    """A policy that was read again unasked: it never takes the place of what is typed."""

    opened: PolicyOpened


@dataclass(frozen=True, slots=True)
class Subject:
    """A text as it is now, which need not be saved, and what it is judged against."""

    text: str
    place: PolicyPlace
    desk: PolicyContext


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """What the check of a text found; ``edit`` is the number of the text that was checked.

    ``failing`` are the policy's own probes that fail, at their lines.
    """

    edit: int
    checked: Checked
    failing: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """Who would answer ``query``."""

    query: str
    document: Explanation


@dataclass(frozen=True, slots=True)
class Replayed:
    """The log by a policy."""

    document: TurnsDocument
    newest_only: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """What differs from another text of the policy, in lines."""

    other: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be saved.

    Attributes:
        name: Name of the policy it becomes.
        text: As typed.
        target, before: As of :class:`PolicyOpened`.
        like: File whose permissions a new one takes.
    """

    name: str
    text: str
    target: Path
    before: bytes | None
    like: Path


@dataclass(frozen=True, slots=True)
class Saved:
    """A draft that was written; ``now`` is what its file holds."""

    draft: Draft
    now: bytes


@dataclass(frozen=True, slots=True)
class HasErrors:
    """A draft with errors, which was not written."""

    draft: Draft
    errors: int


@dataclass(frozen=True, slots=True)
class Clash:
    """A draft that was not written, as its file holds something else than what was read."""

    draft: Draft
    what: str


@dataclass(frozen=True, slots=True)
class PolicyDeleted:
    """A policy that was deleted."""

    place: PolicyPlace


@dataclass(frozen=True, slots=True)
class PolicyTaskFailed:
    """Something could not be done."""

    what: str
    fix: str
    about: About = ""


Fact: TypeAlias = (
    PolicyCatalogue | PolicyOpened | Reread | CheckVerdict | Explained | Replayed | Compared
    | Saved | HasErrors | Clash | PolicyDeleted | PolicyTaskFailed
)  # fmt: skip


class PolicyNews(Message):
    """A fact from a thread."""

    def __init__(self, fact: Fact) -> None:
        super().__init__()
        self.fact = fact
