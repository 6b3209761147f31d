"""Real MCP servers of the ``mcp`` package over pipes and HTTP, and servers that do wrong."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from etui.chat import Query
from etui.config.config import apply_settings, find_folders
from etui.config.schema import ToolServerEntry
from etui.tools.servers import MOST_FAILURES, Listing, McpServer, ToolFailed, ToolTimedOut
from etui.tools.toolbox import Toolbox, remember_permission
from tests.support.ports import find_free_port
from tests.tools.mcp_servers import ESCAPES

SCRIPT = str(Path(__file__).with_name("mcp_servers.py"))


def never():
    return False


@contextmanager
def opened(name, seconds=60.0, **more):
    entry = ToolServerEntry(command=(sys.executable, SCRIPT, name), timeout_seconds=seconds, **more)
    server = McpServer(name, entry)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def good():
    with opened("good") as server:
        yield server


def test_tools_prompts_and_resources_are_listed(good):
    listing = good.list()
    names = {each["name"] for each in listing.tools}
    assert {"add", "slow", "huge", "boom"} <= names
    (add,) = [each for each in listing.tools if each["name"] == "add"]
    assert add["description"] == "Add two numbers."
    assert add["parameters"]["required"] == ["a", "b"]
    assert [each["name"] for each in listing.prompts] == ["review"]
    assert [each["name"] for each in listing.resources] == ["notes://today"]


def test_a_call_over_pipes(good):
    assert good.call("add", {"a": 2, "b": 40}, never) == ("42", 0)


def test_a_tool_that_fails_says_why(good):
    with pytest.raises(ToolFailed, match="boom"):
        good.call("boom", {}, never)
    with pytest.raises(ToolFailed):
        good.call("add", {"a": "two"}, never)
    with pytest.raises(ToolFailed):
        good.call("nothing", {}, never)
    assert good.call("add", {"a": 1, "b": 1}, never) == ("2", 0)


def test_a_long_result_is_cut(good):
    text, left_out = good.call("huge", {"characters": 2_000_100}, never)
    assert (len(text), left_out) == (2_000_000, 100)


def test_a_server_that_leaves_is_started_again(good):
    with pytest.raises(ToolFailed):
        good.call("leave", {}, never)
    assert good.call("add", {"a": 1, "b": 2}, never) == ("3", 0)


def test_a_slow_tool_is_given_up_and_its_server_goes_on():
    for seconds in (4.0, 16.0, 64.0):
        with opened("good", seconds=seconds) as server:
            try:
                server.list()
            except ToolTimedOut:  # this machine starts it more slowly
                continue
            with pytest.raises(ToolTimedOut, match=f"{seconds:g} s"):
                server.call("slow", {"seconds": 600}, never)
            return
    pytest.fail("the server did not start")


def test_a_call_can_be_stopped(good):
    begin = time.monotonic()
    with pytest.raises(ToolFailed, match="stopped"):
        good.call("slow", {"seconds": 60}, lambda: time.monotonic() - begin > 0.3)
    assert time.monotonic() - begin < 30
    assert good.call("add", {"a": 1, "b": 2}, never) == ("3", 0)


def test_a_server_over_http():
    port = find_free_port()
    child = subprocess.Popen([sys.executable, SCRIPT, "http", str(port)], stderr=subprocess.DEVNULL)
    server = McpServer("web", ToolServerEntry(url=f"http://127.0.0.1:{port}/mcp"))
    try:
        for _ in range(2400):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert child.poll() is None
            time.sleep(0.05)
        assert server.call("add", {"a": 2, "b": 3}, never) == ("5", 0)
        with pytest.raises(ToolFailed, match="boom"):
            server.call("boom", {}, never)
        child.kill()
        child.wait()
        with pytest.raises(ToolFailed):
            server.call("add", {"a": 2, "b": 3}, never)
    finally:
        server.close()
        child.kill()
        child.wait()


def test_a_server_that_crashes_says_why_and_is_not_started_for_ever():
    with opened("crash") as server:
        for _ in range(MOST_FAILURES):
            with pytest.raises(ToolFailed, match="cannot read /etc/secret"):
                server.list()
        with pytest.raises(ToolFailed, match=f"failed {MOST_FAILURES} times"):
            server.list()


@pytest.mark.parametrize("name", ["silent", "endless"])
def test_a_server_without_an_answer_is_ended(name):
    with opened(name, seconds=1.0) as server, pytest.raises(ToolFailed):
        server.list()


def test_a_command_that_does_not_exist():
    server = McpServer("gone", ToolServerEntry(command=("/nonexistent/tool",)))
    with pytest.raises(ToolFailed, match=r"^No such file or directory: /nonexistent/tool$"):
        server.list()


def test_a_liar_is_read_with_care():
    with opened("liar") as server:
        assert [each["name"][:9] for each in server.list().tools][:2] == ["true_name", "deep"]
        with pytest.raises(ToolFailed):
            server.call("true_name", {}, never)


def test_pages_that_never_end_are_cut_off():
    with opened("pages") as server:
        assert 1 < len(server.list().tools) <= 200


def test_no_process_is_left_behind(tmp_path):
    pid_file = tmp_path / "pid"
    for seconds in (3.0, 12.0, 48.0):  # within which this machine starts a server
        server = opened("stubborn", seconds=seconds, env={"PID_FILE": str(pid_file)})
        with server as started, pytest.raises(ToolFailed):
            started.list()
        if pid_file.exists():
            break
    limit = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text()))
        while process.status() != psutil.STATUS_ZOMBIE:  # until the signal has arrived
            assert time.monotonic() < limit
            time.sleep(0.01)


def load(text):
    config = find_folders()
    config.config_file.write_text(text)
    return apply_settings(config)


@pytest.fixture
def box(etui_home):
    words = json.dumps([sys.executable, SCRIPT, "good"])
    liar = json.dumps([sys.executable, SCRIPT, "liar"])
    config = load(
        f"tools:\n  folder: {etui_home}\n  result_characters: 200\n"
        f"  servers:\n    good: {{command: {words}}}\n    liar: {{command: {liar}}}\n"
        "tool_permissions: {calculate: allow, 'good__*': ask, good__leave: deny}\n"
    )
    box = Toolbox(config)
    try:
        yield box
    finally:
        box.close()


def test_no_process_is_left_behind_by_a_program_that_is_killed(tmp_path):
    """While its server has not even answered the first request."""
    file = tmp_path / "pid"
    words = [sys.executable, SCRIPT, "stubborn"]
    code = (
        "from etui.config.schema import ToolServerEntry as E; "
        "from etui.tools.servers import McpServer; "
        f"McpServer('a', E(command={words}, env={{'PID_FILE': {str(file)!r}}}, "
        "timeout_seconds=600)).list()"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as program:
        limit = time.monotonic() + 60
        while not (file.exists() and file.read_text()) and time.monotonic() < limit:
            with suppress(subprocess.TimeoutExpired):
                program.wait(0.05)
        left = psutil.Process(program.pid).children(recursive=True)
        assert len(left) == 2
        program.kill()
    _, alive = psutil.wait_procs(left, 60)
    for each in alive:
        each.kill()
    assert alive == []


def test_the_tools_of_a_box(box):
    offered = json.loads(box.offer(Query("q")).options.tools)
    names = [each["function"]["name"] for each in offered]
    assert names[:2] == ["calculate", "read_file"]
    assert "good__add" in names
    assert "good__leave" not in names  # forbidden: the model is not even told of it
    assert "liar__true_name" in names
    assert "liar" in box.problems  # one has no end, one too long a name, one a taken one
    assert not any("\x1b" in each["function"]["description"] for each in offered)
    assert box.run("calculate", '{"expression": "2*21"}', never) == ("done", "42")
    status, text = box.run("good__escapes", "{}", never)
    assert status == "done"
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "<|im_end|>" in text  # the engine keeps it from becoming a token
    assert len(ESCAPES) == len(text)
    status, text = box.run("good__huge", '{"characters": 5000}', never)
    assert text == "x" * 200 + "\n[cut: 4,800 characters left out]"
    for arguments in ("[1]", "{", '{"a": 1}', "[" * 100_000):
        status, text = box.run("calculate", arguments, never)
        assert (status, text[:7]) == ("failed", "error: ")


@pytest.mark.parametrize("levels", [33, 900, 5_000])
def test_a_schema_without_an_end_is_left_out(box, monkeypatch, levels):
    deep: object = {}
    for _ in range(levels):
        deep = {"x": deep}
    tool = {"name": "deep", "description": "", "parameters": deep}
    listing = Listing((tool,), (), ())
    monkeypatch.setattr(McpServer, "list", lambda _server, _cancelled: listing)
    assert [each.name for each in box.open()] == ["calculate", "read_file"]
    assert box.problems["good"] == "left out: deep"


def test_permissions(etui_home):
    config = load("tool_permissions: {calculate: ask, 'read_*': deny}\n")
    said = iter(["no", "chat", "once", "always"])
    asked = []

    def ask(tool, arguments):
        asked.append((tool.name, arguments))
        return next(said)

    remembered = []
    box = Toolbox(config, ask, lambda *each: remembered.append(each))
    box.open()
    assert box.refuse("calculate", "{}", "a") == "the user refused it"
    assert box.refuse("calculate", "{}", "a") == ""
    assert box.refuse("calculate", "{}", "a") == ""  # remembered for this chat
    assert len(asked) == 2
    assert box.refuse("calculate", "{}", "b") == ""
    assert box.refuse("calculate", "{}", "b") == ""
    assert box.refuse("calculate", "{}", "c") == ""
    assert len(asked) == 4
    assert remembered == [("calculate", "allow")]
    assert "there is no tool" in box.refuse("read_file", "{}", "a")  # no folder


def test_a_permission_that_cannot_be_written_holds_until_the_end(etui_home):
    config = load("tool_permissions: {}\n")
    config.config_file.unlink()
    config.config_file.mkdir()
    box = Toolbox(config, lambda _tool, _arguments: "always", partial(remember_permission, config))
    box.open()
    assert box.refuse("calculate", "{}", None) == ""
    assert "config.yaml" in box.problems
    box.ask = None
    assert box.refuse("calculate", "{}", None) == ""


def test_without_anyone_to_ask_only_what_is_allowed_runs(etui_home):
    box = Toolbox(load("tool_permissions: {}\n"))
    box.open()
    assert "there is no terminal to ask at" in box.refuse("calculate", "{}", None)
    box = Toolbox(load("tool_permissions: {'calc*': allow}\n"))
    box.open()
    assert box.refuse("calculate", "{}", None) == ""


def test_a_permission_is_written_to_config_yaml(etui_home):
    config = load("policy: frugal  # mine\n")
    remember_permission(config, "calculate", "allow")
    remember_permission(config, "good__add", "deny")
    remember_permission(config, "calculate", "deny")
    text = config.config_file.read_text()
    assert text.startswith("policy: frugal  # mine\n")
    assert apply_settings(find_folders()).tool_permissions == {
        "calculate": "deny",
        "good__add": "deny",
    }
