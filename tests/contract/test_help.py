"""``--help`` of every command, in a terminal of 80 columns."""

from __future__ import annotations

import pytest

from tests.contract.commands import Path, walk
from tests.contract.golden import check
from tests.contract.internals import run


def file_of(path: Path) -> str:
    return f"help/{'-'.join(('etui', *path))}.txt"


PATHS = [path for path, _ in walk()]
FILES = frozenset(map(file_of, PATHS))


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_of_a_command(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    check(file_of(path), shown.out)
