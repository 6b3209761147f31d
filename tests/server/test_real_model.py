"""``etui serve`` as a process with real models: the forms of answers, the log, and the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from jsonschema import validate

from etui.config.config import Config
from etui.log.queries import LogReader
from tests.server.fakes import DEADLINE_SECONDS
from tests.support.hostile_schemas import SCHEMAS

STARTER, CALLER = "smollm2-135m", "qwen2.5-coder-0.5b"
ASK: Any = [{"role": "user", "content": "Describe a hammer as JSON."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 16},
        "kind": {"enum": ["tool", "toy"]},
    },
    "required": ["name", "kind"],
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
Serve = Callable[..., Any]


@dataclass
class Served:
    """A process of ``etui serve``, and a client of it."""

    process: subprocess.Popen[str]
    client: openai.OpenAI


@pytest.fixture
def serve(starter_model: Path, config: Config) -> Serve:
    """Starts ``etui serve`` with a model, and opens a client of it."""
    (config.home / "config.yaml").write_text("threads: 1\n")

    @contextmanager
    def start(model: str, *options: str) -> Iterator[Served]:
        process = subprocess.Popen(
            [sys.executable, "-m", "etui", "serve", "--port", "0", "--model", model, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ETUI_MODELS": str(starter_model.parent)},
        )
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"http://\S+", line)
            assert found is not None, line + process.stderr.read()
            with openai.OpenAI(
                base_url=found[0], api_key="none", timeout=DEADLINE_SECONDS, max_retries=0
            ) as client:
                yield Served(process, client)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=DEADLINE_SECONDS)

    return start


@pytest.mark.parametrize("options", [(), ("--parallel", "2")])
def test_json_logprobs_stops_and_several_answers(serve: Serve, options: tuple[str, ...]) -> None:
    with serve(STARTER, *options) as served:
        client = served.client
        create = client.chat.completions.create
        whole = create(
            model=STARTER, messages=ASK, response_format=FORMAT, max_tokens=100, temperature=0.8,
            seed=3, n=3,
        )  # fmt: skip
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        for choice in whole.choices:
            assert choice.finish_reason == "stop"
            validate(json.loads(choice.message.content), SCHEMA)
        refused: Any = {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"not": {"pattern": "a"}}},
        }
        with pytest.raises(openai.BadRequestError, match="'not'") as found:
            create(model=STARTER, messages=ASK, response_format=refused)
        assert found.value.param
        with pytest.raises(openai.BadRequestError) as found:
            create(model=STARTER, messages=ASK, tools=[WEATHER])
        assert found.value.param == "tools"
        chunks = list(
            create(
                model=STARTER, messages=ASK, max_tokens=12, temperature=0, logprobs=True,
                top_logprobs=3, stream=True,
            )
        )  # fmt: skip
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        logged = [
            each
            for chunk in chunks
            if chunk.choices and chunk.choices[0].logprobs
            for each in chunk.choices[0].logprobs.content or ()
        ]
        assert b"".join(bytes(each.bytes) for each in logged).decode() == text
        assert all(len(each.top_logprobs) == 3 for each in logged)
        raw = client.completions.create(
            model=STARTER, prompt="One, two, three,", max_tokens=12, temperature=0, stop=["six"]
        )
        assert "six" not in raw.choices[0].text
        assert raw.usage.prompt_tokens < 12


def skip_without_caller(starter_model: Path) -> None:
    if not (starter_model.parent / f"{CALLER}.gguf").exists():
        pytest.skip(f"{CALLER}, a model that can call tools, is not in {starter_model.parent}")


@pytest.mark.parametrize("options", [(), ("--parallel", "2")])
def test_a_tool_is_called_and_its_result_is_answered(
    serve: Serve, starter_model: Path, options: tuple[str, ...]
) -> None:
    skip_without_caller(starter_model)
    messages: Any = [{"role": "user", "content": "How is the weather in Rome?"}]
    with serve(CALLER, *options) as served:
        client = served.client
        stream = client.chat.completions.create(
            model=CALLER, messages=messages, tools=[WEATHER], tool_choice="required",
            max_tokens=80, temperature=0, stream=True, parallel_tool_calls=False,
        )  # fmt: skip
        name, call_id, arguments, reasons = "", "", "", []
        for chunk in stream:
            for choice in chunk.choices:
                assert not choice.delta.content
                reasons += [choice.finish_reason] if choice.finish_reason else []
                for call in choice.delta.tool_calls or ():
                    call_id = call_id or call.id or ""
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
        assert (name, reasons) == ("get_weather", ["tool_calls"])
        validate(json.loads(arguments), WEATHER["function"]["parameters"])
        function = {"name": name, "arguments": arguments}
        calls = [{"id": call_id, "type": "function", "function": function}]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": call_id, "content": "Sunny, 31 degrees."})
        answered = client.chat.completions.create(
            model=CALLER, messages=messages, tools=[WEATHER], max_tokens=40, temperature=0
        )
        message = answered.choices[0].message
        assert message.content or message.tool_calls
        assert answered.usage.prompt_tokens > 150  # the tools, the call and its result


PLANET: Any = [{"role": "user", "content": "Which planet is called the red planet?"}]
needs_sigint = pytest.mark.skipif(sys.platform == "win32", reason="it is ended by SIGINT")


@needs_sigint
def test_a_real_answer_is_measured_logged_and_survives_the_end(
    serve: Serve, config: Config
) -> None:
    asked: Any = {"messages": PLANET, "max_tokens": 8, "temperature": 0, "seed": 1}
    with serve(STARTER, "--jsonl") as served:
        create = served.client.chat.completions.create
        whole = create(model=STARTER, **asked)
        usage_too = {"include_usage": True}
        chunks = list(create(model="etui", **asked, stream=True, stream_options=usage_too))
        served.process.send_signal(signal.SIGINT)
        shown, _ = served.process.communicate(timeout=DEADLINE_SECONDS)
        assert served.process.returncode == 0
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == whole.choices[0].message.content.strip() != ""
    usage = chunks[-1].usage
    assert 0 < usage.completion_tokens <= 8
    assert (usage.energy["kind"] is None) == (usage.energy["joules"] is None)
    assert usage.energy["attribution"]["method"] == "exclusive"
    *changes, end = map(json.loads, shown.splitlines())
    assert {change["event"] for change in changes} == {"status"}
    assert (end["event"], end["finished"], end["accepting"]) == ("end", 2, False)
    with LogReader(config) as log:
        turn = log.find_turn(whole.id.removeprefix("chatcmpl-"))
    assert turn is not None
    assert turn.answer == whole.choices[0].message.content
    assert turn.client is not None
    assert turn.client.endpoint == "/v1/chat/completions"
    assert turn.energy.joules == whole.usage.energy["joules"]


@needs_sigint
def test_stopping_in_the_middle_of_an_answer_saves_it(serve: Serve, config: Config) -> None:
    with serve(STARTER) as served:
        stream = served.client.chat.completions.create(
            model=STARTER, messages=PLANET, max_tokens=8, stream=True
        )
        first = next(stream)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(DEADLINE_SECONDS) == 0
    with LogReader(config) as log:
        assert log.find_turn(first.id.removeprefix("chatcmpl-")) is not None


def test_raw_prompts_gaps_and_likelihoods(serve: Serve, starter_model: Path) -> None:
    skip_without_caller(starter_model)
    with serve(CALLER) as served:
        complete = served.client.completions.create
        gap = complete(
            model=CALLER, prompt="def add(a, b):\n    return ", suffix="\n", max_tokens=8,
            temperature=0, extra_body={"keep_alive": 1},
        )  # fmt: skip
        assert gap.choices[0].text.startswith("a + b")
        likely, unlikely = complete(
            model=CALLER, prompt=["The sky is blue", "The sky is lamp"], echo=True, logprobs=1,
            max_tokens=0,
        ).choices  # fmt: skip
        assert likely.text == "The sky is blue"
        assert likely.logprobs.token_logprobs[-1] > unlikely.logprobs.token_logprobs[-1] + 3
        again = complete(
            model=CALLER, prompt="The sky is blue", echo=True, logprobs=1, max_tokens=1
        )
        scored = again.choices[0].logprobs.token_logprobs
        assert scored[1:-1] == pytest.approx(likely.logprobs.token_logprobs[1:], abs=0.05)
        best = complete(
            model=CALLER, prompt="1, 2, 3,", best_of=4, n=2, temperature=1.0, max_tokens=4
        )
        assert len(best.choices) == 2
        with pytest.raises(openai.BadRequestError, match="does not have") as found:
            complete(model=CALLER, prompt=[2**21])
        assert found.value.param == "prompt"


def test_expensive_schemas_are_refused_and_others_are_answered(serve: Serve) -> None:
    with serve(STARTER, "--parallel", "2") as served:
        create = served.client.chat.completions.create

        def ask(schema: Any) -> Any:
            form: Any = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
            return create(model=STARTER, messages=ASK, response_format=form, max_tokens=12)

        with ThreadPoolExecutor(1) as other:
            for name in ("multiples", "all letters"):
                refused = other.submit(ask, SCHEMAS[name])
                create(model=STARTER, messages=ASK, max_tokens=2)
                with pytest.raises(openai.BadRequestError, match=r"more than 0\.5 s"):
                    refused.result()
        text = ask(SCHEMAS["98 optional characters"]).choices[0].message.content
        assert text.startswith('"')
        assert len(text) <= 100
