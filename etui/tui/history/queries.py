"""The queries of the history screen and their results: frozen facts, read in a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

from textual.message import Message

from etui.config.config import Config
from etui.errors import EtuiError, format_internal_error
from etui.log.export import write_csv, write_json_lines
from etui.log.filters import Sort, TurnFilter
from etui.log.queries import LogReader, TurnSummary
from etui.log.records import ChatRecord
from etui.log.totals import Total
from etui.runtime.provenance import read_weights
from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord

PAGE_TURNS = 100
"""Turns read at a time; the next page is read when the cursor comes near the last one."""

TotalsBy = Literal["model", "rule", "day"]
TOTALS_BY: tuple[TotalsBy, ...] = ("model", "rule", "day")


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which turns are shown, and in which order.

    Attributes:
        sort, descending: Order of the turns.
    """

    search: str = ""  # Words that occur in the question or the answer; empty for every turn
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
class Days:
    """Totals by day over the turns of ``query``."""

    query: HistoryQuery
    totals: tuple[Total, ...]


@dataclass(frozen=True, slots=True)
class ChatFound:
    """The chat of a turn."""

    chat: ChatRecord
    turn_id: str


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


Fact: TypeAlias = TurnPage | Detail | Totals | Days | ChatFound | Exported | QueryFailed


class HistoryNews(Message):
    """A result from the log, posted by a thread."""

    def __init__(self, fact: Fact) -> None:
        super().__init__()
        self.fact = fact


def read_page(log: LogReader, query: HistoryQuery, offset: int) -> TurnPage:
    """Read the page of turns that starts at ``offset``."""
    turns, total = log.list_page(
        query.turns,
        sort=query.sort,
        descending=query.descending,
        limit=PAGE_TURNS,
        offset=offset,
    )
    return TurnPage(query, offset, tuple(turns), total)


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


def read_days(config: Config, query: HistoryQuery) -> Days:
    """Read the totals of the turns by day, over a connection that is closed again."""
    with LogReader(config) as log:
        return Days(query, tuple(log.totals("day", query.turns)))


def find_chat(log: LogReader, chat_id: str, turn_id: str) -> ChatFound:
    """Read the chat that a turn belongs to.

    Raises:
        UnknownId: The chat was deleted.
    """
    return ChatFound(log.get_chat(chat_id), turn_id)


def run_query(read: Callable[[], Fact]) -> Fact:
    """Read from the log and return the result, or the error as a fact."""
    try:
        return read()
    except EtuiError as error:
        return QueryFailed(error.what, error.fix)
    except OSError as error:
        return QueryFailed(
            f"cannot write the export: {error}", "free some disk space, or fix the folder"
        )
    except Exception as error:  # noqa: BLE001 - a fault must reach the screen
        return QueryFailed(format_internal_error(error), "press F3 to read again")


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
