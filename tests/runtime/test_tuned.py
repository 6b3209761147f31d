"""Settings that a sweep chose, from the catalogue to turns, curves and a running app."""

from __future__ import annotations

from dataclasses import replace

from etui.arm import Arm
from etui.config.config import Config
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve
from etui.engine.load_settings import session_key
from etui.log.curve_lookup import build_curve_record, find_curve
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path, recorded_sha256, require
from etui.models.spec import ModelSpec
from etui.models.tuned import TunedSettings, remove_tuned, save_tuned
from etui.runtime.provenance import conditions
from etui.runtime.runtime import open_runtime
from tests.contract.tiny_model import write_tiny_model
from tests.log.test_curve_rows import CURVE


def add_model(config: Config) -> ModelSpec:
    """Put a model on this machine."""
    config.models_dir.mkdir(parents=True, exist_ok=True)
    write_tiny_model(config.models_dir / "tiny.gguf")
    spec = load_catalogue(config).get("tiny")
    require(spec, config)
    return replace(spec, sha256=recorded_sha256(spec, config))


def tune(config: Config, spec: ModelSpec) -> None:
    """Apply what a sweep found."""
    save_tuned(config, TunedSettings(
        "tiny", spec.sha256 or "", machine_name(), {"threads": 1, "kv_type": "q8_0"},
        {"threads": "auto", "kv_type": "f16"}, "sweep-1", "2026-11-25T19:30:00+00:00", "joules",
        "threads=1 kv_type=q8_0 saves 18 % [16, 20] of the joules",
    ))  # fmt: skip


def curve_for(config: Config, spec: ModelSpec) -> OperatingCurve:
    found = replace(CURVE, model="tiny", model_sha256=spec.sha256)
    return replace(found, conditions=conditions(config, spec=load_catalogue(config).get("tiny")))


def test_a_turn_runs_with_them_and_records_them(config: Config) -> None:
    tune(config, add_model(config))
    with open_runtime(config) as runtime:
        served = runtime.resolve(Arm("direct", "tiny"))
    assert (served.spec.kv_type, served.spec.threads) == ("q8_0", 1)
    assert served.settings["tuned"] == {
        "sweep": "sweep-1",
        "values": {"threads": 1, "kv_type": "q8_0"},
    }
    assert (served.settings["kv_type"], served.settings["threads"]) == ("q8_0", 1)
    remove_tuned(config, "tiny")
    with open_runtime(config) as runtime:
        assert "tuned" not in runtime.resolve(Arm("direct", "tiny")).settings


def test_a_curve_counts_only_under_the_settings_of_its_measurement(config: Config) -> None:
    spec = add_model(config)
    before = curve_for(config, spec)
    tune(config, spec)
    after = replace(curve_for(config, spec), curve_id="after")

    def find() -> OperatingCurve | None:
        with LogReader(config) as log:
            now = conditions(config, spec=load_catalogue(config).get("tiny"))
            return find_curve(log, "tiny", spec.sha256, now)

    with TurnWriter(config) as writer:
        writer.save_curve(build_curve_record(before))
    assert find() is None
    with TurnWriter(config) as writer:
        writer.save_curve(build_curve_record(after))
    assert find() == after
    remove_tuned(config, "tiny")
    assert find() == before


def test_a_running_app_notices_and_loads_the_model_again(config: Config) -> None:
    spec = add_model(config)
    path = model_path(spec, config)
    with open_runtime(config) as runtime:
        before = session_key(runtime.catalogue.get("tiny"), path)
        tune(config, spec)
        runtime.reload_catalogue()  # before every turn of the app
        assert session_key(runtime.catalogue.get("tiny"), path) != before
