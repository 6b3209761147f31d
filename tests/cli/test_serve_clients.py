"""``etui serve --for``: settings of clients that are valid, and name what exists here."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import httpx2
import pytest
import yaml

from etui.cli.serve import read_clients
from etui.errors import ExitCode
from tests.server.fakes import serving

CLIENTS = read_clients()
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def models(config, starter_model, monkeypatch):
    monkeypatch.setenv("ETUI_MODELS", str(starter_model.parent))


def show(cli, name, *options):
    return cli.run("serve", "--for", name, *options)


@pytest.mark.parametrize("name", CLIENTS)
def test_settings_name_this_server_and_a_model_of_it(cli, models, name):
    shown = show(cli, name, "--port", "8431")
    assert "http://127.0.0.1:8431" in shown.out
    assert "balanced" in shown.out
    assert not re.search(r"\$[a-z]", shown.out.replace("$schema", ""))
    assert "8420" not in shown.out
    assert "smollm2-135m" in show(cli, name, "--model", "smollm2-135m").out


@pytest.mark.parametrize("name", CLIENTS)
def test_a_key_is_named_and_never_shown(cli, models, monkeypatch, name):
    without = show(cli, name).out
    assert "ETUI_API_KEY" not in without
    monkeypatch.setenv("ETUI_API_KEY", KEY)
    shown = show(cli, name)
    assert KEY not in shown.out + shown.err
    assert shown.out != without
    assert "ETUI_API_KEY" in shown.out or name == "llm"


def test_files_can_be_read(cli, models):
    opencode = json.loads(show(cli, "opencode").out)
    assert opencode["model"] == "etui/balanced"
    assert {"balanced", "smollm2-135m"} <= set(opencode["provider"]["etui"]["models"])
    codex = tomllib.loads(show(cli, "codex").out)
    assert codex["model_providers"][codex["model_provider"]]["wire_api"] == "responses"
    for name in ("continue", "librechat", "litellm", "llm"):
        assert yaml.safe_load(show(cli, name).out)
    coder = yaml.safe_load(show(cli, "continue").out)["models"][1]
    assert coder["roles"] == ["autocomplete"]
    compile(show(cli, "langchain").out, "langchain", "exec")


@pytest.mark.parametrize("name", CLIENTS)
def test_the_route_that_a_client_asks_is_there(name):
    with serving() as server:
        answer = httpx2.post(f"{server.url}{CLIENTS[name].path}", json={})
    assert answer.status_code == 400, answer.text  # an empty body, and not: no such route


def test_an_address_for_all_is_this_machine_for_a_client(cli, models, monkeypatch):
    monkeypatch.setenv("ETUI_API_KEY", KEY)
    assert "http://127.0.0.1:8420/v1" in show(cli, "aider", "--host", "0.0.0.0").out
    assert "http://192.0.2.7:8420/v1" in show(cli, "aider", "--host", "192.0.2.7").out


def test_what_no_client_can_name_is_refused(cli, config):
    for options in (("--unix", "x.sock"), ("--port", "0")):
        wrong = cli.err("serve", "--for", "aider", *options, code=ExitCode.USAGE)
        assert "--for needs a port" in wrong
    assert "pull one with" in show(cli, "aider").err
    for option in ("--model", "--policy"):
        wrong = cli.err("serve", "--for", "aider", option, "smollm2-135n", code=ExitCode.USAGE)
        assert "'smollm2-135n'" in wrong
    shipped = Path(__file__).parents[2] / "policies" / "frugal.yaml"
    own = show(cli, "aider", "--policy", str(shipped)).out
    assert "--model openai/etui " in own  # clients name no file
