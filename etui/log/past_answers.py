"""Read the answers of earlier runs, to predict what the same arms will cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.log.queries import LogReader

_RUNS_SQL = "SELECT run_id, config FROM runs WHERE suite = ? ORDER BY created_at DESC, id DESC"
_ANSWERS_SQL = """
    SELECT joules, uncertainty, seconds, tokens_computed, tokens_output, kind
    FROM answers WHERE run_id = ? AND arm = ? AND status <> 'error'
"""


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """Cost and tokens of an answer; joules, uncertainty and kind are None if unmeasured."""

    joules: float | None
    uncertainty: float | None
    seconds: float
    tokens_computed: int
    tokens_output: int
    kind: str | None


def read_run_documents(log: LogReader, suite: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Read the configurations of the runs of a suite.

    Returns:
        Id and document of each run, newest first; a document that is not JSON is left out.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    for row in log.select(_RUNS_SQL, (suite,)):
        try:
            document = json.loads(row["config"])
        except (TypeError, ValueError):
            continue
        if isinstance(document, dict):
            found.append((row["run_id"], document))
    return found


def read_past_answers(log: LogReader, run_id: str, arm: str) -> list[PastAnswer]:
    """Read the answers of an arm of a run."""
    return [PastAnswer(*row) for row in log.select(_ANSWERS_SQL, (run_id, arm))]
