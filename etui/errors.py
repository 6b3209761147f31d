"""What can go wrong, and the exit code that says so.

Every error carries one line saying what is wrong and one saying how to mend it. Front ends print
both and never a traceback (unless ``--debug``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every etui command; scripts rely on them."""

    DONE = 0
    """The command did what was asked."""

    FAILED = 1
    """It was asked rightly and could not be done."""

    USAGE = 2
    """Wrong usage, or an invalid file."""

    PARTIAL = 3
    """Stopped part-way; what was finished is kept and the rest can be resumed."""

    GATE = 4
    """It ran, and a condition the user set (a gate) was not met."""


class EtuiError(Exception):
    """An error a user can act on.

    Args:
        what: One line saying what is wrong.
        fix: One line saying how to mend it; empty when there is nothing to do.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what


class UsageError(EtuiError):
    """The command was asked wrongly: an unknown name, an empty prompt, a bad value."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file.

    Attributes:
        file: The file as the user named it.
        line, column: Where, counted from 1; 0 where the file as a whole is meant.
        message: What is wrong, with the nearest name where a name is unknown.
    """

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class InvalidFile(EtuiError):
    """A file the user wrote cannot be used; ``what`` starts with ``file:line:column``.

    Args:
        what: Every problem, one a line.
        fix: One line saying how to mend it.
        problems: The same problems in parts; empty when the file has no lines (a GGUF).
    """

    exit_code = ExitCode.USAGE

    def __init__(self, what: str, fix: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(what, fix)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem], fix: str = "") -> InvalidFile:
        """The error that holds these problems, one a line."""
        return cls("\n".join(str(problem) for problem in problems), fix, problems)


class BudgetSpent(EtuiError):
    """A budget of the policy is spent, and it lets no further question through."""

    exit_code = ExitCode.GATE


class ModelUnavailable(EtuiError):
    """A known model that cannot serve: not on disk, damaged, or refused by llama.cpp."""


class DownloadFailed(EtuiError):
    """No source of a model gave a file with the right sha256."""


class Stopped(EtuiError):
    """The user stopped it part-way; ``fix`` says how to go on from there."""

    exit_code = ExitCode.PARTIAL


class ContextOverflow(UsageError):
    """The prompt does not fit into the model's context.

    Args:
        prompt_tokens: Tokens the prompt has.
        context_tokens: Tokens the context holds.
        reserved_tokens: Tokens kept free for the answer.
    """

    def __init__(self, prompt_tokens: int, context_tokens: int, reserved_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
        self.reserved_tokens = reserved_tokens
        over = prompt_tokens + reserved_tokens - context_tokens
        super().__init__(
            f"the prompt is {over} tokens too long: {prompt_tokens} tokens, and the context holds "
            f"{context_tokens} with {reserved_tokens} kept for the answer",
            "shorten the prompt, or raise `context` of the model in models.yaml",
        )


class EngineFailed(EtuiError):
    """llama.cpp failed, or the process that runs it died; ``what`` holds the last of its log."""


class CacheFull(EngineFailed):
    """The open sequences together fill the KV cache, and nothing can be given up for them.

    Args:
        capacity_tokens: Tokens the cache holds.
        sequences: Sequences that are open.
    """

    def __init__(self, capacity_tokens: int, sequences: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.sequences = sequences
        super().__init__(
            f"the cache of {capacity_tokens} tokens is full with {sequences} sequences open",
            "ask for fewer votes at a time, or raise `context` of the model in models.yaml",
        )


class LogUnavailable(EtuiError):
    """The database cannot be opened: from a newer etui, damaged, or not writable."""


def fault_text(error: BaseException) -> str:
    """What to say of an error that no part of etui has foreseen."""
    return f"a fault in etui: {type(error).__name__}: {error}"
