"""`etui models`, `etui doctor` and `etui ask` with models of a remote backend."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from etui.cli.main import run
from etui.errors import ExitCode
from tests.backends.remote.stub import (
    LIMIT_SECONDS,
    STALL,
    Script,
    delta,
    document,
    running_stub,
    sse,
    usage,
)


@pytest.fixture
def stub(config):
    with running_stub() as server:
        server.scripts["/v1/models"] = [document({"data": [{"id": "big"}, {"id": "extra"}]})]
        config.config_file.write_text(
            f"threads: 1\nbackends: {{desk: {{url: '{server.url}', retries: 0}}}}\n"
        )
        config.models_file.write_text(
            "models:\n"
            "  big@desk: {backend: desk, remote_name: big, size: 8B, same_as: smollm2-135m}\n"
            "  bigg@desk: {backend: desk, remote_name: bigg}\n"
        )
        yield server


def read(capsys):
    return json.loads(capsys.readouterr().out)


def test_the_list_has_remote_models_and_what_their_backend_serves(stub, cli):
    found = cli.json("models", "list", "--json")
    rows = {row["name"]: row for row in found["models"]}
    big, wrong = rows["big@desk"], rows["bigg@desk"]
    assert (big["state"], big["backend"], big["remote_name"]) == ("remote", "desk", "big")
    assert (big["served"], big["same_as"], big["problem"]) == (True, "smollm2-135m", "")
    assert (big["bytes"], big["fits"], big["path"]) == (None, None, "")
    assert wrong["served"] is False
    assert "did you mean 'big'?" in wrong["problem"]
    assert rows["smollm2-135m"]["backend"] is None
    (backend,) = found["backends"]
    assert backend["reachable"] is True
    assert backend["models"] == ["big", "extra"]
    assert backend["latency_seconds"] > 0


def test_the_table_says_the_latency_on_standard_error(stub, cli):
    printed = cli.run("models", "list")
    assert any(
        line.split()[:4] == ["big@desk", "unknown", "remote", "–"]
        for line in printed.out.split("\n")
    )
    (line,) = [line for line in printed.err.splitlines() if line.startswith("backend desk")]
    assert "answers in" in line
    assert line.endswith("serves big, extra")


def test_a_backend_that_is_off_hides_no_other_model(stub, config, cli):
    stub.scripts["/v1/models"] = [document({"error": "boom"}, 500)]
    found = cli.json("models", "list", "--json")
    rows = {row["name"]: row for row in found["models"]}
    assert rows["big@desk"]["served"] is None
    assert "smollm2-135m" in rows
    assert "boom" in found["backends"][0]["problem"]
    assert found["backends"][0]["latency_seconds"] is None


def test_without_backends_the_document_is_as_before(config, cli):
    assert "backends" not in cli.json("models", "list", "--json")


def test_info_asks_the_backend_of_the_model(stub, cli):
    text = cli.out("models", "info", "big@desk")
    assert f"desk, openai at {stub.url}" in text
    assert "served        yes" in text
    assert "its joules are not measured" in text
    found = cli.json("models", "info", "big@desk", "--json")
    assert (found["served"], found["sha256"], found["gguf"]) == (True, None, None)
    seen = len(stub.seen)
    assert run(["models", "info", "smollm2-135m", "--json"]) == ExitCode.DONE
    assert len(stub.seen) == seen, "the backend of another model is not asked"


def test_there_is_nothing_to_pull(stub, cli):
    printed = cli.run("models", "pull", "big@desk", "--json")
    assert json.loads(printed.out) == {"models": []}
    assert "nothing to pull, the backend desk serves it" in printed.err


def test_there_is_no_file_to_verify_or_to_find(stub, cli):
    assert cli.json("models", "verify", "--json") == {"models": []}
    (result,) = cli.json("models", "verify", "big@desk", "--json", code=ExitCode.FAILED)["models"]
    assert "the backend desk serves it" in result["error"]
    assert "the backend desk serves it" in cli.err(
        "models", "path", "big@desk", code=ExitCode.FAILED
    )


def test_doctor_checks_every_backend(stub, cli):
    (report,) = cli.json("doctor", "--json")["backends"]
    assert report["reachable"] is True
    assert report["entries"] == ["big@desk", "bigg@desk"]
    assert report["missing"][0]["model"] == "bigg@desk"
    text = cli.out("doctor")
    assert "remote backends" in text
    assert f"✗ desk: openai at {stub.url}" in text
    assert "bigg@desk: it does not serve 'bigg', did you mean 'big'?" in text


def test_ask_reaches_a_remote_model(stub, etui):
    chunks = sse(delta("Mars."), delta(finish="stop"), usage(9, 2))
    stub.scripts["/v1/chat/completions"] = [Script(chunks)]
    done = etui("ask", "--model", "big@desk", "--json", "Which planet is red?")
    record = json.loads(done.stdout)
    assert (record["answer"], record["model"]) == ("Mars.", "big@desk")
    assert record["settings"]["backend"] == "desk"


def test_ask_says_why_a_backend_cannot_answer(stub, etui):
    stub.scripts["/v1/chat/completions"] = [document({"error": "no key"}, 401)]
    done = etui("ask", "--model", "big@desk", "Which planet is red?", code=ExitCode.FAILED)
    assert "the backend desk refused the key: no key (401)" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_ends_an_answer_that_the_server_has_not_begun(stub, config):
    stub.scripts["/v1/chat/completions"] = [Script([STALL])]
    process = subprocess.Popen(
        [sys.executable, "-m", "etui", "ask", "--model", "big@desk", "--json", "Which planet?"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=restore_interrupt,
    )
    try:
        assert stub.began.wait(LIMIT_SECONDS)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == ExitCode.PARTIAL
    assert json.loads(text)["status"] == "stopped"
    assert stub.left.wait(LIMIT_SECONDS)


def restore_interrupt():
    """Let Ctrl-C reach the process, also where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_letters_of_a_bench_need_a_local_model(stub, etui):
    done = etui(
        "bench", "--suite", "sample", "--model", "big@desk", "--limit", "1", code=ExitCode.FAILED
    )
    assert "the backend desk, and this needs a model file on this machine" in done.stderr


def test_a_bench_of_answers_runs_over_a_remote_model(stub, etui):
    stub.scripts["/v1/chat/completions"] = [Script(sse(delta("A", finish="stop"), usage(50, 1)))]
    done = etui(
        "bench",
        "--suite",
        "sample",
        "--model",
        "big@desk",
        "--limit",
        "2",
        "-r",
        "direct",
        "--json",
    )
    assert len(stub.bodies("/v1/chat/completions")) == 2
    assert "big@desk" in done.stdout
