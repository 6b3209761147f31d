"""Try the GPU: run a model with none, all and ``auto`` layers on it, and compare the three."""

from __future__ import annotations

import json
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
from typing import IO, TYPE_CHECKING, Any

from etui.codec import from_document
from etui.errors import ModelUnavailable
from etui.runtime.doctor import Offload
from etui.runtime.gpu_run import Layers, Order, RunResult, Timed
from etui.runtime.gpu_verdict import Attempt, PerToken, Verdict, judge

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.recorder import Recorder
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec

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

    Raises:
        UsageError: No entry has the name.
        ModelUnavailable: There is no model on this machine.
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

    Args:
        spec: The model, whose file is on this machine.
        offload: What llama.cpp sees; without a device nothing is run.
        meter: A started power meter.
        report: Called when a stage of a run begins.
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
    """Run a model in a process of its own, and measure what its tokens cost.

    Args:
        meter: A started power meter.
        report: Called with the name of each stage when it begins.
        seconds: Longest time of the run.
        variables: Environment variables that it gets besides those of this process.
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
    """Start a run, and read what it reports until it ends or its time is over.

    Returns:
        Its reply, and why it failed if there is none.
    """
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
