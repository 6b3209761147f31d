"""``etui calibrate``, ``curves`` and ``stats`` as a user meets them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from etui.calibration import run as calibration_run
from etui.calibration.grid import Grid, list_visits
from etui.calibration.run import PointsFile, fit_measured, visit_all
from etui.cli.calibrate import _fit_log
from etui.curves.text import doubt_text
from etui.errors import Stopped
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.measure.progress import watch_nothing
from etui.models.spec import ModelSpec
from etui.runtime.provenance import conditions, provenance
from etui.turn.record import Tokens
from tests.fixtures.turns import TURN
from tests.log.test_curve_rows import CURVE, DECODE, NOW, PREFILL
from tests.support.engine_session import SimulatedSession
from tests.support.gpu import GpuLoad, SimulatedGpu

SMALL = Grid((8, 24), (2, 6), repeats=2, window_s=0.05, cool_down_s=0.0)
SPEC = ModelSpec("m", "tiny", (), sha256="ab")
BENCH = calibration_run.TurnTimer


@pytest.fixture
def models(tiny_starter):
    return tiny_starter.parent


def test_a_calibration_ends_in_a_curve_that_is_listed_and_drawn(etui, models, tmp_path):
    asked = ("smollm2-135m", "--quick", "--window", "0.02", "--grid", "8,24x3,9", "--force")
    done = etui("calibrate", *asked, "--json", models=models)
    document = json.loads(done.stdout)
    assert (document["status"], document["source"], document["n"]) == ("complete", "calibration", 8)
    assert document["kind"] == "estimate"
    assert set(document["coefficients"]) >= {"prefill_e0", "prefill_a", "decode_b", "decode_c"}
    assert min(document["coefficients"].values()) >= 0
    assert document["residuals"]["held_out_mape"] is not None
    assert "9 points" in done.stderr
    assert "9 of 9" in done.stderr
    svg = tmp_path / "curves.svg"
    listed = etui("curves", "--svg", str(svg))
    for part in ("smollm2-135m", "calibration", "joules (estimate)", "24 prompt tokens", "R²"):
        assert part in listed.stdout
    assert "not valid here" not in listed.stdout
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    (curve,) = json.loads(etui("curves", "--json").stdout)["curves"]
    assert (curve["curve_id"], curve["differences"]) == (document["curve_id"], [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--grid", "nonsense"), "is not a grid"),
        (("--grid", "8,16x2,4", "--repeats", "1"), "has 4 points"),
        (("--from-log", "--quick"), "measures nothing"),
        (("--json", "--jsonl"), "cannot be combined"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(etui, options, said):
    done = etui("calibrate", "smollm2-135m", *options, code=2)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_a_model_that_is_not_there_is_said(etui):
    done = etui("calibrate", "smollm2-135m", code=1)
    assert "etui models pull" in done.stderr
    etui("calibrate", "smolm", code=2)


def run(config, gpu, file, order, done):
    session = SimulatedSession(gpu)
    return visit_all(session, gpu, SMALL, order, done, file, watch_nothing)


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU, and a bench that keeps its time."""
    made = SimulatedGpu(GpuLoad())
    made.rest(1.5)
    monkeypatch.setattr(
        calibration_run, "TurnTimer", lambda *args, **more: BENCH(*args, **more, clock=made.clock)
    )
    return made


def test_ctrl_c_keeps_the_points_and_the_next_run_goes_on(config, gpu, monkeypatch):
    order = list_visits(SMALL, 0)
    file = PointsFile(config, "m", "ab", SMALL, NOW)
    file.write([])
    done = []
    measure = BENCH.measure
    calls = []

    def interrupted(self, visit):
        calls.append(visit)
        if len(calls) == 2 + 3:  # two of them warm up
            raise KeyboardInterrupt
        return measure(self, visit)

    monkeypatch.setattr(BENCH, "measure", interrupted)
    assert run(config, gpu, file, order, done) is False
    assert len(done) == 2
    with pytest.raises(Stopped, match="stopped after 2 points") as stopped:
        fit_measured(done, SPEC, NOW, None, 0, complete=False)
    assert stopped.value.exit_code == 3
    assert "to resume" in stopped.value.fix
    again = file.read(order)
    assert again == done
    assert run(config, gpu, file, order, again) is True
    assert len(again) == len(order)
    assert fit_measured(again, SPEC, NOW, None, 0, complete=True).n == SMALL.points


def turns_on_the_curve(config, count, factor=1.0, **changes):
    settings = provenance(config)
    for number in range(count):
        computed, output = 20 + 7 * (number % 11), 10 + 5 * (number % 13)
        prefill = factor * PREFILL.joules(0, computed)
        decode = factor * DECODE.joules(computed, output - 1)
        joules = prefill + decode
        phases = {"load": 0.0, "prefill": prefill, "decode": decode}
        energy = replace(
            TURN.energy, joules=joules, uncertainty=0.1, shared=False, channels={}, phases=phases
        )
        facts = {
            "turn_id": f"bbbb{number:08x}",
            "created_at": f"2099-01-01T10:{number:02d}:00.000+00:00",
            "model": "m",
            "model_sha256": "ab",
            "energy": energy,
            "tokens": Tokens(computed, 0, computed, 0, output),
            "settings": settings,
            "probes": (),
            "predicted_joules": joules / factor,
        }
        yield replace(TURN, **(facts | changes))


def test_a_curve_of_the_log(config):
    with TurnWriter(config) as writer:
        for turn in turns_on_the_curve(config, 25):
            writer.save_turn(turn)
        writer.flush()
        curve = _fit_log(SPEC, config, writer)
    with LogReader(config) as log:
        (kept,) = log.curves("m")
    assert (kept.curve_id, kept.source, kept.n) == (curve.curve_id, "log", 25)
    assert kept.decode.slope == pytest.approx(DECODE.slope, rel=0.05)


def test_without_a_curve_the_command_that_makes_one_is_named(etui):
    done = etui("curves", code=1)
    assert "etui calibrate MODEL" in done.stderr
    assert "etui calibrate smollm2-135m" in etui("curves", "smollm2-135m", code=1).stderr


def test_a_curve_of_another_machine_says_what_differs(config, etui):
    with TurnWriter(config) as writer:
        writer.save_curve(CURVE)
    done = etui("curves")
    assert "not valid here: another machine (a machine)" in done.stdout
    assert "not valid here: another build" in done.stdout


def test_an_svg_that_cannot_be_written_is_said(config, etui, tmp_path):
    with TurnWriter(config) as writer:
        writer.save_curve(CURVE)
    done = etui("curves", "--svg", str(tmp_path / "nowhere" / "c.svg"), code=1)
    assert "cannot write" in done.stderr


def test_stats_judge_predictions_shadows_and_curves(config, etui):
    shadow = {"policy": "frugal", "arm": "quick", "model": "m", "predicted_joules": 1.0}
    here = replace(CURVE, conditions=replace(conditions(config), channels=()))
    with TurnWriter(config) as writer:
        writer.save_curve(here)
        for turn in turns_on_the_curve(config, 20, factor=2.0, trace={"shadow": shadow}):
            writer.save_turn(turn)
    done = etui("stats", "--json")
    document = json.loads(done.stdout)
    (model,) = document["models"]
    assert (model["key"], model["n"]) == ("m", 20)
    assert model["mape"] == pytest.approx(0.5)
    assert model["bias"] == pytest.approx(-0.5)
    (trial,) = document["shadows"]
    assert (trial["policy"], trial["elsewhere"], trial["compared"]) == ("frugal", 20, 20)
    assert trial["joules_difference"] < 0
    (curve,) = document["curves"]
    assert curve["drifted"]
    assert curve["fix"] == "etui calibrate m"
    assert "no longer fits" in done.stderr
    text = etui("stats").stdout
    for part in ("20 turns in the last 30 days", "50 %", "-50 %", "frugal (on trial): 20 of 20"):
        assert part in text


def test_stats_of_an_empty_log(etui):
    done = etui("stats")
    assert "0 turns" in done.stdout
    etui("stats", "--days", "0", code=2)


def test_a_fit_that_explains_little_says_what_to_do():
    assert doubt_text(CURVE) == ""
    loose = replace(CURVE, decode=replace(CURVE.decode, r2=0.3))
    assert "stop other programs" in doubt_text(loose)
    assert "etui calibrate m" in doubt_text(replace(loose, source="log"))
    assert "scatter" in doubt_text(replace(CURVE, held_out_mape=0.4))
