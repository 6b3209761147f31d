"""The routes around the answers: health, models, route, turns, metrics, and what does not exist."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from etui.backends.base import LongStep
from etui.config.config import Config
from etui.energy.recorder import Recorder
from etui.errors import ModelUnavailable, QueueFull
from etui.runtime.model_ids import ServedModel
from etui.runtime.runtime import Runtime
from etui.runtime.turn_request import EnergyBooks, PoolStatus
from etui.turn.record import ClientRecord
from tests.fixtures.turns import TURN
from tests.server.fakes import DEADLINE_SECONDS, FakePool, connect, fail, say, serving
from tests.server.test_meter import record
from tests.support.devices import FakeClock

KEYS = {"alice": "a" * 24, "bob": "b" * 24}
BOOKS = EnergyBooks(
    total=500.0, turns=150.0, loads=30.0, idle=320.0, uncertainty=10.0,
    turns_by_model={"small": 150.0}, kind="counter",
)  # fmt: skip


class StatusPool(FakePool):
    """A pool with a status that the test sets."""

    def __init__(self, *scripts: Any) -> None:
        super().__init__(*scripts)
        self.books = BOOKS
        self.loading: str | None = None
        self.unsaved = 0
        self.long_step: LongStep | None = None

    def status(self) -> PoolStatus:
        status = super().status()
        return replace(
            status,
            books=self.books,
            loading=self.loading,
            watts=40.0,
            residents=("small",),
            unsaved=self.unsaved,
            long_step=self.long_step,
        )


@contextmanager
def running(pool: FakePool, runtime: Any = None, **options: Any) -> Iterator[Any]:
    """Run the whole server; yield a function that sends a request."""
    with (
        serving(pool, runtime=runtime, **options) as server,
        httpx2.Client(base_url=server.url, timeout=DEADLINE_SECONDS) as client,
    ):

        def send(method: str, path: str, key: str = "", **given: Any) -> httpx2.Response:
            if key:
                given["headers"] = {"Authorization": f"Bearer {KEYS[key]}"}
            return client.request(method, path, **given)

        yield send


def record_power() -> Recorder:
    """A recorder of 120 W that does not run on."""
    return record(FakeClock(), 10)


def chat(text: str = "Which planet is red?", **more: Any) -> dict[str, Any]:
    return {"model": "balanced", "messages": [{"role": "user", "content": text}], **more}


def test_health_needs_no_key_and_tells_nothing_of_the_machine() -> None:
    pool = StatusPool()
    with running(pool, keys=KEYS) as send:
        response = send("GET", "/health")
        ok = {"status": "ok", "loading": False, "unsaved_records": 0}
        assert (response.status_code, response.json()) == (200, ok)
        pool.loading = "small"
        loading = {"status": "loading", "loading": True, "unsaved_records": 0}
        assert send("GET", "/health").json() == loading
        pool.unsaved = 3
        assert send("GET", "/health").json() == {**loading, "unsaved_records": 3}
        assert "small" not in send("GET", "/health").text
        pool.loading = None
        pool.long_step = LongStep("mask", 3.21)
        stuck = {**ok, "status": "degraded", "unsaved_records": 3, "step": "mask", "seconds": 3.2}
        response = send("GET", "/health")
        assert (response.status_code, response.json()) == (200, stuck)
        pool.long_step = None
        pool.closed.append(0.0)
        response = send("GET", "/health")
        assert response.status_code == 503
        assert response.json()["status"] == "shutting_down"
        assert response.headers["retry-after"] == "5"
        pool.closed.clear()


def test_the_root_answers_clients_that_look_for_a_server() -> None:
    with running(StatusPool(), keys=KEYS) as send:
        assert send("HEAD", "/").status_code == 200
        assert send("HEAD", "/").content == b""
        assert "etui" in send("GET", "/").text
        assert send("POST", "/", json={}).status_code == 405


def test_a_key_may_be_sent_as_anthropic_does() -> None:
    with running(StatusPool(), keys=KEYS) as send:
        for given, status in ((KEYS["alice"], 404), ("x" * 24, 401), ("", 401)):
            response = send("GET", "/v1/turns/a", headers={"x-api-key": given})
            assert response.status_code == status
        both = {"x-api-key": KEYS["bob"], "Authorization": "Bearer none"}
        assert send("GET", "/v1/turns/a", headers=both).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/meter", "/meter/clock", "/v1/turns/a"]
)
def test_the_other_routes_need_a_key(path: str) -> None:
    with running(StatusPool(), keys=KEYS) as send:
        assert send("GET", path).status_code == 401
        assert send("POST", "/v1/route", json=chat()).status_code == 401


COST = (2048, True, 0.5, "operating curve")
MODELS = (
    ServedModel("balanced", "policy", "All rounder"),
    ServedModel("balanced/think", "arm", "small, thinks", *COST),
    ServedModel("small", "model", "135M", *COST),
    ServedModel("far/away", "model", "", backend="desk"),
    ServedModel("claude-*", "alias", "small: 135M", *COST),
)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    monkeypatch.setattr("etui.runtime.model_ids.list_model_ids", lambda *_: MODELS)
    with serving(FakePool()) as server:
        yield connect(server)


def test_models_are_policies_arms_and_models(models: openai.OpenAI) -> None:
    listed = models.models.list().data
    ids = ["balanced", "balanced/think", "small", "far/away", "claude-*"]
    assert [model.id for model in listed] == ids
    assert {model.object for model in listed} == {"model"}
    assert [model.owned_by for model in listed] == ["etui", "etui", "etui", "desk", "etui"]
    policy, arm = (model.meta for model in listed[:2])  # type: ignore[attr-defined]
    assert arm == {
        "kind": "arm", "description": "small, thinks", "context": 2048, "resident": True,
        "joules_per_token": 0.5, "joules_per_token_source": "operating curve", "backend": None,
    }  # fmt: skip
    assert policy["joules_per_token"] is policy["joules_per_token_source"] is None
    assert models.models.retrieve("balanced/think").id == "balanced/think"  # a slash and all
    aliased: Any = models.models.retrieve("claude-sonnet-4-5")
    assert (aliased.id, aliased.meta["kind"]) == ("claude-sonnet-4-5", "alias")
    path = str(models.base_url) + "models/balanced/think"
    assert httpx2.get(path, timeout=60).json()["id"] == "balanced/think"


def test_the_models_have_anthropics_form_as_well(models: openai.OpenAI) -> None:
    client = anthropic.Anthropic(base_url=str(models.base_url).removesuffix("/v1/"), api_key="none")
    page = client.models.list()
    assert next(iter(page)).id == page.first_id == "balanced"
    assert (page.last_id, page.has_more) == ("claude-*", False)
    found = client.models.retrieve("claude-sonnet-4-5")
    assert (found.id, found.type, found.display_name) == ("claude-sonnet-4-5", "model", "claude-*")
    assert found.created_at.tzinfo is not None


@pytest.mark.parametrize("name", ["balancd", "balanced/thinks", "../../etc/passwd", "x" * 300, "é"])
def test_an_unknown_id_is_not_found_with_the_nearest_names(
    models: openai.OpenAI, name: str
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        models.models.retrieve(name)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert ("did you mean 'balanced" in caught.value.message) == name.startswith("balan")


def test_the_ids_of_this_machine_are_listed_and_can_be_asked(runtime: Runtime[Any]) -> None:
    folder = runtime.config.models_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "smollm2-135m.gguf").write_bytes(b"GGUF")
    pool = StatusPool()
    with running(pool, runtime, parse=None) as send:
        listed = {model["id"]: model for model in send("GET", "/v1/models").json()["data"]}
        assert {"frugal", "balanced", "best", "smollm2-135m"} <= set(listed)
        for name, model in listed.items():
            assert send("GET", f"/v1/models/{name}").json() == model
            response = send("POST", "/v1/responses", json={"model": name, "input": "x"})
            assert response.status_code == 200
        unknown = send("POST", "/v1/responses", json={"model": "smollm2-136m", "input": "x"})
        assert unknown.status_code == 404
        assert "smollm2-135m" in unknown.json()["error"]["message"]
    kinds = {name: model["meta"]["kind"] for name, model in listed.items()}
    assert kinds["balanced"] == "policy"
    assert kinds["smollm2-135m"] == "model"
    assert "arm" in kinds.values()
    assert listed["smollm2-135m"]["meta"]["context"] > 0


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    return Runtime(config, lambda config: pytest.fail("a backend was opened"))


def test_the_route_is_explained_without_an_answer(runtime: Runtime[Any]) -> None:
    pool = StatusPool()
    with running(pool, runtime) as send:
        response = send("POST", "/v1/route", json=chat())
    assert response.status_code == 200
    document = response.json()
    assert document["query"] == "Which planet is red?"
    assert document["arm"] == "quick"
    assert document["model"] == "small"
    assert document["policy"] == "balanced"
    assert document["rule"] == "rest"
    assert document["predicted"]["joules"] == 21.0
    assert document["policy_file"] == "balanced.yaml"
    assert document["on_disk"] is False
    assert pool.turns == []


def test_a_model_alone_has_no_policy(runtime: Runtime[Any]) -> None:
    pool = StatusPool()
    pool.decision = replace(pool.decision, policy=None, rule=None)
    with running(pool, runtime) as send:
        document = send("POST", "/v1/route", json=chat() | {"model": "small"}).json()
    assert document["policy"] is None
    assert document["policy_file"] is None
    assert document["models"] == [{"model": "small", "on_disk": False}]
    assert document["period_budgets"] == document["needs"] == []


def test_what_chat_refuses_the_route_refuses(runtime: Runtime[Any]) -> None:
    class Empty(StatusPool):
        def decide(self, request: Any) -> Any:
            raise ModelUnavailable("there is no model on this machine yet", "pull one")

    with running(Empty(), runtime) as send:
        assert send("POST", "/v1/route", json=chat(n=99)).json()["error"]["param"] == "n"
        assert send("POST", "/v1/route", json=chat() | {"model": "x"}).status_code == 404
        assert send("POST", "/v1/route", content=b"{").status_code == 415
        assert send("POST", "/v1/route", json=[]).status_code == 400
        assert send("GET", "/v1/route").status_code == 405
        unavailable = send("POST", "/v1/route", json=chat())
        assert unavailable.status_code == 503
        assert unavailable.json()["error"]["code"] == "model_unavailable"


@pytest.mark.parametrize("prefix", ["", "chatcmpl-", "cmpl-", "resp_", "msg_"])
def test_a_turn_is_found_by_the_id_of_its_response(prefix: str) -> None:
    record = replace(TURN, client=ClientRecord("/v1/chat/completions", "alice", "req_1"))
    pool = StatusPool()
    pool.saved.turns.append(record)
    with running(pool, keys=KEYS) as send:
        response = send("GET", f"/v1/turns/{prefix}{record.turn_id}", "alice")
    assert response.status_code == 200
    assert response.json() == record.to_json()


def test_a_key_sees_only_its_own_turns() -> None:
    pool = StatusPool()
    pool.saved.turns += [
        replace(TURN, turn_id="a1", client=ClientRecord("/v1/responses", "alice")),
        replace(TURN, turn_id="b1", client=ClientRecord("/v1/responses", "bob")),
        replace(TURN, turn_id="n1", client=ClientRecord("/v1/responses", "")),
        replace(TURN, turn_id="app1", client=None),
    ]
    with running(pool, keys=KEYS) as send:
        seen = {
            (key, turn): send("GET", f"/v1/turns/{turn}", key).status_code
            for key in KEYS
            for turn in ("a1", "b1", "n1", "app1")
        }
    assert {pair for pair, status in seen.items() if status == 200} == {
        ("alice", "a1"),
        ("bob", "b1"),
    }
    assert set(seen.values()) == {200, 404}
    with running(pool) as send:
        assert send("GET", "/v1/turns/n1").status_code == 200
        assert send("GET", "/v1/turns/a1").status_code == 404
        assert send("GET", "/v1/turns/app1").status_code == 404


def test_an_admin_sees_the_turns_of_every_key_and_none_of_the_app() -> None:
    pool = StatusPool()
    pool.saved.turns += [
        replace(TURN, turn_id="b1", client=ClientRecord("/v1/responses", "bob")),
        replace(TURN, turn_id="app1", client=None),
    ]
    with running(pool, keys=KEYS, admins=frozenset({"alice"})) as send:
        assert send("GET", "/v1/turns/b1", "alice").status_code == 200
        assert send("GET", "/v1/turns/app1", "alice").status_code == 404


@pytest.mark.parametrize(
    "turn_id", ["missing", "chatcmpl-", "a'; DROP TABLE turns", "%2e%2e%2fetc", "x" * 400, "a%00b"]
)
def test_another_id_is_not_found(turn_id: str) -> None:
    with running(StatusPool()) as send:
        response = send("GET", f"/v1/turns/{turn_id}")
        assert response.status_code == 404
        assert send("GET", "/health").status_code == 200


def read_metrics(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_have_the_meter_the_turns_and_whose_the_joules_are() -> None:
    pool = StatusPool(say("Mars", thinking="The fourth."), say("x", status="truncated"), say("y"))
    runtime = SimpleNamespace(meter=record_power())
    with running(pool, runtime) as send:
        for _ in range(3):
            assert send("POST", "/v1/chat/completions", json=chat()).status_code == 200
        pool.full = QueueFull("full")
        assert send("POST", "/v1/responses", json={"input": "x"}).status_code == 429
        response = send("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = read_metrics(response.text)
    channel = (
        ("channel", "gpu:FAKE"), ("in_total", "true"), ("kind", "counter"), ("scope", "gpu:FAKE"),
    )  # fmt: skip
    assert found["etui_energy_joules_total", channel] == pytest.approx(1200, rel=0.05)
    assert found["etui_unmeasured", (("scope", "package:0"),)] == 1
    endpoint = ("endpoint", "/v1/chat/completions")
    assert found["etui_requests_total", (endpoint, ("status", "complete"))] == 2
    assert found["etui_requests_total", (endpoint, ("status", "truncated"))] == 1
    refused = (("endpoint", "/v1/responses"), ("status", "queue_full"))
    assert found["etui_requests_total", refused] == 1
    tokens = {
        labels[0][1]: value
        for (name, labels), value in found.items()
        if name == "etui_tokens_total"
    }
    assert tokens == {"prompt": 45, "cached": 15, "thinking": 3, "answer": 21}
    assert found["etui_queue_seconds_count", ()] == 3
    assert found["etui_queue_seconds_sum", ()] == pytest.approx(0.75)
    assert found["etui_requests_running", ()] == 0
    assert found["etui_requests_queued", ()] == 0
    assert found["etui_serve_joules_total", (("kind", "counter"),)] == 500
    owned = {
        labels: value
        for (name, labels), value in found.items()
        if name == "etui_owned_joules_total"
    }
    assert owned == {
        (("model", "small"), ("owner", "turns")): 150,
        (("model", ""), ("owner", "loads")): 30,
        (("model", ""), ("owner", "idle")): 320,
    }


def test_a_key_sees_its_own_figures_and_an_admin_those_of_all() -> None:
    runtime = SimpleNamespace(meter=record_power())
    with running(StatusPool(), runtime, keys=KEYS, admins=frozenset({"bob"})) as send:
        for key in ("alice", "bob", "bob"):
            assert send("POST", "/v1/chat/completions", key, json=chat()).status_code == 200
        own = read_metrics(send("GET", "/metrics", "alice").text)
        everything = read_metrics(send("GET", "/metrics", "bob").text)
    answered = (("endpoint", "/v1/chat/completions"), ("status", "complete"))
    assert own["etui_requests_total", answered] == 1
    assert own["etui_tokens_total", (("kind", "answer"), ("model", "small"))] == 8
    assert own["etui_queue_seconds_count", ()] == 1
    turns = {name: v for name, v in own.items() if name[0] == "etui_owned_joules_total"}
    assert turns == {
        ("etui_owned_joules_total", (("model", "small"), ("owner", "turns"))): pytest.approx(30)
    }
    hidden = {"etui_serve_joules_total", "etui_requests_running", "etui_requests_queued"}
    assert not {name for name, _ in own} & (hidden | {"etui_turns_total"})
    assert ("etui_parallel", ()) in own
    assert everything["etui_requests_total", answered] == 3
    assert {name for name, _ in everything} >= hidden | {"etui_turns_total"}
    owners = {dict(labels)["owner"] for name, labels in everything if "owned" in name}
    assert owners == {"turns", "loads", "idle"}


def test_the_only_key_sees_everything() -> None:
    runtime = SimpleNamespace(meter=record_power())
    with running(StatusPool(), runtime, keys={"alice": KEYS["alice"]}) as send:
        found = read_metrics(send("GET", "/metrics", "alice").text)
    assert found["etui_serve_joules_total", (("kind", "counter"),)] == 500


def test_counters_never_fall_and_what_is_unmeasured_has_no_sample() -> None:
    pool = StatusPool()
    runtime = SimpleNamespace(meter=record_power())
    total = ("etui_serve_joules_total", (("kind", "counter"),))
    idle = ("etui_owned_joules_total", (("model", ""), ("owner", "idle")))
    with running(pool, runtime) as send:
        assert read_metrics(send("GET", "/metrics").text)[total] == 500
        pool.books = replace(BOOKS, total=499.2, idle=319.0)
        found = read_metrics(send("GET", "/metrics").text)
        assert found[total] == 500
        assert found[idle] == 320
        pool.books = replace(BOOKS, total=600.0, idle=None)
        found = read_metrics(send("GET", "/metrics").text)
        assert found[total] == 600
        assert idle not in found
        pool.books = EnergyBooks(None, None, None, None)
        assert total not in read_metrics(send("GET", "/metrics").text)


def test_a_turn_that_fails_is_counted_once() -> None:
    pool = StatusPool(fail(ModelUnavailable("its file is gone")))
    with running(pool, SimpleNamespace(meter=record_power())) as send:
        assert send("POST", "/v1/chat/completions", json=chat()).status_code >= 500
        found = read_metrics(send("GET", "/metrics").text)
    counts = [value for (name, _), value in found.items() if name == "etui_requests_total"]
    assert counts == [1]


def test_without_the_package_metrics_say_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with running(StatusPool(), SimpleNamespace(meter=record_power())) as send:
        response = send("GET", "/metrics")
        assert response.status_code == 501
        assert "pip install 'etui[prometheus]'" in response.json()["error"]["message"]
        assert response.headers["x-should-retry"] == "false"
        assert send("GET", "/meter").status_code == 200


def test_the_meter_says_how_many_requests_run() -> None:
    pool = StatusPool()
    pool.loading = "small"
    with running(pool, SimpleNamespace(meter=record_power())) as send:
        document = send("GET", "/meter").json()
    assert document["running"] == 0
    assert document["loading"] is True
    assert document["channels"][0]["id"] == "gpu:FAKE"
