"""The wheel and the source distribution: built from a copy, with all that etui needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import etui

ROOT = Path(__file__).parents[1]


def test_the_version_is_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "etui/__init__.py"


def test_the_pins_of_prebuilt_are_a_pair_that_may_be_loaded() -> None:
    from etui.engine.builds import read_pairs

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = " ".join(project["project"]["optional-dependencies"]["prebuilt"])
    pair = read_pairs()[0]
    assert f"llama-cpp-python=={pair.bindings}" in pins
    assert f"llama-cpp-py-sync=={pair.libraries};" in pins
    assert f"llama-cpp-python=={pair.bindings} llama-cpp-py-sync=={pair.libraries}" in pair.install


@pytest.mark.slow
def test_a_wheel_is_built_from_the_source_distribution_and_runs(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="build is not installed")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert wheel.name == f"etui-{etui.__version__}-py3-none-any.whl"
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "SECURITY.md",
        "models.yaml",
        "docs/index.md",
        "tests/conftest.py",
    } <= names
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    done = subprocess.run(
        [sys.executable, "-m", "etui", "models", "list", "--json"],
        cwd=tmp_path / "installed",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m" in done.stdout
