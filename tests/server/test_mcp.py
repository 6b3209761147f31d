"""``etui mcp`` as a process, with the official client: what tools say, cancel, errors, the end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

import anyio
import httpx2
from mcp import Client, StdioServerParameters

from etui.config.config import Config
from etui.errors import ExitCode
from etui.log.queries import LogReader
from tests.server.fakes import DEADLINE_SECONDS
from tests.support.ports import find_free_port

STARTER = "smollm2-135m"
Connect = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def connect(starter_model: Path, config: Config, tmp_path: Path) -> Connect:
    """Starts ``etui mcp`` behind a copy of its standard output, and opens a client of it."""
    (config.home / "config.yaml").write_text("threads: 1\n")
    environ = {**os.environ, "ETUI_MODELS": str(starter_model.parent)}

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[Any]:
        command = shlex.join([sys.executable, "-m", "etui", "mcp", "--model", STARTER])
        copy = shlex.quote(str(tmp_path / "stdout"))
        server = StdioServerParameters(
            command="sh", args=["-c", f"{command} | tee {copy}"], env=environ
        )
        with anyio.fail_after(DEADLINE_SECONDS):
            async with Client(server, **options) as client:
                yield client

    return start


async def call(client: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return dict(result.structured_content)


async def fail(client: Any, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_tools_answer_and_only_the_protocol_is_written(
    connect: Connect, config: Config, tmp_path: Path, mode: str
) -> None:
    progress: list[str | None] = []

    async def follow(done: float, total: float | None, message: str | None) -> None:
        progress.append(message)

    async with connect(mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"ask", "power_now", "energy_of_interval", "models"}
        assert tools["ask"].input_schema["required"] == ["question"]
        listed = await call(client, "models")
        assert listed["default"] == STARTER
        assert STARTER in {model["id"] for model in listed["models"]}
        power = await call(client, "power_now")
        assert {"watts", "kind", "channels", "unmeasured"} <= set(power)
        begun = await call(client, "energy_of_interval")
        result = await client.call_tool(
            "ask", {"question": "What is a joule?", "max_tokens": 24}, progress_callback=follow
        )
        answer = result.structured_content
        assert answer["answer"]
        assert (answer["model"], answer["tokens"]["output"]) == (STARTER, 24)
        assert set(answer["energy"]) >= {"joules", "uncertainty", "kind", "load_joules"}
        assert json.loads(result.content[0].text) == answer
        assert any(text and "24 tokens" not in text for text in progress)
        spent = await call(client, "energy_of_interval", **begun)
        assert spent["seconds"] > 0
        if answer["energy"]["joules"] is not None:
            assert spent["joules"] > answer["energy"]["joules"]
            assert spent["uncertainty"] is not None
        last = await call(client, "energy_of_interval", seconds=0.1)
        assert last["seconds"] == pytest.approx(0.1)
    lines = (tmp_path / "stdout").read_text("utf-8").splitlines()
    assert lines
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in lines)
    with LogReader(config) as log:
        record = log.get_turn(answer["turn_id"])
    assert record.client is not None
    assert record.client.endpoint == "mcp"
    assert record.energy.joules == answer["energy"]["joules"]


async def test_errors_are_words_for_the_model_that_called(connect: Connect) -> None:
    async with connect() as client:
        assert "no policy, arm or model is called 'smollm'" in await fail(
            client, "ask", question="Why?", model="smollm"
        )
        assert await fail(client, "ask") == "question is missing"
        short = "question: string should have at least 1 character; got ''"
        assert await fail(client, "ask", question="") == short
        few = "max_tokens: input should be greater than or equal to 1; got 0"
        assert await fail(client, "ask", question="Why?", max_tokens=0) == few
        assert "recorded are the last" in await fail(client, "energy_of_interval", seconds=86_400)
        assert "end_ns is before" in await fail(client, "energy_of_interval", start_ns=2**62)
        assert "seconds" in await fail(client, "energy_of_interval", seconds=0)
        # ... and the server still answers.
        assert (await call(client, "ask", question="Why?", max_tokens=4))["answer"] is not None


async def test_a_cancelled_answer_stops_and_is_in_the_log(connect: Connect, config: Config) -> None:
    async with connect() as client:
        with anyio.CancelScope() as scope:

            async def stop(done: float, total: float | None, message: str | None) -> None:
                if done:
                    scope.cancel()

            await client.call_tool(
                "ask", {"question": "Count to a thousand.", "max_tokens": 4000},
                progress_callback=stop,
            )  # fmt: skip
        assert scope.cancelled_caught
        assert (await call(client, "ask", question="Why?", max_tokens=4))["status"] != "stopped"
    with LogReader(config) as log:
        turns = log.list_turns(descending=False)
    first, _ = turns
    assert first.status == "stopped"
    assert 0 < first.tokens_output < 4000


@pytest.fixture
def alone(config: Config) -> Iterator[subprocess.Popen[str]]:
    """``etui mcp`` with pipes, without a client."""
    with subprocess.Popen(
        [sys.executable, "-m", "etui", "mcp", "--model", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("how", ["input", "SIGTERM", "SIGINT"])
def test_it_ends_with_its_input_or_by_a_signal(alone: subprocess.Popen[str], how: str) -> None:
    assert alone.stdin is not None
    assert alone.stdout is not None
    client = {"protocolVersion": "2025-06-18", "capabilities": {},
              "clientInfo": {"name": "test", "version": "1"}}  # fmt: skip
    first = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    alone.stdin.write(f"this is no JSON\n{json.dumps(first)}\n")
    alone.stdin.flush()
    answers = [json.loads(alone.stdout.readline())]
    if answers[0].get("id") != 1:  # the line that is no JSON has an answer of its own
        answers.append(json.loads(alone.stdout.readline()))
    assert answers[-1]["result"]["serverInfo"]["name"] == "etui"
    if how != "input":
        alone.send_signal(getattr(signal, how))
    out, err = alone.communicate(timeout=DEADLINE_SECONDS)
    assert alone.returncode == 0, err
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in out.splitlines())
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--model", "--policy"])
def test_an_unknown_name_is_refused_before_an_agent_asks(config: Config, option: str) -> None:
    started = subprocess.run(
        [sys.executable, "-m", "etui", "mcp", option, "nope"], input=b"", capture_output=True
    )
    assert started.returncode == ExitCode.USAGE
    assert b"'nope'" in started.stderr


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process listens on the port."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def address(starter_model: Path, config: Config) -> Iterator[str]:
    """``etui mcp --port N`` on a free port; the address of its endpoint."""
    (config.home / "config.yaml").write_text("threads: 1\n")
    port = find_free_port()
    command = [sys.executable, "-m", "etui", "mcp", "--model", STARTER, "--port", str(port)]
    environ = {**os.environ, "ETUI_MODELS": str(starter_model.parent)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}/mcp"
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 0
        finally:
            process.kill()


async def test_over_http_it_answers_this_machine_alone(address: str) -> None:
    with anyio.fail_after(DEADLINE_SECONDS):
        async with Client(address) as client:
            assert (await call(client, "ask", question="Why?", max_tokens=4))["model"] == STARTER
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accepted = {"Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=accepted) as http:
        for name, value, status in (
            ("Host", "evil.test", 421),
            ("Origin", "http://evil.test", 403),
        ):
            answer = await http.post(address, json=body, headers={name: value})
            assert answer.status_code == status
