"""Connect to a cluster of Ray, or start one on this machine that listens on loopback only.

Ray's own connection hangs for minutes if something else answers at the address, so it is tried in
a process that can be ended. What etui insists on (where Ray listens, who may connect, what it
reports) are environment variables, which Ray reads when it is imported.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from etui.config.backend_spec import is_loopback
from etui.engine.cpu_limits import cpu_affinity
from etui.errors import EtuiError, UsageError
from etui.extras import require_extra
from etui.units import seconds_text

LOOPBACK = "127.0.0.1"
_DEFAULT_PORT = 6379
_LOCAL = re.compile(r"local(?::([1-9]|1[0-6]))?")
_ADDRESS = re.compile(r"(\[(?P<ip>[^\[\]\s/]+)\]|(?P<name>[^\[\]\s/:]+))(:(?P<port>[0-9]{0,5}))?")
_DOCS = "see docs/studies.md"

USAGE_STATS = "RAY_USAGE_STATS_ENABLED"
AUTH_MODE = "RAY_AUTH_MODE"
AUTH_TOKEN = "RAY_AUTH_TOKEN"
AUTH_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
ON_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Whether Ray uses the machine's network address even where only 127.0.0.1 is named."""


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """The address of a cluster's head."""

    host: str  # Name or IP address; `127.0.0.1` for every name of this machine's loopback
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether nothing leaves this machine."""
        return self.host == LOOPBACK

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> ClusterAddress | int:
    """Parse HOST, HOST:PORT, ``local`` or ``local:N``; a number is of nodes to start here."""
    given = text.strip()
    if found := _LOCAL.fullmatch(given):
        return int(found[1] or 1)
    if "://" in given:
        raise UsageError(
            f"--cluster {given} is a URL",
            f"give the head's HOST:PORT, as `ray start --head` prints it (port {_DEFAULT_PORT})",
        )
    found = _ADDRESS.fullmatch(given)
    port = int(found["port"] or _DEFAULT_PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise UsageError(
            f"--cluster {given!r} is not an address",
            "give HOST:PORT of the cluster's head, 'local', or 'local:N' for N nodes here",
        )
    host = found["name"] or found["ip"]
    return ClusterAddress(LOOPBACK if is_loopback(host) else host, port)


def build_environment(
    address: ClusterAddress | int, environ: Mapping[str, str], home: Path
) -> dict[str, str]:
    """Build the variables to set before Ray is imported.

    On this machine alone, a token for this run keeps other users of it out. ``home`` may hold a
    token of Ray. UsageError if the address is beyond this machine, and no token is set.
    """
    found = {USAGE_STATS: "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if isinstance(address, int):
        return {
            **found,
            ON_NETWORK: "0",
            AUTH_MODE: "token",
            AUTH_TOKEN: _make_token(),
            "RAY_worker_niceness": "0",  # a measured process competes like any other
        }
    if address.is_loopback:
        return {**found, ON_NETWORK: "0"}
    if environ.get(AUTH_MODE) != "token" or not has_token(environ, home):
        raise UsageError(
            f"the cluster at {address} is beyond this machine, and no token of Ray is set: without "
            "one, whoever reaches it can run programs on every node",
            f"start Ray on every node with {AUTH_MODE}=token and one {AUTH_TOKEN}, and set both "
            f"here; {_DOCS}",
        )
    return found


@cache
def _make_token() -> str:
    """Make the token of clusters of this process; Ray reads it once."""
    return secrets.token_hex(32)


def has_token(environ: Mapping[str, str], home: Path) -> bool:
    """Return whether Ray finds a token: in the environment, or in a file."""
    if environ.get(AUTH_TOKEN):
        return True
    named = environ.get(AUTH_TOKEN_PATH)
    path = Path(named).expanduser() if named else home / ".ray" / "auth_token"
    try:
        return bool(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return False


_GRACE_SECONDS = 3.0


def make_folder() -> TemporaryDirectory[str]:
    """Make a folder for the files of a Ray that is started here, which is removed at the end.

    Ray removes none, and leaves the address of the last cluster in its usual folder, where it would
    replace that of a cluster of the user. The path is short, as those of sockets in it are limited
    to 107 bytes.
    """
    above = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.name == "posix" else None)
    try:  # Ray lets every user write to its own folder inside
        return TemporaryDirectory(prefix="etui-ray-", dir=above, ignore_cleanup_errors=True)
    except OSError as error:
        raise EtuiError(
            f"cannot make a folder for Ray in {above}: {error.strerror or error}",
            "set RAY_TMPDIR to a folder with a short path that can be written",
        ) from error


@contextmanager
def end_processes(ray: Any) -> Iterator[None]:
    """Shut Ray down at the end, and end the processes of it that were started and stay behind.

    The agents of a raylet that is interrupted while it starts would stay for a minute.
    """
    import psutil

    here = psutil.Process()
    before = set(here.children(recursive=True))
    package = str(Path(ray.__file__).parent)

    def is_ray(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            return words.startswith("ray::") or package in words
        return False

    try:
        yield
    finally:
        started = [each for each in here.children(recursive=True) if each not in before]
        started = [each for each in started if is_ray(each)]
        ray.shutdown()
        _, left = psutil.wait_procs(started, _GRACE_SECONDS)
        for process in left:
            with suppress(psutil.Error):
                process.kill()


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold a first Ctrl-C back while the body connects, and keep our handler of SIGTERM.

    Ray crashes in its C++ part where Ctrl-C interrupts it, and replaces the handler of SIGTERM.

    Raises:
        KeyboardInterrupt: What our handler of Ctrl-C raises, after the body.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            raise KeyboardInterrupt
        held.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ours = before[signal.SIGINT]
    if held and callable(ours):
        ours(signal.SIGINT, None)


_DIAL_SECONDS = 3.0
_PROBE_SECONDS = 15.0
_STORE_BYTES = 80 << 20
"""Size of the object store of a local cluster, its minimum is 75 MiB; only small texts travel."""

_PROBE = """
import json, logging, sys
import ray
options = json.loads(sys.argv[2])
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL, **options)
print("nodes:", sum(node["Alive"] for node in ray.nodes()))
"""
_FOUND = "nodes:"


@contextmanager
def open_ray(address: ClusterAddress | int) -> Iterator[Any]:
    """Connect to a cluster for the time of the body, and yield the module ``ray``, connected.

    A number as the address starts a cluster of that many nodes on this machine, with its CPUs
    divided among them, and stops it at the end. UsageError if Ray is missing, nothing like Ray is
    at the address, or it has other versions.
    """
    require_extra("cluster", "--cluster")
    changes = build_environment(address, os.environ, Path.home())
    with ExitStack() as stack:
        if isinstance(address, int):
            changes["RAY_TMPDIR"] = stack.enter_context(make_folder())
        stack.enter_context(_set_variables(changes))
        if not isinstance(address, int):
            _dial(address)
            _probe(address)
        import ray

        stack.enter_context(end_processes(ray))
        _connect(ray, address, stack)
        # The driver says with the name of the node that a worker died. Ray has no public switch:
        # `log_to_driver` and the level of its logger leave these lines, on standard output.
        vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False
        yield ray


def _connect(ray: Any, address: ClusterAddress | int, stack: ExitStack) -> None:
    try:
        with hold_signals():
            head = _start_nodes(ray, address, stack) if isinstance(address, int) else address
            ray.init(
                address=str(head),
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **_on_loopback(head),
            )
    except Exception as error:
        what = f"connect to Ray at {address}"
        raise EtuiError(
            f"cannot {'start Ray' if isinstance(address, int) else what}: {_last_line(str(error))}",
            _DOCS,
        ) from error


def _start_nodes(ray: Any, count: int, stack: ExitStack) -> ClusterAddress:
    """Start the nodes of a cluster on this machine.

    ``ray start`` cannot: it takes 127.0.0.1 for the address of the machine in its network, or
    refuses a second node.
    """
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    options = {
        "num_cpus": max(1, len(cpu_affinity()) // count),
        "node_ip_address": LOOPBACK,
        "object_store_memory": _STORE_BYTES,
    }
    cluster = Cluster()
    stack.callback(cluster.shutdown)
    stack.callback(ray.shutdown)  # before the nodes
    cluster.add_node(**options, include_dashboard=False)
    for _ in range(count - 1):
        cluster.add_node(**options)
    host, _, port = cluster.address.rpartition(":")
    return ClusterAddress(host, int(port))


def _on_loopback(address: ClusterAddress) -> dict[str, str]:
    return {"_node_ip_address": LOOPBACK} if address.is_loopback else {}


def _dial(address: ClusterAddress) -> None:
    """Check that something listens at an address."""
    try:
        socket.create_connection((address.host, address.port), _DIAL_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"nothing answers at {address}: {error.strerror or error}",
            "--cluster local, or local:N for N nodes, starts Ray on this machine"
            if address.is_loopback
            else f"start Ray on the head: ray start --head --node-ip-address={address.host} "
            f"--port={address.port}",
        ) from error


def _probe(address: ClusterAddress) -> None:
    """Check that what listens at an address is Ray, takes our token, and requires one."""
    problem = _try_connection(address, os.environ)
    if problem is None:
        raise UsageError(
            f"what listens at {address} is not the head of a Ray cluster, or does not answer: "
            f"no reply within {seconds_text(_PROBE_SECONDS)}",
            "give the HOST:PORT that `ray start --head` printed",
        )
    if problem:
        raise UsageError(
            f"Ray at {address} refuses this program: {problem}",
            "use the same Ray and Python on every node, and the token of the cluster",
        )
    if address.is_loopback:
        return
    without = {k: v for k, v in os.environ.items() if k not in (AUTH_TOKEN, AUTH_TOKEN_PATH)}
    if _try_connection(address, {**without, AUTH_MODE: "disabled"}) == "":
        raise UsageError(
            f"the cluster at {address} takes programs from whoever reaches it, without a token",
            f"start Ray on every node with {AUTH_MODE}=token; see docs/studies.md",
        )


def _try_connection(address: ClusterAddress, environ: Mapping[str, str]) -> str | None:
    """Connect in a process of its own; return what went wrong, "" for nothing, None for no reply.

    A refusal ends it, since Ray would try for half a minute more.
    """
    words = [sys.executable, "-c", _PROBE, str(address), json.dumps(_on_loopback(address))]
    lines: list[str] = []
    with subprocess.Popen(
        words,
        env=dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        timed_out = threading.Event()

        def end() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(_PROBE_SECONDS, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if _is_refusal(line):
                    return "its token is another, or missing here"
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
    if timed_out.is_set():
        return None
    if code == 0 and any(line.startswith(_FOUND) for line in lines):
        return ""
    return _last_line("".join(lines)) or f"exit code {code}"


def _is_refusal(line: str) -> bool:
    return "InvalidAuthToken" in line or "Unauthenticated" in line


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


@contextmanager
def _set_variables(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
