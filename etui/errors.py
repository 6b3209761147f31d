"""Errors shown to users, and the exit codes of the commands.

Every error has one line that says what is wrong and one that says how to fix it. Front ends print
both and never a traceback (except with ``--debug``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every etui command; scripts rely on them."""

    DONE = 0
    """The command succeeded."""

    FAILED = 1
    """The usage was correct, but the command failed."""

    USAGE = 2
    """Wrong usage, or an invalid file."""

    PARTIAL = 3
    """Interrupted; finished work is kept and the command can be resumed."""

    GATE = 4
    """The command ran, but a condition set by the user (a gate) was not met."""


class EtuiError(Exception):
    """An error the user can act on.

    Args:
        what: One line that says what is wrong.
        fix: One line that says how to fix it; empty if there is nothing to do.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what


HOME_FIX = "make the folder writable, or set ETUI_HOME to one that is"


@contextmanager
def writing(path: object, fix: str, *, folder: object = None) -> Iterator[None]:
    """Raise an error of writing in the body as an EtuiError that names the path.

    ``folder``: where the files of the body are, if they are several; it names the one as well.
    """
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:  # a lone surrogate cannot be encoded
        reason = getattr(error, "strerror", None) or error
        place = "" if folder is None else f": {getattr(error, 'filename', None) or folder}"
        raise EtuiError(f"cannot write {path}: {reason}{place}", fix) from error


class UsageError(EtuiError):
    """Wrong usage: an unknown name, an empty prompt, an invalid value."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in a file.

    Attributes:
        line, column: Position, counted from 1; 0 if the problem concerns the whole file.
    """

    file: str  # The path as the user gave it
    line: int
    column: int
    message: str  # What is wrong, with the closest known name if a name is unknown

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class InvalidFile(EtuiError):
    """A file written by the user is invalid; ``what`` starts with ``file:line:column``.

    Args:
        what: Every problem, one per line.
        problems: The same problems as objects; empty for a file without lines (a GGUF).
    """

    exit_code = ExitCode.USAGE

    def __init__(self, what: str, fix: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(what, fix)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem], fix: str = "") -> InvalidFile:
        """Create the error from its problems, one per line."""
        return cls("\n".join(str(problem) for problem in problems), fix, problems)


class BudgetSpent(EtuiError):
    """A budget of the policy is spent, and the policy blocks further questions."""

    exit_code = ExitCode.GATE


class EnergyBudgetSpent(BudgetSpent):
    """The hourly joules of a client's key are spent; ``retry_seconds`` says when some are free."""

    def __init__(self, what: str, fix: str = "", retry_seconds: float = 3600.0) -> None:
        super().__init__(what, fix)
        self.retry_seconds = retry_seconds


class ModelUnavailable(EtuiError):
    """A known model that cannot be used: not on disk, damaged, or rejected by llama.cpp."""


class DownloadFailed(EtuiError):
    """No source of a model delivered a file with the expected sha256."""


class Stopped(EtuiError):
    """The user interrupted the command; ``fix`` says how to resume it."""

    exit_code = ExitCode.PARTIAL


class ContextOverflow(UsageError):
    """The prompt does not fit into the model's context."""

    def __init__(self, prompt_tokens: int, context_tokens: int, reserved_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
        self.reserved_tokens = reserved_tokens
        over = prompt_tokens + reserved_tokens - context_tokens
        super().__init__(
            f"the prompt is {over} tokens too long: it has {prompt_tokens} tokens, and "
            f"{reserved_tokens} of the context's {context_tokens} are reserved for the answer",
            "shorten the prompt, or raise `context` of the model in models.yaml",
        )


class InvalidRequest(UsageError):
    """A request that etui cannot answer as it is asked, such as tools without a template for them.

    ``param`` is the part of the request that is wrong, as the client named it.
    """

    def __init__(self, what: str, fix: str = "", param: str = "") -> None:
        super().__init__(what, fix)
        self.param = param


class QueueFull(EtuiError):
    """Too many requests wait already; ``retry_seconds`` says when to try again."""

    def __init__(self, what: str, fix: str = "", retry_seconds: float = 1.0) -> None:
        super().__init__(what, fix)
        self.retry_seconds = retry_seconds


class RemoteFailed(EtuiError):
    """A remote backend could not be reached, refused a request, or broke off its answer."""


class EngineFailed(EtuiError):
    """llama.cpp failed, or its process died; ``what`` quotes the end of the log."""


class CacheFull(EngineFailed):
    """The open sequences fill the KV cache, and nothing can be evicted."""

    def __init__(self, capacity_tokens: int, sequences: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.sequences = sequences
        super().__init__(
            f"the KV cache of {capacity_tokens} tokens is full with {sequences} open sequences",
            "lower `batch` of the arm, or raise `context` of the model in models.yaml",
        )


class LogUnavailable(EtuiError):
    """The database cannot be opened: written by a newer etui, damaged, or not writable."""


def format_internal_error(error: BaseException) -> str:
    """Format an unexpected error, which is a bug in etui, as one line."""
    return f"internal error: {type(error).__name__}: {error}"
