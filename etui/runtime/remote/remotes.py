"""The remote backends of config.yaml: opened, resolved to, and described for lists and doctor."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etui.errors import ModelUnavailable
from etui.runtime.remote.live_settings import LiveSettings
from etui.runtime.serving import sample_as_asked
from etui.turn.ports import Served

if TYPE_CHECKING:
    from etui.arm import Arm, TokenCost
    from etui.backends.remote.backend import RemoteBackend
    from etui.backends.remote.probe import RemoteStatus
    from etui.config.backend_spec import BackendSpec
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec
    from etui.runtime.remote.remote_meters import RemoteMeters

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
) -> Served:
    """Resolve an arm to a model of a remote backend, which is not asked here.

    Args:
        price: Joules per token of the model; None if they are unknown.

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
    served = Served(
        spec,
        None,
        price,
        {"backend_server": remote.server},
        arm=sample_as_asked(arm, spec, lambda: None),
        fallbacks=remote.spec.fallbacks,
    )
    served = meters.measure(served, remote)
    if isinstance(served.settings, LiveSettings):
        return served
    # The version of a server is often known from its answer alone.
    late = LiveSettings(served.settings, lambda: {"backend_server": remote.server})
    return replace(served, settings=late)


def probe_backends(
    config: Config,
    seconds: float = LIST_SECONDS,
    remotes: Mapping[str, RemoteBackend] | None = None,
) -> dict[str, RemoteStatus]:
    """Ask every backend for its models, all at the same time; never raises.

    Args:
        seconds: Longest wait for each request.
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

    Their meters are checked by :func:`etui.runtime.remote.remote_meters.check_meters`.

    Args:
        seconds: Longest wait for each request.
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
    from etui.text.suggest import did_you_mean

    name = model.remote_name or model.name
    tagged = status.kind == "ollama" and f"{name}:latest" in status.models
    if name in status.models or tagged:
        return None
    near = did_you_mean(name, status.models)
    return RemoteModelProblem(model.name, name, f"{model.name}: it does not serve {name!r}{near}")
