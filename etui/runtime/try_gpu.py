"""Try the GPU: run a model with none, all and ``auto`` layers on it, and compare the three."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal

from etui.codec import from_document
from etui.errors import ModelUnavailable
from etui.runtime.doctor import Offload
from etui.runtime.gpu_run import GreedyAnswer, Layers, Order, RunResult, Timed

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.recorder import Recorder
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec


TOLERANCE_NATS = 1.5
"""Largest difference of a log-probability that rounding explains. Backends round activations to
8, 16 or 32 bits: for the letters of the starter (135M, four bits), kernels of one CPU differ by up
to 0.5 nats, and Vulkan from them by up to 0.8. A kernel that computes something else is off by
several: a uniform guess over its vocabulary is 10.8."""


_AS_FAST = 0.95
"""Speed of the GPU, as a share of the CPU's, below which it counts as slower."""


_SET_NONE = "set `gpu_layers: 0` for the model in models.yaml"


Code = Literal[
    "fine",
    "no_backend",
    "no_device",
    "cpu_failed",
    "load_failed",
    "no_layers",
    "answers_differ",
    "slower",
    "auto_failed",
    "auto_no_layers",
]


@dataclass(frozen=True, slots=True)
class PerToken:
    """Joules per token of an interval, as the meter knows them."""

    joules: float | None  # Joules per token; None if nothing was measured
    uncertainty: float | None = None  # Half width in joules per token; None if unknown
    kind: str | None = None
    """Kind of the measurement (``counter``, ``estimate``, ...); None without one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the three runs: its result, or why there is none.

    Attributes:
        prefill, decode: Joules per token of the two measurements.
    """

    layers: Layers  # `none`, `all` or `auto`
    result: RunResult | None  # What it computed; None if it failed
    failure: str = ""  # Why it failed; empty if it did not
    prefill: PerToken = PerToken(None)
    decode: PerToken = PerToken(None)
    gpu_measured: bool = False  # Whether the meter measures the GPU's power too


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a run's log-probabilities are from those of the CPU, in nats."""

    letters: float
    tokens: float  # Largest difference of a token of the greedy answers, up to the first other one
    split_margin: float | None
    """Where answers differ: the largest advantage of the run's own token over the CPU's; None if
    all answers are equal."""

    @property
    def largest(self) -> float:
        """The largest of all; infinite if a log-probability is not a number."""
        return max(self.letters, self.tokens, self.split_margin or 0.0)

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains all of it: another token may win only where both are close."""
        return self.largest <= TOLERANCE_NATS


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusion: whether all is right, a code for programs, one line, and a fix."""

    ok: bool
    code: Code
    text: str
    fix: str = ""


def compare_runs(reference: RunResult, other: RunResult) -> Difference:
    """Compare what two runs computed for the same questions; a slow one was asked fewer."""
    pairs = zip(reference.letters, other.letters, strict=False)
    letters = max((_largest(a, b) for a, b in pairs), default=0.0)
    tokens = 0.0
    margins: list[float] = []
    for own, answer in zip(reference.answers, other.answers, strict=False):
        tokens = max(tokens, _largest(own.logprobs, answer.reference_logprobs))
        margins.extend(_split_margins(own, answer))
    return Difference(letters, tokens, max(margins, default=None))


def _largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the largest difference of two rows; infinite where one is not a number."""
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=False)]
    return max((d if math.isfinite(d) else math.inf for d in differences), default=0.0)


def _split_margins(own: GreedyAnswer, answer: GreedyAnswer) -> Iterator[float]:
    for a, b, drawn, expected in zip(
        own.tokens, answer.tokens, answer.logprobs, answer.reference_logprobs, strict=False
    ):
        if a != b:
            margin = drawn - expected
            yield margin if math.isfinite(margin) else math.inf
            return


def judge(attempts: Sequence[Attempt]) -> Verdict:
    """Judge the runs with ``none``, ``all`` and ``auto``; the first thing wrong is the verdict."""
    by_layers = {attempt.layers: attempt for attempt in attempts}
    none, whole, auto = (by_layers[name] for name in ("none", "all", "auto"))
    if none.result is None:
        return _fault("cpu_failed", f"the run on the CPU alone failed: {none.failure}")
    if auto.result is None and whole.result is None:
        return _fault("load_failed", f"no run with layers on the GPU worked: {whole.failure}")
    if auto.result is None:
        return _fault("auto_failed", f"`gpu_layers: auto` failed: {auto.failure}")
    if whole.result is None and _placed(auto.result) in (0, auto.result.layers):
        text = f"the run with all layers on the GPU failed: {whole.failure}"
        return _fault("load_failed", text, f"until that is fixed, {_SET_NONE}")
    for attempt in (whole, auto):
        wrong = attempt.result and _find_fault(attempt, attempt.result, none.result)
        if wrong:
            return wrong
    return _praise(none, whole if whole.result is not None else auto, whole.failure)


def _fault(code: Code, text: str, fix: str = "") -> Verdict:
    return Verdict(False, code, text, fix)


def _placed(result: RunResult) -> int:
    return result.gpu_layers if result.placed is None else result.placed


def _find_fault(attempt: Attempt, result: RunResult, reference: RunResult) -> Verdict | None:
    asked = f"`gpu_layers: {attempt.layers}`"
    if not _placed(result):
        text = f"{asked} put 0 of {result.layers} layers on the GPU"
        if attempt.layers == "auto":
            text = f"{text}: its free memory is too small, or every load failed"
            fix = "close other programs that use the GPU, or lower `context` of the model"
            return _fault("auto_no_layers", text, fix)
        return _fault("no_layers", text, "see llama.log in ETUI_HOME/logs for what llama.cpp says")
    difference = compare_runs(reference, result)
    if not difference.is_rounding:
        how = (
            f"log-probabilities differ by up to {difference.largest:.3g} nats, where rounding "
            f"explains {TOLERANCE_NATS:g}"
        )
        if not math.isfinite(difference.largest):
            how = "some of its log-probabilities are not numbers"
        text = f"the GPU computes other answers than the CPU with {asked}: {how}"
        fix = f"update the driver and llama-cpp-python; until then {_SET_NONE}"
        return _fault("answers_differ", text, fix)
    speed = _speed(reference, result)
    if speed < _AS_FAST:
        text = (
            f"offloaded, but slower than the CPU with {asked}: {speed:.2g} x its tokens/s when "
            "decoding"
        )
        return _fault("slower", text, f"{_SET_NONE}; a software device is always slower")
    return None


def _speed(reference: RunResult, result: RunResult) -> float:
    cpu = reference.decode.tokens_per_second
    return result.decode.tokens_per_second / cpu if cpu else math.inf


def _praise(none: Attempt, gpu: Attempt, failure: str) -> Verdict:
    assert none.result is not None
    assert gpu.result is not None
    parts = [f"everything right: GPU {_speed(none.result, gpu.result):.2g} x faster"]
    if none.decode.joules and gpu.decode.joules:
        less = none.decode.joules / gpu.decode.joules
        ratio = f"{less:.2g} x fewer" if less >= 1 else f"{1 / less:.2g} x more"
        parts.append(f"{ratio} J/token{_caveat(none, gpu)}")
    else:
        parts.append("J/token not measured")
    if failure:
        placed = f"{_placed(gpu.result)} of {gpu.result.layers}"
        parts.append(f"`auto` uses {placed} layers, as all of them failed: {failure}")
    return Verdict(True, "fine", ", ".join(parts))


def _caveat(none: Attempt, gpu: Attempt) -> str:
    if not gpu.gpu_measured:
        return " by the CPU alone: the GPU's power is not measured"
    return " (estimate)" if "estimate" in (none.decode.kind, gpu.decode.kind) else ""


RUN_SECONDS = 900.0
"""Maximum time of one run, the load included."""

RUN_COMMAND = (sys.executable, "-m", "etui.runtime.gpu_run")
"""The program of one run."""

_RUNS: tuple[Layers, ...] = ("none", "all", "auto")
_LAST_WORDS = 200

_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1"}
"""Without it ggml starts a debugger for the stack dump of a crash."""

Report = Callable[[Layers, str], None]
"""Called with the run and its stage when one begins."""


@dataclass(frozen=True, slots=True)
class GpuTrial:
    """The findings of ``etui doctor --try-gpu``."""

    model: str
    offload: Offload  # Backends and devices of llama.cpp
    attempts: tuple[Attempt, ...]  # The runs; none if llama.cpp sees no device
    verdict: Verdict


def choose_model(name: str, config: Config, catalogue: Catalogue) -> ModelSpec:
    """Choose the model to try: the named one, or the smallest on this machine.

    UsageError if no entry has the name, ModelUnavailable if no model is here.
    """
    from etui.models.files import file_size, find_file_problem, model_path
    from etui.models.spec import STARTER
    from etui.runtime.model_resolution import catalogue_name

    if name:
        return catalogue.get(catalogue_name(name, config, catalogue))
    sizes = {spec.name: file_size(model_path(spec, config)) for spec in catalogue}
    usable = [
        spec for spec in catalogue if sizes[spec.name] and not find_file_problem(spec, config)
    ]
    if not usable:
        raise ModelUnavailable("no model is on this machine", f"run: etui models pull {STARTER}")
    return min(usable, key=lambda spec: sizes[spec.name] or 0)


def judge_offload(offload: Offload) -> Verdict | None:
    """Return what is wrong before any model runs; None if there is a device to try."""
    if offload.problem:
        return Verdict(False, "no_backend", offload.problem, offload.fix)
    if not offload.compiled_in:
        cards = offload.graphics_cards
        rest = f" for the {cards[0]} card" if cards else ", and no GPU was found"
        text = f"llama.cpp is built without a GPU backend{rest}"
        fix = "with a GPU, rebuild as docs/config.md says; without, models run on the CPU"
        return Verdict(False, "no_backend", text, offload.fix or fix)
    if not offload.devices:
        why = offload.why_not or f"{' and '.join(offload.backends)} of llama.cpp has no device"
        return Verdict(False, "no_device", why, offload.fix)
    return None


def look_at_offload(
    command: Sequence[str] = RUN_COMMAND, run_seconds: float = RUN_SECONDS
) -> Offload:
    """Check in a process of its own what llama.cpp sees, since that keeps memory of the device."""
    reply, failure = _run(None, command, run_seconds, lambda _: None)
    if "offload" in reply:
        return from_document(Offload, reply["offload"])
    return Offload(False, (), (), "", f"the devices of llama.cpp cannot be read: {failure}")


@dataclass(frozen=True, slots=True)
class TrialTimes:
    """How long the runs of a trial may take."""

    run_seconds: float = RUN_SECONDS  # Longest time of a run
    part_seconds: float = 20.0  # Longest time of each part of a run, as in `Order`
    busy_seconds: float = 2.0  # Prefill and decode are repeated for so long, for the meter


def try_gpu(
    spec: ModelSpec,
    offload: Offload,
    meter: Recorder,
    report: Report,
    *,
    command: Sequence[str] = RUN_COMMAND,
    times: TrialTimes = TrialTimes(),
) -> GpuTrial:
    """Run the model three times, each in a process of its own, and compare.

    Without a device in ``offload`` nothing is run. The meter is started.
    """
    early = judge_offload(offload)
    if early is not None:
        return GpuTrial(spec.name, offload, (), early)
    model = name_for_child(spec)
    attempts: list[Attempt] = []
    reference: tuple[tuple[int, ...], ...] = ()
    for layers in _RUNS:
        order = Order(model, layers, reference, times.part_seconds, times.busy_seconds)
        begin = partial(report, layers)
        attempt = run_once(order, meter, begin, command=command, seconds=times.run_seconds)
        attempts.append(attempt)
        if attempt.result is not None and layers == "none":
            reference = tuple(answer.tokens for answer in attempt.result.answers)
    return GpuTrial(spec.name, offload, tuple(attempts), judge(attempts))


def name_for_child(spec: ModelSpec) -> str:
    """Return what a run finds the model by: a file outside the catalogue by its path."""
    from etui.models.spec import PathSource

    paths = [source.path for source in spec.sources if isinstance(source, PathSource)]
    return str(paths[0]) if spec.origin == "found" and paths else spec.name


def run_once(
    order: Order,
    meter: Recorder,
    report: Callable[[str], None],
    *,
    command: Sequence[str] = RUN_COMMAND,
    seconds: float = RUN_SECONDS,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Attempt:
    """Run a model in a process of its own, and measure what its tokens cost; the meter is started.

    ``report`` is called with the name of each stage; ``variables`` of the environment are added.
    """
    reply, failure = _run(order, command, seconds, report, variables)
    if "result" not in reply:
        return Attempt(order.layers, None, failure)
    result = from_document(RunResult, reply["result"])
    # A run on the CPU needs no measured GPU, but the comparison does.
    measured = not any(scope.startswith("gpu") for scope in meter.unmeasured)
    prefill, decode = (_per_token(timed, meter) for timed in (result.prefill, result.decode))
    return Attempt(order.layers, result, "", prefill, decode, measured)


def _run(
    order: Order | None,
    command: Sequence[str],
    seconds: float,
    report: Callable[[str], None],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Any], str]:
    """Start a run, and return its reply, or why there is none when it or its time has ended."""
    with tempfile.TemporaryFile() as log, _started(command, log, variables) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(process)

        limit = threading.Timer(seconds, stop)
        limit.daemon = True
        limit.start()
        stage = "start"
        try:
            with suppress(OSError):  # it has ended; Windows has another error for that
                document = None if order is None else asdict(order)
                process.stdin.write(json.dumps(document).encode() + b"\n")
                process.stdin.flush()
            for line in process.stdout:
                reply = _parse_reply(line)
                if "stage" in reply:
                    stage = reply["stage"]
                    report(stage)
                elif "error" in reply:
                    return {}, f"{reply['error'] or 'no reason was given'} (stage {stage})"
                elif reply:
                    return reply, ""
            code = process.wait()
        finally:
            limit.cancel()
        if late.is_set():
            return {}, f"it did not end in {seconds:g} s (stage {stage})"
        how = f"the run ended with exit code {code}"
        if code < 0:
            with suppress(ValueError):
                how = f"llama.cpp crashed with {signal.Signals(-code).name}"
        return {}, f"{how} (stage {stage}){_last_words(log)}"


def _parse_reply(line: bytes) -> dict[str, Any]:
    """Parse a line of a run; anything but a JSON object is no reply."""
    with suppress(ValueError):
        reply = json.loads(line)
        if isinstance(reply, dict):
            return reply
    return {}


@contextmanager
def _started(
    command: Sequence[str], log: IO[bytes], variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run in a session of its own; it is gone, with its device memory, after the body."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C in the terminal must not look like a crash
        env={**os.environ, **_ENVIRONMENT, **variables},
    )
    try:
        yield process
    finally:
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a run and the processes that it started, such as the one that renders templates."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
    words = [line for line in lines if line]
    return f": {words[-1][:_LAST_WORDS]}" if words else ""


def _per_token(timed: Timed, meter: Recorder) -> PerToken:
    meter.settle(timed.end_ns)
    energy = meter.energy(timed.start_ns, timed.end_ns)
    if energy.joules is None or not timed.tokens:
        return PerToken(None)
    spread = None if energy.uncertainty is None else energy.uncertainty / timed.tokens
    kind = None if energy.kind is None else energy.kind.value
    return PerToken(energy.joules / timed.tokens, spread, kind)
