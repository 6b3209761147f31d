"""What was predicted before a pull is kept as it was, and compared with the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.config.machine import machine_name
from etui.curves.prediction import DecodeForecast, ModelWork, measured_from
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.memory_speed import MemorySpeed, save_memory_speed
from etui.runtime.measure_memory import read_machine
from etui.runtime.pull_predictions import (
    check_predictions,
    compare,
    keep_prediction,
    load_predictions,
    predictions_file,
)
from etui.runtime.user_models import open_user_models
from etui.turn.record import Tokens
from tests.contract.tiny_model import write_tiny_model
from tests.fixtures.turns import ENERGY, TURN
from tests.log.test_curve_rows import CURVE

SHOWN = DecodeForecast(40.0, 0.5, "other model", "other model", "n", 0.3, 0.34)


@pytest.fixture
def tiny(config: Config, tmp_path: Path) -> str:
    """A model in place, pulled while the speed of the memory was known."""
    save_memory_speed(config, MemorySpeed(machine_name(), 2, 2e9))
    path = write_tiny_model(tmp_path / "tiny.gguf")
    models = open_user_models(config)
    new = models.find(str(path))
    models.add(new)
    return new.spec.name


def answer(config: Config, model: str, number: int = 1, *, shared: bool = False) -> None:
    """Log 39 tokens in 1 s of decode, with 19 J."""
    phases = {"load": 0.0, "prefill": 1.0, "decode": 19.0}
    energy = replace(ENERGY, phases=phases, flags=(), shared=shared, attribution=None)
    sha256 = load_catalogue(config).models[model].sha256
    turn = replace(
        TURN, model=model, model_sha256=sha256, votes=(), probes=(), hops=(), speculation=None,
        reasoning="direct", turn_id=f"{model}-{number}", energy=energy,
        tokens=Tokens(12, 0, 12, 0, 39), seconds=replace(TURN.seconds, prefill=0.1, decode=1.0),
        settings={"machine": machine_name()},
    )  # fmt: skip
    with TurnWriter(config) as writer:
        writer.save_turn(turn)


def check(config: Config):
    with LogReader(config) as log:
        return list(check_predictions(log, config, load_catalogue(config)))


def test_the_prediction_of_a_pull_is_kept_and_never_changed(config: Config, tiny: str) -> None:
    (kept,) = load_predictions(config).values()
    assert (kept.model, kept.machine) == (tiny, machine_name())
    assert kept.forecast.speed_source == "memory"
    spec = load_catalogue(config).models[tiny]
    keep_prediction(replace(spec, file_bytes=kept.file_bytes), config, SHOWN)
    assert list(load_predictions(config).values()) == [kept], "the first one counts"


def test_what_the_app_showed_is_kept(config: Config, tmp_path: Path) -> None:
    models = open_user_models(config)
    new = models.find(str(write_tiny_model(tmp_path / "tiny.gguf")))
    models.add(new, None, SHOWN)
    (kept,) = load_predictions(config).values()
    assert kept.forecast == SHOWN


@pytest.mark.parametrize("source", ["", "curve", "log"])
def test_a_measurement_is_not_kept_as_a_prediction(config: Config, tiny: str, source: str) -> None:
    spec = replace(load_catalogue(config).models[tiny], name="other")
    keep_prediction(spec, config, replace(SHOWN, speed_source=source))
    assert len(load_predictions(config)) == 1


def test_damaged_lines_and_other_machines_are_left_out(config: Config, tiny: str) -> None:
    path = predictions_file(config)
    line = json.loads(path.read_text())
    lines = ["{", "[]", json.dumps(line | {"machine": "another"}), json.dumps(line)]
    path.write_text("\n".join(lines))
    assert len(load_predictions(config)) == 1


def test_a_kept_prediction_is_compared_with_the_last_answers(config: Config, tiny: str) -> None:
    answer(config, tiny)
    answer(config, tiny, 2)
    (found,) = check(config)
    (kept,) = load_predictions(config).values()
    assert (found.model, found.answers, found.predicted_at) == (tiny, 2, kept.made_at)
    assert found.tokens_per_second.predicted == kept.forecast.tokens_per_second
    assert found.tokens_per_second.measured == pytest.approx(38.0)
    assert found.tokens_per_second.inside is False
    assert found.joules_per_token.measured == pytest.approx(0.5)


def test_without_a_kept_one_it_is_predicted_from_all_but_its_own_measurements(
    config: Config, tiny: str
) -> None:
    answer(config, tiny)
    predictions_file(config).unlink()
    sha256 = load_catalogue(config).models[tiny].sha256
    here = replace(CURVE.conditions, machine=machine_name())
    with TurnWriter(config) as writer:
        writer.save_curve(
            replace(CURVE, model=tiny, model_sha256=sha256, conditions=here)
        )  # fmt: skip
    (found,) = check(config)
    assert found.predicted_at is None
    assert found.source == "memory", "not its own curve, nor its own answers"
    assert found.like == ""


def test_answers_correct_the_predictions_of_other_models(config: Config, tiny: str) -> None:
    with LogReader(config) as log:
        assert read_machine(log, config, load_catalogue(config)).measured == ()
    answer(config, tiny, shared=True)
    with LogReader(config) as log:
        assert read_machine(log, config, load_catalogue(config)).measured == (), "a busy machine"
    answer(config, tiny, 2)
    with LogReader(config) as log:
        (one,) = read_machine(log, config, load_catalogue(config)).measured
    assert (one.name, one.on_gpu) == (tiny, False)
    assert one.tokens_per_second == pytest.approx(38.0)
    assert one.watts == pytest.approx(19.0)


def test_a_curve_comes_before_the_answers() -> None:
    work, past = ModelWork(10**9), replace(CURVE.speed, decode_tokens_per_second=1.0)
    machine = CURVE.conditions.machine
    by_curve = measured_from("m", work, CURVE, machine, past)
    assert by_curve is not None
    assert by_curve.tokens_per_second == CURVE.speed.decode_tokens_per_second
    by_answers = measured_from("m", work, CURVE, "elsewhere", past, on_gpu=True)
    assert by_answers is not None
    assert (by_answers.tokens_per_second, by_answers.on_gpu) == (1.0, True)


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4), st.floats(0.01, 0.99))
def test_inside_is_within_the_half_width(predicted: float, measured: float, share: float) -> None:
    one = compare(predicted, share, measured)
    assert one.inside == (abs(predicted - measured) <= share * predicted)
    assert one.error is not None
    assert (1 + one.error) * measured == pytest.approx(predicted)


@pytest.mark.parametrize("numbers", [(None, None, 1.0), (1.0, 0.1, None)])
def test_an_unknown_number_is_neither_inside_nor_off(numbers) -> None:
    one = compare(*numbers)
    assert (one.error, one.inside) == (None, None)
