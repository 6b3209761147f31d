"""What is lost when etui is killed at random moments: turns without a row, limits not as found.

    python -m benchmarks.kill_moments [--kills 100] [--seed 0] [--what serve,ask,bench,sweep,limits]
                                      [--json]

Each kill is a SIGKILL of a whole process group. `serve` has four clients that stream answers of an
engine that computes nothing, `ask` and `bench` the starter model, `sweep` a tiny model with a power
limit of a simulated package as its axis, `limits` a process that changes those of a simulated GPU
(`benchmarks/power_limits.py`). A turn has begun if its client has its id, or if it has a file in
`logs/open`; the next command of etui must list it. Limits must be as found before that command,
which is how long the guard takes. ``--cost`` prints what noting a turn takes, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.fake_engine import STEP_SECONDS
from benchmarks.fake_serve import fake_server
from benchmarks.figures import Figure
from benchmarks.http_sides import Server
from benchmarks.power_limits import CHECKOUT, Machine, make_machine, read_or_none
from benchmarks.sides import starter
from etui.config.config import find_folders
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limits import open_power_limits
from etui.log.row_files import OpenTurns
from etui.turn.record import INTERRUPTED
from tests.contract.tiny_model import write_tiny_model

MOST_RESTORE_S = 2.0
CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what was found afterwards.

    Attributes:
        begun, listed: Turns that had begun, and those of them that the log lists now.
        interrupted, measured: Rows of turns in flight, and those of them with joules.
        restore_s: Seconds until the limits were as found; None if nothing was changed.
        restored: Whether they are as found.
    """

    what: str
    begun: int = 0
    listed: int = 0
    interrupted: int = 0
    measured: int = 0
    restore_s: float | None = None
    restored: bool = True

    @property
    def is_lost(self) -> bool:
        """Whether anything is missing."""
        late = self.restore_s is not None and self.restore_s > MOST_RESTORE_S
        return self.listed < self.begun or late or not self.restored


def quick() -> Iterator[Figure]:
    """Three kills of each kind."""
    for what in KINDS:
        kills = run_kills(what, 3, seed=0)
        lost = sum(kill.is_lost for kill in kills)
        yield Figure(f"{what}: kills with a loss", 100 * lost / len(kills), "%", n=len(kills))


def run_kills(what: str, count: int, seed: int) -> list[Kill]:
    """Kill a command again and again, each in a folder of its own."""
    rng = random.Random(f"{what} {seed}")
    kills = []
    for _ in range(count):
        with TemporaryDirectory(prefix="etui-kill-") as folder:
            kills.append(KINDS[what](Path(folder), rng))
    return kills


def kill_serve(folder: Path, rng: random.Random) -> Kill:
    """Kill a server with streams of several clients."""
    seen: set[str] = set()
    with fake_server(parallel=CLIENTS, environment={STEP_SECONDS: "0.01"}) as server:
        over = threading.Event()
        clients = [
            threading.Thread(target=stream, args=(server, seen, over, random.Random(number)))
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        time.sleep(rng.uniform(0.05, 6.0))
        os.kill(server.pid, signal.SIGKILL)
        over.set()
        for client in clients:
            client.join()
        assert server.home is not None
        return look("serve", {"ETUI_HOME": str(server.home)}, server.home, seen)


def stream(server: Server, seen: set[str], over: threading.Event, rng: random.Random) -> None:
    """Ask for answers until the server is gone, and note the ids of their turns."""
    while not over.is_set():
        body = {
            "model": server.model,
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": rng.choice([5, 50, 500]),
            "stream": True,
        }
        with suppress(Exception), closing(server.connect()) as connection:  # it is killed
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            while line := response.readline():
                if line.startswith(b"data: {"):
                    seen.add(json.loads(line[6:])["id"].removeprefix("chatcmpl-"))


def kill_ask(folder: Path, rng: random.Random) -> Kill:
    """Kill a question."""
    options = ["ask", "Tell a very long story.", "--max-tokens", "2000", "--no-loop-guard"]
    return kill_command("ask", folder, rng, [*options, "--model", "smollm2-135m"])


def kill_bench(folder: Path, rng: random.Random) -> Kill:
    """Kill a run, half of them with generated answers."""
    form = rng.choice([["--format", "letters"], ["--format", "chat"]])
    options = ["bench", "--suite", "sample", "--model", "smollm2-135m", *form]
    return kill_command("bench", folder, rng, [*options, "--jsonl", "-q"])


def kill_command(what: str, folder: Path, rng: random.Random, options: list[str]) -> Kill:
    """Kill a command of etui at a random moment: one of ten while it starts, others in a turn."""
    environment = {
        **os.environ,
        "ETUI_HOME": str(folder / "home"),
        "ETUI_MODELS": str(starter().parent),
        "PYTHONPATH": str(CHECKOUT),
    }
    process = start([sys.executable, "-m", "etui", *options], environment)
    opened = folder / "home" / "logs" / "open"
    starts = rng.random() < 0.1
    while not starts and process.poll() is None and not opened.exists():
        time.sleep(0.005)
    with suppress(subprocess.TimeoutExpired):
        if process.wait(rng.uniform(0.0, 5.0)):
            raise RuntimeError(f"{' '.join(options)} has failed by itself")
    kill(process)
    return look(what, environment, folder / "home")


def kill_sweep(folder: Path, rng: random.Random) -> Kill:
    """Kill a sweep of a power limit."""
    machine = make_machine("rapl", folder)
    models = folder / "models"
    models.mkdir()
    write_tiny_model(models / "tiny.gguf")
    counter = folder / "sysfs" / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    counter.unlink()  # it would stand still: the time alone is compared
    options = ["sweep", "tiny", "--axis", "power_limit=40", "--cap", "set", "--goal", "time"]
    options += ["--blocks", "9", "--rounds", "1", "--window", "0.05", "--cool-down", "0"]
    options += ["--output-tokens", "4", "--force", "--jsonl"]
    environment = {**machine.environment, "ETUI_MODELS": str(models)}
    process = start([sys.executable, "-m", "etui", *options], environment)
    assert process.stdout is not None
    process.stdout.readline()  # the sweep has begun
    with suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0.0, 6.0))
    return wait_for_guard(process, machine, "sweep")


def kill_limits(folder: Path, rng: random.Random) -> Kill:
    """Kill a process that changes limits."""
    machine = make_machine(rng.choice(["rapl", "amdgpu", "nvml"]), folder)
    command = [sys.executable, "-m", "benchmarks.kill_moments", "--child", machine.scope]
    process = start([*command, *map(str, machine.watts)], machine.environment)
    assert process.stdout is not None
    for _ in range(rng.randrange(1, 20)):
        process.stdout.readline()
    time.sleep(rng.uniform(0.0, 0.02))
    return wait_for_guard(process, machine, "limits")


def change_limits(scope: str, low: float, high: float) -> None:
    """Hold the limits, set random ones, restore them and begin again, without an end."""
    config = find_folders()
    with open_power_limits(config, {}, root=True) as limits:
        while True:
            with LimitHold(config, limits, guarded=True) as hold:
                for _ in range(random.randrange(1, 5)):
                    hold.apply(scope, round(random.uniform(low, high)))
                    print("set", flush=True)
            print("restored", flush=True)


def wait_for_guard(process: subprocess.Popen[bytes], machine: Machine, what: str) -> Kill:
    """Kill a process, and wait until its limits are as found, at most a minute."""
    kill(process)
    begin_s, restore_s = time.monotonic(), None
    while read_or_none(machine) != machine.found or machine.journal.exists():
        restore_s = time.monotonic() - begin_s
        if restore_s > 60:
            break
        time.sleep(0.01)
    restored = read_or_none(machine) == machine.found
    found = look(what, dict(machine.environment), machine.home)
    return replace(found, restore_s=restore_s, restored=restored)


def start(command: list[str], environment: Any) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        command,
        env=environment,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the group of a process."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def look(what: str, environment: dict[str, str], home: Path, seen: set[str] | None = None) -> Kill:
    """Start etui again, and compare the turns that had begun with what it lists."""
    begun = set(seen or ())
    for path in (home / "logs" / "open").glob("*.jsonl"):
        if path.read_bytes().endswith(b"\n"):
            begun.add(path.stem)
    done = subprocess.run(
        [sys.executable, "-m", "etui", "logs", "list", "--json"],
        env={**os.environ, **environment, "PYTHONPATH": str(CHECKOUT)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    rows: list[tuple[str, str, float | None]] = []
    if (home / "etui.db").exists():
        # It may have no table yet.
        with closing(sqlite3.connect(home / "etui.db")) as log, suppress(sqlite3.OperationalError):
            rows = log.execute("SELECT turn_id, status, energy_joules FROM turns").fetchall()
    lost = [joules for _, status, joules in rows if status == INTERRUPTED]
    listed = begun & {turn_id for turn_id, _, _ in rows}
    known = sum(joules is not None for joules in lost)
    return Kill(what, len(begun), len(listed), len(lost), known)


KINDS: dict[str, Callable[[Path, random.Random], Kill]] = {
    "serve": kill_serve,
    "ask": kill_ask,
    "bench": kill_bench,
    "sweep": kill_sweep,
    "limits": kill_limits,
}


def measure_cost(turns: int = 500) -> float:
    """Return the median microseconds of noting that a turn begins."""
    from tests.fixtures.turns import TURN

    with TemporaryDirectory(prefix="etui-kill-") as folder:
        opened = OpenTurns(replace(find_folders(), home=Path(folder)))
        taken = []
        for number in range(turns):
            record = replace(TURN, turn_id=f"{number:012x}")
            begin_s = time.perf_counter()
            opened.begin(record, lambda record=record: record)
            taken.append(1e6 * (time.perf_counter() - begin_s))
            opened.forget(record.turn_id)
        return statistics.median(taken)


def format_kills(what: str, kills: list[Kill]) -> str:
    """Format the kills of one kind as one line."""
    begun, listed = sum(kill.begun for kill in kills), sum(kill.listed for kill in kills)
    rows, known = sum(kill.interrupted for kill in kills), sum(kill.measured for kill in kills)
    line = f"{what:<7}{len(kills)} kills; {listed} of {begun} begun turns have a row; "
    line += f"{rows} interrupted, {known} of them with joules"
    waits = [kill.restore_s for kill in kills if kill.restore_s is not None]
    if waits:
        back = sum(kill.restored for kill in kills)
        line += f"; limits changed in {len(waits)}, as found in {back} of {len(kills)}, "
        line += f"after at most {max(waits):.2f} s"
    return line


def main() -> int:
    """Run the full form, or be the process that is killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", default=",".join(KINDS))
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        change_limits(given.child[0], float(given.child[1]), float(given.child[2]))
    if given.cost:
        print(f"to note a turn: {measure_cost():.0f} us")
        return 0
    found = {}
    for what in given.what.split(","):
        found[what] = run_kills(what, given.kills, given.seed)
        if not given.json:
            print(format_kills(what, found[what]), flush=True)
    if given.json:
        print(json.dumps({what: [asdict(one) for one in kills] for what, kills in found.items()}))
    return int(any(one.is_lost for kills in found.values() for one in kills))


if __name__ == "__main__":
    sys.exit(main())
