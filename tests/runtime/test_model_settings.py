"""What a model runs with is what its turns and its curves record."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any

import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve, list_differences, parse_conditions
from etui.engine import library
from etui.engine import thread_count as thread_limits
from etui.engine.session_loader import session_key
from etui.engine.thread_count import choose_thread_limits
from etui.errors import ModelUnavailable
from etui.log.curve_lookup import find_curve
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models import files
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path, recorded_sha256, require
from etui.models.spec import ModelSpec, TunedSettings
from etui.models.tuned import remove_tuned, save_tuned
from etui.runtime.caches import FileCache
from etui.runtime.provenance import conditions, model_settings, provenance
from etui.runtime.runtime import Runtime, open_runtime
from tests.contract.tiny_model import write_tiny_model
from tests.log.test_curve_rows import CURVE
from tests.models.test_gguf import tiny_gguf


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
        writer.save_curve(before)
    assert find() is None
    with TurnWriter(config) as writer:
        writer.save_curve(after)
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


ARM = Arm("direct", "mine")

LATER_NS = 1 << 62


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every file that is hashed, where no record of it can be written."""
    found: list[object] = []
    hash_files = files.hash_files

    def count(paths: Any, report: Any = None) -> Any:
        found.extend(paths)
        return hash_files(paths, report)

    monkeypatch.setattr(files, "hash_files", count)
    monkeypatch.setattr(files, "write_record", lambda *_: None)
    return found


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    content = tiny_gguf()
    (config.home / "mine.gguf").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    config.models_file.write_text(
        f"models:\n  mine: {{size: s, sha256: {digest}, sources: [{{path: mine.gguf}}]}}\n"
    )
    runtime = open_runtime(config)
    runtime.model_files._checked = FileCache(lambda: LATER_NS)  # the file is not as new as it is
    return runtime


def test_a_file_without_a_record_is_hashed_once_by_a_runtime(
    runtime: Runtime[Any], hashed: list[object]
) -> None:
    first = runtime.resolve(ARM)
    assert runtime.resolve(ARM).path == first.path
    assert len(hashed) == 1


def test_a_file_that_changed_is_hashed_again(
    config: Config, runtime: Runtime[Any], hashed: list[object]
) -> None:
    path = runtime.resolve(ARM).path
    assert path is not None
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path)
    with pytest.raises(ModelUnavailable, match="sha256"):
        runtime.resolve(ARM)
    assert len(hashed) == 2


SPEC = ModelSpec("one", "135M", ())
OWN = replace(SPEC, threads=2, prefill_threads=6, kv_type="q8_0", batch_tokens=64, draft_tokens=3)


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (library, thread_limits, provenance.__globals__):
        fake = lambda threads, _: min(threads or 4, 8)  # noqa: E731
        if isinstance(module, dict):
            monkeypatch.setitem(module, "choose_threads", fake)
        else:
            monkeypatch.setattr(module, "choose_threads", fake)


def test_settings_of_a_model_replace_those_of_the_config(config: Config) -> None:
    settings = provenance(config) | model_settings(OWN, config)
    assert (settings["threads"], settings["threads_setting"]) == (2, 2)
    assert settings["prefill_limit"] == 6
    assert settings["kv_type"] == "q8_0"
    assert (settings["batch_tokens_setting"], settings["draft_tokens"]) == (64, 3)


def test_a_model_without_settings_leaves_the_threads_to_the_config(config: Config) -> None:
    settings = provenance(config) | model_settings(SPEC, config)
    assert (settings["threads"], settings["threads_setting"]) == (4, "auto")
    assert "prefill_limit" not in settings
    assert settings["batch_tokens_setting"] == "auto"


@pytest.mark.parametrize("threads", [None, 1, 3, 99])
@pytest.mark.parametrize("prefill", [None, 1, 3, 99])
def test_what_is_logged_is_what_the_engine_gets(
    config: Config, threads: int | None, prefill: int | None
) -> None:
    spec = replace(SPEC, threads=threads, prefill_threads=prefill)
    limits = choose_thread_limits(spec, config)
    logged = provenance(config) | model_settings(spec, config)
    assert logged["threads"] == limits.decode
    assert logged.get("prefill_limit", logged["threads"]) == limits.prefill
    found = conditions(config, spec=spec)
    assert found == parse_conditions(logged, ())
    assert not list_differences(found, conditions(config, spec=spec))


@pytest.mark.parametrize(
    "change",
    [{"threads": 1}, {"prefill_threads": 1}, {"kv_type": "f16"}, {"batch_tokens": 128}],
)
def test_a_curve_of_other_settings_does_not_hold(config: Config, change: dict[str, Any]) -> None:
    then, now = conditions(config, spec=OWN), conditions(config, spec=replace(OWN, **change))
    assert len(list_differences(then, now)) == 1


def test_a_curve_does_not_depend_on_the_depth_of_drafts(config: Config) -> None:
    # Curves are made of turns without drafts.
    other = replace(OWN, draft_tokens=None)
    assert conditions(config, spec=OWN) == conditions(config, spec=other)


def test_a_turn_is_served_with_the_settings_of_its_model(config: Config) -> None:
    (config.home / "own.gguf").write_bytes(tiny_gguf())
    config.models_file.write_text(
        "models:\n  own: {size: s, threads: 2, batch_tokens: 64, sources: [{path: own.gguf}]}\n"
    )
    runtime: Runtime[Any] = open_runtime(config)
    served = runtime.resolve(Arm("a", "own"))
    assert served.settings["threads"] == 2
    assert served.settings["batch_tokens_setting"] == 64
