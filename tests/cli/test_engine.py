"""``etui engine``: what is shown, and which build is used from now on."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from etui.cli import engine as cli_engine
from etui.cli.engine import format_comparison, shorten_features
from etui.engine import builds
from etui.errors import ExitCode
from etui.models.spec import ModelSpec
from etui.runtime import engine_build, engine_comparison
from etui.runtime.engine_comparison import EngineComparison, Gain


@pytest.fixture
def native(etui_home, monkeypatch):
    """A build of etui's own, which loads."""
    monkeypatch.delenv("LLAMA_CPP_LIB_PATH", raising=False)
    folder = etui_home / "engines" / "native"
    (folder / "lib").mkdir(parents=True)
    (folder / "build.json").write_text(
        json.dumps({"bindings": metadata.version("llama-cpp-python")})
    )
    monkeypatch.setattr(
        builds, "_load_elsewhere", lambda _: {"features": "CPU : AVX2 = 1 | AMX = 0"}
    )
    return folder


def test_status_marks_the_build_in_use(cli, native):
    document = cli.json("engine", "status", "--json")
    assert document["used"] in ("compiled", "prebuilt")
    assert {one["name"]: one["refused"] for one in document["builds"]}["native"] == ""
    lines = cli.out("engine", "status").splitlines()
    assert sum(line.startswith("✓") for line in lines) == 1
    assert any("native" in line and line.endswith("CPU AVX2") for line in lines)


def test_use_and_revert_change_what_is_loaded(cli, native):
    before = cli.json("engine", "status", "--json")["used"]
    assert cli.out("engine", "use", "native") == "native is used from now on\n"
    assert cli.json("engine", "status", "--json")["used"] == "native"
    assert cli.out("engine", "revert") == f"{before} is used from now on\n"
    assert cli.json("engine", "status", "--json")["used"] == before


def test_an_unknown_build_is_refused_with_the_names(cli, native):
    shown = cli.err("engine", "use", "natve", code=ExitCode.USAGE)
    assert "no build is named 'natve'" in shown
    assert "native" in shown


def test_a_build_that_cannot_be_loaded_is_refused_with_its_reason(cli, native, monkeypatch):
    monkeypatch.setattr(builds, "_load_elsewhere", lambda _: {"problem": "signal 4"})
    shown = cli.err("engine", "use", "native", code=ExitCode.FAILED)
    assert "this CPU lacks an instruction" in shown
    assert "pip install" in shown
    assert cli.json("engine", "status", "--json")["used"] != "native"


@pytest.fixture
def compiler(monkeypatch):
    """A program in pip's place, which leaves libraries, and a model to ask."""
    program = (
        "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'llama_cpp/lib').mkdir(parents=True)"
    )
    monkeypatch.setattr(
        engine_build,
        "describe_call",
        lambda recipe, target: ({}, [sys.executable, "-c", program, str(target)]),
    )
    monkeypatch.setattr(engine_build.Recipe, "find_missing", lambda _: [])
    monkeypatch.setattr(cli_engine, "_choose_model", lambda *_: ModelSpec("tiny", "1 MB", ()))


def test_a_new_build_that_does_not_answer_leaves_the_one_of_its_name_in_use(
    cli, native, compiler, monkeypatch
):
    (native / "older").touch()
    cli.out("engine", "use", "native")
    asked = []

    def run_once(*_, variables, **__):
        asked.append(variables["LLAMA_CPP_LIB_PATH"])
        answers = variables["LLAMA_CPP_LIB_PATH"] == str(native / "lib")
        return SimpleNamespace(result=answers or None, failure="signal 11", decode=None)

    monkeypatch.setattr(engine_comparison, "run_once", run_once)
    assert "native failed: signal 11" in cli.err("engine", "build", code=ExitCode.FAILED)
    assert len(set(asked)) == 2  # both were run, each from a folder of its own
    assert (native / "older").exists()
    assert [file.name for file in native.parent.glob(".*")] == []
    assert cli.json("engine", "status", "--json")["used"] == "native"
    cli.out("engine", "revert")
    assert cli.json("engine", "status", "--json")["used"] != "native"


def test_without_a_model_nothing_is_built(cli, native):
    shown = cli.err("engine", "build", code=ExitCode.FAILED)
    assert "etui models pull" in shown


def test_a_comparison_says_where_no_difference_is_shown():
    gains = (
        Gain("prefill_tokens_per_second", 350.0, 700.0, 2.0, 1.8, 2.2),
        Gain("decode_joules_per_token", 0.31, 0.30, 0.97, 0.9, 1.05),
    )
    found = EngineComparison("tiny", "prebuilt", "native", 5, "estimate", gains)
    lines = list(format_comparison(found))
    assert lines[1].split("  ")[0] == "prefill"
    assert "350 tok/s" in lines[1]
    assert "2.0x [1.8, 2.2]" in lines[1]
    assert "≈0.310 J/tok" in lines[2]
    assert lines[2].endswith("no difference shown")
    assert lines[3] == "tiny, 5 runs of each in turn, intervals at 95 %; joules (estimate)"


def test_features_are_llama_cpps_own_words_in_short():
    assert shorten_features("CUDA : ARCHS = 890 | CPU : AVX2 = 1 | FMA = 0") == (
        "CUDA ARCHS = 890 CPU AVX2"
    )
    assert shorten_features("") == "not known"
