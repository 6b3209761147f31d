"""Build SQL that selects turns: filters, sort orders, and search words typed by a user."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from etui.text import format_utc


class Sort(StrEnum):
    """Sort key of the history."""

    TIME = "time"
    JOULES = "joules"
    JOULES_PER_TOKEN = "joules-per-token"
    SECONDS = "seconds"
    TOKENS = "tokens"
    MODEL = "model"
    RULE = "rule"


_COLUMNS = {
    Sort.TIME: "created_at",
    Sort.JOULES: "energy_joules",
    Sort.JOULES_PER_TOKEN: "energy_joules_per_token",
    Sort.SECONDS: "seconds_total",
    Sort.TOKENS: "tokens_output",
    Sort.MODEL: "model",
    Sort.RULE: "rule",
}

_SORT_INDEXES = {
    Sort.TIME: "turns_by_time",
    Sort.JOULES: "turns_by_joules",
    Sort.JOULES_PER_TOKEN: "turns_by_joules_per_token",
    Sort.SECONDS: "turns_by_seconds",
    Sort.TOKENS: "turns_by_tokens",
}
"""Sorts with an index of their column alone; the others hold the time of a turn before its id."""
_EQUAL = {
    **{name: name for name in ("model", "rule", "status", "policy", "chat_id")},
    "key": "client_key",
    "endpoint": "client_endpoint",
}
"""Filters that a value must be equal to -> their column."""


@dataclass(frozen=True, slots=True)
class TurnFilter:
    """Turns that meet every condition that is not None; names and ids are equal to the turn's.

    ``since`` and ``until`` are aware times; ``since`` is included, ``until`` is not. ``key`` is the
    name of the client's key, ``endpoint`` the path of its request.
    """

    model: str | None = None
    rule: str | None = None
    status: str | None = None
    policy: str | None = None
    chat_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    search: str | None = None
    """Words, as a user types them, that the question or the answer contains."""
    key: str | None = None
    endpoint: str | None = None


COVERING_INDEX = "turns_history"
"""The index that has every column of filters, sorts and totals, but those of clients."""
CLIENT_INDEX = "turns_by_key"
"""The index of the turns that clients of ``etui serve`` asked for."""
OF_CLIENTS = "client_key IS NOT NULL"
"""The condition of the turns in it."""
HAS_HOPS = "hops <> '[]'"
HOPPED = f"SELECT id FROM turns INDEXED BY turns_with_hops WHERE {HAS_HOPS}"
"""The turns that several models answered."""
AT_WALL = "SELECT id FROM turns INDEXED BY turns_at_the_wall WHERE energy_wall_joules IS NOT NULL"
"""The turns with joules at the wall."""
START = "CAST(strftime('%s', created_at) AS INTEGER)"
_IS_SHORT = "start_s / 900 = CAST(start_s + seconds AS INTEGER) / 900"
SPAN = (
    f"CASE WHEN {_IS_SHORT} THEN start_s / 900 * 900 ELSE start_s END AS start_s, "
    f"CASE WHEN {_IS_SHORT} THEN 0.0 ELSE seconds END AS seconds"
)
"""Two columns: times within one quarter hour become one, so that there are few rows to price."""


@dataclass(frozen=True, slots=True)
class Clause:
    """``FROM`` and ``WHERE`` of a statement over turns, with the values for its question marks."""

    conditions: tuple[str, ...]
    values: tuple[str, ...]
    index: str | None  # Name of the index to read; None leaves the choice to SQLite
    only_words: bool = False  # Whether the one condition is a search by the index of words
    scans_texts: bool = False
    """Whether a search reads all texts, because no index of words has the signs."""

    @property
    def sql(self) -> str:
        """The text that follows ``SELECT columns``."""
        index = f" INDEXED BY {self.index}" if self.index else ""
        where = f" WHERE {' AND '.join(self.conditions)}" if self.conditions else ""
        return f"FROM turns{index}{where}"


def build_clause(turn_filter: TurnFilter) -> Clause:
    """Build the clause that selects the turns of a filter.

    With a condition, the covering index is named. SQLite has no statistics and would use an index
    that covers only the condition and then look up every wide row: four times slower at 100,000
    turns. The turns of a client are few, and have an index of their own.
    """
    conditions: list[str] = []
    values: list[str] = []
    for name, column in _EQUAL.items():
        value = getattr(turn_filter, name)
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    of_clients = turn_filter.key is not None or turn_filter.endpoint is not None
    if of_clients:
        conditions.append(OF_CLIENTS)
    for name, sign in (("since", ">="), ("until", "<")):
        moment = getattr(turn_filter, name)
        if moment is not None:
            conditions.append(f"created_at {sign} ?")
            values.append(format_utc(moment))
    search = (turn_filter.search or "").strip()
    expression = build_match(search)
    if search:
        if expression is not None:
            found = "SELECT rowid FROM turns_fts WHERE turns_fts MATCH ?"
            values.append(expression)
        else:
            like = "LIKE ? ESCAPE '\\'"
            found = f"SELECT id FROM turns NOT INDEXED WHERE query {like} OR answer {like}"
            values.extend([build_like_pattern(search)] * 2)
        # The + disables the lookup by id, so that SQLite does not fetch the found rows one by one.
        conditions.append(f"+id IN ({found})")
    index = CLIENT_INDEX if of_clients else COVERING_INDEX
    return Clause(
        tuple(conditions),
        tuple(values),
        index if conditions else None,
        only_words=expression is not None and len(conditions) == 1,
        scans_texts=bool(search) and expression is None,
    )


def order_by_index(where: Clause, sort: Sort) -> Clause:
    """Return a clause that reads the turns in their order, if only words are searched for.

    A page then ends as soon as it is full, and nothing is sorted: 5 to 50 ms at 100,000 turns,
    where the covering index takes 35 to 95 ms. The column of the sort and the id are all it reads.
    """
    index = _SORT_INDEXES.get(sort)
    return replace(where, index=index) if where.only_words and index is not None else where


COUNT_WORDS_SQL = "SELECT count(*) FROM turns_fts WHERE turns_fts MATCH ?"
"""Counts the turns of a clause with ``only_words``, without a look at the turns."""


def build_order(sort: Sort, descending: bool) -> str:
    """Build ``ORDER BY`` with unknown values last in either direction; ties are sorted by id."""
    direction = "DESC" if descending else "ASC"
    return f"ORDER BY {_COLUMNS[sort]} {direction} NULLS LAST, id {direction}"


_TERM = re.compile(r'"([^"]*)"|(\S+)')
_WORD = re.compile(r"[^\W_]")
# Scripts without spaces between words: FTS5 indexes a whole run of characters as one word.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def build_match(text: str) -> str | None:
    """Convert user input to an FTS5 expression that is never a syntax error.

    All words must occur, ``"quoted words"`` in their order, and the last word may be incomplete.
    None if no index of words can find the text (only punctuation, or a script without spaces):
    then search for the text itself, see :func:`build_like_pattern`.
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


def build_like_pattern(text: str) -> str:
    r"""Build a ``LIKE ... ESCAPE '\'`` pattern that finds the text anywhere."""
    escaped = re.sub(r"([\\%_])", r"\\\1", _storable(text))
    return f"%{escaped}%"


def _storable(text: str) -> str:
    """Remove what SQLite cannot store: NUL would end the text, lone surrogates are not text."""
    return re.sub("[\x00\ud800-\udfff]", "", text)


def sql_limit(limit: int | None) -> int:
    """Convert a limit for SQLite, where a negative one means no limit."""
    return -1 if limit is None else max(0, limit)
