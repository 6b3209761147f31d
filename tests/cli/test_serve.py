"""``etui serve``: its options, and what it refuses before anything is opened."""

from __future__ import annotations

import socket
import sys

import pytest

from etui.cli.main import run
from etui.cli.serve import parse_limits
from etui.errors import ExitCode, UsageError


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--policy", "a", "--model", "b"], "--model cannot be combined with --policy"),
        (["--unix", "s", "--port", "5"], "--unix cannot be combined"),
        (["--unix", "s", "--host", "127.0.0.1"], "--unix cannot be combined"),
        (["--origin", "chat.example"], "is not the origin of a page"),
        (["--origin", "*"], "is not the origin of a page"),
        (["--allow-host", "a/b"], "is not a host name"),
        (["--joules-per-hour", "many"], "is not a number of joules"),
        (["--joules-per-hour", "laptop=5"], "there is no key 'laptop'"),
        (["--port", "70000"], "70000 is not in the range"),
        (["--parallel", "0"], "0 is not in the range"),
        (["--queue", "-1"], "-1 is not in the range"),
        (["--grace", "nan"], "nan"),
    ],
)
def test_wrong_usage(options, what, cli):
    assert what in cli.err("serve", *options, code=ExitCode.USAGE)


def test_keys_that_others_can_read(tmp_path, cli):
    file = tmp_path / "keys"
    file.write_text("laptop: 0123456789abcdef\n")
    file.chmod(0o644)
    shown = cli.err("serve", "--keys", str(file), code=ExitCode.USAGE)
    assert "chmod 600" in shown
    assert "0123456789abcdef" not in shown


def test_no_model_on_this_machine(cli):
    assert "etui models pull" in cli.err("serve", "--port", "0", code=ExitCode.FAILED)


@pytest.mark.parametrize("command", [["serve"], ["power", "serve"]], ids=" ".join)
def test_the_libraries_are_not_installed(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(command) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert f"`etui {' '.join(command)}` needs etui[serve]" in shown
    assert "pip install 'etui[serve]'" in shown


def test_limits_of_keys():
    keys = {"laptop": "k", "editor": "l"}
    assert parse_limits(["laptop=5", "9"], keys) == {"laptop": 5.0, "editor": 9.0}
    assert parse_limits(["9"], {}) == {"": 9.0}
    assert parse_limits([], keys) == {}
    for text in ("0", "-1", "nan", "inf", "1e99", "laptop="):
        with pytest.raises(UsageError):
            parse_limits([text], keys)


@pytest.mark.usefixtures("starter_model")
def test_a_taken_port(starter_model, monkeypatch, capsys):
    monkeypatch.setenv("ETUI_MODELS", str(starter_model.parent))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "--port", port, "--model", "smollm2-135m"]) == ExitCode.FAILED
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(f"etui: cannot listen on 127.0.0.1:{port}")
    assert "--port" in shown[1]


def test_an_alias_of_nothing_is_named_at_the_start(starter_model, config, monkeypatch, capsys):
    monkeypatch.setenv("ETUI_MODELS", str(starter_model.parent))
    (config.home / "config.yaml").write_text(
        "aliases: {gpt-4o: smollm2-135m, claude-*: smolm2-135m, o3: balanced/nope}\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it ends
        run(["serve", "--port", str(taken.getsockname()[1]), "--model", "smollm2-135m"])
    *warnings, _, _ = capsys.readouterr().err.splitlines()
    first, second = warnings
    assert "the alias 'claude-*' of config.yaml means 'smolm2-135m': no policy" in first
    assert "smollm2-135m" in first.split("called")[1]
    assert "the alias 'o3' of config.yaml means 'balanced/nope'" in second
