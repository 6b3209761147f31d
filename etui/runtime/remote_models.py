"""The remote backends of config.yaml: opened, resolved to, and described for lists and doctor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from etui.config.backend_spec import BackendSpec, find_key_problem, read_key
from etui.energy.remote.client import MeterClient
from etui.energy.remote.meter import RemoteMeter, UnmeasuredMeter
from etui.errors import EtuiError, ModelUnavailable
from etui.runtime.model_resolution import sample_as_asked
from etui.runtime.provenance import describe_host, remote_settings
from etui.turn.interfaces import Meter, ResolvedModel

if TYPE_CHECKING:
    from etui.arm import Arm, TokenCost
    from etui.backends.remote.backend import RemoteBackend
    from etui.backends.remote.probe import RemoteStatus
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec

BuildClient = Callable[[BackendSpec, "str | None"], MeterClient]


class RunningServer(Protocol):
    """The part of a remote backend that knows how busy its server is, and what it is."""

    @property
    def server(self) -> str | None:
        """Name and version of the server; None if unknown."""

    def describe(self) -> object:
        """Ask the server what it is; never raises."""

    def running_requests(self) -> int | None:
        """Count the requests that run there; None if it does not say."""


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

    def measure(self, model: ResolvedModel, server: RunningServer | None = None) -> ResolvedModel:
        """Return a model of a remote backend with its meter, and the settings that go with it.

        Args:
            server: The backend that serves it; None if it cannot be asked how busy it is.
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

    def _open_meter(self, name: str, server: RunningServer | None) -> Meter:
        backend = self._config.backends.get(name)
        if backend is None or backend.meter is None:
            return UnmeasuredMeter(name)
        client = self.open_client(backend)
        if client is None:
            return UnmeasuredMeter(name, "meter-refused")
        own_server = backend.kind == "etui" and (
            describe_host(backend.url) == describe_host(backend.meter)
        )
        count = _count_with(server) if server is not None and not own_server else None
        return RemoteMeter(client, name, count_running=count, own_server=own_server)

    def open_client(self, backend: BackendSpec) -> MeterClient | None:
        """Return the client of a backend's meter; None if its key cannot be sent."""
        if self.find_key_problem(backend):
            return None
        key = read_key(backend.meter_key_env, self._environ)
        with self._lock:
            if backend.name not in self._clients:
                self._clients[backend.name] = self._build_client(backend, key)
            return self._clients[backend.name]

    def find_key_problem(self, backend: BackendSpec) -> str:
        """Find why the key of a backend's meter cannot be sent; empty if it can."""
        return find_key_problem(backend.meter_key_env, self._environ)

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()


@dataclass(frozen=True, slots=True)
class MeterReport:
    """What ``etui doctor`` finds of the meter of a backend.

    Attributes:
        offset_ns, error_ns: Its clock minus this machine's, and the bound of the error; None if
            it could not be measured.
    """

    backend: str
    url: str | None  # URL of its meter, without a password; None if it has none
    reachable: bool = False
    offset_ns: int | None = None
    error_ns: int | None = None
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
            return tuple(pool.map(partial(_check_meter, meters=meters), backends))
    finally:
        meters.close()


def _check_meter(backend: BackendSpec, meters: RemoteMeters) -> MeterReport:
    if backend.meter is None:
        return MeterReport(
            backend.name,
            None,
            problem="no meter: the joules of its answers are unknown",
            fix=f"run `etui power serve` there, and set `meter:` of {backend.name} in config.yaml",
        )
    client = meters.open_client(backend)
    if client is None:
        return MeterReport(
            backend.name,
            describe_host(backend.meter),
            problem=f"its meter cannot be asked: {meters.find_key_problem(backend)}",
            fix=f"export {backend.meter_key_env}=KEY",
        )
    try:
        reading = client.read_clock()
        status = client.read_status()
    except EtuiError as error:
        return MeterReport(backend.name, client.url, problem=error.what, fix=error.fix)
    problem = "" if status.kinds else "it measures nothing: its machine has no power channel"
    fix = "" if status.kinds else "run `etui doctor` on that machine"
    return MeterReport(
        backend.name,
        client.url,
        True,
        reading.offset_ns,
        reading.error_ns,
        status.kinds,
        problem,
        fix,
    )


def _count_with(server: RunningServer) -> Callable[[], int | None]:
    """Return a function that counts requests, and asks the server once what it is."""

    def count() -> int | None:
        if server.server is None:
            server.describe()
        return server.running_requests()

    return count


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
    """What ``etui doctor`` finds of one backend.

    Attributes:
        name, url, kind: As in config.yaml.
        reachable, key_accepted, latency_seconds, server, detected: As in
            :class:`etui.backends.remote.probe.RemoteStatus`.
    """

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

    Raises:
        ModelUnavailable: config.yaml does not have the backend.
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


def probe_backends(
    config: Config,
    seconds: float = LIST_SECONDS,
    remotes: Mapping[str, RemoteBackend] | None = None,
) -> dict[str, RemoteStatus]:
    """Ask every backend for its models, all at the same time; never raises.

    Args:
        remotes: Open backends, which stay open; None opens them here.
    """
    if not config.backends:
        return {}
    opened = open_remotes(config) if remotes is None else remotes
    try:
        with ThreadPoolExecutor(len(opened)) as pool:
            found = pool.map(lambda remote: remote.describe(seconds), opened.values())
            return dict(zip(opened, found, strict=True))
    finally:
        if remotes is None:
            for remote in opened.values():
                remote.close()


def check_backends(
    config: Config, catalogue: Catalogue, seconds: float = LIST_SECONDS
) -> tuple[BackendReport, ...]:
    """Check every backend: reached, key taken, names served, kind as configured.

    Their meters are checked by :func:`etui.runtime.remote_models.check_meters`.
    """
    found = probe_backends(config, seconds)
    return tuple(
        report_backend(config.backends[name], status, catalogue) for name, status in found.items()
    )


def report_backend(spec: BackendSpec, status: RemoteStatus, catalogue: Catalogue) -> BackendReport:
    """Compare what a backend says with config.yaml and models.yaml."""
    entries = [model for model in catalogue if model.backend == spec.name]
    problems = [status.problem] if status.problem else []
    missing = tuple(
        problem
        for model in entries
        if status.models and (problem := find_model_problem(model, status)) is not None
    )
    problems += [problem.problem for problem in missing]
    return BackendReport(
        name=spec.name,
        url=spec.url,
        kind=spec.kind,
        reachable=status.reachable,
        key_accepted=status.key_accepted,
        latency_seconds=status.latency_seconds,
        server=status.server,
        detected=status.detected,
        models=status.models,
        entries=tuple(model.name for model in entries),
        missing=missing,
        problems=tuple(problems),
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
