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


def list_built(config: Config) -> list[str]:
    return [each.name for each in Builds(config.engines_dir).list() if each.kind == "built"]


def test_a_build_is_loaded_once_and_kept_but_not_chosen(
    config: Config, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_pip("ok", compiled, monkeypatch)
    steps: list[tuple[str, float | None]] = []
    with build(EASY, config, lambda *step: steps.append(step)) as made:
        assert steps == [
            ("downloading", None),
            ("compiling", 0.25),
            ("compiling", 1.0),
            ("loading it once", None),
        ]
        assert any(made.folder.glob("libllama.*"))
        assert "CPU" in made.features
        assert list_built(config) == []
    found = Builds(config.engines_dir)
    assert list_built(config) == ["native"]
    assert found.choose().name == "compiled"
    found.choose_for_now_on(made.name)
    assert found.choose().folder == config.engines_dir / "native" / "lib"
    assert "Linking" in (config.log_dir / "engine-build.log").read_text()
    names = sorted(file.name for file in config.engines_dir.iterdir())
    assert names == ["choice.json", "native", "probed.json"]


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
    with (
        pytest.raises((EtuiError, EngineFailed), match=says),
        build(EASY, config, lambda *_: None),
    ):
        pass
    assert (older / "build.json").read_text() == json.dumps(facts)
    assert not list(config.engines_dir.glob(".*"))


def test_a_newer_build_replaces_the_older_one_when_it_has_answered(
    config: Config, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = config.engines_dir / "native"
    older.mkdir(parents=True)
    (older / "build.json").write_text("{}")
    install_pip("ok", compiled, monkeypatch)
    with build(EASY, config, lambda *_: None) as made:
        assert made.folder != older / "lib"
        assert (older / "build.json").read_text() == "{}"
    assert json.loads((older / "build.json").read_text())["bindings"]
    assert any((older / "lib").glob("libllama.*"))


def test_a_newer_build_without_an_answer_leaves_the_older_one_in_use(
    config: Config, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_pip("ok", compiled, monkeypatch)
    with build(EASY, config, lambda *_: None):
        pass
    (config.engines_dir / "native" / "first").touch()
    found = Builds(config.engines_dir)
    found.choose_for_now_on("native")
    with pytest.raises(EngineFailed, match="no answer"), build(EASY, config, lambda *_: None):
        raise EngineFailed("no answer", "")
    used = found.choose()
    assert used.name == "native"
    assert not found.probe(used).refused
    assert (config.engines_dir / "native" / "first").exists()
    assert not list(config.engines_dir.glob(".*"))
    found.choose_for_now_on("")
    assert found.choose().name == "compiled"


def test_the_older_build_returns_if_the_newer_one_cannot_be_moved(
    config: Config, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = config.engines_dir / "native"
    older.mkdir(parents=True)
    (older / "build.json").write_text("{}")
    install_pip("ok", compiled, monkeypatch)
    with pytest.raises(EtuiError, match="cannot write"), build(EASY, config, lambda *_: None):
        shutil.rmtree(config.engines_dir / ".native.new")
    assert (older / "build.json").read_text() == "{}"


def test_what_is_missing_is_said_before_anything_is_downloaded(config: Config) -> None:
    recipe = Recipe(
        "cuda", "", {"no-such|nor-this": ("a compiler", "get one"), "no-nvcc": ("nvcc", "x")}
    )
    says = "cuda cannot be built without a compiler and nvcc\nget one"
    with pytest.raises(EtuiError, match=says), build(recipe, config, lambda *_: None):
        pass
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
