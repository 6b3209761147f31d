"""Run the short forms one after another; one that fails or is skipped does not end the run."""

from __future__ import annotations

import ast
import importlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from benchmarks.figures import Figure, Quick, Skipped
from etui.config.config import load_config

FOLDER = Path(__file__).parent
NAMES = (
    "attribution",
    "bench_reference",
    "bench_speed",
    "bodies",
    "chat",
    "child",
    "cluster",
    "curves",
    "decode",
    "design_price",
    "first_token",
    "idle",
    "kill_moments",
    "kv",
    "log",
    "loops",
    "meter",
    "newcomer",
    "power_limits",
    "power_run",
    "precision",
    "probes",
    "replay",
    "routing",
    "scale",
    "serve",
    "speculation",
    "sweep",
    "threads",
    "tui",
    "turn_pool",
    "votes",
    "wall",
    "windows",
)

Status = Literal["measured", "skipped", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: Name of its module.
        summary: One line that says what it measures.
        load: Imports it and returns its short form.
    """

    name: str
    summary: str
    load: Callable[[], Quick]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one benchmark: its figures, and why there are not more of them."""

    name: str
    status: Status
    figures: tuple[Figure, ...]
    reason: str = ""
    seconds: float = 0.0


def shipped() -> tuple[Benchmark, ...]:
    """Return every benchmark of this folder; none is imported yet."""
    return tuple(Benchmark(name, _summary(name), partial(_load, name)) for name in NAMES)


def run(
    benchmarks: Sequence[Benchmark], started: Callable[[str], None] = lambda name: None
) -> list[Outcome]:
    """Run short forms until the last one or Ctrl-C, which ends the list with ``interrupted``.

    Args:
        benchmarks: What to run.
        started: Called with the name of each before it runs.
    """
    outcomes: list[Outcome] = []
    for benchmark in benchmarks:
        started(benchmark.name)
        outcomes.append(measure(benchmark))
        if outcomes[-1].status == "interrupted":
            break
    return outcomes


def measure(benchmark: Benchmark) -> Outcome:
    """Run one short form; what it yielded before an error or Ctrl-C is kept."""
    figures: dict[str, Figure] = {}
    status: Status = "measured"
    reason = ""
    start = time.perf_counter()
    try:
        with _closing(benchmark.load()()) as made:
            for figure in made:
                if figure.name in figures:
                    raise ValueError(f"two figures have the name {figure.name!r}")
                figures[figure.name] = figure
    except Skipped as skipped:
        status, reason = "skipped", _one_line(skipped)
    except KeyboardInterrupt:
        status, reason = "interrupted", "stopped by Ctrl-C"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the other benchmarks go on
        status, reason = "failed", f"{type(error).__name__}: {_one_line(error)}"
    return Outcome(
        benchmark.name, status, tuple(figures.values()), reason, time.perf_counter() - start
    )


@contextmanager
def own_folders() -> Iterator[None]:
    """Give etui an empty home for the run, and the models of ``.models`` unless others are named.

    Figures then depend neither on the user's settings nor on the log, and nothing is written there.
    """
    before = {name: os.environ.get(name) for name in ("ETUI_HOME", "ETUI_MODELS")}
    checkout = FOLDER.parent / ".models"
    named = before["ETUI_MODELS"] or (checkout if checkout.is_dir() else load_config().models_dir)
    with TemporaryDirectory(prefix="etui-benchmarks-", ignore_cleanup_errors=True) as home:
        os.environ.update(ETUI_HOME=home, ETUI_MODELS=str(Path(named).expanduser().absolute()))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def _closing(figures: Iterator[Figure]) -> Iterator[Iterator[Figure]]:
    """Free at once what a generator holds, whatever ends the loop over it."""
    try:
        yield figures
    finally:
        if isinstance(figures, Generator):
            figures.close()


def _load(name: str) -> Quick:
    try:
        quick: Quick = importlib.import_module(f"benchmarks.{name}").quick
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "etui", "benchmarks"):
            raise
        raise Skipped(f"the package {package} is not installed") from error
    return quick


def _summary(name: str) -> str:
    """Return the first line of a module's docstring, without an import of the module."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
