"""Building llama.cpp beside the one in use, with a program in pip's place."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.engine import builds
from etui.engine.builds import Builds
from etui.errors import EngineFailed, EtuiError
from etui.runtime import engine_build
from etui.runtime.engine_build import RECIPES, Recipe, build, describe_call

EASY = Recipe("native", "-DGGML_NATIVE=on", {})

PIP = """\
import os, pathlib, shutil, sys
source, target, how = sys.argv[1:]
assert os.environ["CMAKE_ARGS"] == "-DGGML_NATIVE=on"
print("  [1/4] Building CXX object", flush=True)
print("  [4/4] Linking", flush=True)
if how == "error":
    print("x.cpp:1: error: no such instruction", flush=True)
    raise SystemExit(1)
lib = pathlib.Path(target) / "llama_cpp" / "lib"
if how == "ok":
    shutil.copytree(source, lib, symlinks=True)
elif how == "broken":
    lib.mkdir(parents=True)
    (lib / "libllama.so").write_text("no library")
"""


@pytest.fixture
def compiled() -> Path:
    folder = builds.bindings_folder() / "lib"
    if not folder.is_dir():
        pytest.skip("llama.cpp was not compiled here")
    return folder


def install_pip(how: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(recipe: Recipe, target: Path) -> tuple[dict[str, str], list[str]]:
        command = [sys.executable, "-c", PIP, str(source), str(target), how]
        return {"CMAKE_ARGS": recipe.flags}, command

    monkeypatch.setattr(engine_build, "describe_call", call)


def test_a_build_is_loaded_once_and_kept_but_not_chosen(
    config: Config, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_pip("ok", compiled, monkeypatch)
    steps: list[tuple[str, float | None]] = []
    made = build(EASY, config, lambda *step: steps.append(step))
    assert steps == [
        ("downloading", None), ("compiling", 0.25), ("compiling", 1.0), ("loading it once", None),
    ]  # fmt: skip
    assert made.folder == config.engines_dir / "native" / "lib"
    assert "CPU" in made.features
    found = Builds(config.engines_dir)
    assert [one.name for one in found.list() if one.kind == "built"] == ["native"]
    assert found.choose().name == "compiled"
    assert "Linking" in (config.log_dir / "engine-build.log").read_text()
    assert sorted(file.name for file in config.engines_dir.iterdir()) == ["native", "probed.json"]


@pytest.mark.parametrize(
    ("how", "says"),
    [("error", "no such instruction"), ("broken", "is not used"), ("nothing", "left no libraries")],
)
def test_a_failed_build_keeps_the_older_one(
    how: str, says: str, config: Config, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = config.engines_dir / "native"
    (older / "lib").mkdir(parents=True)
    facts = {"bindings": metadata.version("llama-cpp-python")}
    (older / "build.json").write_text(json.dumps(facts))
    install_pip(how, compiled, monkeypatch)
    with pytest.raises((EtuiError, EngineFailed), match=says):
        build(EASY, config, lambda *_: None)
    assert (older / "build.json").read_text() == json.dumps(facts)
    assert not list(config.engines_dir.glob(".*"))


def test_a_newer_build_replaces_the_older_one(
    config: Config, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = config.engines_dir / "native"
    older.mkdir(parents=True)
    (older / "build.json").write_text("{}")
    install_pip("ok", compiled, monkeypatch)
    build(EASY, config, lambda *_: None)
    assert json.loads((older / "build.json").read_text())["bindings"]


def test_what_is_missing_is_said_before_anything_is_downloaded(config: Config) -> None:
    recipe = Recipe(
        "cuda", "", {"no-such|nor-this": ("a compiler", "get one"), "no-nvcc": ("nvcc", "x")}
    )
    with pytest.raises(
        EtuiError, match="cuda cannot be built without a compiler and nvcc\nget one"
    ):
        build(recipe, config, lambda *_: None)
    assert not config.engines_dir.exists()


def test_one_of_several_compilers_is_enough() -> None:
    found = RECIPES["native"].find_missing(lambda name: "/bin/x" if name == "clang++" else None)
    assert found == []


def test_the_call_is_pips_or_uvs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, command = describe_call(RECIPES["vulkan"], tmp_path)
    assert variables == {"CMAKE_ARGS": "-DGGML_VULKAN=on"}
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert {"--no-deps", "--no-cache-dir", "--target"} <= set(command)
    monkeypatch.setattr(engine_build, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/uv" if name == "uv" else None)
    assert describe_call(RECIPES["native"], tmp_path)[1][:3] == ["/usr/bin/uv", "pip", "install"]
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(engine_build, "find_pip", lambda: ["python", "pip.whl/pip"])
    assert describe_call(RECIPES["native"], tmp_path)[1][:3] == ["python", "pip.whl/pip", "install"]
