"""How many small faults the tests notice: change one operator or constant, and run the tests.

    python -m benchmarks.mutants --number 200
    python -m benchmarks.mutants --package energy --tests tests/energy --number 20 --seed 1
    python -m benchmarks.mutants --package turn --commit v0.1.0

It works on a copy of the checkout in a temporary folder. Test files that name the changed module
run first, and the first failure ends the run. A mutant that no test notices is listed: either a
test is missing, or the change makes no difference. The package's tests must pass without a change.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("energy", "turn", "routing", "engine/batching")
Outcome = Literal["killed", "timeout", "survived"]

_COMPARISONS: dict[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.LtE(), ast.LtE: ast.Lt(), ast.Gt: ast.GtE(), ast.GtE: ast.Gt(),
    ast.Eq: ast.NotEq(), ast.NotEq: ast.Eq(), ast.Is: ast.IsNot(), ast.IsNot: ast.Is(),
    ast.In: ast.NotIn(), ast.NotIn: ast.In(),
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Sub(), ast.Sub: ast.Add(), ast.Mult: ast.Div(), ast.Div: ast.Mult(),
    ast.FloorDiv: ast.Div(),
}  # fmt: skip
_LEAST_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a source file.

    Attributes:
        file: Path below the checkout.
        line: Line of the change, from 1.
        operator: What kind of change it is.
        before, after: Source text of the expression or statement.
        start, end: Its bytes in the file.
    """

    file: str
    line: int
    operator: str
    before: str
    after: str
    start: int
    end: int

    def apply(self, source: bytes) -> bytes:
        """Return the changed source."""
        return source[: self.start] + self.after.encode() + source[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}:{self.line} {self.operator}: {before} -> {after}"


def list_mutants(source: bytes, file: str) -> list[Mutant]:
    """List the changes of a source file, in the order of their places.

    Args:
        source: The source, UTF-8.
        file: Its path, for the mutants.
    """
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in _walk(ast.parse(source)):
        for operator, place, after in _change(node):
            start = starts[place.lineno - 1] + place.col_offset
            end = starts[(place.end_lineno or place.lineno) - 1] + (place.end_col_offset or 0)
            before = source[start:end].decode()
            found.append(Mutant(file, place.lineno, operator, before, after, start, end))
    return sorted(found, key=lambda one: (one.start, one.end, one.operator, one.after))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk over the code that runs: no annotations, decorators, messages of errors or f-strings."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _change(node: ast.AST) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    """Yield every change of a node: its kind, what is replaced, and the new text."""
    match node:
        case ast.Compare(left, operators, right):
            for at, sign in enumerate(operators):
                changed = [*operators[:at], _COMPARISONS[type(sign)], *operators[at + 1 :]]
                yield "comparison", node, f"({ast.unparse(ast.Compare(left, changed, right))})"
        case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC:
            if not _is_text(left) and not _is_text(right):
                changed_one = ast.BinOp(left, _ARITHMETIC[type(operator)], right)
                yield "arithmetic", node, f"({ast.unparse(changed_one)})"
        case ast.AugAssign(target, operator, value) if type(operator) in _ARITHMETIC:
            if not _is_text(value):
                other = ast.AugAssign(target, _ARITHMETIC[type(operator)], value)
                yield "arithmetic", node, ast.unparse(other)
        case ast.Constant(int() | float() as number) if not isinstance(number, bool):
            yield "constant", node, repr(number + 1)
            if number > 0:
                less = number - 1
                yield "constant", node, repr(less) if less >= 0 else f"({less!r})"
        case ast.BoolOp(joint, values):
            swapped = ast.BoolOp(ast.Or() if isinstance(joint, ast.And) else ast.And(), values)
            yield "and/or", node, f"({ast.unparse(swapped)})"
        case ast.UnaryOp(ast.Not(), operand):
            yield "not", node, f"({ast.unparse(operand)})"
        case ast.Return(ast.expr() as value) if ast.unparse(value) != "None":
            yield "return", node, "return None"
        case ast.If(test) | ast.IfExp(test):
            yield "condition", test, "True"
            yield "condition", test, "False"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def draw_mutants(root: Path, package: str, number: int, seed: int) -> list[Mutant]:
    """Draw different mutants of a package, in the order of their files.

    Args:
        root: Folder with the copy of the checkout.
        package: Path of the package below ``etui``.
        number: Number of mutants; fewer if there are not as many.
        seed: Seed of the draw.
    """
    place = root / "etui" / package
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    every = [
        mutant
        for file in files
        for mutant in list_mutants(file.read_bytes(), file.relative_to(root).as_posix())
    ]
    random.Random(f"{seed} {package}").shuffle(every)
    chosen: list[Mutant] = []
    for mutant in every:
        if len(chosen) == number:
            break
        if _compiles(mutant.apply((root / mutant.file).read_bytes())):
            chosen.append(mutant)
    return sorted(chosen, key=lambda one: (one.file, one.start))


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def copy_checkout(to: Path, commit: str | None) -> None:
    """Copy the files that git tracks: as they are now, or as they were in a commit."""
    if commit is not None:
        packed = subprocess.run(
            ["git", "archive", commit], cwd=CHECKOUT, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(to, filter="data")
        return
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, to / name)


@dataclass(frozen=True, slots=True)
class PackageTests:
    """The tests of a package in a copy of the checkout.

    Attributes:
        root: Folder of the copy.
        files: Test files, below it.
    """

    root: Path
    files: Sequence[str]

    def order_for(self, mutant: Mutant) -> list[str]:
        """Order the files: first those that name the changed module."""
        module = mutant.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        names = {module, f"{module.rpartition('.')[0]} import {module.rpartition('.')[2]}"}

        def is_far(file: str) -> bool:
            text = (self.root / file).read_text(encoding="utf-8")
            return not any(name in text for name in names)

        return sorted(self.files, key=lambda file: (is_far(file), file))

    def run(self, files: Sequence[str], timeout_s: float | None = None) -> tuple[Outcome, str]:
        """Run tests up to the first failure; return how they ended, and the end of their output."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        models = CHECKOUT / ".models"
        environment = {"HYPOTHESIS_PROFILE": "default"} | os.environ
        environment["PYTHONPATH"] = str(self.root)
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # two mutants may have one size and time
        # Options of the run around this one.
        for name in ("ETUI_COVERAGE", "ETUI_REDRAW", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        if models.is_dir():
            environment.setdefault("ETUI_TEST_MODELS", str(models))
        process = subprocess.Popen(
            [*command, *files], cwd=self.root, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return "timeout", ""
        finally:
            _end(process)
        return ("survived" if process.returncode == 0 else "killed"), output[-2000:]

    def judge(self, mutant: Mutant, timeout_s: float) -> Outcome:
        """Change the copy, run the tests, and restore the file whatever happens."""
        file = self.root / mutant.file
        source = file.read_bytes()
        cached = Path(importlib.util.cache_from_source(str(file)))
        try:
            file.write_bytes(mutant.apply(source))
            cached.unlink(missing_ok=True)
            return self.run(self.order_for(mutant), timeout_s)[0]
        finally:
            file.write_bytes(source)
            cached.unlink(missing_ok=True)


def _end(process: subprocess.Popen[str]) -> None:
    """End a run of tests with the processes that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def judge_package(
    root: Path, package: str, tests: Sequence[str], number: int, seed: int
) -> dict[Mutant, Outcome]:
    """Draw mutants of a package and run its tests on each.

    Raises:
        SystemExit: The tests do not pass without a change.
    """
    places = [root / name for name in tests]
    found_files = [
        file
        for place in places
        for file in ([place] if place.suffix == ".py" else place.rglob("test_*.py"))
    ]
    files = sorted({file.relative_to(root).as_posix() for file in found_files})
    runner = PackageTests(root, files)
    _say(f"{package}: {len(files)} test files without a change ...")
    begin = time.monotonic()
    outcome, output = runner.run(files)
    seconds = time.monotonic() - begin
    if outcome != "survived" or not files:
        raise SystemExit(f"the tests of {package} do not pass without a change:\n{output}")
    timeout_s = max(_LEAST_TIMEOUT_S, 3 * seconds)
    found: dict[Mutant, Outcome] = {}
    mutants = draw_mutants(root, package, number, seed)
    for at, mutant in enumerate(mutants, start=1):
        begin = time.monotonic()
        found[mutant] = runner.judge(mutant, timeout_s)
        _say(f"{at}/{len(mutants)} {found[mutant]} in {time.monotonic() - begin:.0f} s: {mutant}")
    return found


def format_counts(name: str, outcomes: Sequence[Outcome]) -> str:
    """Write how many mutants of a package were killed."""
    counts, total = Counter(outcomes), len(outcomes)
    killed = total - counts["survived"]
    share = f"{100 * killed / total:.0f} %" if total else "no mutants"
    late = f", {counts['timeout']} of them by the time limit" if counts["timeout"] else ""
    return f"{name}: {killed} of {total} killed ({share}{late})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Draw mutants, run the tests on each, and print the share killed and the survivors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--package", action="append", help="path below etui; may be repeated")
    parser.add_argument("--tests", action="append", help="folder or file; default tests/PACKAGE")
    parser.add_argument("--number", type=int, default=200, help="mutants of all packages together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="take the files of this commit, with its tests")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    packages = chosen.package or PACKAGES
    found: dict[str, dict[Mutant, Outcome]] = {}
    with TemporaryDirectory(prefix="etui-mutants-") as place:
        root = Path(place)
        copy_checkout(root, chosen.commit)
        for at, package in enumerate(packages):
            number = chosen.number * (at + 1) // len(packages) - chosen.number * at // len(packages)
            if chosen.list:
                print(*draw_mutants(root, package, number, chosen.seed), sep="\n")
                continue
            tests = chosen.tests or [f"tests/{package}"]
            found[package] = judge_package(root, package, tests, number, chosen.seed)
    if chosen.json:
        rows = [
            {"package": package, "outcome": outcome, **asdict(mutant)}
            for package, inside in found.items()
            for mutant, outcome in inside.items()
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for package, inside in found.items():
        print(format_counts(package, list(inside.values())))
        print(*(f"  {one}" for one, end in inside.items() if end == "survived"), sep="\n")
    if len(found) > 1:
        print(format_counts("all", [end for inside in found.values() for end in inside.values()]))


if __name__ == "__main__":
    main()
