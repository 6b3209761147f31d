"""Which turns are meant, as SQL: filters, sort orders, and what a person types into a search."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from etui.text.timestamps import format_utc


class Sort(StrEnum):
    """What the history is sorted by."""

    TIME = "time"
    JOULES = "joules"
    JOULES_PER_TOKEN = "joules-per-token"
    SECONDS = "seconds"
    TOKENS = "tokens"
    MODEL = "model"
    RULE = "rule"

    @property
    def column(self) -> str:
        """The column behind it."""
        return _COLUMNS[self]


_COLUMNS = {
    Sort.TIME: "created_at",
    Sort.JOULES: "energy_joules",
    Sort.JOULES_PER_TOKEN: "energy_joules_per_token",
    Sort.SECONDS: "seconds_total",
    Sort.TOKENS: "tokens_output",
    Sort.MODEL: "model",
    Sort.RULE: "rule",
}


@dataclass(frozen=True, slots=True)
class TurnFilter:
    """Turns that meet every condition that is not None.

    Attributes:
        model, rule, status, policy, chat_id: Equal to the turn's.
        since, until: Aware times; ``since`` belongs to it, ``until`` does not.
        search: Words that all stand in the question or the answer, as a person types them.
    """

    model: str | None = None
    rule: str | None = None
    status: str | None = None
    policy: str | None = None
    chat_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    search: str | None = None


COVERING_INDEX = "turns_history"
"""The index that holds every column of filters, sorts and totals."""


@dataclass(frozen=True, slots=True)
class Clause:
    """``FROM`` and ``WHERE`` of a statement over turns, with its values.

    ``index`` is the index to read; None leaves the choice to SQLite.
    """

    conditions: tuple[str, ...]
    values: tuple[str, ...]
    index: str | None

    @property
    def sql(self) -> str:
        """The text that follows ``SELECT columns``."""
        index = f" INDEXED BY {self.index}" if self.index else ""
        where = f" WHERE {' AND '.join(self.conditions)}" if self.conditions else ""
        return f"FROM turns{index}{where}"


def clause(wanted: TurnFilter) -> Clause:
    """The turns a filter means.

    With a filter the covering index is named, because without statistics SQLite would rather look
    up every wide row of an index that covers only the condition: four times slower at 100,000
    turns.
    """
    conditions: list[str] = []
    values: list[str] = []
    for name in ("model", "rule", "status", "policy", "chat_id"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"{name} = ?")
            values.append(value)
    for name, sign in (("since", ">="), ("until", "<")):
        moment = getattr(wanted, name)
        if moment is not None:
            conditions.append(f"created_at {sign} ?")
            values.append(format_utc(moment))
    if wanted.search is not None and wanted.search.strip():
        expression = match_expression(wanted.search)
        if expression is not None:
            found = "SELECT rowid FROM turns_fts WHERE turns_fts MATCH ?"
            values.append(expression)
        else:
            like = "LIKE ? ESCAPE '\\'"
            found = f"SELECT id FROM turns NOT INDEXED WHERE query {like} OR answer {like}"
            values.extend([like_pattern(wanted.search.strip())] * 2)
        # The + keeps SQLite from fetching the found rows one by one.
        conditions.append(f"+id IN ({found})")
    return Clause(tuple(conditions), tuple(values), COVERING_INDEX if conditions else None)


def order(sort: Sort, descending: bool) -> str:
    """``ORDER BY`` with what is unknown last in either direction, and a stable rest."""
    direction = "DESC" if descending else "ASC"
    return f"ORDER BY {sort.column} {direction} NULLS LAST, id {direction}"


_TERM = re.compile(r'"([^"]*)"|(\S+)')
_WORD = re.compile(r"[^\W_]")
# Scripts without spaces between words: FTS5 takes a whole run of them as one word.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def match_expression(text: str) -> str | None:
    """What a person typed as an FTS5 expression that is never a syntax error.

    Words are all wanted, ``"quoted words"`` in their order, and the last word may be unfinished.
    None when no index of words can find it (only signs, or a script without spaces): then the
    text itself is looked for.
    """
    clean = _storable(text)
    if _UNSPACED.search(clean):
        return None
    terms = [phrase or word for phrase, word in _TERM.findall(clean)]
    quoted = ['"' + term.replace('"', '""') + '"' for term in terms if _WORD.search(term)]
    if not quoted:
        return None
    if not clean.rstrip().endswith('"') and _WORD.search(terms[-1]):
        quoted[-1] += "*"
    return " AND ".join(quoted)


def like_pattern(text: str) -> str:
    """A ``LIKE ... ESCAPE '\\'`` pattern that finds the text anywhere."""
    escaped = re.sub(r"([\\%_])", r"\\\1", _storable(text))
    return f"%{escaped}%"


def _storable(text: str) -> str:
    """Without what SQLite cannot take: NUL would end the text, half a surrogate is no text."""
    return re.sub("[\x00\ud800-\udfff]", "", text)
