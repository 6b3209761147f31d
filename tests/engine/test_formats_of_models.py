"""Models that no entry names think and call as the chat template in their file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message, OutputOptions
from etui.config.config import Config
from etui.engine.chat_formats import ChatFormat, recognise
from etui.events import Answer, Finished, Thought
from etui.models.files import build_found_spec
from tests.engine.tampered import with_template
from tests.engine.templates import TEMPLATES

ASK = (Message("user", "Name a colour.\nA) red\nB) blue"),)
TOOL = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"type": "boolean"}},
            "required": ["colour", "size"],
        },
    },
}
FORMS = {name: recognise(source) for name, source in TEMPLATES.items()}


def families(has: Callable[[ChatFormat], object], often: str) -> list[ParameterSet]:
    """Return the families that have something; each loads a model, so all but two are slow."""
    return [
        pytest.param(name, marks=[] if name in often.split() else pytest.mark.slow)
        for name, form in FORMS.items()
        if has(form)
    ]


@pytest.fixture
def engine(config: Config) -> Iterator[LocalBackend]:
    with closing(LocalBackend(replace(config, threads=1))) as engine:
        yield engine


def request(path: Path, arm: Arm, options: OutputOptions | None = None) -> AnswerRequest:
    spec = replace(build_found_spec(path), name="one", context=512, sha256=path.stem * 2)
    return AnswerRequest(spec, path, ASK, arm, options=options or OutputOptions())


@pytest.mark.parametrize("family", families(lambda form: form.thought, "harmony granite"))
def test_a_found_file_thinks_by_its_template(engine, starter_model, tmp_path, family):
    path = with_template(starter_model, tmp_path / "found.gguf", TEMPLATES[family])
    arm = Arm("think", "one", "cot", think_tokens=12, max_tokens=8)
    *events, end = engine.answer(request(path, arm))
    assert isinstance(end, Finished)
    assert 0 < end.thinking_tokens <= 12
    assert any(isinstance(event, Thought) for event in events)
    assert any(isinstance(event, Answer) for event in events)
    letters = Arm("choose", "one", readout="choices", max_tokens=8)
    *_, end = engine.answer(request(path, letters))
    assert end.answer in ("A) red", "B) blue")
    assert end.output_tokens == 0


@pytest.mark.parametrize("family", families(lambda form: form.tools, "harmony qwen3-coder"))
def test_a_found_file_calls_by_its_template(engine, starter_model, tmp_path, family):
    path = with_template(starter_model, tmp_path / "found.gguf", TEMPLATES[family])
    options = OutputOptions(
        tools=json.dumps([TOOL]), tool_choice="required", parallel_tool_calls=False
    )
    arm = Arm("quick", "one", max_tokens=120)
    *_, end = engine.answer(request(path, arm, options))
    assert isinstance(end, Finished)
    call = json.loads(end.tool_calls)[0]["function"]
    assert call["name"] == "paint"
    arguments = json.loads(call["arguments"])
    assert arguments["colour"] in ("red", "blue")
    assert arguments["size"] in (True, False)
    assert end.answer == ""
