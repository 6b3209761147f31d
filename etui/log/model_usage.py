"""Sum what each model was used for: answers, loads, audits and bench runs, with their joules.

A model is a name with the sha256 of its file, so quantisations are apart although they may have had
the same name one after the other. A turn with hops is charged to the models of its hops.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from etui.codec import to_document
from etui.energy.types import Kind
from etui.log.filters import HOPPED

if TYPE_CHECKING:
    from etui.log.queries import LogReader

Use = Literal["answers", "loads", "audits", "bench"]
_BEST_FIRST = tuple(Kind)
_RANKS = " ".join(f"WHEN '{kind}' THEN {rank}" for rank, kind in enumerate(_BEST_FIRST))
_READ = f"joules IS NOT NULL AND kind IS NOT '{Kind.ESTIMATE}'"
_ESTIMATED = f"joules IS NOT NULL AND kind IS '{Kind.ESTIMATE}'"
_SUMS = f"""
    SELECT model, sha256, max(created_at), count(*) - sum(failed),
        sum(joules) FILTER (WHERE {_READ}),
        CASE WHEN count(*) FILTER (WHERE {_READ}) = count(uncertainty) FILTER (WHERE {_READ})
            THEN sum(uncertainty) FILTER (WHERE {_READ}) END,
        max(CASE kind {_RANKS} END) FILTER (WHERE {_READ}),
        sum(joules) FILTER (WHERE {_ESTIMATED}),
        count(*) FILTER (WHERE joules IS NULL), sum(tokens), sum(failed)
    FROM ({{source}}) GROUP BY model, sha256
"""
# From two indexes: the status in the wide rows is never read.
_FAILED = "SELECT id FROM turns INDEXED BY turns_by_status WHERE status = 'error'"
_ENERGY = "energy_joules AS joules, energy_uncertainty AS uncertainty, energy_kind AS kind"
_PLAIN = "joules, uncertainty, kind"
_SOURCES: tuple[tuple[Use, str], ...] = (
    ("answers", f"""
        SELECT model, model_sha256 AS sha256, created_at, {_ENERGY}, tokens_output AS tokens,
            +id IN ({_FAILED}) AS failed
        FROM turns INDEXED BY turns_by_file WHERE +id NOT IN ({HOPPED})"""),
    # As in etui.log.totals: where one hop of a model is unknown, so is that model's part of the
    # turn.
    ("answers", f"""
        SELECT model, sha256, created_at,
            CASE WHEN count(joules) = count(*) THEN sum(joules) END AS joules,
            CASE WHEN count(uncertainty) = count(*) THEN sum(uncertainty) END AS uncertainty,
            max(kind) AS kind, sum(tokens) AS tokens, min(failed) AS failed
        FROM (
            SELECT turns.id AS turn, created_at, json_extract(hop.value, '$.model') AS model,
                json_extract(hop.value, '$.model_sha256') AS sha256,
                CASE WHEN energy_joules IS NOT NULL
                    THEN json_extract(hop.value, '$.joules') END AS joules,
                json_extract(hop.value, '$.uncertainty') AS uncertainty, energy_kind AS kind,
                json_extract(hop.value, '$.tokens.output') AS tokens,
                turns.id IN ({_FAILED}) OR json_extract(hop.value, '$.status') = 'error' AS failed
            FROM turns INDEXED BY turns_with_hops, json_each(turns.hops) AS hop
            WHERE hops <> '[]'
        ) GROUP BY turn, model, sha256"""),
    ("loads", f"""
        SELECT model, model_sha256 AS sha256, created_at, {_PLAIN}, 0 AS tokens, 0 AS failed
        FROM loads"""),
    ("audits", """
        SELECT model, model_sha256 AS sha256, created_at, joules + load_joules AS joules,
            CASE WHEN load_joules = 0 THEN uncertainty END AS uncertainty, kind,
            tokens_output AS tokens, status = 'error' AS failed
        FROM audits"""),
    # Answers of merged runs are in the log twice: with their own run, and with the merged one.
    ("bench", f"""
        SELECT json_extract(arm.value, '$.model') AS model,
            (SELECT json_extract(model.value, '$.sha256')
                FROM json_each(runs.config, '$.models') AS model
                WHERE json_extract(model.value, '$.name') = json_extract(arm.value, '$.model')
            ) AS sha256,
            coalesce(finished_at, created_at) AS created_at,
            {", ".join(f"answers.{name} AS {name}" for name in _PLAIN.split(", "))},
            tokens_output AS tokens, answers.status = 'error' AS failed
        FROM runs, json_each(runs.config, '$.arms') AS arm, answers
        WHERE answers.run_id = runs.run_id AND answers.arm = arm.key
            AND json_extract(runs.config, '$.merged') IS NULL"""),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spent:
    """How often a model was used in one way, and the joules of that."""

    count: int = 0  # Without those that failed
    joules: float | None = None  # Sum of the hardware readings; None when there is none
    uncertainty: float | None = None
    """Sum of their half widths, which bounds the error even if all share its cause; None if that
    of one is unknown."""
    kind: str | None = None  # The weakest kind in `joules`
    estimated_joules: float | None = None  # Sum of what is only estimated; None when nothing is
    unmeasured: int = 0  # How many are in neither sum
    output_tokens: int = 0
    failed: int = 0  # How many ended in an error; their joules are spent too

    def __add__(self, other: Spent) -> Spent:
        """Return the sum of both; what is missing never counts as zero."""
        read = [spent for spent in (self, other) if spent.joules is not None]
        kinds = [Kind(spent.kind) for spent in read if spent.kind is not None]
        return Spent(
            self.count + other.count,
            _add(spent.joules for spent in read),
            None
            if any(spent.uncertainty is None for spent in read)
            else _add(spent.uncertainty for spent in read),
            str(max(kinds, key=_BEST_FIRST.index)) if kinds else None,
            _add((self.estimated_joules, other.estimated_joules)),
            self.unmeasured + other.unmeasured,
            self.output_tokens + other.output_tokens,
            self.failed + other.failed,
        )


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What the log has of one model, or of one file of it."""

    last_used: str = ""  # Time of the last turn, load, audit or bench run, ISO 8601; empty: never
    uses: Mapping[Use, Spent] = field(default_factory=dict)
    """What the joules were spent for, in the order of :data:`Use`; without what there was none of.
    """

    @property
    def answers(self) -> int:
        """Answers to the user, without failures; one of several models counts for each of them."""
        return self.uses["answers"].count if "answers" in self.uses else 0

    @property
    def total(self) -> Spent:
        """The sum over all uses."""
        return sum(self.uses.values(), Spent())

    def __add__(self, other: ModelUsage) -> ModelUsage:
        """Return the usage of both together."""
        uses = {use: self.uses.get(use, Spent()) + other.uses.get(use, Spent())
                for use in dict(_SOURCES) if use in self.uses or use in other.uses}  # fmt: skip
        return ModelUsage(max(self.last_used, other.last_used), uses)


def read_model_usage(log: LogReader) -> dict[str, dict[str | None, ModelUsage]]:
    """Read the usage of every model that the log names.

    Returns:
        Name -> sha256 of a file that it had (None if that was not known) -> usage. The sum over
        the files is ``sum(files.values(), ModelUsage())``.
    """
    found: dict[str, dict[str | None, ModelUsage]] = {}
    for use, source in _SOURCES:
        for row in log.select(_SUMS.format(source=source)):
            model, sha256, last_used, spent = _parse(row)
            files = found.setdefault(model, {})
            usage = ModelUsage(last_used, {use: spent})
            files[sha256] = files.get(sha256, ModelUsage()) + usage
    return found


def _parse(row: sqlite3.Row) -> tuple[str, str | None, str, Spent]:
    model, sha256, last_used, count, joules, uncertainty, rank, *rest = row
    kind = None if rank is None else str(_BEST_FIRST[rank])
    return model or "", sha256, last_used, Spent(count, joules, uncertainty, kind, *rest)


def _add(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def build_document(files: Mapping[str | None, ModelUsage]) -> dict[str, Any]:
    """Build the JSON document of a model's usage, as a whole and by file."""
    whole = _build_usage(sum(files.values(), ModelUsage()))
    by_file = [{"sha256": sha256, **_build_usage(usage)} for sha256, usage in files.items()]
    return whole | {"files": by_file}


def _build_usage(usage: ModelUsage) -> dict[str, Any]:
    return {
        "last_used": usage.last_used or None,
        "answers": usage.answers,
        "total": to_document(usage.total),
        "uses": {use: to_document(spent) for use, spent in usage.uses.items()},
    }
