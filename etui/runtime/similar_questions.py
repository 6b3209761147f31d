"""Read the earlier questions that a policy's ``nearest`` signals compare with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import EtuiError
from etui.routing.signals.similarity import TermCounts

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.datasets.questions import Suite
    from etui.log.queries import LogReader
    from etui.routing.policy import Policy
    from etui.routing.signals.similarity import EarlierQuestion, EarlierQuestions
    from etui.runtime.log_cache import LogCache

_MOST_QUESTIONS = 2000
"""How many of the newest questions are read from the log, and from the runs."""

_TURNS = """
    SELECT query, arm FROM turns
    WHERE status IN ('complete', 'truncated', 'budget') AND query != ''
    ORDER BY created_at DESC, id DESC LIMIT ?
"""
_ANSWERS = """
    SELECT answers.arm, answers.subject, answers.row, answers.correct, runs.config
    FROM answers JOIN runs USING (run_id) ORDER BY answers.id DESC LIMIT ?
"""


class NeighbourMemory:
    """What reading the earlier questions again need not compute again.

    The log changes with each turn, but only by that turn, and graded answers only by a bench run.
    """

    def __init__(self) -> None:
        self.terms = TermCounts()
        self._graded: tuple[tuple[int, int], tuple[EarlierQuestion, ...]] | None = None

    def read_graded(self, log: LogReader, config: Config) -> tuple[EarlierQuestion, ...]:
        """Read the graded answers of bench runs, unless there are no others than before."""
        rows = log.select("SELECT COUNT(*) AS number, MAX(id) AS last FROM answers")
        key = (int(rows[0]["number"]), int(rows[0]["last"] or 0)) if rows else (0, 0)
        if self._graded is None or self._graded[0] != key:
            self._graded = (key, tuple(_read_graded(log, config)))
        return self._graded[1]


def read_neighbours(
    policy: Policy,
    config: Config,
    kept: LogCache | None = None,
    memory: NeighbourMemory | None = None,
) -> EarlierQuestions | None:
    """Read the earlier questions from the log and from bench runs, if the policy uses them.

    A bench run counts only if its question files are still in place; nothing is downloaded.

    Args:
        kept: Keeps what was read from the log; None reads it.
        memory: Keeps what is computed of it from one change of the log to the next.

    Returns:
        The questions; None if no signal uses them, or the log cannot be read.
    """
    from etui.routing.signals.kinds import Nearest

    origins = {s.kind.asked.of for s in policy.signals.values() if isinstance(s.kind, Nearest)}
    if not origins:
        return None
    from etui.log.queries import LogReader
    from etui.routing.signals.similarity import EarlierQuestions

    known = NeighbourMemory() if memory is None else memory

    def read(log: LogReader) -> EarlierQuestions:
        return EarlierQuestions(
            tuple(_read_turns(log)) if "log" in origins else (),
            known.read_graded(log, config) if "runs" in origins else (),
            known.terms,
        )

    try:
        if kept is not None:
            return kept.get(("earlier questions", frozenset(origins)), read)
        with LogReader(config) as log:
            return read(log)
    except EtuiError:
        return None  # the signals are then unknown, and the turn runs without them


def _read_turns(log: LogReader) -> Iterator[EarlierQuestion]:
    from etui.routing.signals.similarity import EarlierQuestion

    for row in log.select(_TURNS, (_MOST_QUESTIONS,)):
        yield EarlierQuestion(*row)


def _read_graded(log: LogReader, config: Config) -> Iterator[EarlierQuestion]:
    from etui.routing.signals.similarity import EarlierQuestion

    suites: dict[tuple[str, str, str | None], dict[tuple[str, int], str]] = {}
    for row in log.select(_ANSWERS, (_MOST_QUESTIONS,)):
        run = json.loads(row["config"])
        key = (run.get("suite"), run.get("split"), run.get("data_path"))
        if key not in suites:
            suite = _load_run_suite(*key, config)
            asked = suite.questions.values() if suite is not None else ()
            # By the row of the file: a file of several subjects counts across all of them.
            suites[key] = {(one.subject, one.row): one.text for rows in asked for one in rows}
        text = suites[key].get((row["subject"], row["row"]))
        if text is not None:
            yield EarlierQuestion(text, row["arm"], bool(row["correct"]))


def _load_run_suite(
    name: str | None, split: str | None, data_path: str | None, config: Config
) -> Suite | None:
    """Load the questions of a run; None if they are missing or would have to be downloaded."""
    from etui.datasets.suites import is_named_suite, load_suite

    if data_path is None or name is None or not Path(data_path).exists():
        return None
    try:
        if is_named_suite(name):
            return load_suite(name, split or "test", Path(data_path), config)
        return load_suite(data_path, split or "test", None, config)
    except EtuiError:
        return None
