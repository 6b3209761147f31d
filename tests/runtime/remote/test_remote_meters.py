"""A turn on a remote backend: its meter, its settings, its conditions; and what doctor finds."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from etui.arm import Arm
from etui.bench.setup import _check_remote
from etui.chat import Query
from etui.cli.doctor import format_diagnosis
from etui.config.backend_spec import BackendSpec
from etui.config.config import Config, load_config
from etui.energy.remote.meter import RemoteMeter, UnmeasuredMeter
from etui.errors import ModelUnavailable
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.catalogue import Catalogue
from etui.models.spec import ModelSpec
from etui.routing.objective import weigh
from etui.routing.policy import ArmPlan, Objective
from etui.runtime.decide import choose
from etui.runtime.doctor import diagnose
from etui.runtime.log_predictor import LogPredictor
from etui.runtime.model_resolution import refit_curve, token_cost_for
from etui.runtime.overrides import Overrides
from etui.runtime.provenance import find_conditions
from etui.runtime.remote_models import (
    RemoteMeters,
    check_backends,
    check_meters,
    describe_host,
    probe_backends,
    remote_settings,
)
from etui.runtime.runtime import Runtime, open_runtime
from etui.turn.events import TurnFinished
from etui.turn.interfaces import ResolvedModel
from etui.turn.record import TurnRecord
from tests.backends.remote.stub import Script, Stub, delta, document, running_stub, sse, usage
from tests.fixtures.turns import TURN

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


def test_a_machine_that_only_asks_others_starts_no_engine(desk: Config, stub: Stub) -> None:
    opened: list[Config] = []

    def open_backend(config: Config) -> Any:
        opened.append(config)
        raise AssertionError("an engine was started")

    with Runtime(desk, open_backend) as runtime:
        assert answer(runtime, model="big@desk").answer == "Mars."
        with pytest.raises(AssertionError, match="an engine was started"):
            runtime.backend  # noqa: B018
    assert len(opened) == 1


def test_a_bench_asks_whether_a_backend_serves_its_model(desk: Config, stub: Stub) -> None:
    with open_runtime(desk) as runtime:
        model = runtime.resolve(Arm("direct", "big@desk"))
        assert model.backend is not None
        found = _check_remote(model)
        assert (found.name, found.backend, found.remote_name) == ("big@desk", "desk", "big")
        stub.scripts["/v1/models"] = [document({"data": [{"id": "small"}]})]
        with pytest.raises(ModelUnavailable, match="does not serve big"):
            _check_remote(model)


def test_the_version_of_the_server_is_logged_once_it_is_known(desk: Config, stub: Stub) -> None:
    stub.scripts["/v1/models"] = [document({"data": [{"id": "big", "owned_by": "vllm"}]})]
    stub.scripts["/version"] = [document({"version": "0.20"})]
    write(desk.home, stub.url, kind="vllm")
    with open_runtime(load_config()) as runtime:
        for remote in runtime.remotes.values():
            remote.describe(1.0)
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


BIG = ModelSpec("big", "tiny", (), sha256="b" * 64)
DESK = ModelSpec("big-desk", "tiny", (), backend="desk", same_as="big")
CATALOGUE = Catalogue({"big": BIG, "big-desk": DESK})


def with_backend(config: Config, **changes: Any) -> Config:
    spec = BackendSpec("desk", "http://desk:8080/v1", "llama-server", **changes)
    return replace(config, backends={"desk": spec})


@dataclass
class Server:
    """A backend that says what it is when it is asked."""

    server: str | None = None
    running: int = 1

    def describe(self) -> None:
        self.server = "llama-server b42"

    def running_requests(self) -> int:
        return self.running


class MeterServer:
    """A meter over a real socket, hours ahead of this machine, with 40 W."""

    offset_ns = 5 * 3600 * 10**9

    def __init__(self, key: str | None = None) -> None:
        import time

        meter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                allowed = key is None or self.headers["Authorization"] == f"Bearer {key}"
                document = meter.document(url.path, url.query, time.monotonic_ns())
                body = json.dumps(document if allowed else {}).encode()
                self.send_response(200 if allowed else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def document(self, path: str, query: str, now_ns: int) -> dict[str, Any]:
        if path == "/meter/clock":
            return {"now_ns": now_ns + self.offset_ns, "boot_id": "b-1"}
        if path == "/meter":
            return {"running": None, "channels": [{"kind": "integrated"}, {"kind": "counter"}]}
        values = {name: found[0] for name, found in parse_qs(query).items()}
        start_ns, end_ns = int(values["start_ns"]), int(values["end_ns"])
        joules = 40.0 * (end_ns - start_ns) / 1e9
        points = int(values.get("points", 0))
        return {
            "joules": joules, "uncertainty": 0.0, "kind": "counter", "coverage": 1.0,
            "mean_watts": 40.0, "peak_watts": 40.0, "idle_watts": 15.0, "channels": {},
            "unmeasured": [], "flags": [], "start_ns": start_ns, "end_ns": end_ns,
            "boot_id": values["boot_id"], "power_watts": [40.0] * points,
        }  # fmt: skip

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def meter_server() -> Iterator[MeterServer]:
    server = MeterServer()
    yield server
    server.close()


def test_a_turn_is_measured_over_a_real_connection(
    config: Config, meter_server: MeterServer
) -> None:
    import time

    config = with_backend(config, meter=meter_server.url)
    meters = RemoteMeters(config)
    server = Server()
    served = meters.measure(ResolvedModel(DESK, None, settings={"asked": 1}), server)
    meter = served.meter
    assert isinstance(meter, RemoteMeter)
    start_ns = time.monotonic_ns()
    meter.mark(start_ns)
    end_ns = time.monotonic_ns()
    while end_ns - start_ns < 20_000_000:
        end_ns = time.monotonic_ns()
    meter.mark(end_ns)
    assert meter.settle(end_ns)
    energy = meter.energy(start_ns, end_ns)
    true = 40.0 * (end_ns - start_ns) / 1e9
    assert energy.joules is not None
    assert energy.uncertainty is not None
    assert abs(energy.joules - true) <= energy.uncertainty
    assert [watts for _, watts in meter.power_curve(start_ns, end_ns, 2)] == [40.0, 40.0]
    settings = served.read_settings()
    error_ns = settings["meter_offset_error_ns"]
    assert abs(settings["meter_offset_ns"] - meter_server.offset_ns) <= error_ns
    assert settings["meter_boot_id"] == "b-1"
    assert settings["backend_server"] == "llama-server b42"
    assert settings["asked"] == 1
    meters.close()


def test_a_backend_without_a_meter_is_unmeasured(config: Config) -> None:
    meters = RemoteMeters(with_backend(config))
    served = meters.measure(ResolvedModel(DESK, None))
    assert isinstance(served.meter, UnmeasuredMeter)
    assert served.meter.energy(0, 5).unmeasured == ("desk",)
    keyed = with_backend(config, meter="http://desk:9911", meter_key_env="DESK_METER_KEY")
    served = RemoteMeters(keyed, {}).measure(ResolvedModel(DESK, None))
    assert isinstance(served.meter, UnmeasuredMeter)
    assert "meter-refused" in served.meter.energy(0, 5).flags


def test_the_settings_of_this_machines_engine_are_not_those_of_the_turn(config: Config) -> None:
    with open_runtime(with_backend(config)) as runtime:
        runtime.catalogue = CATALOGUE
        served = runtime.resolve(Arm("direct", "big-desk"))
        settings = {**runtime.provenance, **served.read_settings()}
    assert (served.path, served.spec) == (None, DESK)
    assert settings["machine"] == "desk (http://desk:8080)"
    assert settings["backend_host"] == "http://desk:8080"
    assert settings["threads"] is None
    assert settings["llama_cpp_python"] is None
    assert settings["idle_baseline"] is None
    assert settings["etui"] == runtime.provenance["etui"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://desk:8080/v1", "http://desk:8080"),
        ("https://me:secret@desk/v1", "https://desk"),
        ("http://[::1]:9/v1", "http://[::1]:9"),
        ("http://desk:port/v1", "unknown"),
    ],
)
def test_an_address_is_recorded_without_passwords(url: str, host: str) -> None:
    assert describe_host(url) == host


def remote_turn(config: Config, index: int, *, server: str, joules: float | None) -> Any:
    """A turn of 200 tokens in 10 s on the desk."""
    energy = replace(
        TURN.energy,
        joules=joules,
        uncertainty=None if joules is None else 0.1,
        kind=None if joules is None else "counter",
        phases=(
            {"load": None, "prefill": None, "decode": None}
            if joules is None
            else {"load": 0.0, "prefill": 0.1 * joules, "decode": 0.9 * joules}
        ),
        flags=(),
        shared=False,
    )
    output = 101 + index
    return replace(
        TURN,
        turn_id=f"remote{index}",
        created_at=f"2026-11-25T10:{index:02d}:00+00:00",
        model="big-desk",
        model_sha256=None,
        reasoning="direct",
        hops=(),
        probes=(),
        votes=(),
        status="complete",
        speculation=None,
        tokens=replace(TURN.tokens, computed=50 + 3 * index, cached=0, output=output),
        seconds=replace(TURN.seconds, prefill=0.5 + 0.03 * index, decode=(output - 1) / 20),
        energy=energy,
        settings={
            **TURN.settings,
            **remote_settings(DESK, config, {"backend_server": server}),
            "speculate": "off",
        },
    )


def test_a_curve_of_another_machine_is_learned_from_its_own_turns(config: Config) -> None:
    config = with_backend(config)
    turns = [
        remote_turn(config, i, server="b1", joules=20.0 + 0.4 * (101 + i) + 0.2 * (50 + 3 * i))
        for i in range(24)
    ]
    with TurnWriter(config) as writer:
        for turn in turns:
            writer.save_turn(turn)
        writer.flush()
        refit_curve(turns[-1], config, writer.save_curve)
        writer.flush()
    with LogReader(config) as log:
        now = find_conditions(log, DESK, config)
        (curve,) = log.curves("big-desk", None)
    assert now.machine == "desk (http://desk:8080)"
    assert (now.build, now.threads) == ("server b1", 0)
    assert curve.conditions.machine == now.machine
    predictor = LogPredictor(config, CATALOGUE)
    arm = Arm("direct", "big-desk", max_tokens=120)
    predicted = predictor.joules(arm, Query("hello"))
    assert predicted is not None
    assert predicted.source == "operating curve of the log"
    assert predicted.load == 0.0  # no load of this machine
    assert predicted.seconds == predictor.duration(arm, Query("hello"))
    cot = replace(arm, reasoning="cot", max_joules=10.0)
    cost = token_cost_for(cot, DESK, config)
    assert cost is not None
    assert cost.source == "operating curve of the log"
    # The same entry at another address is another machine, of which nothing is known.
    moved = replace(config, backends={"desk": BackendSpec("desk", "http://other:8080/v1")})
    assert LogPredictor(moved, CATALOGUE).joules(arm, Query("hello")) is None
    # A newer version is not pooled with the older one.
    with TurnWriter(config) as writer:
        writer.save_turn(remote_turn(config, 40, server="b2", joules=500.0))
    fresh = LogPredictor(config, CATALOGUE).joules(arm, Query("hello"))
    assert fresh is not None
    assert fresh.source != "operating curve of the log"


@pytest.mark.parametrize("flags", [("shared",), ("load",), ("coarse", "load")])
def test_turns_with_joules_of_others_or_of_a_load_are_no_points(
    config: Config, flags: tuple[str, ...]
) -> None:
    config = with_backend(config)
    with TurnWriter(config) as writer:
        for index in range(24):
            turn = remote_turn(config, index, server="b1", joules=50.0 + index)
            energy = replace(turn.energy, flags=flags, shared="shared" in flags)
            writer.save_turn(replace(turn, energy=energy))
        writer.flush()
        refit_curve(turn, config, writer.save_curve)
    with LogReader(config) as log:
        assert log.curves("big-desk", None) == []


def test_an_unmeasured_machine_has_seconds_but_no_joules(config: Config) -> None:
    config = with_backend(config)
    with TurnWriter(config) as writer:
        for index in range(3):
            writer.save_turn(remote_turn(config, index, server="b1", joules=None))
    predictor = LogPredictor(config, CATALOGUE)
    arm, query = Arm("direct", "big-desk", max_tokens=120), Query("hello")
    assert predictor.joules(arm, query) is None
    seconds = predictor.duration(arm, query)
    assert seconds is not None
    assert 1.0 < seconds < 10.0  # some 100 tokens at 20 tok/s
    assert predictor.duration(Arm("direct", "big"), query) is None
    plan = ArmPlan("big-desk", ("big-desk",), arm)
    objective = Objective("joules", ("direct",), seconds_at_most=60.0)
    weighed = weigh(
        objective, {"direct": plan}, query, lambda _: True, predictor=predictor, resident=None
    )
    assert weighed.winner is None
    assert weighed.candidates[0].failed == "its joules are unknown"


def test_the_accuracy_of_an_arm_is_that_of_its_weights(config: Config) -> None:
    class Heads:
        def accuracy(self, arm: Arm, query: Query, confidence: float) -> Any:
            return "fitted" if arm.model == "big" else None

        def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> Any:
            return 0.7 if arm.model == "big" else None

    predictor = LogPredictor(config, CATALOGUE, read_heads=Heads)  # type: ignore[arg-type]
    assert predictor.accuracy(Arm("a", "big-desk"), Query("q"), 0.9) == "fitted"
    assert predictor.calibrated(Arm("a", "big-desk"), 0.5, None) == 0.7
    assert predictor.accuracy(Arm("a", "other"), Query("q"), 0.9) is None


def test_doctor_checks_the_meter_of_each_backend(config: Config, meter_server: MeterServer) -> None:
    refused = MeterServer("secret")
    try:
        config = replace(
            config,
            backends={
                "desk": BackendSpec("desk", "http://desk/v1", meter=meter_server.url),
                "bare": BackendSpec("bare", "http://bare/v1"),
                "keyed": BackendSpec("keyed", "http://k/v1", meter=refused.url),
                "unset": BackendSpec("unset", "http://k/v1", meter="http://k", meter_key_env="K"),
                "right": BackendSpec("right", "http://k/v1", meter=refused.url, meter_key_env="R"),
                "odd": BackendSpec("odd", "http://k/v1", meter="http://k", meter_key_env="ODD"),
            },
        )
        environ = {"R": "secret\n", "ODD": "two\nlines"}
        reports = {one.backend: one for one in check_meters(config, environ)}
    finally:
        refused.close()
    desk = reports["desk"]
    assert (desk.reachable, desk.kinds, desk.problem) == (True, ("counter", "integrated"), "")
    assert desk.offset_ns is not None
    assert desk.error_ns is not None
    assert abs(desk.offset_ns - MeterServer.offset_ns) <= desk.error_ns
    assert "no meter" in reports["bare"].problem
    assert "HTTP 401" in reports["keyed"].problem
    assert reports["unset"].fix == "export K=KEY"
    assert "has characters that no key has" in reports["odd"].problem
    assert "two" not in str(reports["odd"])
    assert reports["right"].reachable
    off = check_meters(replace(config, backends={"keyed": config.backends["keyed"]}))
    assert "cannot be reached" in off[0].problem
    diagnosis = replace(diagnose(with_backend(config)), meters=(desk, reports["bare"]))
    text = "\n".join(format_diagnosis(diagnosis))
    assert f"✓ desk at {meter_server.url}: clock offset 5 h 00 min ± " in text
    assert ", counter and integrated" in text
    assert "✗ bare: no meter: the joules of its answers are unknown" in text


def test_a_remote_model_is_no_file(config: Config, tmp_path: Path) -> None:
    runtime: Runtime[Any] = open_runtime(with_backend(config))
    runtime.catalogue = CATALOGUE
    with runtime:
        served = runtime.resolve(Arm("direct", "big-desk"))
    assert served.path is None
    assert served.meter is not None
