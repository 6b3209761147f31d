"""What was measured of this machine: its memory, once, and models by their curves or answers.

All predictions of models rest on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from etui.codec import from_document
from etui.config.machine import machine_name
from etui.curves.prediction import (
    MachineFacts,
    Prediction,
    measured_from,
    predict,
    work_of_entry,
    work_of_header,
)
from etui.engine.library import built_for_gpu, library_folder
from etui.errors import EtuiError
from etui.log.past_answers import read_quiet_speed, read_speed
from etui.models.files import content_sha256, has_file, may_be_content, model_path
from etui.models.gguf import check_usable
from etui.models.memory_speed import MemorySpeed, load_memory_speed, save_memory_speed
from etui.runtime.host import read_host
from etui.runtime.provenance import sum_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from etui.config.config import Config
    from etui.curves.operating_curve import OperatingCurve, Speed
    from etui.energy.types import Channel
    from etui.log.queries import LogReader
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec

_GPU = "gpu:"
_LOADS = 200  # Number of newest loads that say where a model was
_TIMEOUT_SECONDS = 20.0
"""It takes less than a second; more on a machine that is busy with other programs."""


def command(threads: int) -> list[str]:
    """Return the command line of the process that measures."""
    return [sys.executable, "-m", "etui.models.memory_speed", str(threads)]


def find_memory_speed(
    config: Config, threads: int, is_busy: Callable[[], bool]
) -> MemorySpeed | None:
    """Return the speed of this machine's memory, measured if it is not known yet.

    One that was measured on a busy machine is measured again, see :meth:`MemorySpeed.replaces`.
    While an answer runs nothing is measured, and a measurement during which one began is discarded;
    None if nothing is known then. EtuiError if it cannot be measured, or not be kept.
    """
    kept = load_memory_speed(config)
    if (kept is not None and not kept.busy) or is_busy():
        return kept
    speed = _measure(threads)
    if is_busy() or not speed.replaces(kept):
        return kept
    save_memory_speed(config, speed)
    return speed


def read_machine(
    log: LogReader, config: Config, catalogue: Catalogue, without: ModelSpec | None = None
) -> MachineFacts:
    """Read what predictions of models on this machine rest on.

    The power limit is left out where measured watts come before it: reading it takes longer. The
    file of ``without`` is left out, to predict it as if it had never run.
    """
    left_out = None if without is None else model_path(without, config)
    speed, measured, host = load_memory_speed(config), [], read_host(config)
    answered = {total.key for total in log.totals("model")}
    layers = {load.model: load.gpu_layers for load in reversed(log.loads(_LOADS))}
    for spec in catalogue:
        curve, past = find_curve_here(log, spec, config), None
        if curve is None and spec.name in answered and spec.backend is None:
            sha256 = content_sha256(spec, config)
            past = read_quiet_speed(log, spec.name, sha256, machine_name())
        if (curve is None and past is None) or model_path(spec, config) == left_out:
            continue
        work = work_of_entry(spec, spec.file_bytes)
        with suppress(EtuiError):  # the file is gone, or damaged
            work = work_of_header(check_usable(model_path(spec, config)), spec.kv_type)
        on_gpu = layers.get(spec.name, 0) > 0
        one = measured_from(spec.name, work, curve, machine_name(), past, on_gpu=on_gpu)
        measured.append(one)
    known = tuple(one for one in measured if one is not None)
    has_watts = any(one.watts is not None and not one.on_gpu for one in known)
    has_gpu = built_for_gpu(library_folder(config.engines_dir))
    return MachineFacts(
        None if speed is None or speed.busy else speed.bytes_per_second,
        None if has_watts else _read_limit_watts(config),
        known,
        speed is not None and speed.busy,
        gigabytes_to_bytes(host.free_memory_gb),
        gigabytes_to_bytes(host.gpu_free_memory_gb) if has_gpu else None,
    )


def _read_limit_watts(config: Config) -> float | None:
    """Read the power limit without opening a meter that runs."""
    from etui.energy.discovery import open_recorder

    with closing(open_recorder(config)) as recorder:
        return limit_without_gpus(recorder.selection.summed)


def limit_without_gpus(summed: Iterable[Channel]) -> float | None:
    """Sum the limits of the channels of a total that are no GPUs; None if one is unknown."""
    return sum_limits(one for one in summed if not one.scope.startswith(_GPU))


def gigabytes_to_bytes(gigabytes: float | None) -> float | None:
    """Convert gigabytes to bytes; None stays None."""
    return None if gigabytes is None else gigabytes * 1e9


def predict_entry(
    log: LogReader, spec: ModelSpec, config: Config, machine: MachineFacts
) -> Prediction:
    """Predict a model of the catalogue by its curve and its last turns, its header or its entry."""
    gguf = past = None
    if spec.backend is None and has_file(spec, config):
        past = read_speed_here(log, spec, config)
        with suppress(EtuiError):  # damaged
            gguf = check_usable(model_path(spec, config))
    curve = find_curve_here(log, spec, config)
    return predict(spec, gguf, machine, curve, past, most_context=config.context_tokens)


def read_speed_here(log: LogReader, spec: ModelSpec, config: Config) -> Speed | None:
    """Read the speed of the last answers of a model's file on this machine; None without any."""
    return read_speed(log, spec.name, content_sha256(spec, config), machine_name())


def find_curve_here(log: LogReader, spec: ModelSpec, config: Config) -> OperatingCurve | None:
    """Return the newest curve of a model's file that was measured on this machine."""
    if spec.backend is not None:
        return None
    sha256 = content_sha256(spec, config)
    return next(
        (
            curve
            for curve in log.curves(spec.name)
            if may_be_content(sha256, spec, curve.model_sha256)
            and curve.conditions.machine == machine_name()
        ),
        None,
    )


def _measure(threads: int) -> MemorySpeed:
    try:
        done = subprocess.run(
            command(threads),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        what = f"measuring the memory took more than {_TIMEOUT_SECONDS:.0f} s"
        raise EtuiError(what, "try again while no other program runs") from error
    except OSError as error:
        raise EtuiError(f"cannot measure the memory: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        what, fix = (lines[-1] if lines else f"exit code {done.returncode}"), ""
        if len(lines) > 1 and lines[-2].startswith("etui: "):
            what, fix = lines[-2].removeprefix("etui: "), lines[-1]
        raise EtuiError(f"the speed of the memory is unknown: {what}", fix)
    try:
        return from_document(MemorySpeed, json.loads(done.stdout), extra="ignore")
    except ValueError as error:
        raise EtuiError(f"the speed of the memory cannot be read: {error}") from error
