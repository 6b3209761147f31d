"""Read the user's tariff: the settings, and CSV files of day-ahead prices or of carbon.

The files are those of ENTSO-E, SMARD, aWATTar, Octopus and Electricity Maps, and others of the same
kind: a header, a column with the begin of each time (or ``begin - end``), perhaps one with its end,
and one with the value. An empty value, or a time that no row has, is not known.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from zoneinfo import ZoneInfo

from etui.config.config import Config
from etui.config.week_prices import parse_week
from etui.energy.tariff import SLOT_S, Rate, Series, Tariff
from etui.errors import InvalidFile, Problem

if TYPE_CHECKING:
    from etui.config.schema import SeriesEntry

_MOST_BYTES = 64_000_000
_LONGEST_S = 86_400
_TIME = re.compile(r"mtu|time|start|begin|from|von|date|datum|zeit", re.IGNORECASE)
_END = re.compile(r"(^|[_ ])(end|to|bis|until)([_ ]|$)", re.IGNORECASE)
_NAMES = {
    "price": re.compile(r"price|preis|prix|value", re.IGNORECASE),
    "carbon": re.compile(r"(carbon|co[2₂]).*(intensity|[km]wh)", re.IGNORECASE),
}
_UNITS = {
    "price": re.compile(r"([^\s\[\](){},;/]+)\s*(?:/|per )\s*([km])wh", re.IGNORECASE),
    "carbon": re.compile(r"\b(kg|lbs?|g)\s*[\w₂]*\s*(?:/|per )\s*([km])wh", re.IGNORECASE),
}
_UNKNOWN = frozenset({"", "-", "–", "n/e", "n/a", "na", "nan", "null", "none"})
_NUMBER = re.compile(r"[+-]?(\d{1,12}(\.\d{0,12})?|\.\d{1,12})([eE][+-]?\d)?", re.ASCII)
_CURRENCIES = {"€": "EUR", "£": "GBP", "$": "USD", "EURO": "EUR", "CURRENCY": ""}
_HUNDREDTHS = {"P": "GBP", "PENCE": "GBP", "CT": "", "C": "", "CENT": "", "CENTS": "", "ÖRE": ""}
_GRAMS = {"kg": 1000.0, "lb": 453.592, "lbs": 453.592, "g": 1.0}
_OFFSET_HOURS = {"UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2, "EET": 2,
                 "EEST": 3}  # fmt: skip
_ABBREVIATION = re.compile(r"\s*\(?\b([A-Z]{3,4})\)?$")
_DAY_FIRST = re.compile(
    r"(\d{1,2})[./](\d{1,2})[./](\d{4}) (\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII
)


def read_tariff(config: Config) -> Tariff | None:
    """Read the tariff of the config; None if it states neither prices nor carbon.

    InvalidFile if a file of it cannot be read.
    """
    if not config.has_rates:
        return None
    spec = config.tariff
    flat = Rate(config.price_per_kwh, config.carbon_g_per_kwh, config.currency)
    if spec is None:
        return Tariff(flat)
    zone = None if spec.zone is None else ZoneInfo(spec.zone)
    prices = carbon = None
    if spec.prices is not None:
        prices, currency = _read_file(config.home, spec.prices, zone, "price")
        if currency and config.currency and currency != config.currency.upper():
            what = f"has prices in {currency}, but config.yaml says currency: {config.currency}"
            problem = Problem(spec.prices.file, 0, 0, what)
            raise InvalidFile.of([problem], f"set currency: {currency}")
        flat = replace(flat, currency=config.currency or currency)
    if spec.carbon is not None:
        carbon, _ = _read_file(config.home, spec.carbon, zone, "carbon")
    return Tariff(flat, zone, parse_week(spec.times) if spec.times else (), prices, carbon)


def _read_file(home: Path, spec: SeriesEntry, zone: tzinfo | None, what: str) -> tuple[Series, str]:
    path = home / Path(spec.file).expanduser()
    try:
        found = path.stat()
        if found.st_size > _MOST_BYTES:
            raise ValueError(f"{found.st_size:,} bytes are too many")
        return _parse_version(path, (found.st_mtime_ns, found.st_size), spec, zone, what)
    except (OSError, ValueError) as error:  # the path has a NUL, the text is no UTF-8
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        fix = "name a CSV file in UTF-8 below `tariff` in config.yaml"
        raise InvalidFile.of([Problem(str(path), 0, 0, problem)], fix) from error


@lru_cache(maxsize=8)
def _parse_version(
    path: Path, version: tuple[int, int], spec: SeriesEntry, zone: tzinfo | None, what: str
) -> tuple[Series, str]:
    """Parse a file once; ``version`` is its time and size, which differ once it is another one."""
    return parse_series(str(path), path.read_text("utf-8-sig"), spec, zone, what)


def parse_series(
    file: str, text: str, spec: SeriesEntry, zone: tzinfo | None, what: str
) -> tuple[Series, str]:
    """Parse a CSV text of ``what`` (``price`` or ``carbon``) into values per kilowatt-hour.

    Times without an offset are in ``zone`` (None is local), where the header names none. Returns
    the values and their currency, empty if the file does not say. The ``problems`` of an
    InvalidFile have the line, and as their column the number of the cell.
    """
    return _SeriesFile(file, spec, what, zone).parse(text)


@dataclass(slots=True)
class _SeriesFile:
    """A file that is being parsed; what the header says is set first."""

    file: str
    spec: SeriesEntry
    what: str
    zone: tzinfo | None
    delimiter: str = ","
    start: int = 0  # Columns of the begin, the end and the value
    end: int | None = None
    value: int = 0
    scale: float = 1.0  # Factor to units per kilowatt-hour
    currency: str = ""

    def parse(self, text: str) -> tuple[Series, str]:
        header_line = text.lstrip().partition("\n")[0]
        self.delimiter = max(",;\t", key=header_line.count)
        rows = self._read_rows(text)
        if len(rows) < 2:
            self._refuse(1, 0, "no header with rows below it", "export the file again")
        (line, header), *rows = rows
        self._read_header(line, [cell.strip() for cell in header], rows[0][1])
        rows = [row for row in rows if "Sequence 2" not in row[1]]  # ENTSO-E: another auction
        if rows and self._read_start(*rows[0], None) > self._read_start(*rows[-1], None):
            rows.reverse()
        spans: list[tuple[int, int | None, float, int]] = []
        before: int | None = None
        for line, row in rows:
            known = row[self.value].strip().lower() not in _UNKNOWN
            try:
                before = start = self._read_start(line, row, before)
                end = self._read_end(line, row, start)
            except InvalidFile:
                if known:
                    raise
                continue  # the hour that summer time leaves out
            if known:
                value = self._read_number(line, row) * self.scale + self.spec.surcharge
                spans.append((start, end, value, line))
        if not spans:
            self._refuse(1, 0, f"no row has a {self.what}", "export the file again")
        return self._join(sorted(spans, key=lambda span: (span[0], span[3]))), self.currency

    def _refuse(self, line: int, column: int, message: str, fix: str) -> NoReturn:
        raise InvalidFile.of([Problem(self.file, line, column, message)], fix)

    def _read_rows(self, text: str) -> list[tuple[int, list[str]]]:
        reader = csv.reader(text.splitlines(), delimiter=self.delimiter, strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
        except csv.Error as error:
            self._refuse(reader.line_num, 1, f"not CSV: {error}", "export the file again")
        for line, row in rows[1:]:
            if len(row) != len(rows[0][1]):
                self._refuse(line, len(row), f"{len(row)} cells below a header of "
                             f"{len(rows[0][1])}", "correct or remove the line")  # fmt: skip
        return rows

    def _read_header(self, line: int, header: Sequence[str], first: Sequence[str]) -> None:
        """Find the columns, the unit and the zone."""
        ends = [at for at, name in enumerate(header) if _END.search(name)]
        starts = [at for at, name in enumerate(header) if _TIME.search(name) and at not in ends]
        listed = ", ".join(repr(name[:60]) for name in header[:12])
        if not starts:
            self._refuse(line, 1, f"no column with times among {listed}", "name one of them start")
        self.start, self.end = starts[0], ends[0] if ends else None
        key = "prices" if self.what == "price" else "carbon"
        names, units = _NAMES[self.what], _UNITS[self.what]
        values = [at for at in range(len(header)) if at not in (self.start, self.end)]
        if self.spec.column is not None:
            values = [at for at in values if header[at] == self.spec.column]
        else:
            in_units = [at for at in values if units.search(header[at])]
            values = in_units or [at for at in values if names.search(header[at])]
            ahead = [at for at in values if "day-ahead" in header[at].lower()]
            values = ahead if len(ahead) == 1 else values
        if len(values) != 1:
            few = f"no column with the {self.what}" if not values else "several columns fit"
            self._refuse(line, 1, f"{few}: {listed}",
                         f"choose one in config.yaml: {key}: {{file: .., column: ..}}")  # fmt: skip
        self.value = values[0]
        name = header[self.start]
        if self.spec.zone is not None:
            self.zone = ZoneInfo(self.spec.zone)
        elif "CET" in name:
            self.zone = ZoneInfo("Europe/Brussels")
        elif re.search(r"\b(UTC|GMT)\b", name):
            self.zone = UTC
        octopus = ["p/kWh"] if header[self.value].startswith("value_") else []
        texts = [self.spec.unit] if self.spec.unit else [header[self.value], *first, *octopus]
        if not any(self._read_unit(text) for text in texts):
            self._refuse(line, self.value + 1, "the unit is not known",
                         f"state it in config.yaml: {key}: {{file: .., unit: "
                         f"{'EUR/MWh' if self.what == 'price' else 'g/kWh'}}}")  # fmt: skip

    def _read_unit(self, text: str) -> bool:
        found = _UNITS[self.what].search(text)
        if found is None:
            return False
        self.scale = 0.001 if found[2].lower() == "m" else 1.0
        if self.what == "carbon":
            self.scale *= _GRAMS[found[1].lower()]
            return True
        name = found[1].upper()
        if name in _HUNDREDTHS:
            self.scale /= 100
            name = _HUNDREDTHS[name]
        self.currency = _CURRENCIES.get(name, name)
        return not self.currency or re.fullmatch("[A-Z]{3}", self.currency) is not None

    def _read_number(self, line: int, row: Sequence[str]) -> float:
        text = row[self.value].strip().replace("−", "-")
        if self.delimiter != "," and "," in text:  # the decimal comma
            text = text.replace(".", "").replace(",", ".")
        if not _NUMBER.fullmatch(text):
            self._refuse(line, self.value + 1, f"not a number: {text[:40]!r}",
                         "write a number, or leave the cell empty where none is known")  # fmt: skip
        return float(text)

    def _read_start(self, line: int, row: Sequence[str], before: int | None) -> int:
        return self._read_time(line, self.start, row[self.start].partition(" - ")[0], before)

    def _read_end(self, line: int, row: Sequence[str], start: int) -> int | None:
        text, at = row[self.start].partition(" - ")[2], self.start
        if not text and self.end is not None:
            text, at = row[self.end], self.end
        if not text.strip():
            return None
        end = self._read_time(line, at, text, start)
        if not start < end <= start + _LONGEST_S:
            self._refuse(line, at + 1, f"{text.strip()[:40]!r} is not after the begin, or more "
                         "than a day", "correct the line")  # fmt: skip
        return end

    def _read_time(self, line: int, at: int, text: str, before: int | None) -> int:
        """Read a time; of a local time that comes twice the one after ``before``."""
        try:
            first, second = _parse_time(text.strip(), self.zone)
        except (ValueError, OverflowError) as error:
            why = (
                str(error) if isinstance(error, _NoSuchTimeError) else f"not a time: {text[:40]!r}"
            )
            fix = "write 2026-01-31T13:00+01:00, or local time with `zone` in config.yaml"
            self._refuse(line, at + 1, why, fix)
        found = second if before is not None and first <= before else first
        if found % SLOT_S:
            self._refuse(line, at + 1, f"{text.strip()[:40]!r} is not a quarter of an hour",
                         "prices hold for 15, 30 or 60 minutes")  # fmt: skip
        return found

    def _join(self, spans: Sequence[tuple[int, int | None, float, int]]) -> Series:
        """Join the rows; without an end each holds for the smallest step, so gaps stay gaps."""
        starts = sorted({start for start, *_ in spans})
        step = min((later - start for start, later in pairwise(starts)), default=0)
        found: list[tuple[int, int, float]] = []
        for start, stated, value, line in spans:
            if stated is None and not 0 < step <= 3600:
                self._refuse(line, self.start + 1, "how long the value holds is not known",
                             "add a column named end")  # fmt: skip
            span = (start, start + step if stated is None else stated, value)
            if found and span == found[-1]:
                continue
            if found and start < found[-1][1]:
                self._refuse(line, self.start + 1, "another line has a value for this time too",
                             "keep one of them: a file has one area and one auction")  # fmt: skip
            found.append(span)
        return Series(*([span[at] for span in found] for at in range(3)))  # type: ignore[arg-type]


class _NoSuchTimeError(ValueError):
    """A time that its zone does not have."""


@lru_cache(maxsize=2)  # the end of a row is the begin of the next one
def _parse_time(text: str, zone: tzinfo | None) -> tuple[int, int]:
    """Parse a time into seconds since 1970: two, which differ where a local time comes twice."""
    if text.isdecimal() and text.isascii() and len(text) in (10, 13):
        return int(text[:10]), int(text[:10])
    offset = _ABBREVIATION.search(text) if text[-1:] in ")TC" else None
    if offset is not None and offset[1] in _OFFSET_HOURS:
        text = text[: offset.start()]
        zone = timezone(timedelta(hours=_OFFSET_HOURS[offset[1]]))
    moment = _parse_form(text)
    if zone is UTC and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is not None:
        return int(moment.timestamp()), int(moment.timestamp())
    folds = [moment.replace(fold=fold) for fold in (0, 1)]
    if zone is not None:
        folds = [each.replace(tzinfo=zone) for each in folds]
    first, second = (int(each.timestamp()) for each in folds)
    if datetime.fromtimestamp(first, zone).replace(tzinfo=None) != moment:
        raise _NoSuchTimeError(f"{text} does not exist there: the clocks go forward")
    return first, second


def _parse_form(text: str) -> datetime:
    found = _DAY_FIRST.fullmatch(text)
    if found is None:
        return datetime.fromisoformat(text.replace("/", "-"))
    day, month, year, hour, minute, second = (int(part or 0) for part in found.groups())
    return datetime(year, month, day, hour, minute, second)
