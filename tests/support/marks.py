"""Which lines of etui ran: a mark in front of each statement, in place of a tracer.

Python 3.11 calls a tracer at each line of every module, which took two fifths of the time of all
tests. coverage.py judges the data as if its tracer had written them.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

_NAME = "__marks__"
Lines = list[tuple[int, ...]]


def put_marks(tree: ast.Module) -> Lines:
    """Put ``__marks__[n] = True`` in front of each statement; return the lines of each mark."""
    lines: Lines = []
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):  # and not that of a lambda
                setattr(node, field, _marked(body, _lines_of_clause(node), lines))
    return lines


def _lines_of_clause(node: ast.AST) -> tuple[int, ...]:
    """Line of an ``except`` or a ``case``, which is no statement of its own."""
    match node:
        case ast.ExceptHandler(lineno=line) | ast.match_case(pattern=ast.pattern(lineno=line)):
            return (line,)
    return ()


def _marked(body: list[ast.stmt], before: tuple[int, ...], lines: Lines) -> list[ast.stmt]:
    marked: list[ast.stmt] = []
    for place, statement in enumerate(body):
        of = (*before, *(one.lineno for one in getattr(statement, "decorator_list", ())))
        before = (*of, statement.lineno)
        if not _must_be_first(statement, place):
            marked.append(_mark(len(lines), statement))
            lines.append(before)
            before = ()
        marked.append(statement)
    if before:
        marked.append(_mark(len(lines), body[-1]))
        lines.append(before)
    return marked


def _must_be_first(statement: ast.stmt, place: int) -> bool:
    """Whether this is a docstring, or an import that changes how the module is compiled."""
    match statement:
        case ast.Expr(value=ast.Constant()):
            return place == 0
        case ast.ImportFrom(module="__future__"):
            return True
    return False


def _mark(number: int, statement: ast.stmt) -> ast.stmt:
    target = ast.Subscript(ast.Name(_NAME, ast.Load()), ast.Constant(number), ast.Store())
    mark = ast.Assign([target], ast.Constant(True))
    for node in ast.walk(mark):
        ast.copy_location(node, statement)
    return mark


class Marks:
    """Finds the modules of a package that are imported from now on, and marks them."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._modules: list[tuple[str, list[bool], Lines]] = []
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != self._package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _MarkingLoader(spec.loader, self)
        return spec

    def run(self, path: str, source: bytes, module: ModuleType) -> None:
        """Run the source of a module, which has marks then."""
        tree = ast.parse(source)
        lines = put_marks(tree)
        marks = [False] * len(lines)
        self._modules.append((path, marks, lines))
        vars(module)[_NAME] = marks
        exec(compile(tree, path, "exec", dont_inherit=True), vars(module))

    def list_lines(self) -> dict[str, set[int]]:
        """Return the lines that ran, by file."""
        ran: dict[str, set[int]] = defaultdict(set)
        for path, marks, lines in self._modules:
            ran[path].update(
                line for mark, of in zip(marks, lines, strict=True) if mark for line in of
            )
        return ran

    def save(self, folder: Path) -> None:
        """Write a data file for ``coverage combine``, with every file of the package."""
        from coverage import CoverageData

        data = CoverageData(str(folder / ".coverage"), suffix=True)
        data.add_lines(self.list_lines())
        data.touch_files(map(str, (folder / self._package).rglob("*.py")))
        data.write()


class _MarkingLoader(SourceFileLoader):
    def __init__(self, plain: SourceFileLoader, marks: Marks) -> None:
        super().__init__(plain.name, plain.path)
        self._marks = marks

    def exec_module(self, module: ModuleType) -> None:
        self._marks.run(self.path, self.get_data(self.path), module)
