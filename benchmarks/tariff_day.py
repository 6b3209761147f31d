"""A day under a tariff by the hour: what each hour of a made log cost, and what waiting saves.

Run ``python -m benchmarks.tariff_day``. A log is made in a temporary folder: twelve answers in each
hour of a Thursday, 90 kJ each, with day-ahead prices of a windy night, a negative price at noon and
an hour without a price. Then ``etui logs totals --by hour`` prints it. Nothing is measured.

With ``--year`` it times instead how long a year of quarter hours takes to read, as a ratio to what
the csv module takes for its rows, and to look 100,000 rates up.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.energy.tariff import Tariff

DAY = datetime(2026, 11, 26, tzinfo=UTC)
PRICES = (
    *(61, 48, 42, 40, 44, 58, 96, 141, 163, 121, 74, 22),
    *(-8, 3, 31, 88, 152, 214, 231, 187, None, 118, 93, 72),
)
"""EUR/MWh of each hour; the file leaves out the one that is not known."""
CARBON = (*(240, 220, 205, 200, 210, 260, 330, 390), *(380, 310, 240, 180), *(150, 160, 200, 290),
          *(380, 440, 450, 420), *(400, 360, 320, 280))  # fmt: skip
"""Grams of CO2 equivalent per kilowatt-hour of each hour."""
ANSWERS, JOULES, SECONDS = 12, 90_000.0, 240.0
CONFIG = """tariff:
  zone: UTC
  prices: {file: prices.csv, surcharge: 0.16}
  carbon: carbon.csv
"""


def write_series(path: Path, header: str, values: tuple[float | None, ...]) -> None:
    """Write hours and their values as the exports of the platforms do."""
    lines = [f"MTU (UTC),{header}"]
    for hour, value in enumerate(values):
        begin, end = (DAY + timedelta(hours=hour + more) for more in (0, 1))
        cell = "n/e" if value is None else value
        lines.append(f"{begin:%d/%m/%Y %H:%M:%S} - {end:%d/%m/%Y %H:%M:%S},{cell}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_log(home: Path) -> None:
    """Make the settings, the files of the tariff and a log with the answers of the day."""
    from etui.config.config import load_config
    from etui.log.writer import TurnWriter
    from etui.text import format_utc
    from etui.turn.record import Seconds, Tokens, TurnEnergy, TurnRecord

    (home / "config.yaml").write_text(CONFIG)
    write_series(home / "prices.csv", "Day-ahead Price (EUR/MWh)", PRICES)
    write_series(home / "carbon.csv", "Carbon intensity gCO₂eq/kWh (direct)", CARBON)
    energy = TurnEnergy(
        *(JOULES, 900.0, None, None, "counter", 1.0, JOULES / SECONDS, None, JOULES / 4000),
        *({}, None, {"gpu:0": JOULES}, (), (), 0, round(SECONDS * 1e9)),
    )
    with TurnWriter(load_config()) as writer:
        for number in range(24 * ANSWERS):
            writer.save_turn(
                TurnRecord(
                    turn_id=f"t{number}",
                    created_at=format_utc(DAY + timedelta(hours=number / ANSWERS)),
                    chat_id=None,
                    query="a made question",
                    answer="a made answer",
                    thinking="",
                    status="complete",
                    model="made-up",
                    model_sha256=None,
                    arm="made-up",
                    reasoning="direct",
                    policy=None,
                    rule=None,
                    why="",
                    system=None,
                    error=None,
                    tokens=Tokens(500, 0, 500, 0, 4000),
                    seconds=Seconds(0.0, 20.0, SECONDS - 20.0, SECONDS, 20.0),
                    energy=energy,
                )
            )


def time_year(home: Path) -> None:
    """Print how long a year of prices takes to read and to apply."""
    from etui.config.config import load_config
    from etui.energy.tariff_files import read_tariff

    quarters = [DAY + timedelta(minutes=15 * n) for n in range(365 * 96 + 1)]
    rows = [
        f"{begin:%d/%m/%Y %H:%M:%S} - {end:%d/%m/%Y %H:%M:%S},{n % 97}"
        for n, (begin, end) in enumerate(pairwise(quarters))
    ]
    text = "\n".join(["MTU (UTC),Day-ahead Price (EUR/MWh)", *rows])
    (home / "prices.csv").write_text(text, encoding="utf-8")
    (home / "config.yaml").write_text("tariff: {prices: prices.csv}\n")
    config = load_config()
    start = time.perf_counter()
    plain = len(list(csv.reader(text.splitlines())))
    middle = time.perf_counter()
    tariff = read_tariff(config)
    end = time.perf_counter()
    assert tariff is not None
    print(f"{plain:,} rows: {end - middle:.3f} s, {(end - middle) / (middle - start):.1f} x csv")
    start = time.perf_counter()
    sum(rate_of(tariff, n) for n in range(100_000))
    print(f"100,000 rates: {time.perf_counter() - start:.3f} s")


def rate_of(tariff: Tariff, number: int) -> float:
    """Return the price at one of many times of the year."""
    return tariff.rate(int(DAY.timestamp()) + number * 311 // 900 * 900).price or 0.0


def main() -> None:
    """Make the log and print its day by hour, and in all."""
    from etui.cli.main import run

    if "--year" in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ETUI_HOME"] = folder
            time_year(Path(folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"ETUI_HOME": folder, "TZ": "UTC"}
        make_log(Path(folder))
        run(["logs", "totals", "--by", "hour"])
        run(["logs", "totals", "--by", "all"])


if __name__ == "__main__":
    main()
