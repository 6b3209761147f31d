"""What a backend says of itself, for lists, for doctor, and for placement."""

from __future__ import annotations

import pytest

from etui.errors import ModelUnavailable
from tests.backends.remote.conftest import ask
from tests.backends.remote.stub import STALL, Script, Stub, document


def serve_models(stub: Stub, *names: str, owner: str = "me") -> None:
    entries = [{"id": name, "object": "model", "owned_by": owner} for name in names]
    stub.scripts["/v1/models"] = [document({"object": "list", "data": entries})]


@pytest.mark.parametrize(
    ("kind", "path", "answer", "owner"),
    [
        ("llama-server", "/props", {"build_info": "b6999"}, "llamacpp"),
        ("vllm", "/version", {"version": "b6999"}, "vllm"),
        ("ollama", "/api/version", {"version": "b6999"}, "library"),
        ("etui", "/health", {"version": "b6999"}, "etui"),
    ],
)
def test_each_kind_says_its_version(stub, open_backend, kind, path, answer, owner):
    serve_models(stub, "big", "small", owner=owner)
    stub.scripts[path] = [document(answer)]
    backend = open_backend(kind)
    assert backend.server is None
    status = backend.describe()
    assert status.reachable
    assert status.problem == ""
    assert status.models == ("big", "small")
    assert status.server == backend.server == f"{kind} b6999"
    assert status.detected == kind
    assert status.latency_seconds is not None
    assert status.key_accepted is None


def test_another_kind_is_noticed(stub, open_backend):
    serve_models(stub, "big", owner="llamacpp")
    status = open_backend("vllm").describe()
    assert status.detected == "llama-server"
    assert "llama-server, not vllm" in status.problem
    serve_models(stub, "big")
    assert "does not answer as vllm does" in open_backend("vllm").describe().problem
    assert open_backend("openai").describe().problem == ""


def test_a_refused_key(stub, open_backend):
    stub.scripts["/v1/models"] = [document({"error": {"message": "bad key"}}, 401)]
    status = open_backend(key_env="K", environ={"K": "x"}).describe()
    assert (status.reachable, status.key_accepted) == (True, False)
    assert "bad key" in status.problem
    serve_models(stub, "big")
    assert open_backend(key_env="K", environ={"K": "x"}).describe().key_accepted is True
    missing = open_backend(key_env="K").describe()
    assert not missing.reachable
    assert "K" in missing.problem


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (Script([STALL]), "no answer within"),
        (document([]), "not a JSON object"),
        (document({"models": []}), "not a list of models"),
        (Script([b"x" * 5_000_000], content_type="application/json"), "longer than"),
        (Script([], 302, headers={"location": "http://127.0.0.1:9/"}), "redirects"),
    ],
)
def test_a_strange_server_is_described(stub, open_backend, script, problem):
    stub.scripts["/v1/models"] = [script]
    status = open_backend().describe(seconds=0.5 if STALL in script.parts else 60.0)
    assert problem in status.problem
    assert status.models == ()


def test_strange_names_are_left_out(stub, open_backend):
    entries = [{"id": "a"}, {"id": 3}, "b", {}, {"id": ""}]
    stub.scripts["/v1/models"] = [document({"data": entries})]
    assert open_backend().describe().models == ("a",)


METRICS = """# HELP x
vllm:num_requests_running{model_name="a"} 2.0
vllm:num_requests_running{model_name="b"} 1.0
vllm:num_requests_waiting 7
"""


@pytest.mark.parametrize(
    ("kind", "path", "script", "running"),
    [
        ("llama-server", "/slots",
         document([{"is_processing": True}, {"is_processing": False}]), 1),
        ("llama-server", "/metrics",
         Script([b"llamacpp:requests_processing 3\n"], content_type="text/plain"), 3),
        ("vllm", "/metrics", Script([METRICS.encode()], content_type="text/plain"), 3),
        ("vllm", "/metrics", Script([b"nothing"], content_type="text/plain"), None),
        ("vllm", "/nowhere", document({}), None),
        ("etui", "/meter", document({"running": 2}), 2),
        ("etui", "/meter", document({"running": None}), None),
        ("etui", "/meter", document({"running": -1}), None),
        ("ollama", "/metrics", document({}), None),
        ("openai", "/metrics", document({}), None),
    ],
)  # fmt: skip
def test_how_busy_it_is(stub, open_backend, kind, path, script, running):
    stub.scripts[path] = [script]
    assert open_backend(kind).running_requests() == running


def test_a_load_is_a_check(stub, open_backend):
    backend, model = open_backend(), ask().model
    serve_models(stub, "big")
    backend.check_serves(model)
    serve_models(stub, "other")
    with pytest.raises(ModelUnavailable, match="does not serve big"):
        backend.check_serves(model)
    stub.scripts["/v1/models"] = [document({}, 500)]
    with pytest.raises(ModelUnavailable, match="cannot answer"):
        backend.check_serves(model)
