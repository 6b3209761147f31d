"""``etui ask --tools`` and ``etui tools``, with a scripted model and real servers."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from threading import Event

import pytest

from etui.backends.base import Cancel
from etui.cli.ask import ask_about_call
from etui.cli.output import stop_signals
from etui.errors import ExitCode
from etui.tools.toolbox import Tool
from tests.tools.remote_model import calls, remote_model, says

SCRIPT = str(Path(__file__).parents[1] / "tools" / "mcp_servers.py")
SUM = ("calculate", {"expression": "6*7"})


def serve(*names):
    words = [
        f"{name}: {{command: {json.dumps([sys.executable, SCRIPT, name])}, timeout_seconds: 20}}"
        for name in names
    ]
    return f"tools: {{servers: {{{', '.join(words)}}}}}\n"


def test_a_tool_that_is_allowed_runs_without_a_terminal(config, etui, cli):
    with remote_model(
        config, [calls(SUM, text="Let me see."), says("It is 42.")],
        "tool_permissions: {calculate: allow}\n",
    ) as model:  # fmt: skip
        printed = etui("ask", "--tools", "6 * 7?")
        first, second = model.bodies("/v1/chat/completions")
    assert printed.stdout == "Let me see.\nIt is 42.\n"
    assert [tool["function"]["name"] for tool in first["tools"]] == ["calculate"]
    assert second["messages"][-1] == {"role": "tool", "content": "42", "tool_call_id": "call_0"}
    assert 'running calculate {"expression": "6*7"}' in printed.stderr
    assert "round 2: " in printed.stderr
    assert "1 of 16 calls" in printed.stderr
    (turn,) = cli.json("logs", "list", "--json")["turns"]
    shown = cli.json("logs", "show", turn["turn_id"], "--json")
    found = shown.get("turn", shown)
    tools = found["tools"]
    assert tools["calls"][0]["result"] == "42"
    assert [hop["round"] for hop in found["hops"]] == [1, 2]
    text = cli.out("logs", "show", turn["turn_id"])
    assert "round 1" in text
    assert "round 2" in text
    assert "calculate" in text


def test_a_call_is_announced_on_one_line(config, etui):
    spread = ("calculate", json.dumps(SUM[1], indent=4))
    with remote_model(
        config, [calls(spread), says("42")], "tool_permissions: {calculate: allow}\n"
    ):
        printed = etui("ask", "--tools", "6 * 7?")
    assert 'running calculate { "expression": "6*7" }\n' in printed.stderr


def test_ctrl_c_at_the_question_about_a_call_ends_the_turn(monkeypatch):
    def read(_text):
        signal.raise_signal(signal.SIGINT)
        return "y"

    monkeypatch.setattr("click.termui.visible_prompt_func", read)
    cancel = Cancel()
    with stop_signals(Event(), cancel.cancel):
        assert ask_about_call(cancel, Tool("calculate", "", "{}"), "{}") == "no"
    assert cancel.cancelled()


def test_without_a_terminal_nobody_is_asked(config, etui):
    with remote_model(config, [calls(SUM), says("I cannot.")]) as model:
        printed = etui("ask", "--tools", "6 * 7?")
        _, second = model.bodies("/v1/chat/completions")
    assert printed.stdout == "I cannot.\n"
    assert "there is no terminal to ask at" in second["messages"][-1]["content"]
    assert "refused" in printed.stderr


def test_json_is_one_document_with_the_tree(config, etui):
    with remote_model(config, [calls(SUM), says("42")], "tool_permissions: {calculate: allow}\n"):
        found = json.loads(etui("ask", "--tools", "--json", "6 * 7?").stdout)
    tools = found["tools"]
    assert (tools["calls"][0]["name"], tools["calls"][0]["status"]) == ("calculate", "done")
    assert tools["most_calls"] == 16


def test_a_model_without_calls_answers_as_without_tools(config, etui):
    with remote_model(config, [says("Hello.")]):
        assert etui("ask", "--tools", "Hello?").stdout == "Hello.\n"


@pytest.mark.parametrize("bad", ["crash", "liar"])
def test_a_faulty_server_does_not_prevent_the_answer(config, etui, bad):
    tool = f"{bad}__true_name"
    with remote_model(
        config,
        [calls((tool, {}), ("good__add", {"a": 1, "b": 2})), says("Done.")],
        serve("good", bad) + "tool_permissions: {'*': allow}\n",
    ) as model:
        printed = etui("ask", "--tools", "Add.")
        _, second = model.bodies("/v1/chat/completions")
    assert printed.stdout == "Done.\n"
    assert f"tools of {bad}: " in printed.stderr
    assert second["messages"][-2]["content"].startswith("error: ")
    assert second["messages"][-1]["content"] == "3"


def test_etui_tools_lists_what_there_is(config, cli):
    config.config_file.write_text(serve("good") + "tool_permissions: {'good__*': allow}\n")
    found = cli.json("tools", "--json")
    rows = {each["name"]: each for each in found["tools"]}
    assert rows["calculate"]["permission"] == "ask"
    assert rows["good__add"]["permission"] == "allow"
    assert rows["good__add"]["server"] == "good"
    assert found["prompts"][0]["name"] == "review"
    assert found["resources"][0]["name"] == "notes://today"
    assert found["problems"] == {}
    text = cli.out("tools")
    assert "good__add" in text
    assert "prompt of good: review" in text


def test_etui_tools_says_what_is_wrong(config, cli):
    config.config_file.write_text(serve("crash"))
    printed = cli.run("tools", code=ExitCode.FAILED)
    assert "crash: " in printed.out
    assert "cannot read /etc/secret" in printed.out
    assert "\x1b" not in printed.out
    config.config_file.write_text("tools: {folder: /nonexistent/notes}\n")
    printed = cli.run("tools", code=ExitCode.FAILED)
    assert "read_file: there is no folder /nonexistent/notes" in printed.out
    assert "Read a text file" not in printed.out


def test_etui_tools_fills_the_terminal_and_names_permissions_of_no_tool(config, cli, monkeypatch):
    config.config_file.write_text("tool_permissions: {calculat: allow, 'calc*': ask}\n")
    printed = cli.run("tools")
    assert printed.err == "tool_permissions: no tool is called 'calculat'\n"
    whole = printed.out
    monkeypatch.setenv("COLUMNS", "60")
    lines = cli.out("tools").splitlines()
    assert whole.splitlines()[1].startswith(lines[1].removesuffix("…"))
    assert len(lines[1]) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tools: {servers: {a: {}}}", "name either a command or a url"),
        ("tools: {servers: {a_b: {command: [x]}}}", "cannot name a server"),
        ("tools: {servers: {a: {url: 'ftp://x'}}}", "must begin with http"),
        ("tools: {servers: {a: {url: 'http://x.org', key_env: K}}}", "unencrypted"),
        ("tools: {servers: {a: {url: 'https://x.org', key_env: 'sk-123 4'}}}", "environment"),
        ("tool_permissions: {a: maybe}", "is not one of allow, ask, deny"),
    ],
)
def test_settings_that_are_wrong(config, cli, text, message):
    config.config_file.write_text(f"{text}\n")
    printed = cli.run("tools", code=ExitCode.USAGE)
    assert message in printed.err
    assert "sk-123" not in printed.err


TWO_ARMS = """\
version: 1
description: The first round is for the large model.
models: {large: [big@desk], small: [other@desk]}
arms:
  first: {model: large, reasoning: direct}
  later: {model: small, reasoning: direct}
signals:
  again: {metadata: {key: tool_round, exists: true}}
rules:
  - {name: after-a-call, priority: 10, when: again, use: later}
  - {name: everything-else, use: first}
"""


def test_a_policy_may_choose_another_arm_for_a_round(config, etui):
    with remote_model(
        config, [calls(SUM), says("42")], "tool_permissions: {calculate: allow}\n"
    ) as model:  # fmt: skip
        with config.models_file.open("a") as file:
            file.write("  other@desk: {backend: desk, remote_name: other, size: 1B}\n")
        policy = config.home / "rounds.yaml"
        policy.write_text(TWO_ARMS)
        done = etui("ask", "--tools", "--json", "--policy", str(policy), "6 * 7?")
        asked = [body["model"] for body in model.bodies("/v1/chat/completions")]
    assert asked == ["big", "other"]
    assert [hop["arm"] for hop in json.loads(done.stdout)["hops"]] == ["first", "later"]
