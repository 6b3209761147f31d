"""What is needed to repeat a turn, in addition to the arm: versions, settings and machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from etui import __version__
from etui.config.machine import machine_name
from etui.curves.operating_curve import Conditions, parse_conditions
from etui.engine.builds import describe_engine
from etui.engine.library import choose_threads
from etui.engine.thread_count import choose_thread_limits
from etui.errors import EtuiError

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.types import Channel
    from etui.log.queries import LogReader
    from etui.models.spec import ModelSpec


def read_weights(config: Config) -> dict[str, str]:
    """Read the quantisation of every model file with a known hash, by that hash.

    A damaged file or ``models.yaml`` is left out: an export must not fail because of it.
    """
    from etui.models.catalogue import load_catalogue
    from etui.models.files import content_sha256, has_file, model_path
    from etui.models.gguf import check_gguf

    found: dict[str, str] = {}
    try:
        models = list(load_catalogue(config))
    except EtuiError:
        return found
    for spec in models:
        try:
            sha256 = content_sha256(spec, config)
            if sha256 is not None and spec.backend is None and has_file(spec, config):
                found[sha256] = check_gguf(model_path(spec, config)).quantisation
        except (EtuiError, OSError):
            continue
    return found


def provenance(config: Config) -> dict[str, Any]:
    """Collect versions, the machine and the llama.cpp settings that come from the Config.

    ``pue`` is only there if it is not 1.
    """
    return {
        "etui": __version__,
        "llama_cpp_python": describe_engine(config.engines_dir),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": machine_name(),
        "cpus": os.cpu_count(),
        "threads": choose_threads(config.threads, config.sysfs_dir),
        "threads_setting": config.threads or "auto",
        "context_tokens": config.context_tokens,
        "sample_hz": config.sample_hz,
        **({} if config.pue == 1.0 else {"pue": config.pue}),
    }


def model_settings(spec: ModelSpec, config: Config) -> dict[str, Any]:
    """Collect the llama.cpp settings of one model, which replace those of the Config.

    ``prefill_limit`` (most threads of prefill) is only there if it differs from ``threads``, and
    ``threads`` and ``threads_setting`` only if the model has threads of its own, and ``adapters``
    only if it has any. ``tuned`` is only there if a sweep chose settings: its id, and their values.
    """
    settings: dict[str, Any] = {
        "kv_type": spec.kv_type,
        "flash_attention": spec.flash_attention,
        "batch_tokens_setting": spec.batch_tokens or "auto",
        "draft_tokens": spec.draft_tokens,
    }
    limits = choose_thread_limits(spec, config)
    if spec.threads is not None:
        settings |= {"threads": limits.decode, "threads_setting": spec.threads}
    if limits.prefill != limits.decode:
        settings["prefill_limit"] = limits.prefill
    if spec.adapters:
        settings["adapters"] = [
            {"file": each.path.name, "scale": each.scale, "sha256": each.sha256}
            for each in spec.adapters
        ]
    if spec.mmproj is not None:
        settings["mmproj"] = spec.mmproj.name
    if spec.tuned is not None:
        settings["tuned"] = {"sweep": spec.tuned.sweep, "values": dict(spec.tuned.values)}
    return settings


def conditions(
    config: Config, channels: Sequence[Channel] = (), spec: ModelSpec | None = None
) -> Conditions:
    """Collect everything that joules per token depend on, except for the model's file."""
    ids = tuple(channel.id for channel in channels)
    settings = provenance(config) | ({} if spec is None else model_settings(spec, config))
    return parse_conditions(settings, ids, sum_limits(channels))


def sum_limits(channels: Iterable[Channel]) -> float | None:
    """Sum the power limits of channels; None if one is unknown, or there are none."""
    limits = [channel.limit_watts for channel in channels]
    known = [watts for watts in limits if watts is not None]
    return sum(known) if known and len(known) == len(limits) else None


def package_version(package: str) -> str | None:
    """Read the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_NEWEST_SQL = """
    SELECT settings FROM turns
    WHERE id IN (
        SELECT id FROM turns WHERE model = ? AND model_sha256 IS ?
        ORDER BY created_at DESC, id DESC LIMIT 200
    ) AND json_extract(settings, '$.backend') = ?
        AND json_extract(settings, '$.backend_host') = ?
    ORDER BY created_at DESC, id DESC LIMIT 1
"""

_OF_THIS_MACHINE = (
    *("llama_cpp_python", "cpus", "threads", "threads_setting", "context_tokens"),
    *("kv_type", "flash_attention", "batch_tokens_setting", "draft_tokens", "idle_baseline"),
)
"""Settings of this machine's engine, which did not answer."""


def describe_host(url: str) -> str:
    """Return scheme, host and port of a URL, without user, password and path."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "unknown"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{port}" if port else f"{parts.scheme}://{host}"


def remote_settings(
    spec: ModelSpec, config: Config, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Collect the settings of a turn on a remote backend, which replace those of this machine."""
    backend = config.backends.get(spec.backend or "")
    found: dict[str, Any] = {
        **dict.fromkeys(_OF_THIS_MACHINE),
        "backend": spec.backend,
        "backend_kind": None if backend is None else backend.kind,
        "backend_host": "unknown" if backend is None else describe_host(backend.url),
        "backend_model": spec.remote_name or spec.name,
        "backend_server": None,
        **(settings or {}),
    }
    return found | {"machine": parse_conditions(found, ()).machine}


def find_conditions(log: LogReader, spec: ModelSpec, config: Config) -> Conditions:
    """Return the conditions of a model here and now.

    The version of a remote server is that of its last turn: a decision does not ask it.
    """
    if spec.backend is None:
        return conditions(config, spec=spec)
    settings = remote_settings(spec, config)
    place = settings["backend"], settings["backend_host"]
    rows = log.select(_NEWEST_SQL, (spec.name, spec.sha256, *place))
    last = json.loads(rows[0]["settings"]) if rows else {}
    return parse_conditions(settings | {"backend_server": last.get("backend_server")}, ())
