"""``etui doctor``: what it says of GPUs, and what ``--try-gpu`` prints and returns."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from etui.cli.doctor import build_document, format_diagnosis, format_trial
from etui.cli.main import run
from etui.energy.power_limits.limit import PowerLimit
from etui.engine.library import usable_cpus
from etui.errors import ExitCode
from etui.runtime import try_gpu as trying
from etui.runtime.doctor import Diagnosis, Offload
from etui.runtime.gpu_run import FreeBytes, GreedyAnswer, RunResult, Timed
from etui.runtime.try_gpu import Attempt, GpuTrial, PerToken, judge
from tests.contract.tiny_model import write_tiny_model
from tests.support.power_limits import write_amd_gpu, write_package

DEVICE = Offload(True, ("A100: 80 GB of 80 GB free",), ("NVIDIA",), "", backends=("CUDA",))
SECOND = 10**9


def result(layers, tokens_per_second):
    return RunResult(
        gpu_layers=layers,
        placed=layers,
        layers=31,
        load_seconds=0.5,
        prefill=Timed(1000, 0, SECOND),
        decode=Timed(tokens_per_second, 0, SECOND),
        letters=((-0.5, -1.5, -2.0, -4.0),),
        answers=(GreedyAnswer((5, 6), (-0.1, -0.2), "Hi there", (-0.1, -0.3)),),
        free=FreeBytes(8 * 10**9, 7 * 10**9, 8 * 10**9),
    )


def trial(whole):
    spent = PerToken(0.5, None, "counter")
    attempts = (
        Attempt("none", result(0, 10), "", PerToken(1.0, None, "counter"), spent, True),
        Attempt("all", result(31, whole), "", spent, spent, True),
        Attempt("auto", None, "llama.cpp crashed with SIGSEGV (stage load)"),
    )
    return GpuTrial("one", DEVICE, attempts, judge(attempts))


@pytest.mark.parametrize(
    ("offload", "line"),
    [
        (DEVICE, "✓ compiled into llama.cpp: CUDA"),
        (
            Offload(True, (), (), "unset X", "", ("Vulkan",), "built with Vulkan, but no device"),
            "✗ built with Vulkan, but no device: models run on the CPU",
        ),
        (Offload(False, (), ("AMD",), "fix it"), "✗ not compiled into llama.cpp"),
        (Offload(False, (), (), ""), "- not compiled into llama.cpp, and no GPU was found"),
    ],
)
def test_a_build_without_a_device_is_told_from_one_without_a_backend(offload, line):
    lines = list(format_diagnosis(Diagnosis({}, offload, (), (), (), (), ())))
    start = lines.index("GPU offload")
    assert line in lines[start + 1]
    fixes = [text for text in lines if text.strip().startswith("fix: ")]
    assert bool(offload.fix) == any(offload.fix in text for text in fixes)


def test_power_limits_say_who_may_set_them():
    command = "sudo nvidia-smi -i 0 -pl 350"
    limits = (
        PowerLimit("gpu:0", "GPU 0", 350.0, 320.0, 100.0, 450.0, 450.0, "user", command),
        PowerLimit("package:0", "CPU package 0", 65.0, 65.0, None, 125.0, None, "etui", "echo"),
    )
    lines = list(format_diagnosis(Diagnosis({}, DEVICE, (), (), (), (), (), limits)))
    start = lines.index("power limits")
    assert lines[start + 1 : start + 4] == [
        "  ✗ gpu:0  GPU 0: 350 W (100 W to 450 W, default 450 W, 320 W enforced), "
        "only root may set it",
        f"      by hand: {command}",
        "  ✓ package:0  CPU package 0: 65 W (at most 125 W), etui may set it",
    ]


def test_a_machine_without_power_limits_says_so():
    lines = list(format_diagnosis(Diagnosis({}, DEVICE, (), (), (), (), ())))
    assert "none found" in lines[lines.index("power limits") + 1]


def test_doctor_lists_the_limits_of_this_machine(config, cli):
    write_package(config.sysfs_dir)
    [limit] = cli.json("doctor", "--json")["power_limits"]
    assert limit["scope"] == "package:0"
    assert limit["watts"] == 65.0
    assert limit["min_watts"] is None
    assert [part["name"] for part in limit["parts"]] == ["long_term", "short_term"]


def test_a_zeusd_that_cannot_help_is_a_problem(config, monkeypatch, cli):
    write_amd_gpu(config.sysfs_dir)
    monkeypatch.setenv("ZEUSD_SOCK_PATH", "/nowhere/zeusd.sock")
    assert "zeusd at /nowhere/zeusd.sock cannot set limits" in cli.out("doctor")


def test_the_runs_are_side_by_side():
    lines = list(format_trial(trial(30)))
    table = {line[: line.index("  ")]: line.split() for line in lines if "  " in line}
    assert table["gpu_layers"][-3:] == ["0", "all", "auto"]
    assert "0 of 31" in " ".join(table["layers on the GPU"])
    assert table["layers on the GPU"][-1] == "failed"
    assert table["device memory"][-3:-1] == ["1.00", "GB"]
    assert table["still used after unloading"][-3:] == ["0", "B", "failed"]
    # Without layers on the GPU nothing is shown, and what the driver does not report is no figure.
    assert table["device memory"][-4] == "-"
    silent = replace(trial(30).attempts[1], result=replace(result(31, 30), free=None))
    found = replace(trial(30), attempts=(trial(30).attempts[0], silent))
    assert any("not reported" in line for line in format_trial(found))
    assert any("SIGSEGV" in line and line.startswith("✗ layers auto") for line in lines)
    assert lines[-1].startswith("✗ `gpu_layers: auto` failed")


def test_the_document_has_every_run():
    document = json.loads(json.dumps(build_document(trial(30)), allow_nan=False))
    assert set(document) == {"model", "offload", "runs", "verdict"}
    none, whole, auto = document["runs"]
    assert " ".join(whole) == (
        "gpu_layers failure layers layers_on_gpu cpu_moe load_seconds prefill decode gpu_measured "
        "device_memory letters answers difference"
    )
    assert set(whole["decode"]) == {
        *("tokens", "seconds", "tokens_per_second", "joules_per_token", "uncertainty", "kind")
    }
    assert set(whole["difference"]) == {
        *("letters_nats", "tokens_nats", "split_margin_nats", "rounding")
    }
    assert set(document["verdict"]) == {"ok", "code", "text", "fix"}
    assert (none["gpu_layers"], none["difference"]) == (0, None)
    assert whole["layers_on_gpu"] == 31
    assert whole["decode"]["tokens_per_second"] == 30
    assert whole["difference"]["tokens_nats"] == pytest.approx(0.1)
    assert whole["answers"] == ["Hi there"]
    assert auto == {"gpu_layers": "auto", "failure": "llama.cpp crashed with SIGSEGV (stage load)"}
    assert document["verdict"]["code"] == "auto_failed"


@pytest.fixture
def tiny(config):
    config.models_dir.mkdir(parents=True)
    return write_tiny_model(config.models_dir / "tiny.gguf")


def pretend(monkeypatch, offload, outcome):
    monkeypatch.setattr(trying, "look_at_offload", lambda: offload)

    def act(*_, **__):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(trying, "try_gpu", act)


@pytest.mark.parametrize(("auto", "code"), [(True, ExitCode.DONE), (False, ExitCode.FAILED)])
def test_the_exit_code_is_the_verdict(tiny, monkeypatch, capsys, auto, code):
    found = trial(30)
    if auto:
        attempts = (*found.attempts[:2], replace(found.attempts[1], layers="auto"))
        found = replace(found, attempts=attempts, verdict=judge(attempts))
    pretend(monkeypatch, DEVICE, found)
    assert run(["doctor", "--try-gpu", "tiny"]) == code
    assert ("everything right" in capsys.readouterr().out) is auto
    assert run(["doctor", "--try-gpu", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"]["ok"] is auto


def test_without_a_device_it_says_so(tiny, monkeypatch, cli):
    nothing = Offload(False, (), ("AMD",), "CMAKE_ARGS=...")
    monkeypatch.setattr(trying, "look_at_offload", lambda: nothing)
    out = cli.out("doctor", "--try-gpu", code=ExitCode.FAILED)
    assert "✗ llama.cpp is built without a GPU backend for the AMD card" in out
    assert "fix: CMAKE_ARGS=..." in out


def test_bad_usage(tiny, config, cli):
    assert "no model is called 'tinny'" in cli.err(
        "doctor", "--try-gpu", "tinny", code=ExitCode.USAGE
    )
    assert run(["doctor", "--try-gpu", "tiny", "more"]) == ExitCode.USAGE
    tiny.unlink()
    assert "no model is on this machine" in cli.err("doctor", "--try-gpu", code=ExitCode.FAILED)


def test_ctrl_c_is_no_traceback(tiny, monkeypatch, cli):
    before = signal.getsignal(signal.SIGTERM)
    pretend(monkeypatch, DEVICE, KeyboardInterrupt())
    assert cli.err("doctor", "--try-gpu", code=ExitCode.PARTIAL).splitlines()[-1] == "etui: stopped"
    assert signal.getsignal(signal.SIGTERM) == before


def test_more_threads_than_cpus_are_a_problem(config, cli):
    cpus = usable_cpus()
    config.config_file.write_text(f"threads: {cpus}\n")
    assert cli.json("doctor", "--json")["problems"] == []
    config.config_file.write_text("threads: 1024\n")
    out = cli.out("doctor")
    assert f"so it uses {cpus}" in out
    assert f"set `threads: {cpus}` or `auto`" in out
