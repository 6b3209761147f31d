"""The queries of the history screen and their results: frozen facts, read in a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from textual.message import Message

from etui.config.config import Config
from etui.log.export import write_csv, write_json_lines
from etui.log.filters import Sort, TurnFilter
from etui.log.queries import LogReader, TurnSummary
from etui.log.totals import Total
from etui.runtime.weights import read_weights
from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord

PAGE_TURNS = 100
"""Turns read at a time; the next page is read when the cursor comes near the last one."""

TotalsBy = Literal["model", "rule", "day"]
TOTALS_BY: tuple[TotalsBy, ...] = ("model", "rule", "day")


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which turns are shown, and in which order.

    Attributes:
        search: Words that occur in the question or the answer; empty for every turn.
        sort, descending: Order of the turns.
    """

    search: str = ""
    sort: Sort = Sort.TIME
    descending: bool = True

    @property
    def turns(self) -> TurnFilter:
        """The query as a filter of the log."""
        return TurnFilter(search=self.search or None)


@dataclass(frozen=True, slots=True)
class TurnPage:
    """The turns from ``offset`` on, out of ``total`` matching ones."""

    query: HistoryQuery
    offset: int
    turns: tuple[TurnSummary, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Detail:
    """One turn in full, with the models that were loaded and unloaded for it."""

    turn: TurnRecord
    loads: tuple[LoadRecord, ...]
    unloads: tuple[UnloadRecord, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals over the turns of ``query``."""

    query: HistoryQuery
    by: TotalsBy
    totals: tuple[Total, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """The file that the turns were written to, and how many there are."""

    path: Path
    turns: int


@dataclass(frozen=True, slots=True)
class QueryFailed:
    """The log could not be read, or the export not be written."""

    what: str
    fix: str


class HistoryNews(Message):
    """A result from the log, posted by a thread."""

    def __init__(self, fact: TurnPage | Detail | Totals | Exported | QueryFailed) -> None:
        super().__init__()
        self.fact = fact


def read_page(log: LogReader, query: HistoryQuery, offset: int) -> TurnPage:
    """Read the page of turns that starts at ``offset``."""
    turns = log.list_turns(
        query.turns,
        sort=query.sort,
        descending=query.descending,
        limit=PAGE_TURNS,
        offset=offset,
    )
    return TurnPage(query, offset, tuple(turns), log.count_turns(query.turns))


def read_detail(log: LogReader, turn_id: str) -> Detail:
    """Read one turn in full.

    Raises:
        UnknownId: The turn was deleted.
    """
    turn = log.get_turn(turn_id)
    loads, unloads = log.loads(None, turn.turn_id), log.unloads(None, turn.turn_id)
    return Detail(turn, tuple(loads), tuple(unloads))


def read_totals(log: LogReader, query: HistoryQuery, by: TotalsBy) -> Totals:
    """Read the totals of the turns by model, rule or day."""
    return Totals(query, by, tuple(log.totals(by, query.turns)))


def export_turns(
    log: LogReader,
    query: HistoryQuery,
    config: Config,
    ending: Literal["jsonl", "csv"],
    now: Callable[[], datetime] = datetime.now,
) -> Exported:
    """Write the turns, oldest first, to a new file in ``exports`` in ETUI_HOME.

    Raises:
        OSError: The file cannot be written.
    """
    folder = config.home / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"turns-{now():%Y%m%d-%H%M%S-%f}.{ending}"
    count = log.count_turns(query.turns)
    with path.open("x", encoding="utf-8", newline="") as file:
        if ending == "csv":
            write_csv(log.turns(query.turns), file)
        else:
            write_json_lines(log.turns(query.turns), file, read_weights(config))
    return Exported(path, count)
