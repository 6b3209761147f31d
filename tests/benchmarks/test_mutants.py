"""Small changes of a source: what they are, and that each is a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutants import Mutant, PackageTests, draw_mutants, format_counts, list_mutants

SOURCE = '''\
def f(x: int = 2, *, name: str = "ä") -> float:
    """Ä 1 < 2."""
    if x <= 1 and not name:
        raise ValueError(f"{x + 1} ä")
    x += 3
    text = "é" + name
    return x / 4 if text in ("ö",) else 0.5
'''


def changes(source: str) -> set[tuple[str, str, str]]:
    return {(m.operator, m.before, m.after) for m in list_mutants(source.encode(), "f.py")}


def test_every_kind_of_change_is_made() -> None:
    assert changes(SOURCE) == {
        ("constant", "2", "3"), ("constant", "2", "1"),
        ("condition", "x <= 1 and not name", "True"),
        ("condition", "x <= 1 and not name", "False"),
        ("and/or", "x <= 1 and not name", "(x <= 1 or not name)"),
        ("comparison", "x <= 1", "(x < 1)"),
        ("constant", "1", "2"), ("constant", "1", "0"),
        ("not", "not name", "(name)"),
        ("arithmetic", "x += 3", "x -= 3"),
        ("constant", "3", "4"), ("constant", "3", "2"),
        ("return", 'return x / 4 if text in ("ö",) else 0.5', "return None"),
        ("condition", 'text in ("ö",)', "True"), ("condition", 'text in ("ö",)', "False"),
        ("comparison", 'text in ("ö",)', "(text not in ('ö',))"),
        ("arithmetic", "x / 4", "(x * 4)"),
        ("constant", "4", "5"), ("constant", "4", "3"),
        ("constant", "0.5", "1.5"), ("constant", "0.5", "(-0.5)"),
    }  # fmt: skip


def test_each_is_a_program_that_differs_in_one_place() -> None:
    source = SOURCE.encode()
    for mutant in list_mutants(source, "f.py"):
        changed = mutant.apply(source)
        compile(changed, "f.py", "exec")
        assert changed[: mutant.start] == source[: mutant.start]
        assert changed.endswith(source[mutant.end :])
        assert changed != source


def test_a_seed_draws_the_same_mutants(tmp_path: Path) -> None:
    package = tmp_path / "etui" / "p"
    package.mkdir(parents=True)
    (package / "f.py").write_text(SOURCE, encoding="utf-8")
    drawn = draw_mutants(tmp_path, "p", 6, seed=1)
    assert drawn == draw_mutants(tmp_path, "p", 6, seed=1)
    assert drawn != draw_mutants(tmp_path, "p", 6, seed=2)
    assert len(draw_mutants(tmp_path, "p", 99, seed=1)) == len(changes(SOURCE))


def test_a_mutant_is_killed_or_survives_and_the_file_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")  # of the run around it
    (tmp_path / "mod.py").write_text("def f(x):\n    return x + 1\n")
    (tmp_path / "test_a.py").write_text("import mod\ndef test_f():\n    assert mod.f(0) == 1\n")
    tests = PackageTests(tmp_path, ["test_a.py"])
    seen = Mutant("mod.py", 2, "arithmetic", "x + 1", "(x - 1)", 21, 26)
    unseen = Mutant("mod.py", 2, "arithmetic", "x + 1", "(1 - x)", 21, 26)
    found = [tests.judge(one, 60) for one in (seen, unseen)]
    assert found == ["killed", "survived"]
    assert (tmp_path / "mod.py").read_text() == "def f(x):\n    return x + 1\n"
    assert format_counts("p", ["killed", "timeout", "survived", "killed"]) == (
        "p: 3 of 4 killed (75 %, 1 of them by the time limit)"
    )
