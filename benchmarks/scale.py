"""What a log of 60,000 turns costs the commands that read it, against an empty one.

    python -m benchmarks.scale [--turns 60000] [--rounds 5] [--only ask,explain,...] [--home FOLDER]

The turns are made up, as years of use leave them: chats, questions of ``etui ask``, clients of
``etui serve``, cascades, turns without energy, audits and grades. They are written as rows of the
log's own schema, some seconds for 60,000. ``--fill`` only makes the log. Each command then runs in
processes of its own, with either log in turn; ``replay`` and ``export`` have no other side.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Skipped, in_turn, median_of, ratio_of
from benchmarks.log import made_turn
from etui.config.config import Config, load_config
from etui.curves.fit import TurnPoint, fit_curve
from etui.log.curve_lookup import LEAST_TURNS, build_curve_row
from etui.log.curve_lookup import TURNS as CURVE_TURNS
from etui.log.database import open_for_writing
from etui.log.records import (
    AuditRecord,
    GradeRecord,
    Record,
    Row,
    build_row,
    choose_table,
    to_row,
)
from etui.log.writer import Store
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.runtime.provenance import conditions, model_settings, provenance
from etui.text import format_utc
from etui.turn.record import ClientRecord, HopRecord, LoadRecord, Tokens, TurnRecord

TURNS = 60_000
_DAYS = 700
_UNMEASURED, _CASCADED, _REMOTE = "gemma-3-270m", "qwen2.5-coder-0.5b", "far-model"
"""Models of which no turn has joules, which only cascades ask, and which another machine serves:
of each of them, searches for turns of another kind find none."""
_MODELS: tuple[tuple[str, float], ...] = (
    (STARTER, 0.5),
    (_UNMEASURED, 0.15),
    (_CASCADED, 0.15),
    (_REMOTE, 0.1),
    ("old", 0.1),
)
_ASKED = (
    "What is {a} times {b}?",
    "Why is the sky blue? Explain it in {a} sentences about {w}.",
    "Write a Python function that returns {a} of {w}.",
    "hi",
    "Compare {w} with {v}, and say which is better for {a} people.",
    "Translate {w} {v} into German.",
    "Which of these is a planet? A) {w} B) {v} C) Mars D) {a}",
)


def made_turns(turns: int, config: Config, now: datetime) -> Iterator[Record]:
    """Yield the records of so many turns, oldest first, which end at ``now``."""
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(5000)]
    catalogue = load_catalogue(config)
    here = provenance(config)
    names, shares = [name for name, _ in _MODELS], [share for _, share in _MODELS]
    specs = {name: catalogue.get(name) for name in names if name in catalogue}
    settings = {
        name: here | (model_settings(specs[name], config) if name in specs else {})
        for name in names
    }
    previous: dict[str | None, str] = {}
    for number in range(turns):
        at = now - timedelta(days=_DAYS) * ((turns - number) / turns)
        model = draw.choices(names, shares)[0]
        turn = made_turn(number, draw, words)
        kind = draw.random()
        chat_id = f"chat{number // 12}" if kind < 0.6 else None
        a, b, w, v = draw.randrange(99), draw.randrange(99), *draw.sample(words, 2)
        output, computed = draw.randrange(2, 300), draw.randrange(12, 900)
        turn = replace(
            turn,
            created_at=format_utc(at),
            chat_id=chat_id,
            parent_id=previous.get(chat_id) if chat_id is not None else None,
            query=draw.choice(_ASKED).format(a=a, b=b, w=w, v=v),
            model=model,
            model_sha256=specs[model].sha256 if model in specs else None,
            policy="balanced" if kind < 0.9 else None,
            rule="otherwise" if kind < 0.9 else None,
            arm=draw.choice(("quick", "medium", "large")),
            tokens=Tokens(computed + 40, 40, computed, 0, output),
            predicted_joules=draw.lognormvariate(2.0, 1.0),
            client=ClientRecord("/v1/chat/completions", "desk") if 0.6 <= kind < 0.7 else None,
            settings=settings[model]
            | {"max_tokens": 512, "think_tokens": 0, "votes": 0, "speculate": "off"}
            | ({"backend": "far", "backend_host": "http://far:1"} if model == _REMOTE else {}),
            trace={"policy": "balanced", "candidates": [{"arm": n, "joules": 2.5} for n in names]},
            power_watts=tuple(round(80 + 20 * draw.random(), 1) for _ in range(40)),
            energy=_make_energy(turn, model, computed, output, draw),
        )
        previous[chat_id] = turn.turn_id
        if model == _CASCADED or kind > 0.97:
            turn = replace(turn, hops=_make_hops(turn))
        yield turn
        if number % 40 == 0:
            joules = turn.energy.joules and 30.0
            yield LoadRecord(
                f"load{number}", turn.created_at, model, turn.model_sha256, turn.turn_id,
                0.4, joules, joules and 2.0, turn.energy.kind, 0, 98_000_000,
            )  # fmt: skip
        if kind < 0.02:
            yield GradeRecord(turn.turn_id, turn.created_at, draw.random() < 0.7)
        if 0.02 < kind < 0.04:
            yield _make_audit(turn, number, draw)


def _make_energy(
    turn: TurnRecord, model: str, computed: int, output: int, draw: random.Random
) -> Any:
    noise = 1 + 0.03 * draw.gauss(0, 1)
    prefill, decode = 0.01 * computed * noise, (0.2 + 1e-4 * computed) * output * noise
    if model == _UNMEASURED:
        return replace(
            turn.energy, joules=None, uncertainty=None, net_joules=None, kind=None, channels={},
            joules_per_token=None, phases=dict.fromkeys(("load", "prefill", "decode")),
        )  # fmt: skip
    joules = prefill + decode
    return replace(
        turn.energy, joules=joules, uncertainty=0.05 * joules, net_joules=0.7 * joules,
        kind="counter", joules_per_token=joules / output, channels={"gpu:0": joules},
        phases={"load": 0.0, "prefill": prefill, "decode": decode},
        flags=("load",) if model == _REMOTE else (),
    )  # fmt: skip


def _make_hops(turn: TurnRecord) -> tuple[HopRecord, ...]:
    """Two hops: the first one was not sure enough."""
    half = None if turn.energy.joules is None else turn.energy.joules / 2
    common = (turn.model_sha256, "direct")
    tokens = replace(turn.tokens, output=turn.tokens.output // 2)
    return tuple(
        HopRecord(
            arm, model, *common, turn.answer, "complete", 0.8, 0.4, 0.8, taken, taken, tokens,
            half, half and 0.1 * half, 0.0, turn.seconds.total / 2, "sure enough", None,
            turn.energy.kind, step,
        )
        for step, (arm, model, taken) in enumerate(
            (("quick", STARTER, False), (turn.arm, turn.model, True)), 1
        )
    )  # fmt: skip


def _make_audit(turn: TurnRecord, number: int, draw: random.Random) -> AuditRecord:
    return AuditRecord(
        f"audit{number}", turn.turn_id, turn.created_at, "balanced", "large", "old", None,
        turn.arm, turn.model, "complete", turn.answer, draw.random() < 0.8, "", 120, 3.0,
        60.0, 3.0, "counter", 0.0,
    )  # fmt: skip


def fill(config: Config, turns: int, now: datetime | None = None) -> None:
    """Write a log of so many turns in one transaction; with none, an empty one."""
    connection = open_for_writing(config)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN IMMEDIATE")
    store = Store(connection)
    for table, row in _add_curves(made_turns(turns, config, now or datetime.now(UTC)), config):
        store.put(table, row)
    connection.execute("COMMIT")
    connection.close()


def _add_curves(records: Iterator[Record], config: Config) -> Iterator[tuple[str, Row]]:
    """Yield the rows of records, and of a curve of the starter after every 20 of its turns."""
    spec = load_catalogue(config).get(STARTER)
    points: deque[TurnPoint] = deque(maxlen=CURVE_TURNS)
    curve, seen = None, 0
    for record in records:
        yield choose_table(record), build_row(record)
        if not isinstance(record, TurnRecord) or record.model != STARTER or record.hops:
            continue
        phases, tokens = record.energy.phases, record.tokens
        prefill, decode = phases["prefill"], phases["decode"]
        if prefill is None or decode is None:
            continue
        seconds = record.seconds.prefill, record.seconds.decode
        points.append(
            TurnPoint(
                tokens.computed, tokens.cached, tokens.output, prefill, decode,
                prefill_seconds=seconds[0], decode_seconds=seconds[1],
            )
        )  # fmt: skip
        seen += 1
        if seen % LEAST_TURNS == 0:
            if curve is None or curve.n < CURVE_TURNS:
                place = replace(conditions(config, spec=spec), channels=("gpu:0",))
                sha256, kind = record.model_sha256, "counter"
                curve = fit_curve(points, STARTER, sha256, place, kind=kind, source="log")
            curve = replace(curve, curve_id=f"curve{seen}", created_at=record.created_at)
            yield "curves", to_row(build_curve_row(curve))


COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ask": ("ask", "What is the capital of France?", "--max-tokens", "4", "--json"),
    "explain": ("policy", "explain", "What is the capital of France?", "--json"),
    "list": ("logs", "list"),
    "totals": ("logs", "totals"),
    "search": ("logs", "search", "planet"),
    "stats": ("stats",),
    "replay": ("policy", "replay", "--log", "balanced", "--json"),
    "export": ("logs", "export"),
    "csv": ("logs", "export", "--format", "csv"),
}
"""Name -> arguments of ``etui``. ``app`` is no command: it opens what is behind the screens."""
_WHOLE = ("replay", "export", "csv")
"""Commands whose work is the whole log: against an empty one they have no ratio."""
_APP = """
from etui.config.config import load_config
from etui.tui.open_services import open_services
from etui.runtime.routes import Route
services = open_services(load_config())
services.chats.chats("")
services.chats.spending(Route("balanced"))
services.list_routes(Route("balanced"))
services.runner.close()
"""


def run(name: str, home: Path) -> tuple[float, float]:
    """Run a command over a log; return its seconds and its largest memory in megabytes."""
    arguments = ("-c", _APP) if name == "app" else ("-m", "etui", *COMMANDS[name])
    environment = os.environ | {"ETUI_HOME": str(home)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{name} failed: {errors.decode(errors='replace')[-2000:]}")
    return seconds, _megabytes(used)


def _megabytes(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(names: list[str], full: Path, empty: Path, rounds: int) -> Iterator[Figure]:
    """Run each command over both logs by turns."""
    for name in names:
        if name in _WHOLE:
            found = [run(name, full) for _ in range(max(1, rounds // 3))]
            yield median_of(f"{name}, seconds", [each[0] for each in found], "s", "absolute")
        else:
            run(name, full), run(name, empty)  # fill the disk's cache
            pairs = in_turn(partial(run, name, full), partial(run, name, empty), rounds)
            found = [own for own, _ in pairs]
            yield ratio_of(
                f"{name}, full : empty log", [(own[0], other[0]) for own, other in pairs]
            )
            yield median_of(f"{name}, seconds", [own[0] for own in found], "s", "absolute")
        yield median_of(f"{name}, memory", [each[1] for each in found], "MB", "absolute")


def make_homes(folder: Path, turns: int) -> tuple[Path, Path]:
    """Make a home with a log of so many turns, and one with an empty log."""
    homes = folder / "full", folder / "empty"
    for home, number in zip(homes, (turns, 0), strict=True):
        config = replace(load_config(), home=home)
        if not config.database.exists():
            fill(config, number)
    return homes


def quick() -> Iterator[Figure]:
    """``ask``, ``explain`` and ``list`` over a log of 6,000 turns, three rounds."""
    if not (load_config().models_dir / f"{STARTER}.gguf").is_file():
        raise Skipped(f"no {STARTER} in {load_config().models_dir}")
    with tempfile.TemporaryDirectory() as folder:
        homes = make_homes(Path(folder), 6_000)
        for figure in measure(["ask", "explain", "list"], *homes, 3):
            if figure.kind == "ratio":
                yield figure


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(("app", *COMMANDS)), help="names, by commas")
    parser.add_argument("--home", type=Path, help="keep the logs here, or reuse them")
    parser.add_argument("--fill", action="store_true", help="make the logs and measure nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        homes = make_homes(options.home or Path(folder), options.turns)
        print(f"logs in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        if options.fill:
            return
        for figure in measure(options.only.split(","), *homes, options.rounds):
            if options.json:
                print(json.dumps({name: getattr(figure, name) for name in Figure.__slots__}))
            else:
                low, high = figure.low, figure.high
                span = f"  [{low:.3g}, {high:.3g}]" if low is not None else ""
                print(f"{figure.name}: {figure.value:.3g} {figure.unit}{span}  n={figure.n}")


if __name__ == "__main__":
    main()
