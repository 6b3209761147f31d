"""What the history screen asks of the log, and what it is told: frozen facts from a thread."""

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
from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord

PAGE_TURNS = 100
"""Turns that are read at a time; more are read when the last of them is reached."""

TotalsBy = Literal["model", "rule", "day"]
TOTALS_BY: tuple[TotalsBy, ...] = ("model", "rule", "day")


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which turns are shown, and how.

    Attributes:
        search: Words that stand in the question or the answer; empty for every turn.
        sort, descending: Their order.
    """

    search: str = ""
    sort: Sort = Sort.TIME
    descending: bool = True

    @property
    def turns(self) -> TurnFilter:
        """The filter of the log."""
        return TurnFilter(search=self.search or None)


@dataclass(frozen=True, slots=True)
class TurnPage:
    """Turns from ``offset`` on, of ``total`` in all."""

    wanted: HistoryQuery
    offset: int
    turns: tuple[TurnSummary, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Detail:
    """One turn in full, with what was loaded and given up for it."""

    turn: TurnRecord
    loads: tuple[LoadRecord, ...]
    unloads: tuple[UnloadRecord, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """The same turns added up."""

    wanted: HistoryQuery
    by: TotalsBy
    totals: tuple[Total, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """Where the turns were written, and how many."""

    path: Path
    turns: int


@dataclass(frozen=True, slots=True)
class QueryFailed:
    """The log could not be read or a file not be written."""

    what: str
    fix: str


class HistoryNews(Message):
    """A fact from the log."""

    def __init__(self, fact: TurnPage | Detail | Totals | Exported | QueryFailed) -> None:
        super().__init__()
        self.fact = fact


def read_page(log: LogReader, wanted: HistoryQuery, offset: int) -> TurnPage:
    """The turns from ``offset`` on."""
    turns = log.list_turns(
        wanted.turns,
        sort=wanted.sort,
        descending=wanted.descending,
        limit=PAGE_TURNS,
        offset=offset,
    )
    return TurnPage(wanted, offset, tuple(turns), log.count_turns(wanted.turns))


def read_detail(log: LogReader, turn_id: str) -> Detail:
    """One turn in full.

    Raises:
        UnknownId: It is no longer there.
    """
    turn = log.get_turn(turn_id)
    loads, unloads = log.loads(None, turn.turn_id), log.unloads(None, turn.turn_id)
    return Detail(turn, tuple(loads), tuple(unloads))


def read_totals(log: LogReader, wanted: HistoryQuery, by: TotalsBy) -> Totals:
    """The same turns added up by model, rule or day."""
    return Totals(wanted, by, tuple(log.totals(by, wanted.turns)))


def export_turns(
    log: LogReader,
    wanted: HistoryQuery,
    config: Config,
    ending: Literal["jsonl", "csv"],
    now: Callable[[], datetime] = datetime.now,
) -> Exported:
    """Write the turns, oldest first, into a new file of ``exports`` in ETUI_HOME.

    Raises:
        OSError: The file cannot be written.
    """
    folder = config.home / "exports"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"turns-{now():%Y%m%d-%H%M%S-%f}.{ending}"
    count = log.count_turns(wanted.turns)
    with path.open("x", encoding="utf-8", newline="") as file:
        write = write_json_lines if ending == "jsonl" else write_csv
        write(log.turns(wanted.turns), file)
    return Exported(path, count)
