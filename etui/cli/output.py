"""What commands share: JSON, lines and tables on stdout, progress on stderr, files, and signals.

Progress is a bar in a terminal, and lines elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from etui.atomic import write_text
from etui.cli.param_types import flag
from etui.cli.streams import control_stream
from etui.codec import to_document
from etui.config.config import Config, load_config
from etui.errors import EtuiError, writing
from etui.text import count_cells, escape_json, format_table, sanitize
from etui.units import percent_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from etui.measure.progress import Progress, Watch
    from etui.models.catalogue import Catalogue
    from etui.routing.library import CheckedPolicy


_LINE_EVERY_SECONDS = 10.0
json_option = flag("--json", "as_json", help="Print one JSON document.")


def load_context() -> tuple[Config, Catalogue, Callable[[str], bool]]:
    """Load the settings, the models, and a function that tests whether a model is here."""
    from etui.runtime.model_resolution import models_on_disk

    config = load_config()
    catalogue = load_models(config)
    return config, catalogue, models_on_disk(config, catalogue)


def load_models(config: Config) -> Catalogue:
    """Load the models; say on standard error why settings chosen by sweeps cannot be used."""
    from etui.models.catalogue import load_catalogue

    catalogue = load_catalogue(config)
    if catalogue.problem:
        click.echo(catalogue.problem, err=True)
    return catalogue


def require_writable(path: Path, fix: str, *, make_folder: bool = False) -> None:
    """Refuse an output file that cannot be written, before the work whose result it is to hold."""
    folder = path.absolute().parent
    while make_folder and not folder.exists():
        folder = folder.parent
    if path.is_dir():
        reason = "it is a folder"
    elif path.exists() and not path.is_file():
        return  # a device or a pipe, such as /dev/stdout
    elif not folder.is_dir():
        reason = f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = f"the folder {folder} is read-only"
    else:
        return
    raise EtuiError(f"cannot write {path}: {reason}", fix)


def write_output(
    path: Path, text: str, fix: str, *, make_folder: bool = False, errors: str = "strict"
) -> None:
    """Write an output file as a whole, or leave what was there.

    ``errors``: what to do with lone surrogates, as in ``str.encode``.
    """
    with writing(path, fix):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text, errors=errors)


def print_problems(checked: CheckedPolicy) -> None:
    """Print every error and warning on standard error, one per line."""
    for problem in checked.errors:
        click.echo(str(problem), err=True)
    for problem in checked.warnings:
        position = f"{problem.file}:{problem.line}:{problem.column}"
        click.echo(f"{position}: warning: {problem.message}", err=True)


def table_lines(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "<"
) -> list[str]:
    """Format a table; a column is as wide as its widest cell in a terminal."""
    return format_table(rows, header=head, align=align, measure=count_cells)


def find_width() -> int | None:
    """Return the cells of a line in a terminal; None where lines can have any length."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        import shutil  # which loads compressors

        return shutil.get_terminal_size().columns
    return None


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output."""
    print_lines(table_lines(head, rows))


def print_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines on standard output, or on standard error."""
    for line in lines:
        click.echo(line, err=err)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error."""
    print_lines((f"note: {note}" for note in notes), err=True)


def print_result(document: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print what a command found: its document with ``--json``, else its lines."""
    if as_json:
        print_json(document)
    else:
        print_lines(lines)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output; dataclasses in it become objects."""
    click.echo(format_json(document))


def print_json_line(document: Any) -> None:
    """Print a JSON document on one line; its strings cannot reach the terminal."""
    click.echo(escape_json(json.dumps(to_document(document), ensure_ascii=False)))


def print_event(event: str, **facts: object) -> None:
    """Print an event as one JSON line on stdout, at once, so that a reader of the pipe gets it."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def format_json(document: Any) -> str:
    """Format a JSON document, indented by two spaces; its strings cannot reach the terminal.

    The standard library indents in Python, which takes twice the time and four times the memory.
    """
    import msgspec

    plain = to_document(document)
    try:
        line = escape_json(json.dumps(plain, ensure_ascii=False))
        return msgspec.json.format(line, indent=2)
    except msgspec.DecodeError:  # NaN, an infinity or a lone surrogate, which only ``json`` takes
        return escape_json(json.dumps(plain, ensure_ascii=False, indent=2))


@contextmanager
def stop_signals(
    stopped: Event | None = None, *cancels: Callable[[], None]
) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Let signals stop the body in a way that keeps the finished work.

    With ``stopped``, the first of Ctrl-C, SIGTERM and a closed terminal sets it and calls
    ``cancels``; if there is nothing to cancel yet, and at the second signal, KeyboardInterrupt is
    raised. Without it, SIGTERM and a closed terminal raise KeyboardInterrupt, as Ctrl-C does.
    A closed terminal does not stop what ``nohup`` started. Windows has Ctrl-Break instead.

    Yields:
        A function that adds one more function for the first signal to call.
    """
    to_cancel = list(cancels)

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped is None or stopped.is_set() or not to_cancel:
            raise KeyboardInterrupt
        stopped.set()
        for cancel in to_cancel:
            cancel()

    numbers = [signal.SIGTERM] if stopped is None else [signal.SIGINT, signal.SIGTERM]
    for name in ("SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            numbers.append(number)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield to_cancel.append
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def count_progress(description: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show how many of a number of things are done, as a bar in a terminal and nowhere else.

    The bar opens with the first count that is not the last one, so short work shows none.

    Yields:
        A function that takes the number of things done and the number of all.
    """
    with ExitStack() as stack:
        bars: list[_Bar] = []

        def show(done: int, total: int) -> None:
            if not bars and done < total and shown and sys.stderr.isatty():
                bars.append(stack.enter_context(_open_bar()))
            for bar in bars:
                bar.show(f"{description} {done}/{total}", done, total)

        yield show


@contextmanager
def open_watch(*, jsonl: bool = False, texts: bool = True) -> Iterator[Watch]:
    """Yield what shows the progress of an experiment or of a download.

    Args:
        jsonl: Whether its JSON lines are printed on stdout.
        texts: Whether its texts are shown on stderr: as a bar in a terminal, at most one line of
            ten seconds elsewhere.
    """
    with ExitStack() as stack:
        show: _Bar | _Lines | None = None
        if texts:
            show = stack.enter_context(_open_bar()) if sys.stderr.isatty() else _Lines()

        def watch(progress: Progress) -> None:
            if jsonl and progress.fields and progress.event:
                print_event(progress.event, **progress.fields)
            elif jsonl and progress.fields:
                print_json_line(progress.fields)
            if progress.text and show is not None:
                show.show(progress.text, progress.done, progress.total)

        yield watch


@contextmanager
def _open_bar() -> Iterator[_Bar]:
    """Open a bar on stderr, which is removed at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = BarColumn(bar_width=8), TextColumn("{task.description}", markup=False)
    console = Console(file=control_stream(err=True))
    with RichProgress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress)


@dataclass(slots=True)
class _Bar:
    """A progress bar with its text, and the lines that stay above it."""

    progress: RichProgress
    task: TaskID | None = None

    def show(self, text: str, done: float | None, total: float | None) -> None:
        """Move the bar; a text without a total is a line that stays."""
        text = sanitize(text)
        if done is None or total is None:
            self.progress.console.print(text, markup=False, highlight=False)
            return
        if self.task is None:
            self.task = self.progress.add_task(text)
        # In thousandths, since rich's bar takes whole numbers.
        completed, whole = round(1000 * done), round(1000 * total)
        self.progress.update(self.task, description=text, completed=completed, total=whole)


@dataclass(slots=True)
class _Lines:
    """Progress as lines: those that stay, and at most one of ten seconds of the others."""

    next_at: float = field(default_factory=lambda: time.monotonic() + _LINE_EVERY_SECONDS)

    def show(self, text: str, done: float | None, total: float | None) -> None:
        """Print a line if it is due, or the last one."""
        now = time.monotonic()
        if done is None or total is None:
            click.echo(text, err=True)
        elif now >= self.next_at or done == total:
            share = percent_text(done / total) if total else ""
            click.echo(f"{share} · {text}", err=True)
            self.next_at = now + _LINE_EVERY_SECONDS
