"""The benchmark runner and its history, on fake benchmarks; nothing is timed here."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import runner
from benchmarks.__main__ import command
from benchmarks.figures import Figure, Skipped
from benchmarks.history import Record, append, before, change, read
from benchmarks.machine import Machine
from benchmarks.report import history_text
from benchmarks.runner import FOLDER, NAMES, Benchmark, measure, shipped
from etui.errors import InvalidFile

pytestmark = pytest.mark.slow

FAST = Figure("a : b", 0.5, n=5, low=0.4, high=0.6)
SLOW = Figure("load", 120.0, "ms", "absolute", 3)
HERE = Machine("CPU", 2, 8, (), "Linux 6", "3.11.9", {"textual": "8.2.8", "numpy": None})
EARLY = Record("a" * 40, False, "2026-01-01T00:00:00+00:00", HERE, {"fast/a : b": FAST}, {}, {})


def fake(name: str, *figures: Figure, then: BaseException | None = None) -> Benchmark:
    def quick() -> Iterator[Figure]:
        yield from figures
        if then is not None:
            raise then

    return Benchmark(name, f"Measures {name}.", lambda: quick)


FAKES = (
    fake("fast", FAST),
    fake("broken", SLOW, then=ValueError("no\nsuch thing")),
    fake("bare", then=Skipped("no model in /models")),
    fake("last", replace(FAST, name="c : d", value=12.345)),
)

CHANGE = re.compile(r"[+-]\d+\.\d %")

Call = Callable[..., Result]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


@pytest.fixture
def call(history: Path) -> Call:
    def run(*arguments: str, benchmarks: tuple[Benchmark, ...] = FAKES) -> Result:
        return CliRunner().invoke(command(benchmarks, history), list(arguments))

    return run


def row(text: str, name: str) -> list[str]:
    """The words of the first line that begins with a name."""
    return next(line for line in text.splitlines() if line.startswith(name)).split()


def test_the_table_has_a_row_for_each_figure(call: Call) -> None:
    found = call("--only", "fast,last")
    assert found.exit_code == 0
    assert " ".join(row(found.stdout, "fast")) == "fast a : b 0.500 x 0.400 .. 0.600 5"
    assert row(found.stdout, "last")[4] == "12.3"
    assert found.stderr.splitlines() == ["fast ...", "last ..."]


def test_a_failure_is_said_and_the_rest_go_on(call: Call, history: Path) -> None:
    found = call()
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert "broken     load" in found.stdout
    assert "broken     failed: ValueError: no such thing" in lines
    assert "bare       skipped: no model in /models" in lines
    assert row(found.stdout, "last")
    assert not history.exists()


def test_what_is_skipped_is_no_failure(call: Call) -> None:
    assert call("--only", "bare").exit_code == 0


def test_a_long_reason_widens_no_column_but_a_long_name_does(call: Call) -> None:
    found = call(benchmarks=(FAKES[0], fake("a_long_name", then=Skipped("x" * 200))))
    head, fast, skipped = found.stdout.splitlines()[:3]
    assert len(head) < 100
    assert fast.startswith("fast         a : b ")
    assert skipped.startswith("a_long_name  skipped: xxx")


def test_a_benchmark_that_cannot_be_imported_fails_alone() -> None:
    def load() -> runner.Quick:
        raise ImportError("no module named nothing")

    found = measure(Benchmark("gone", "", load))
    assert (found.status, found.reason) == ("failed", "ImportError: no module named nothing")


@pytest.mark.parametrize(("missing", "status"), [("pexpect", "skipped"), ("etui.gone", "failed")])
def test_only_a_missing_package_of_others_is_skipped(
    missing: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(runner.importlib, "import_module", absent)
    found = measure(shipped()[0])
    assert found.status == status
    assert missing in found.reason


def test_an_exit_of_a_script_is_a_failure(call: Call) -> None:
    found = call(benchmarks=(fake("tui", then=SystemExit("'x' never came")), FAKES[0]))
    assert found.exit_code == 1
    assert "failed: SystemExit: 'x' never came" in found.stdout
    assert row(found.stdout, "fast")


def test_two_figures_of_one_name_are_a_failure() -> None:
    found = measure(fake("twice", FAST, FAST))
    assert found.status == "failed"
    assert found.figures == (FAST,)


def test_ctrl_c_shows_what_was_measured(call: Call, history: Path) -> None:
    closed = []

    def quick() -> Iterator[Figure]:
        try:
            yield SLOW
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    stopped = Benchmark("stopped", "", lambda: quick)
    found = call("--record", benchmarks=(FAKES[0], stopped, FAKES[3]))
    assert found.exit_code == 130
    assert row(found.stdout, "fast")
    assert "stopped    load" in found.stdout
    assert "stopped    interrupted: stopped by Ctrl-C" in found.stdout
    assert "last" not in found.stdout
    assert closed == [True]
    assert not history.exists()


def test_a_generator_is_closed_when_its_figure_is_refused() -> None:
    closed = []

    def quick() -> Iterator[Figure]:
        try:
            yield FAST
            yield FAST
        finally:
            closed.append(True)

    measure(Benchmark("twice", "", lambda: quick))
    assert closed == [True]


def test_a_run_has_a_home_of_its_own(call: Call, etui_home: Path) -> None:
    seen: list[str] = []

    def quick() -> Iterator[Figure]:
        seen.append(os.environ["ETUI_HOME"])
        yield FAST

    assert call(benchmarks=(Benchmark("home", "", lambda: quick),)).exit_code == 0
    assert seen[0] != str(etui_home)
    assert not Path(seen[0]).exists()
    assert os.environ["ETUI_HOME"] == str(etui_home)
    assert "ETUI_MODELS" not in os.environ


def test_a_recorded_line_is_read_again(call: Call, history: Path) -> None:
    assert call("--record").exit_code == 1
    assert call("--only", "last", "--record").exit_code == 0
    lines = history.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    document = json.loads(lines[0])
    assert {"commit", "date", "machine", "figures", "skipped", "failed"} < document.keys()
    machine = {"cpu", "cores", "ram_gib", "gpus", "os", "python", "packages"}
    assert document["machine"].keys() == machine
    assert document["machine"]["packages"].keys() == {"textual", "llama-cpp-python", "numpy"}
    assert document["figures"]["broken/load"] == {
        "value": 120.0, "unit": "ms", "kind": "absolute", "n": 3, "low": None, "high": None
    }  # fmt: skip
    assert document["skipped"] == {"bare": "no model in /models"}
    assert document["failed"] == {"broken": "ValueError: no such thing"}
    first, second = read(history)
    assert first.figures["fast/a : b"] == FAST
    assert set(second.figures) == {"last/c : d"}
    assert first.machine == second.machine


def test_a_record_comes_back_as_it_was(history: Path) -> None:
    full = replace(
        EARLY,
        machine=replace(HERE, gpus=("A GPU",)),
        skipped={"tui": "no terminal"},
        failed={"log": "OSError: ä"},
    )
    append(EARLY, history)
    append(full, history)
    assert read(history) == [EARLY, full]


def test_a_line_without_its_end_is_not_joined_to(history: Path) -> None:
    append(EARLY, history)
    history.write_bytes(history.read_bytes().rstrip(b"\n"))
    append(EARLY, history)
    assert read(history) == [EARLY, EARLY]


@pytest.mark.parametrize("line", ["{", "[]", '{"version": 9}', '{"version": 1}', "null"])
def test_a_damaged_line_is_named(call: Call, history: Path, line: str) -> None:
    append(EARLY, history)
    history.write_text(history.read_text() + line + "\n")
    with pytest.raises(InvalidFile, match=r"history\.jsonl:2"):
        read(history)
    found = call("--history")
    assert found.exit_code == 1
    assert "history.jsonl:2" in found.stderr


def test_a_run_shows_the_change_against_the_last_record(call: Call, history: Path) -> None:
    assert call("--only", "fast", "--record").exit_code == 0
    slower = fake("fast", replace(FAST, value=0.55))
    found = call("--record", benchmarks=(slower, FAKES[3]))
    assert found.stdout.splitlines()[0].endswith("change")
    assert CHANGE.findall(found.stdout) == ["+10.0 %"]
    shown = call("--history", benchmarks=(slower, FAKES[3]))
    assert shown.exit_code == 0
    assert shown.stdout.count("+10.0 %") == 1
    assert not CHANGE.search(call("--history", "--only", "last").stdout)


def test_history_compares_with_the_last_line_of_the_same_machine() -> None:
    other = replace(HERE, cores=64)
    faster, slower = (replace(FAST, value=value) for value in (0.1, 0.6))
    records = [
        EARLY,
        replace(EARLY, machine=other, figures={"fast/a : b": faster}),
        replace(EARLY, machine=replace(HERE, python="3.13"), figures={"fast/a : b": slower}),
    ]
    blocks = history_text(records, ["fast"]).split("\n\n")
    assert [CHANGE.findall(block) for block in blocks] == [[], [], ["+20.0 %"]]
    assert "64 cores" in blocks[1]
    assert before(records, other) == {"fast/a : b": faster}


def test_the_latest_record_that_has_a_figure_counts() -> None:
    later = replace(EARLY, figures={"log/write": SLOW})
    assert before([EARLY, later], HERE) == {"fast/a : b": FAST, "log/write": SLOW}


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        (None, None),
        (replace(FAST, value=0.0), None),
        (replace(FAST, unit="%"), None),
        (replace(FAST, kind="absolute"), None),
        (replace(FAST, value=0.25), 1.0),
    ],
)
def test_changes(earlier: Figure | None, expected: float | None) -> None:
    assert change(FAST, earlier) == expected


def test_an_empty_history_says_so(call: Call, history: Path) -> None:
    found = call("--history")
    assert found.exit_code == 0
    assert found.stdout.strip() == f"nothing is recorded in {history}"


def test_a_list_runs_nothing(call: Call) -> None:
    found = call("--list", benchmarks=(fake("broken", then=ValueError()), FAKES[0]))
    assert found.exit_code == 0
    assert found.stdout.splitlines() == ["broken  Measures broken.", "fast    Measures fast."]


@pytest.mark.parametrize("name", ["fats", "fast,fats", "fast,,Fats"])
def test_an_unknown_name_has_a_suggestion(call: Call, name: str) -> None:
    found = call("--only", name)
    assert found.exit_code == 2
    assert "did you mean 'fast'" in found.stderr
    assert not found.stdout


@pytest.mark.parametrize(
    "arguments", [("--only", ","), ("--list", "--record"), ("--history", "--record"), ("--what",)]
)
def test_wrong_usage(call: Call, arguments: tuple[str, ...]) -> None:
    assert call(*arguments).exit_code == 2


def test_names_may_be_given_one_by_one(call: Call) -> None:
    found = call("--only", "last", "--only", "fast")
    assert found.stderr.splitlines() == ["fast ...", "last ..."]


def test_every_benchmark_of_the_folder_is_run() -> None:
    quick = []
    for file in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "quick" for node in tree.body):
            quick.append(file.stem)
    assert tuple(quick) == NAMES
    assert all(one.summary.endswith(".") for one in shipped())


def test_every_benchmark_of_the_folder_can_be_imported() -> None:
    for benchmark in shipped():
        found = measure(replace(benchmark, load=lambda load=benchmark.load: _nothing(load)))
        assert found.status in ("measured", "skipped"), found.reason


def _nothing(load: Callable[[], runner.Quick]) -> runner.Quick:
    load()
    return lambda: iter(())
