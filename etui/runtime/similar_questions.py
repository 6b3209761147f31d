"""Reads the earlier questions that a policy's ``nearest`` signals look at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import EtuiError

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.datasets.questions import Suite
    from etui.log.queries import LogReader
    from etui.routing.policy import Policy
    from etui.routing.signals.similarity import Earlier, EarlierQuestions

MOST = 2000
"""Newest questions that are read of the log, and of the runs."""

_TURNS = """
    SELECT query, arm FROM turns
    WHERE status IN ('complete', 'truncated', 'budget') AND query != ''
    ORDER BY created_at DESC, id DESC LIMIT ?
"""
_ANSWERS = """
    SELECT answers.arm, answers.subject, answers.row, answers.correct, runs.config
    FROM answers JOIN runs USING (run_id) ORDER BY answers.id DESC LIMIT ?
"""


def read_neighbours(policy: Policy, config: Config) -> EarlierQuestions | None:
    """The earlier questions of the log and of bench runs, as far as the policy looks at them.

    None where it looks at none, or the log cannot be read. Of bench runs only those count whose
    questions still lie where they were read from; nothing is downloaded.
    """
    from etui.routing.signals.kinds import Nearest

    wanted = {s.kind.asked.of for s in policy.signals.values() if isinstance(s.kind, Nearest)}
    if not wanted:
        return None
    from etui.log.queries import LogReader
    from etui.routing.signals.similarity import EarlierQuestions

    try:
        with LogReader(config) as log:
            return EarlierQuestions(
                tuple(_turns(log)) if "log" in wanted else (),
                tuple(_graded(log, config)) if "runs" in wanted else (),
            )
    except EtuiError:
        return None  # the signals are then not known, and a turn goes on without them


def _turns(log: LogReader) -> Iterator[Earlier]:
    from etui.routing.signals.similarity import Earlier

    for row in log.select(_TURNS, (MOST,)):
        yield Earlier(row["query"], row["arm"])


def _graded(log: LogReader, config: Config) -> Iterator[Earlier]:
    from etui.routing.signals.similarity import Earlier

    suites: dict[tuple[str, str, str | None], Suite | None] = {}
    for row in log.select(_ANSWERS, (MOST,)):
        told = json.loads(row["config"])
        key = (told.get("suite"), told.get("split"), told.get("data_path"))
        if key not in suites:
            suites[key] = _suite(*key, config)
        suite = suites[key]
        questions = suite.questions.get(row["subject"], ()) if suite is not None else ()
        if row["row"] < len(questions):
            yield Earlier(questions[row["row"]].text, row["arm"], bool(row["correct"]))


def _suite(name: str | None, split: str | None, place: str | None, config: Config) -> Suite | None:
    """The questions of a run; None where they are gone, or would have to be downloaded."""
    from etui.datasets.suites import load_suite

    if place is None or name is None or not Path(place).exists():
        return None
    try:
        if place.endswith(".csv"):
            return load_suite(place, split or "test", None, config)
        return load_suite(name, split or "test", Path(place), config)
    except EtuiError:
        return None
