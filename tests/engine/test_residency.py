"""Models in memory: loaded once, given up for room, refused clearly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from etui.arm import Sampling
from etui.config import Config
from etui.engine import residency as module
from etui.engine.residency import Residency
from etui.errors import ModelUnavailable
from etui.models import ModelSpec
from etui.query import Message

SPEC = ModelSpec("one", "135M", (), context=512)


@pytest.fixture
def residency(config: Config) -> Iterator[Residency]:
    residency = Residency(replace(config, threads=1))
    yield residency
    residency.close()


def test_a_model_is_loaded_once(residency: Residency, starter_model: Path) -> None:
    session, loaded = residency.session(SPEC, starter_model)
    assert loaded is not None
    assert loaded.start_ns < loaded.end_ns
    assert loaded.size_bytes == starter_model.stat().st_size
    assert loaded.gpu_layers >= 0
    again, reloaded = residency.session(SPEC, starter_model)
    assert again is session
    assert reloaded is None


def test_another_context_loads_anew(residency: Residency, starter_model: Path) -> None:
    residency.session(SPEC, starter_model)
    session, loaded = residency.session(replace(SPEC, context=1024), starter_model)
    assert loaded is not None
    assert session.facts.context_tokens == 1024
    assert residency.resident == ("one",)


def test_the_context_is_held_to_the_model_and_the_user(config: Config, starter_model: Path) -> None:
    own = Residency(replace(config, threads=1, context_tokens=768))
    session, _ = own.session(replace(SPEC, context=100_000), starter_model)
    assert session.facts.context_tokens == 768
    own.close()


def test_the_least_recently_used_gives_way(
    residency: Residency, starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        residency.session(replace(SPEC, name=name), starter_model)
    residency.session(replace(SPEC, name="one"), starter_model)
    assert residency.resident == ("two", "one")

    def memory() -> SimpleNamespace:  # enough for two models, not for three
        return SimpleNamespace(available=10**9 if len(residency.resident) < 2 else 0)

    monkeypatch.setattr(psutil, "virtual_memory", memory)
    residency.session(replace(SPEC, name="three"), starter_model)
    assert residency.resident == ("one", "three")


def test_a_context_that_never_fits_is_refused(
    residency: Residency, starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000_000))
    with pytest.raises(ModelUnavailable, match=r"one needs 0\.1 GB for its context, and 0\.1 GB"):
        residency.session(SPEC, starter_model)


def test_a_failed_load_with_auto_steps_down(
    residency: Residency, starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    class Failing(module.Model):
        def __init__(self, *args: object, **kwargs: object) -> None:
            tried.append(args[2])
            if args[2]:
                raise ModelUnavailable("out of memory on the device")
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "Model", Failing)
    monkeypatch.setattr(Residency, "_layers", lambda *_: 31)
    _, loaded = residency.session(SPEC, starter_model)
    assert loaded is not None
    assert loaded.gpu_layers == 0
    assert tried == sorted(tried, reverse=True)
    assert tried[0] == 31
    with pytest.raises(ModelUnavailable, match="out of memory"):
        residency.session(replace(SPEC, name="two", gpu_layers=31), starter_model)


def test_what_llama_cpp_refuses_is_told_with_its_log(
    residency: Residency, starter_model: Path, tmp_path: Path
) -> None:
    data = bytearray(starter_model.read_bytes())
    at = data.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    assert data[at : at + 5] == b"llama"
    data[at : at + 5] = b"lhama"
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"(?s)llama.cpp refused odd.gguf: .*lhama"):
        residency.session(SPEC, odd)
    # The next model is not harmed.
    session, _ = residency.session(SPEC, starter_model)
    tokens = session.tokenize(session.render([Message("user", "Hi")]), bos=True)
    assert session.step([session.open(tokens, Sampling())]).sampled


def test_llama_cpp_logs_to_a_file_only(
    residency: Residency, config: Config, starter_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    residency.session(SPEC, starter_model)
    residency.close()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert "llama_model_loader" in (config.log_dir / "llama.log").read_text()
