"""``etui.energy.measure()``, and the examples of the docs that use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import etui.energy
from etui.energy import spent as spent_module

PAGE = (Path(__file__).parents[2] / "docs" / "power.md").read_text(encoding="utf-8")


def blocks(language):
    """The code blocks of a language in the section of the API."""
    _, _, after = PAGE.partition("## Joules in Python")
    section, _, _ = after.partition("\n## ")
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def opened(etui_home, monkeypatch):
    """The recorders that were opened."""
    made = []
    open_recorder = spent_module.open_recorder

    def remember(*args, **options):
        made.append(open_recorder(*args, **options))
        return made[-1]

    monkeypatch.setattr(spent_module, "open_recorder", remember)
    return made


def test_a_block_has_the_joules_of_its_body(opened):
    with etui.energy.measure() as spent:
        before = spent.joules
        total = sum(range(300_000))
    assert total
    assert before is not None
    assert spent.joules >= before
    assert spent.plus_minus > 0
    assert spent.joules == pytest.approx(sum(part.joules for part in spent.channels.values()))

    assert spent.energy.kind == "estimate"
    assert spent.net_joules < spent.joules
    assert 0 < spent.seconds < 30


def test_nested_blocks_and_threads_have_one_meter(opened):
    seconds = []

    def work():
        with etui.energy.measure() as spent:
            pass
        seconds.append(spent.seconds)

    with etui.energy.measure() as outer:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with etui.energy.measure() as inner:
            pass
    assert len(opened) == 1
    assert len(seconds) == 4
    assert inner.seconds < outer.seconds
    assert inner.joules <= outer.joules
    with etui.energy.measure():
        pass
    assert len(opened) == 2  # the first one was closed


def test_an_exception_leaves_the_block_and_closes_the_meter(opened):
    with pytest.raises(ValueError, match="mine"), etui.energy.measure() as spent:
        raise ValueError("mine")
    assert spent.joules is not None
    assert spent_module._METER._recorder is None


def test_what_is_not_measured_is_none_and_exceeds_nothing(etui_home):
    (etui_home / "config.yaml").write_text("estimate: never\n")
    with etui.energy.measure() as spent:
        pass
    assert spent.joules is None
    assert spent.plus_minus is None
    assert spent.channels == {}
    assert not spent.exceeds(0.0)


def test_a_budget_is_exceeded_beyond_the_half_width(etui_home):
    with etui.energy.measure() as spent:
        sum(range(1_000_000))
    assert spent.exceeds(spent.joules - spent.plus_minus - 1e-6)
    assert not spent.exceeds(spent.joules - spent.plus_minus)


def test_a_block_that_has_not_begun_says_so():
    with pytest.raises(RuntimeError, match="with etui"):
        _ = etui.energy.measure().joules


def test_the_import_loads_nothing():
    code = "import sys, etui.energy; print(*[m for m in sys.modules if m.startswith('etui')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["etui", "etui.energy"]


@contextmanager
def pytest_run(folder, *words):
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    yield subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("budget", "code"), [("1e9", 0), ("-1e3", 1)])
def test_the_fixture_of_the_docs_fails_above_the_budget(etui_home, tmp_path, budget, code):
    _, fixture, test = blocks("python")
    (tmp_path / "conftest.py").write_text(fixture)
    (tmp_path / "test_sorting.py").write_text(test.replace("50.0", budget))
    with pytest_run(tmp_path, sys.executable, "-m", "pytest", "-q", "-n", "0") as done:
        assert done.returncode == code, done.stdout + done.stderr
        assert ("J of -1000.0 J" in done.stdout) == bool(code)


def test_the_first_example_of_the_docs_runs(etui_home, tmp_path):
    with pytest_run(tmp_path, sys.executable, "-c", blocks("python")[0]) as done:
        assert re.match(r"[\d.]+ ± [\d.]+ J in \d+\.\d\d s\n", done.stdout), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a script of bash")
@pytest.mark.parametrize(("limit", "code"), [("20_000", 0), ("-1_000", 1)])
def test_the_step_of_the_docs_fails_above_the_budget(etui_home, tmp_path, limit, code):
    ((step,),) = (yaml.safe_load(block) for block in blocks("yaml"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"etui": "-m etui", "python": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        program.chmod(0o755)
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert sorted([2, 1]) == [1, 2]\n")
    script = f"export PATH={programs}:$PATH\n" + step["run"].replace("20_000", limit)
    with pytest_run(tmp_path, "bash", "-e", "-c", script) as done:
        assert done.returncode == code, done.stdout + done.stderr
        assert "1 passed" in done.stdout
        assert "::notice::" in done.stdout
