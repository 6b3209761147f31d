"""Remote models in every front end's Runtime: chosen, answered, logged, and described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etui.chat import Query
from etui.config.config import Config, load_config
from etui.errors import ModelUnavailable
from etui.runtime.decide import Overrides, choose
from etui.runtime.remote_models import check_backends, probe_backends
from etui.runtime.runtime import Runtime, open_runtime
from etui.turn.events import TurnFinished
from etui.turn.record import TurnRecord
from tests.backends.remote.stub import Script, Stub, delta, document, running_stub, sse, usage

CHAT = "/v1/chat/completions"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running_stub() as server:
        server.scripts["/v1/models"] = [document({"data": [{"id": "big"}, {"id": "small"}]})]
        server.scripts[CHAT] = [Script(sse(delta("Mars.", finish="stop"), usage(9, 2)))]
        yield server


@pytest.fixture
def desk(etui_home: Path, stub: Stub) -> Config:
    """A machine without a model file, which knows a backend with two models."""
    write(etui_home, stub.url)
    return load_config()


def write(home: Path, url: str, **settings: Any) -> None:
    backend = {"url": url, "retries": 0, **settings}
    config = {"backends": {"desk": backend}, "threads": 1, "sample_hz": 50}
    (home / "config.yaml").write_text(json.dumps(config))
    models = {
        "big@desk": {"backend": "desk", "remote_name": "big"},
        "small@desk": {"backend": "desk", "remote_name": "small"},
    }
    (home / "models.yaml").write_text(json.dumps({"models": models}))


def answer(runtime: Runtime[Any], **overrides: Any) -> TurnRecord:
    choice = choose(query := Query("Which planet is red?"), Overrides(**overrides), runtime)
    events = list(runtime.turn(query, choice).run())
    assert isinstance(events[-1], TurnFinished)
    return events[-1].record


def test_a_remote_model_answers_as_any_other(desk: Config, stub: Stub) -> None:
    with open_runtime(desk) as runtime:
        record = answer(runtime, model="big@desk")
        assert record.answer == "Mars."
        assert (record.model, record.model_sha256) == ("big@desk", None)
        assert record.tokens.output == 2
        assert record.settings["backend"] == "desk"
        assert record.settings["backend_model"] == "big"
        assert record.settings["backend_host"] == stub.root
    assert "backend_key" not in json.dumps(record.settings)
    (body,) = stub.bodies(CHAT)
    assert body["model"] == "big"
    assert body["temperature"] == 0.0


def test_the_version_of_the_server_is_logged_once_it_is_known(desk: Config, stub: Stub) -> None:
    stub.scripts["/v1/models"] = [document({"data": [{"id": "big", "owned_by": "vllm"}]})]
    stub.scripts["/version"] = [document({"version": "0.20"})]
    write(desk.home, stub.url, kind="vllm")
    with open_runtime(load_config()) as runtime:
        probe_backends(runtime.config, remotes=runtime.remotes)
        assert answer(runtime, model="big@desk").settings["backend_server"] == "vllm 0.20"


def test_the_version_of_the_server_is_that_of_its_answer(desk: Config, stub: Stub) -> None:
    chunk = {**delta("Mars.", finish="stop"), "system_fingerprint": "b6999"}
    stub.scripts[CHAT] = [Script(sse(chunk, usage(9, 2)))]
    write(desk.home, stub.url, kind="llama-server")
    with open_runtime(load_config()) as runtime:
        record = answer(runtime, model="big@desk")
    assert record.settings["backend_server"] == "llama-server b6999"


def test_a_backend_that_is_off_leaves_the_answer_to_its_fallback(
    etui_home: Path, stub: Stub
) -> None:
    stub.scripts[CHAT] = lambda seen: (
        document({"error": "loading"}, 503)
        if seen.body["model"] == "big"
        else Script(sse(delta("Mars.", finish="stop"), usage(9, 2)))
    )
    write(etui_home, stub.url, fallbacks=["small@desk"])
    with open_runtime(load_config()) as runtime:
        record = answer(runtime, model="big@desk")
    assert (record.answer, record.model) == ("Mars.", "small@desk")
    assert [hop.model for hop in record.hops] == ["big@desk", "small@desk"]
    assert "loading" in record.hops[0].why


def test_a_backend_that_failed_is_not_available_to_a_policy(desk: Config, stub: Stub) -> None:
    stub.scripts[CHAT] = [document({"error": "boom"}, 500)]
    with open_runtime(desk) as runtime:
        assert runtime.find_available()("big@desk")
        for _ in range(3):
            runtime.remotes["desk"].circuit.fail()
        assert not runtime.find_available()("big@desk")
        with pytest.raises(ModelUnavailable, match="several times in a row"):
            answer(runtime, model="big@desk")
    assert stub.bodies(CHAT) == []


def test_a_model_that_needs_a_file_says_that_it_has_none(desk: Config) -> None:
    with open_runtime(desk) as runtime:
        choice = choose(Query("?"), Overrides(model="big@desk"), runtime)
        served = runtime.resolve(choice.decision.arm)
        assert served.path is None
        with pytest.raises(ModelUnavailable, match="needs a model file on this machine"):
            served.local_path()


def test_a_policy_can_name_a_remote_model(desk: Config, stub: Stub) -> None:
    policies = desk.home / "policies"
    policies.mkdir()
    (policies / "far.yaml").write_text(
        "version: 1\nmodels: {far: [smollm2-135m, big@desk]}\n"
        "arms: {only: {model: far, reasoning: direct}}\nrules: [{name: all, use: only}]\n"
    )
    with open_runtime(desk) as runtime:
        record = answer(runtime, policy="far")
    assert (record.model, record.policy) == ("big@desk", "far")


def test_every_backend_is_asked_at_the_same_time(desk: Config, stub: Stub) -> None:
    found = probe_backends(desk)
    assert found["desk"].models == ("big", "small")
    (report,) = check_backends(desk, load(desk))
    assert report.entries == ("big@desk", "small@desk")
    assert report.problems == ()
    stub.scripts["/v1/models"] = [document({"data": [{"id": "bigger"}]})]
    (report,) = check_backends(desk, load(desk))
    assert report.problems[0] == "big@desk: it does not serve 'big', did you mean 'bigger'?"
    assert [one.model for one in report.missing] == ["big@desk", "small@desk"]


def load(config: Config) -> Any:
    from etui.models.catalogue import load_catalogue

    return load_catalogue(config)


def test_without_backends_nothing_is_asked(config: Config) -> None:
    assert probe_backends(config) == {}
    with open_runtime(config) as runtime:
        assert runtime.remotes == {}
        assert type(runtime.backend).__name__ == "LocalBackend"
