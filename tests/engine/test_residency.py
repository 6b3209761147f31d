"""Models in memory: loaded once, given up for room, refused clearly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest

from etui.arm import Arm, Sampling
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message
from etui.config.config import Config
from etui.engine import session_loader as module
from etui.engine.chat_prompt import PLAIN_STOP
from etui.engine.context import ContextOptions
from etui.engine.library import Device, Library
from etui.engine.model import Split
from etui.engine.offload import Placement
from etui.engine.residency import Residency
from etui.errors import EngineFailed, ModelUnavailable
from etui.events import Finished
from etui.models.spec import ModelSpec
from tests.engine.opened import opened
from tests.engine.tampered import with_template

SPEC = ModelSpec("one", "135M", (), context=512, sha256="ab" * 32)


@pytest.fixture
def residency(config: Config) -> Iterator[Residency]:
    residency = Residency(replace(config, threads=1))
    yield residency
    residency.close()


def test_a_model_is_loaded_once(residency, starter_model):
    session, loaded, _ = opened(residency, SPEC, starter_model)
    assert loaded.start_ns < loaded.end_ns
    assert loaded.size_bytes == starter_model.stat().st_size
    assert loaded.gpu_layers >= 0
    again, reloaded, _ = opened(residency, SPEC, starter_model)
    assert again is session
    assert reloaded is None


def test_the_context_is_held_to_the_model_and_the_user(config, starter_model):
    own = Residency(replace(config, threads=1, context_tokens=768))
    session, _, _ = opened(own, replace(SPEC, context=100_000), starter_model)
    assert session.facts.context_tokens == 768
    own.close()


def test_a_context_that_never_fits_is_refused(residency, starter_model, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000_000))
    with pytest.raises(
        ModelUnavailable, match=r"one needs \d+ MB for its context, but only 50\.0 MB"
    ):
        opened(residency, SPEC, starter_model)


def test_a_failed_load_with_auto_steps_down(residency, starter_model, monkeypatch):
    tried = []

    class Failing(module.Model):
        def __init__(self, *args: object, **kwargs: object) -> None:
            tried.append(args[2])
            if args[2]:
                raise ModelUnavailable("out of memory on the device")
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "Model", Failing)
    monkeypatch.setattr(module, "choose_placement", lambda *_: Placement(31))
    _, loaded, _ = opened(residency, SPEC, starter_model)
    assert loaded.gpu_layers == 0
    assert tried == sorted(tried, reverse=True)
    assert tried[0] == 31
    with pytest.raises(ModelUnavailable, match="out of memory"):
        opened(residency, replace(SPEC, name="two", gpu_layers=31), starter_model)


GPUS = tuple(Device(f"GPU{i}", "fake", free, 10**11) for i, free in enumerate((10**11, 10**9)))


class Spied(module.Model):
    """Remembers what it was made with, and loads onto the CPU whatever was asked for."""

    asked: ClassVar[list[tuple[int, Split | None]]] = []

    def __init__(self, library: Library, path: Path, layers: int, split: Split | None, **kw: Any):
        self.asked.append((layers, split))
        super().__init__(library, path, 0, **kw)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Split | None]]:
    """Two GPUs to llama.cpp, and what models were made with."""
    monkeypatch.setattr(Library, "gpus", lambda _: GPUS)
    monkeypatch.setattr(module, "Model", Spied)
    monkeypatch.setattr(Spied, "asked", [])
    return Spied.asked


@pytest.mark.parametrize(
    ("split", "main_gpu", "shares"), [("layer", 0, (3.0, 1.0)), ("row", 1, ()), ("none", 1, ())]
)
def test_the_split_and_flash_attention_reach_llama_cpp(
    residency, starter_model, asked, split, main_gpu, shares
):
    spec = replace(SPEC, split=split, main_gpu=main_gpu, tensor_split=shares, flash_attention="on")
    session, loaded, _ = opened(residency, spec, starter_model)
    assert asked == [(31, Split(split, main_gpu, shares))]
    assert loaded.gpu_layers == 31
    assert session.options.flash_attention == "on"


def test_a_changed_split_loads_anew(residency, starter_model, asked):
    opened(residency, SPEC, starter_model)
    for changes in ({"split": "row"}, {"main_gpu": 1}, {"flash_attention": "off"}):
        session, loaded, _ = opened(residency, replace(SPEC, **changes), starter_model)
        assert loaded is not None, changes
    assert session.options.flash_attention == "off"
    assert len(asked) == 4


def test_without_a_gpu_nothing_is_split(residency, starter_model, monkeypatch):
    monkeypatch.setattr(Library, "gpus", lambda _: ())
    # llama.cpp itself refuses main_gpu where it has no device.
    spec = replace(SPEC, split="none", main_gpu=1)
    session, loaded, _ = opened(residency, spec, starter_model)
    assert loaded.gpu_layers == 0
    assert session.options.flash_attention == "off"


@pytest.mark.parametrize(("parallel", "flash"), [(1, "off"), (8, "auto")])
def test_several_answers_at_a_time_have_flash_attention(config, starter_model, parallel, flash):
    with closing(Residency(replace(config, threads=1, parallel=parallel))) as residency:
        session, _, _ = opened(residency, SPEC, starter_model)
        assert session.options.flash_attention == flash


@pytest.mark.parametrize("changes", [{"main_gpu": 2}, {"tensor_split": (1.0, 1.0, 1.0)}])
def test_a_gpu_that_is_not_there_is_refused(residency, starter_model, asked, changes):
    with pytest.raises(ModelUnavailable, match=r"configured for 3 GPUs, but llama\.cpp sees 2"):
        opened(residency, replace(SPEC, **changes), starter_model)
    assert not asked


def test_a_context_that_finds_no_room_on_the_gpu_steps_down_too(
    residency, starter_model, asked, monkeypatch
):
    class Full(module.Context):
        def __init__(self, library: Library, model: module.Model, options: ContextOptions, *a: Any):
            if options.offload_kv:
                raise EngineFailed("could not create a context of 512 tokens: out of memory")
            super().__init__(library, model, options, *a)

    monkeypatch.setattr(module, "Context", Full)
    session, loaded, _ = opened(residency, SPEC, starter_model)
    assert loaded.gpu_layers == 0
    layers = [layers for layers, _ in asked]
    assert layers[0] == 31
    assert layers[-1] == 0
    assert layers == sorted(layers, reverse=True)
    assert session.step([session.open(session.tokenize("Hi", bos=True), Sampling())]).sampled


def test_a_template_that_fails_is_not_tried_with_fewer_layers(
    residency, starter_model, tmp_path, asked
):
    path = with_template(starter_model, tmp_path / "odd.gguf", "{% if %}")
    with pytest.raises(ModelUnavailable, match="TemplateSyntaxError"):
        opened(residency, SPEC, path)
    assert len(asked) == 1


def test_a_model_without_a_template_gets_the_plain_one_and_its_stop(
    residency, starter_model, tmp_path
):
    path = with_template(starter_model, tmp_path / "bare.gguf", None)
    session, _, _ = opened(residency, replace(SPEC, stop=("END",)), path)
    assert session.facts.stop == ("END", *PLAIN_STOP)
    assert session.render([Message("user", "Hi")]) == "User: Hi\nAssistant:"
    own, _, _ = opened(residency, SPEC, starter_model)
    assert own.facts.stop == ()
    assert own.render([Message("user", "Hi")]).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('not like this') }}", "rejects these messages: not like this"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "ran"),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_a_template_that_fails_ends_the_answer_and_not_the_engine(
    config, starter_model, tmp_path, template, says
):
    path = with_template(starter_model, tmp_path / "odd.gguf", template)
    arm = Arm("quick", "one", max_tokens=2)
    asked = AnswerRequest(SPEC, path, (Message("user", "Hi"),), arm)
    with closing(LocalBackend(replace(config, threads=1))) as engine:
        with pytest.raises(ModelUnavailable, match="the chat template of one") as caught:
            list(engine.answer(asked))
        assert says in caught.value.what
        assert caught.value.fix
        *_, last = engine.answer(replace(asked, path=starter_model))
        assert isinstance(last, Finished)
        assert last.output_tokens == 2


def test_what_llama_cpp_refuses_is_told_with_its_log(residency, starter_model, tmp_path):
    data = bytearray(starter_model.read_bytes())
    at = data.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
    assert data[at : at + 5] == b"llama"
    data[at : at + 5] = b"lhama"
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"(?s)llama.cpp could not load odd.gguf: .*lhama"):
        opened(residency, SPEC, odd)
    # The next model is not harmed.
    session, _, _ = opened(residency, SPEC, starter_model)
    tokens = session.tokenize(session.render([Message("user", "Hi")]), bos=True)
    assert session.step([session.open(tokens, Sampling())]).sampled


def test_llama_cpp_logs_to_a_file_only(residency, config, starter_model, capfd):
    opened(residency, SPEC, starter_model)
    residency.close()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert "llama_model_loader" in (config.log_dir / "llama.log").read_text()
