"""Frozen facts that threads post to the policies screen, and the message that carries them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from textual.message import Message

from etui.config.config import Config
from etui.errors import Problem
from etui.routing.library import CheckedPolicy
from etui.yaml.named_files import NamedFile

if TYPE_CHECKING:
    from etui.learning.documents import TurnsDocument
    from etui.models.catalogue import Catalogue
    from etui.routing.check.fit_warnings import FitFacts
    from etui.runtime.explain import Explanation

About: TypeAlias = Literal["", "explain", "replay", "compare"]
"""The analysis that a failed task belongs to; empty for any other task."""


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What policies are checked against, read from disk once and used for many checks."""

    config: Config
    catalogue: Catalogue
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One policy of the list."""

    named: str  # How a route refers to it: by its name, or the path that was given
    place: NamedFile
    description: str | None  # Description in the file; None if the policy has errors


@dataclass(frozen=True, slots=True)
class PolicyCatalogue:
    """All policies of this machine."""

    context: PolicyContext
    policies: tuple[PolicyEntry, ...]

    def find(self, named: str) -> PolicyEntry | None:
        """Return the policy that a route refers to as ``named``, if it is listed."""
        return next((entry for entry in self.policies if entry.named == named), None)


@dataclass(frozen=True, slots=True)
class PolicyOpened:
    """A policy as it was read."""

    named: str  # How a route refers to it
    place: NamedFile
    text: str  # Content of that file
    target: Path  # File that edits are saved to
    before: bytes | None  # Content of `target`; None if it does not exist


@dataclass(frozen=True, slots=True)
class Reread:
    """A policy that was read again automatically: it never replaces unsaved text."""

    opened: PolicyOpened


@dataclass(frozen=True, slots=True)
class Subject:
    """The current, perhaps unsaved text of a policy, and what it is checked against.

    ``fit`` is what was fitted for it; None without a fit, or until that is read.
    """

    text: str
    place: NamedFile
    context: PolicyContext
    fit: FitFacts | None = None


@dataclass(frozen=True, slots=True)
class FitRead:
    """The fit of a policy."""

    named: str  # How a route refers to the policy
    summary: str = ""  # Its age and what is amiss, in a few words; empty without a fit
    is_amiss: bool = False  # Whether it is time for a new one
    facts: FitFacts | None = None  # What was fitted; None without a fit, or if it cannot be used


@dataclass(frozen=True, slots=True)
class CasesVerdict:
    """Result of the cases of a text.

    Attributes:
        count, failed: Number of cases that were decided, and of those that failed.
    """

    count: int
    failed: int
    problems: int = 0
    """Number of faults in the files of cases; nothing was decided if there are any."""


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """Result of the check of a text."""

    edit: int
    checked: CheckedPolicy  # Errors and warnings, and the policy if it has no errors
    failing: tuple[Problem, ...]  # Probes of the policy that fail, at their lines
    cases: CasesVerdict | None = None
    """Result of its cases; None without a file of cases, or with errors."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Which arm would answer ``query``, and why."""

    query: str
    document: Explanation


@dataclass(frozen=True, slots=True)
class Replayed:
    """The log under a policy; ``newest_only`` if only its newest turns were replayed."""

    document: TurnsDocument
    newest_only: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """Differences from another text of the policy, as lines."""

    other: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """A text to save.

    Attributes:
        target, before: As in :class:`PolicyOpened`.
    """

    name: str  # Name of the saved policy
    text: str
    target: Path
    before: bytes | None
    like: Path  # File whose permissions a new file takes


@dataclass(frozen=True, slots=True)
class Saved:
    """A draft that was written; ``now`` is the content of its file."""

    draft: Draft
    now: bytes


@dataclass(frozen=True, slots=True)
class HasErrors:
    """A draft that was not written because it has errors."""

    draft: Draft
    errors: int


@dataclass(frozen=True, slots=True)
class Clash:
    """A draft that was not written because its file has changed since it was read."""

    draft: Draft
    what: str


@dataclass(frozen=True, slots=True)
class PolicyDeleted:
    """A policy that was deleted."""

    place: NamedFile


@dataclass(frozen=True, slots=True)
class PolicyTaskFailed:
    """A task that failed."""

    what: str
    fix: str
    about: About = ""


Fact: TypeAlias = (
    PolicyCatalogue | PolicyOpened | Reread | FitRead | CheckVerdict | Explained | Replayed
    | Compared | Saved | HasErrors | Clash | PolicyDeleted | PolicyTaskFailed
)  # fmt: skip


class PolicyNews(Message):
    """A fact posted by a thread."""

    def __init__(self, fact: Fact) -> None:
        super().__init__()
        self.fact = fact
