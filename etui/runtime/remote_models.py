"""The remote backends of config.yaml: opened, resolved to, and described for lists and doctor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from etui.config.backend_spec import BackendSpec, find_key_problem, read_key
from etui.energy.remote.client import MeterClient
from etui.energy.remote.meter import RemoteMeter, UnmeasuredMeter
from etui.errors import EtuiError, ModelUnavailable
from etui.runtime.model_resolution import sample_as_asked
from etui.runtime.provenance import describe_host, remote_settings
from etui.turn.interfaces import Meter, ResolvedModel

if TYPE_CHECKING:
    from etui.arm import Arm, TokenCost
    from etui.backends.remote.backend import RemoteBackend, RemoteStatus
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec

BuildClient = Callable[[BackendSpec, "str | None"], MeterClient]


class RemoteMeters:
    """Keeps a connection to the meter of each backend that has one."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] = os.environ,
        build_client: BuildClient | None = None,
    ) -> None:
        self._config = config
        self._environ = environ
        self._build_client = build_client or _build_client
        self._clients: dict[str, MeterClient] = {}
        self._lock = threading.Lock()

    def measure(self, model: ResolvedModel, server: RemoteBackend | None = None) -> ResolvedModel:
        """Return a model of a remote backend with its meter, and the settings that go with it.

        Without its server, nobody can be asked how busy it is.
        """
        name = model.spec.backend
        assert name is not None
        settings = remote_settings(model.spec, self._config, model.settings)
        meter = self._open_meter(name, server)

        def late() -> dict[str, Any]:
            # The version of a server is often known from its answer alone.
            version = settings["backend_server"] or (server.server if server is not None else None)
            found = meter.settings() if isinstance(meter, RemoteMeter) else {}
            return {**found, "backend_server": version}

        return replace(model, meter=meter, settings=settings, late_settings=late)

    def _open_meter(self, name: str, server: RemoteBackend | None) -> Meter:
        backend = self._config.backends.get(name)
        if backend is None or backend.meter is None:
            return UnmeasuredMeter(name)
        client = self.open_client(backend)
        if client is None:
            return UnmeasuredMeter(name, "meter-refused")
        own = backend.kind == "etui" and describe_host(backend.url) == describe_host(backend.meter)

        def count_running() -> int | None:
            """Count the requests of the server, which is asked once what it is."""
            assert server is not None
            if server.server is None:
                server.describe()
            return server.running_requests()

        count = None if server is None or own else count_running
        return RemoteMeter(client, name, count_running=count, own_server=own)

    def open_client(self, backend: BackendSpec) -> MeterClient | None:
        """Return the client of a backend's meter; None if its key cannot be sent."""
        if find_key_problem(backend.meter_key_env, self._environ):
            return None
        key = read_key(backend.meter_key_env, self._environ)
        with self._lock:
            if backend.name not in self._clients:
                self._clients[backend.name] = self._build_client(backend, key)
            return self._clients[backend.name]

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()


@dataclass(frozen=True, slots=True)
class MeterReport:
    """What ``etui doctor`` finds of the meter of a backend."""

    backend: str
    url: str | None  # URL of its meter, without a password; None if it has none
    reachable: bool = False
    offset_ns: int | None = None  # Its clock minus this machine's; None if not measured
    error_ns: int | None = None  # Bound of the error of that
    kinds: tuple[str, ...] = ()  # Kinds of its channels, best first; empty if it measures nothing
    problem: str = ""  # What is wrong, in one line; empty if nothing is
    fix: str = ""  # How to fix it; empty if nothing is wrong


def check_meters(
    config: Config,
    environ: Mapping[str, str] = os.environ,
    build_client: BuildClient | None = None,
) -> tuple[MeterReport, ...]:
    """Check the meter of every backend; a failure becomes a problem, never an exception."""
    backends = tuple(config.backends.values())
    if not backends:
        return ()
    meters = RemoteMeters(config, environ, build_client)
    try:
        with ThreadPoolExecutor(len(backends)) as pool:  # a meter that is off takes seconds
            return tuple(pool.map(lambda each: _check_meter(each, meters, environ), backends))
    finally:
        meters.close()


def _check_meter(
    backend: BackendSpec, meters: RemoteMeters, environ: Mapping[str, str]
) -> MeterReport:
    name, url = backend.name, backend.meter
    if url is None:
        problem = "no meter: the joules of its answers are unknown"
        fix = f"run `etui power serve` there, and set `meter:` of {name} in config.yaml"
        return MeterReport(name, None, problem=problem, fix=fix)
    client = meters.open_client(backend)
    if client is None:
        problem = f"its meter cannot be asked: {find_key_problem(backend.meter_key_env, environ)}"
        fix = f"export {backend.meter_key_env}=KEY"
        return MeterReport(name, describe_host(url), problem=problem, fix=fix)
    try:
        clock, status = client.read_clock(), client.read_status()
    except EtuiError as error:
        return MeterReport(name, client.url, problem=error.what, fix=error.fix)
    report = MeterReport(name, client.url, True, clock.offset_ns, clock.error_ns, status.kinds)
    if status.kinds:
        return report
    problem = "it measures nothing: its machine has no power channel"
    return replace(report, problem=problem, fix="run `etui doctor` on that machine")


def _build_client(backend: BackendSpec, key: str | None) -> MeterClient:
    assert backend.meter is not None
    return MeterClient(backend.meter, key, plain_key=backend.plain_key)


LIST_SECONDS = 2.0
"""Longest wait for a backend in a list of models."""


@dataclass(frozen=True, slots=True)
class RemoteModelProblem:
    """A model of models.yaml that its backend does not serve."""

    model: str
    remote_name: str
    problem: str  # What is wrong, with the nearest names that the backend serves


@dataclass(frozen=True, slots=True)
class BackendReport:
    """What ``etui doctor`` finds of one backend; the first fields are those of a `RemoteStatus`."""

    name: str
    url: str
    kind: str
    reachable: bool
    key_accepted: bool | None
    latency_seconds: float | None
    server: str | None
    detected: str | None
    models: tuple[str, ...]
    entries: tuple[str, ...]  # The entries of models.yaml that name it
    missing: tuple[RemoteModelProblem, ...] = ()  # Those of them that it does not serve
    problems: tuple[str, ...] = ()  # What is wrong, one line each


def open_remotes(config: Config) -> dict[str, RemoteBackend]:
    """Create the backends of config.yaml; none is asked before its first request."""
    from etui.backends.remote.backend import RemoteBackend

    return {name: RemoteBackend(spec) for name, spec in config.backends.items()}


def serve_remote(
    arm: Arm,
    spec: ModelSpec,
    remotes: Mapping[str, RemoteBackend],
    meters: RemoteMeters,
    price: TokenCost | None,
) -> ResolvedModel:
    """Resolve an arm to a model of a remote backend, which is not asked here.

    ModelUnavailable if config.yaml does not have the backend.
    """
    remote = remotes.get(spec.backend or "")
    if remote is None:
        raise ModelUnavailable(
            f"{spec.name} is served by the backend {spec.backend!r}, which config.yaml does not "
            "have",
            "add it under `backends`",
        )
    model = ResolvedModel(
        spec,
        None,
        price,
        {"backend_server": remote.server},
        arm=sample_as_asked(arm, spec, lambda: None),
        fallbacks=remote.spec.fallbacks,
        backend=remote,
    )
    return meters.measure(model, remote)


def probe_backends(config: Config) -> dict[str, RemoteStatus]:
    """Ask every backend for its models, all at the same time; never raises."""
    if not config.backends:
        return {}
    opened = open_remotes(config)
    try:
        with ThreadPoolExecutor(len(opened)) as pool:
            found = pool.map(lambda remote: remote.describe(LIST_SECONDS), opened.values())
            return dict(zip(opened, found, strict=True))
    finally:
        for remote in opened.values():
            remote.close()


def check_backends(config: Config, catalogue: Catalogue) -> tuple[BackendReport, ...]:
    """Check every backend: reached, key taken, names served, kind as configured."""
    return tuple(
        report_backend(status, [model for model in catalogue if model.backend == name])
        for name, status in probe_backends(config).items()
    )


def report_backend(status: RemoteStatus, entries: Sequence[ModelSpec]) -> BackendReport:
    """Compare what a backend says with the entries of models.yaml that name it."""
    problems = [find_model_problem(model, status) for model in entries if status.models]
    missing = tuple(problem for problem in problems if problem is not None)
    stated = (status.problem,) if status.problem else ()
    known = asdict(status)
    del known["problem"]
    return BackendReport(
        **known,
        entries=tuple(model.name for model in entries),
        missing=missing,
        problems=(*stated, *(problem.problem for problem in missing)),
    )


def find_model_problem(model: ModelSpec, status: RemoteStatus) -> RemoteModelProblem | None:
    """Find why a backend does not serve a model of models.yaml; None if it does."""
    from etui.text import did_you_mean

    name = model.remote_name or model.name
    tagged = status.kind == "ollama" and f"{name}:latest" in status.models
    if name in status.models or tagged:
        return None
    near = did_you_mean(name, status.models)
    return RemoteModelProblem(model.name, name, f"{model.name}: it does not serve {name!r}{near}")
