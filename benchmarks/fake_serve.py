"""``etui serve`` over an engine that computes nothing (``benchmarks/fake_engine.py``).

python -m benchmarks.fake_serve PORT PARALLEL QUEUE
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.http_sides import Server, find_port, running
from etui.backends.process import ProcessBackend
from etui.config.config import load_config, make_home
from etui.energy.idle import IdleTracker
from etui.runtime.runtime import Runtime

ENGINE = "benchmarks.fake_engine"


@contextmanager
def fake_server(
    *,
    parallel: int,
    queue: int = 64,
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run the server in a process of its own, with a folder of its own unless one is given."""
    port = find_port()
    command = [sys.executable, "-m", "benchmarks.fake_serve", str(port), str(parallel), str(queue)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) if home is None else home
        (home / "fake.gguf").write_bytes(_build_gguf())
        (home / "models.yaml").write_text(
            "models:\n  fake:\n    size: nothing\n    sources: [{path: fake.gguf}]\n"
        )
        with running(
            command,
            port,
            "/health",
            "fake",
            **{**(environment or {}), "ETUI_HOME": str(home), "ETUI_MODELS": str(home)},
        ) as server:
            yield replace(server, home=home)


def _build_gguf() -> bytes:
    """Build the header of a model file without tensors, which the fake engine never reads."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    string_type = 8
    entry = text(b"general.architecture") + struct.pack("<I", string_type) + text(b"llama")
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry


def used_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its children so far."""
    parent = psutil.Process(pid)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def used_bytes(pid: int) -> int:
    """Return the resident bytes of a process and its children."""
    parent = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (parent, *parent.children(recursive=True)))


def main() -> None:
    """Serve until a signal."""
    from etui.runtime.turn_pool import TurnPool
    from etui.server.context import ServerContext, ServerSettings
    from etui.server.run import open_sockets, run_server, share_heap

    share_heap()
    port, parallel, queue = map(int, sys.argv[1:4])
    config = replace(load_config(), parallel=parallel)
    make_home(config)
    sockets, settings = open_sockets(ServerSettings(port=port))
    with Runtime(config, lambda config: ProcessBackend(config, worker=ENGINE)) as runtime:
        pool = TurnPool(
            runtime,
            parallel=parallel,
            queue_limit=queue,
            idle_tracker=IdleTracker(runtime.recorder, config),
        )
        run_server(ServerContext(pool, runtime, settings), sockets, lambda: None)


if __name__ == "__main__":
    main()
