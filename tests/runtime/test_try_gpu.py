"""Three runs in processes of their own: results, failures, crashes, and what stops them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from etui.codec import to_document
from etui.config.config import Config, load_config
from etui.energy.types import Energy
from etui.engine.residency import Residency
from etui.errors import ModelUnavailable, UsageError
from etui.models.catalogue import load_catalogue
from etui.models.spec import ModelSpec
from etui.runtime.doctor import Offload, check_offload
from etui.runtime.gpu_run import GreedyAnswer, Order, RunResult, Timed, time_decode
from etui.runtime.try_gpu import TrialTimes, choose_model, judge_offload, look_at_offload, try_gpu
from tests.contract.tiny_model import write_tiny_model
from tests.engine.opened import opened

DEVICE = Offload(True, ("a GPU: 1 GB of 1 GB free",), ("AMD",), "", backends=("Vulkan",))
SPEC = ModelSpec("one", "135M", ())
SECOND = 10**9

RESULT = RunResult(
    gpu_layers=31,
    placed=31,
    layers=31,
    load_seconds=0.5,
    prefill=Timed(1000, 0, SECOND),
    decode=Timed(50, SECOND, 2 * SECOND),
    letters=((-0.5, -1.5, -2.0, -4.0),),
    answers=(GreedyAnswer((5, 6), (-0.1, -0.2), "ab", (-0.1, -0.2)),),
    free=None,
)


def test_a_fast_model_is_timed_until_its_context_is_full(config, tmp_path):
    path = write_tiny_model(tmp_path / "tiny.gguf")
    residency = Residency(config)
    session, _, _ = opened(residency, ModelSpec("tiny", "s", (), context=64), path)
    order = Order("tiny", "none", busy_seconds=1e9, part_seconds=1e9)
    timed = time_decode(session, session.tokenize("a" * 64), order)
    assert timed.tokens == 64 - 9  # after a prompt of 8, and one that is not timed
    residency.close()


class Meter:
    """Ten watts, always."""

    def __init__(self, unmeasured: tuple[str, ...] = ()) -> None:
        self.unmeasured = unmeasured

    def settle(self, end_ns: int) -> bool:
        return True

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        joules = 10.0 * (end_ns - start_ns) / 1e9
        return Energy(start_ns, end_ns, joules, 0.5, None, 1.0)


def no_report(_layers: str, _stage: str) -> None:
    """Show nothing."""


def program(body: str) -> tuple[str, ...]:
    """A run of our own: ``order`` is what it was ordered, ``reply`` writes a line."""
    head = (
        "import json, os, sys\n"
        "order = json.loads(sys.stdin.readline())\n"
        "def reply(**line): print(json.dumps(line), flush=True)\n"
    )
    return sys.executable, "-c", head + body


def test_the_answers_of_the_cpu_are_the_reference_of_the_others(tmp_path: Path) -> None:
    written = json.dumps({"result": to_document(RESULT)})
    command = program(
        f"open({str(tmp_path)!r} + '/' + order['layers'], 'w').write(json.dumps(order))\n"
        f"print({written!r}, flush=True)"
    )
    stages: list[tuple[str, str]] = []
    trial = try_gpu(
        SPEC, DEVICE, Meter(), lambda layers, stage: stages.append((layers, stage)), command=command
    )
    orders = {
        path.name: json.loads(path.read_text()) for path in tmp_path.iterdir() if path.is_file()
    }
    assert set(orders) == {"none", "all", "auto"}
    assert orders["none"]["reference"] == []
    assert orders["all"]["reference"] == orders["auto"]["reference"] == [[5, 6]]
    assert [attempt.layers for attempt in trial.attempts] == ["none", "all", "auto"]
    assert trial.attempts[0].decode.joules == pytest.approx(0.2)  # 10 J for 50 tokens
    assert trial.attempts[0].prefill.joules == pytest.approx(0.01)
    assert trial.attempts[0].gpu_measured
    assert trial.verdict.code == "fine"


def test_a_meter_that_cannot_read_the_gpu_is_known() -> None:
    command = program(f"print({json.dumps({'result': to_document(RESULT)})!r}, flush=True)")
    trial = try_gpu(SPEC, DEVICE, Meter(("gpu:0",)), no_report, command=command)
    assert not any(attempt.gpu_measured for attempt in trial.attempts)
    assert "the GPU's power is not measured" in trial.verdict.text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("reply(stage='load')\nos.abort()", r"crashed with SIGABRT \(stage load\)"),
        (
            "reply(stage='decode')\nprint('ErrorDeviceLost', file=sys.stderr)\nsys.exit(3)",
            r"exit code 3 \(stage decode\): ErrorDeviceLost",
        ),
        ("reply(error='out of memory', fix='')", "^out of memory"),
        ("reply(error='', fix='')", r"^no reason was given \(stage start\)"),
        ("print('no JSON')\nprint('[1]')\nsys.exit(1)", r"exit code 1 \(stage start\)"),
    ],
)
def test_a_run_that_fails_is_a_reason(body: str, says: str) -> None:
    result = json.dumps({"result": to_document(RESULT)})
    command = program(
        f"if order['layers'] == 'none':\n    print({result!r}, flush=True)\n    sys.exit(0)\n{body}"
    )
    trial = try_gpu(SPEC, DEVICE, Meter(), no_report, command=command)
    none, whole, auto = trial.attempts
    assert none.result is not None
    assert whole.result is None
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(whole.failure)
    assert auto.failure == whole.failure
    assert trial.verdict.code == "load_failed"


def test_a_run_that_hangs_is_stopped() -> None:
    command = program("reply(stage='prefill')\nsys.stdin.read()")
    trial = try_gpu(SPEC, DEVICE, Meter(), no_report, command=command, times=TrialTimes(0.5))
    assert trial.verdict.code == "cpu_failed"
    assert "it did not end in 0.5 s" in trial.verdict.text


def test_a_stop_leaves_no_process_behind() -> None:
    """A run, and a process that it started itself, are gone after Ctrl-C."""
    command = program(
        "import subprocess\n"
        "own = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'],"
        " stdin=subprocess.PIPE)\n"
        "reply(stage=f'{os.getpid()}')\n"
        "sys.stdin.read()"
    )
    started: list[int] = []

    def stop(_layers: str, stage: str) -> None:
        started.append(int(stage))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try_gpu(SPEC, DEVICE, Meter(), stop, command=command)
    assert len(started) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], signal.SIG_DFL)


@pytest.mark.parametrize(
    ("offload", "code", "says"),
    [
        (Offload(False, (), (), "reinstall it", "cannot be loaded"), "no_backend", "be loaded"),
        (Offload(False, (), ("AMD",), "CMAKE_ARGS=..."), "no_backend", "for the AMD card"),
        (
            Offload(
                True, (), (), "unset X", backends=("Vulkan",), why_not="built with Vulkan, but"
            ),
            "no_device",
            "built with Vulkan, but",
        ),
    ],
)
def test_without_a_device_nothing_is_run(offload: Offload, code: str, says: str) -> None:
    trial = try_gpu(SPEC, offload, Meter(), no_report, command=("/does/not/exist",))
    assert trial.attempts == ()
    assert (trial.verdict.ok, trial.verdict.code) == (False, code)
    assert says in trial.verdict.text
    assert trial.verdict.fix == offload.fix


def test_a_device_that_is_missing_has_a_reason_even_if_none_is_known() -> None:
    verdict = judge_offload(Offload(True, (), (), "", backends=("Vulkan",)))
    assert verdict is not None
    assert verdict.text == "Vulkan of llama.cpp has no device"


def test_a_machine_without_a_gpu_may_stay_as_it_is() -> None:
    verdict = judge_offload(Offload(False, (), (), ""))
    assert verdict is not None
    assert verdict.text == "llama.cpp is built without a GPU backend, and no GPU was found"
    assert verdict.fix.endswith("without, models run on the CPU")


def test_the_devices_are_read_in_a_process_of_its_own(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert look_at_offload() == check_offload(config)
    # A driver that crashes when it is asked for its devices ends that process only.
    crashed = look_at_offload(program("os.abort()"))
    assert "SIGABRT" in crashed.problem
    assert not crashed.devices


def test_a_device_is_tried() -> None:
    assert judge_offload(DEVICE) is None


@pytest.fixture
def models(config: Config) -> Config:
    """Two models, the first of which is larger."""
    config.models_dir.mkdir(parents=True)
    write_tiny_model(config.models_dir / "zebra.gguf", "C")
    large = write_tiny_model(config.models_dir / "alpha.gguf")
    large.write_bytes(large.read_bytes() + bytes(1000))
    (config.models_dir / "broken.gguf").write_bytes(b"GGUF")
    return load_config()


def test_the_smallest_usable_model_is_tried(models: Config) -> None:
    assert choose_model("", models, load_catalogue(models)).name == "zebra"
    assert choose_model("alpha", models, load_catalogue(models)).name == "alpha"
    with pytest.raises(UsageError, match="no model is called 'alfa'"):
        choose_model("alfa", models, load_catalogue(models))


def test_no_model_is_a_clear_error(config: Config) -> None:
    with pytest.raises(ModelUnavailable, match="no model is on this machine") as caught:
        choose_model("", config, load_catalogue(config))
    assert caught.value.fix.startswith("run: etui models pull ")


def test_three_real_runs_without_a_device_are_told_by_their_layers(models: Config) -> None:
    """llama.cpp computes in each run, and none of the layers that were asked for is on a GPU."""
    (models.home / "config.yaml").write_text("threads: 1\n")
    hidden = {"CUDA_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}
    environment = ["env", *(f"{name}={value}" for name, value in hidden.items())]
    run = (*environment, sys.executable, "-m", "etui.runtime.gpu_run")
    spec = choose_model("zebra", models, load_catalogue(models))
    stages: list[str] = []
    trial = try_gpu(
        spec,
        DEVICE,
        Meter(),
        lambda _, stage: stages.append(stage),
        command=run,
        times=TrialTimes(busy_seconds=0.05),
    )
    assert [attempt.failure for attempt in trial.attempts] == ["", "", ""]
    assert stages == ["load", "prefill", "decode", "letters", "answers", "unload"] * 3
    none, whole, _ = (attempt.result for attempt in trial.attempts)
    assert none is not None
    assert whole is not None
    assert whole.placed == 0
    assert whole.letters == none.letters
    assert [len(row) for row in none.letters] == [4, 4, 4, 4]
    # Greedy: the run scored the reference's tokens, and they are its own.
    assert all(len(a.reference_logprobs) == len(a.tokens) for a in whole.answers)
    assert none.prefill.tokens > 0
    assert none.decode.tokens > 0
    assert trial.verdict.code == "no_layers"
