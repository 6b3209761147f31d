"""Keep what was predicted of a model before its pull, and compare it with its answers here.

The file only grows, and of a model the first line counts: what was said before its first answer is
never corrected afterwards.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.codec import from_document, to_document
from etui.config.machine import machine_name
from etui.curves.prediction import DecodeForecast, MachineFacts, Source, predict
from etui.errors import EtuiError
from etui.log.model_usage import ModelUsage, Spent, read_model_usage
from etui.models.files import file_size, model_path
from etui.models.gguf import check_usable
from etui.runtime.measure_memory import read_machine, read_speed_here
from etui.text import utc_now
from etui.units import ESTIMATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from etui.config.config import Config
    from etui.log.queries import LogReader
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class KeptPrediction:
    """What a model was to do on a machine, as it was said before its file was there."""

    model: str
    machine: str  # By :func:`etui.config.machine.machine_name`
    made_at: str  # ISO 8601, UTC
    file_bytes: int | None  # Size of the file to pull; None if unknown
    forecast: DecodeForecast


@dataclass(frozen=True, slots=True)
class Compared:
    """One number of a decode, predicted and measured; None where unknown."""

    predicted: float | None
    share: float | None  # Half width of the prediction as a share of it
    measured: float | None
    error: float | None  # The predicted over the measured value, minus 1
    inside: bool | None  # Whether the measured value is within the half width


def compare(predicted: float | None, share: float | None, measured: float | None) -> Compared:
    """Compare a prediction with what was measured."""
    error = inside = None
    if predicted is not None and measured:
        error = predicted / measured - 1
        inside = None if share is None else abs(measured - predicted) <= share * predicted
    return Compared(predicted, share, measured, error, inside)


@dataclass(frozen=True, slots=True)
class PredictionCheck:
    """A prediction of a model, against the decode of its last answers on this machine."""

    model: str
    answers: int
    predicted_at: str | None
    """ISO 8601; None for one that is made now, from everything but its own measurements, because
    none was kept."""
    source: Source  # What the predicted speed is based on
    like: str  # The model from which it was scaled; empty for none
    energy_kind: str | None  # ``estimate`` if its joules are only that
    tokens_per_second: Compared
    joules_per_token: Compared


def predictions_file(config: Config) -> Path:
    """Return the path of the file that keeps predictions: one in each line."""
    return config.home / "predictions.jsonl"


def keep_prediction(spec: ModelSpec, config: Config, forecast: DecodeForecast) -> None:
    """Keep a prediction unless there is one, or it is what the model itself was measured at."""
    if forecast.speed_source in ("", "curve", "log"):
        return
    if (spec.name, spec.file_bytes) in load_predictions(config):
        return
    kept = KeptPrediction(spec.name, machine_name(), utc_now(), spec.file_bytes, forecast)
    path = predictions_file(config)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_document(kept)) + "\n")


def load_predictions(config: Config) -> dict[tuple[str, int | None], KeptPrediction]:
    """Load the first prediction of each model file on this machine, by name and size in bytes."""
    found: dict[tuple[str, int | None], KeptPrediction] = {}
    with suppress(OSError), predictions_file(config).open(encoding="utf-8") as lines:
        for line in lines:
            with suppress(ValueError):  # a damaged line
                kept = from_document(KeptPrediction, json.loads(line), extra="ignore")
                if kept.machine == machine_name():
                    found.setdefault((kept.model, kept.file_bytes), kept)
    return found


def predict_pull(spec: ModelSpec, config: Config, catalogue: Catalogue) -> DecodeForecast:
    """Predict a model before its pull, by everything that is known of this machine."""
    from etui.log.queries import LogReader

    with LogReader(config) as log:
        machine = read_machine(log, config, catalogue)
    return _predict(spec, machine, config)


def check_predictions(
    log: LogReader, config: Config, catalogue: Catalogue
) -> Iterator[PredictionCheck]:
    """Compare the prediction of each model that answered on this machine with its answers."""
    kept = load_predictions(config)
    for name, files in read_model_usage(log).items():
        spec = catalogue.models.get(name)
        answers = sum(files.values(), ModelUsage()).uses.get("answers", Spent())
        past = None if spec is None or spec.backend else read_speed_here(log, spec, config)
        if spec is None or past is None or past.decode_tokens_per_second is None:
            continue
        size = file_size(model_path(spec, config))
        said = kept.get((spec.name, size)) or kept.get((spec.name, None))
        if said is None:
            others = read_machine(log, config, catalogue, without=spec)
            forecast = _predict(spec, others, config)
        else:
            forecast = said.forecast
        speed, watts = past.decode_tokens_per_second, past.decode_watts
        joules = None if watts is None else watts / speed
        yield PredictionCheck(
            spec.name,
            answers.count,
            None if said is None else said.made_at,
            forecast.speed_source,
            forecast.like,
            ESTIMATE if answers.joules is None else None,
            compare(forecast.tokens_per_second, forecast.speed_share, speed),
            compare(forecast.joules_per_token, forecast.joules_share, joules),
        )


def _predict(spec: ModelSpec, machine: MachineFacts, config: Config) -> DecodeForecast:
    gguf = None
    with suppress(EtuiError):  # without its file, its entry says how large it is
        gguf = check_usable(model_path(spec, config))
    return predict(spec, gguf, machine, most_context=config.context_tokens).forecast
