"""The edge to the terminal: everything printed passes through ``SafeStream``.

Names of files, headers of models, templates, policies, logs and the words of libraries can hold
escape sequences. ``run`` puts a ``SafeStream`` over standard output and standard error, so no
command has to think of it. Only etui's own control sequences (colours, bars, a repainted table)
and data for a pipe use the stream below, through ``control_stream`` and ``data_stream``. Closed
streams, full disks and characters that do not fit are handled here, too.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeGuard, cast

from etui.text import sanitize

if TYPE_CHECKING:
    from collections.abc import Iterable


_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class SafeStream:
    """A text stream that replaces control characters in all that is written."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str | bytes) -> int:
        """Write a text without its control characters; line breaks and tabs stay.

        Bytes are text in UTF-8: click writes the script of a shell's completion so.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if not isinstance(text, str):
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        self.raw.write(sanitize(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        # click would write to the buffer itself, on a Windows console and where ASCII is set.
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.raw, name)


@contextmanager
def _replaced(out: TextIO, err: TextIO) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def safe_streams() -> AbstractContextManager[None]:
    """Put a ``SafeStream`` over standard output and standard error while the body runs."""
    # A stream is None if the process was started with it closed.
    out, err = (
        cast("TextIO", stream if stream is None else SafeStream(stream))
        for stream in (sys.stdout, sys.stderr)
    )
    return _replaced(out, err)


def raw_streams() -> AbstractContextManager[None]:
    """Take the ``SafeStream`` off again for the app, which draws on the terminal itself."""
    return _replaced(control_stream(), control_stream(err=True))


def control_stream(*, err: bool = False) -> TextIO:
    """Return the stream for etui's own control sequences; other text in it must be sanitised."""
    stream = sys.stderr if err else sys.stdout
    return stream.raw if isinstance(stream, SafeStream) else stream


def data_stream() -> TextIO:
    """Return standard output for data: unchanged in a pipe or a file, safe on a terminal."""
    raw = control_stream()
    return sys.stdout if raw is None or raw.isatty() else raw


def open_streams() -> bool:
    """Replace a closed standard input or error by an empty one (``2>&-``).

    Python sets a closed stream to None. Text that cannot be encoded, such as a file name that is
    not UTF-8, is written with backslashes on standard output too, as on standard error.
    """
    if _is_closed(sys.stdin):
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - open until the end
    is_open = not _is_closed(sys.stdout)
    if _is_closed(sys.stderr):
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
        if isinstance(stream, io.TextIOWrapper) and _has_code_page(stream):
            stream.reconfigure(encoding="utf-8")
    return is_open


def _has_code_page(stream: io.TextIOWrapper) -> bool:
    """Return whether Windows would write a pipe or a file in a code page, where JSON is UTF-8."""
    return sys.platform == "win32" and not stream.isatty() and "PYTHONIOENCODING" not in os.environ


def is_broken_pipe(error: BaseException) -> bool:
    """Check whether the reader of a pipe has closed it; Windows calls that an invalid argument."""
    if isinstance(error, BrokenPipeError):
        return True
    return (
        sys.platform == "win32"
        and isinstance(error, OSError)
        and error.filename is None
        and error.errno == errno.EINVAL
    )


def is_output_error(error: BaseException) -> TypeGuard[OSError]:
    """Check whether an error is one of writing to standard output.

    An error of opening or replacing a file names the file, and errors of writing etui's own files
    are reported as an EtuiError where they are written.
    """
    return isinstance(error, OSError) and error.filename is None and error.errno in _OUTPUT_ERRORS


def release_streams() -> None:
    """Discard what a standard stream still holds and cannot write.

    Without it, Python writes it once more at exit, prints an error and exits with 120.
    """
    for stream in (sys.stdout, sys.stderr):
        if _is_closed(stream):
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # a stream in memory has no file
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_closed(stream: TextIO | None) -> bool:
    return stream is None
