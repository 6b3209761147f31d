"""Drive the nodes of a cluster together: start and compare them, open a run, measure."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from etui import __version__
from etui.bench.config import RunConfig
from etui.cluster.messages import (
    Died,
    Ended,
    Failed,
    Measured,
    Measurement,
    Message,
    Method,
    Opening,
    Versions,
)
from etui.errors import EtuiError, UsageError
from etui.measure.progress import Progress
from etui.runtime.provenance import package_version
from etui.units import count_text, seconds_text

if TYPE_CHECKING:
    from etui.cluster.ray_carrier import ClusterNode, RayCarrier

T = TypeVar("T")
TICK_SECONDS = 0.25
MEASURE_SECONDS = 3600.0
"""How long a calibration or a sweep may say nothing: a block of a sweep takes minutes."""
MEASURE_STOP_SECONDS = 60.0
"""How long it may take to end after Ctrl-C: it restores caps, and writes what it has."""
_SHOWN_HASH = 12
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]+")
_NO_IMPORT = ("ModuleNotFoundError", "ImportError", "failed to be imported")


def read_versions() -> Versions:
    """Read the versions that the nodes of a run must have in common."""
    return {
        "etui": __version__,
        "llama-cpp-python": package_version("llama-cpp-python"),
        "Python": platform.python_version(),
        "Ray": package_version("ray"),
    }


def refuse_other_versions(nodes: Mapping[str, Versions], here: Versions) -> None:
    """Refuse nodes with other versions than the driver; name each of them and each program."""
    found = {}
    for name, there in nodes.items():
        parts = [
            f"{program} {there.get(program) or 'unknown'}, here {version or 'unknown'}"
            for program, version in here.items()
            if there.get(program) != version
        ]
        if parts:
            found[name] = ", ".join(parts)
    if found:
        raise UsageError(
            "; ".join(f"node {name} has {parts}" for name, parts in found.items()),
            "install the same versions on every node, or take these nodes out of the cluster",
        )


def refuse_other_hash(what: str, there: str | None, here: str | None) -> None:
    """Refuse a file of a node that is not the driver's; an unknown hash equals any."""
    if there is not None and here is not None and there != here:
        raise UsageError(
            f"{what} has sha256 {there[:_SHOWN_HASH]} there, here {here[:_SHOWN_HASH]}",
            "put the same file on every node",
        )


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of silence, in seconds."""

    ready: float = 60.0  # Until the process of a node has started and said its versions
    opening: float = 600.0  # Between two messages while models are pulled and loaded
    first: float = 600.0  # Until the first answer of a node of which no answer is known
    least: float = 60.0  # Between two answers; the floor under `factor`
    factor: float = 20.0  # Times the longest time between two answers so far
    stopping: float = 10.0  # For the end of the current question after the run was stopped

    def limit_silence(self, longest_seconds: float | None) -> float:
        """Return how long a node may be silent, by its longest time to an answer, if known."""
        if longest_seconds is None:
            return self.first
        return max(self.least, self.factor * longest_seconds)


DEFAULT_PATIENCE = Patience()


def build_patience(seconds: float | None) -> Patience:
    """Build the limits from the one a user gives; None takes the defaults."""
    if seconds is None:
        return DEFAULT_PATIENCE
    # The factor stays: a node that is known to be slow is not silent.
    return Patience(ready=seconds, opening=seconds, first=seconds, least=seconds)


def name_nodes(nodes: Sequence[ClusterNode]) -> dict[str, ClusterNode]:
    """Give every node a short unique name: that of its host, numbered if several have the same."""
    found: dict[str, ClusterNode] = {}
    for node in sorted(nodes, key=lambda each: (each.host, each.id)):
        stem = _NOT_IN_NAMES.sub("-", node.host.split(".")[0].lower()).strip("-") or "node"
        name, number = stem, 1
        while name in found:
            number += 1
            name = f"{stem}-{number}"
        found[name] = node
    return found


@dataclass(slots=True)
class NodeDriver:
    """Starts the nodes of a cluster, asks all of them the same thing, and waits for them."""

    carrier: RayCarrier
    say: Callable[[str], None]  # Shows a line about the current step
    stopped: Callable[[], bool] = lambda: False  # Whether the user stopped the command
    patience: Patience = DEFAULT_PATIENCE
    now: Callable[[], float] = time.monotonic  # Monotonic clock in seconds
    nodes: dict[str, ClusterNode] = field(default_factory=dict, init=False)
    """The nodes that are ready, by their names."""
    _hosts: dict[str, str | None] = field(default_factory=dict, init=False)

    def start(self) -> None:
        """Start the process of every node and compare its versions with those of this machine.

        UsageError if a node has other versions, or no etui; EtuiError if no node is ready.
        """
        self.nodes = name_nodes(self.carrier.list_nodes())
        if not self.nodes:
            raise EtuiError("the cluster has no node with a CPU", "start one: ray start --address")
        self.say(f"starting {count_text(len(self.nodes), 'node')}: {', '.join(self.nodes)}")
        for node in self.nodes.values():
            self.carrier.start(node)
        found = self._ask(dict.fromkeys(self.nodes), "describe", self.patience.ready)
        for name, reply in found.items():
            if isinstance(reply, Died) and any(word in reply.why for word in _NO_IMPORT):
                raise UsageError(
                    f"node {name} cannot import etui: {reply.why}",
                    "install the same etui there, into the Python that started Ray",
                )
        described = self._keep_ready(found, dict)
        refuse_other_versions(described, read_versions())
        self._hosts = {name: each["host"] for name, each in described.items()}

    def group_by_host(self) -> list[list[str]]:
        """Return the names of the nodes, those of one host together."""
        groups: dict[str | None, list[str]] = {}
        for name in self.nodes:
            groups.setdefault(self._hosts[name], []).append(name)
        return list(groups.values())

    def keep_one_per_host(self) -> None:
        """End all but the first node of each host, where their joules cannot be separated."""
        for first, *others in self.group_by_host():
            for name in others:
                self.say(f"node {name} is left out: it shares the meter of {first}, on one host")
                self.carrier.end(self.nodes.pop(name).id)

    def open(self, openings: Mapping[str, Opening]) -> dict[str, RunConfig]:
        """Have every node load its questions and models; return the run's configuration on each.

        EtuiError if a node has another model or other data, or no node is ready.
        """
        return self._keep_ready(self._ask(openings, "open", self.patience.opening), RunConfig)

    def finish(self, names: Sequence[str]) -> None:
        """Have nodes save the curves that they measured."""
        self._ask(dict.fromkeys(names), "finish", self.patience.opening)

    def measure(
        self, request: Measurement, hear: Callable[[str, Progress], None]
    ) -> dict[str, Measured | Failed]:
        """Start all nodes and have one of each host calibrate or sweep; ``hear`` takes each step.

        UsageError if a node has other versions; EtuiError if no node is ready.
        """
        self.start()
        self.keep_one_per_host()
        found = self._ask(dict.fromkeys(self.nodes, request), "measure", MEASURE_SECONDS, hear)
        return {
            name: Failed(reply.why, "", EtuiError.exit_code) if isinstance(reply, Died) else reply
            for name, reply in found.items()
            if isinstance(reply, Measured | Failed | Died)
        }

    def _ask(
        self,
        requests: Mapping[str, object],
        method: Method,
        silence_seconds: float,
        hear: Callable[[str, Progress], None] | None = None,
    ) -> dict[str, Message]:
        """Ask nodes something and wait until each has answered, failed, died or been silent.

        ``hear`` is called with the name of the node and each step; None says its text. Returns what
        each said last, or why it did not come to its end.
        """
        measure = method == "measure"
        stopping_seconds = MEASURE_STOP_SECONDS if measure else self.patience.stopping
        replies: dict[str, Message] = {}
        names = {self.nodes[name].id: name for name in requests}
        heard = dict.fromkeys(names, self.now())
        for node_id, name in names.items():
            replies[name] = Died("said nothing")
            self.carrier.call(node_id, method, requests[name])
        until: float | None = None
        while heard:
            if self.stopped() and until is None:
                until = self.now() + stopping_seconds
                for node_id in heard:
                    self.carrier.stop(node_id)
            for node_id, message in self.carrier.wait(TICK_SECONDS):
                if node_id not in heard:
                    continue
                heard[node_id] = self.now()
                match message:
                    case Progress() if hear is not None:
                        hear(names[node_id], message)
                    case Progress():
                        self.say(f"{names[node_id]}: {message.text}")
                    case Ended():
                        del heard[node_id]
                    case _:
                        replies[names[node_id]] = message
                        if isinstance(message, Died):
                            del heard[node_id]
            for node_id, at in list(heard.items()):
                if self.now() - at > silence_seconds:
                    why = f"was silent for {seconds_text(silence_seconds)}"
                elif until is not None and self.now() > until:
                    why = f"did not stop within {seconds_text(stopping_seconds)}"
                else:
                    continue
                del heard[node_id]
                replies[names[node_id]] = Died(why)
        return replies

    def _keep_ready(self, replies: Mapping[str, Message], kind: type[T]) -> dict[str, T]:
        """Return what the nodes said that are ready; end the others, and name them.

        UsageError if a node reported wrong usage: another model, other data; EtuiError if a node
        reported another error, or none is ready.
        """
        failed = {name: each for name, each in replies.items() if isinstance(each, Failed)}
        if failed:
            wrong = any(each.exit_code == UsageError.exit_code for each in failed.values())
            raise (UsageError if wrong else EtuiError)(
                "; ".join(f"node {name}: {each.what}" for name, each in failed.items()),
                next(iter(failed.values())).fix,
            )
        ready: dict[str, T] = {
            name: each for name, each in replies.items() if isinstance(each, kind)
        }
        dead = {name: each.why for name, each in replies.items() if isinstance(each, Died)}
        for name in dead:
            self.carrier.end(self.nodes.pop(name).id)
        reasons = [f"node {name} {why}" for name, why in dead.items()]
        if not ready:
            raise EtuiError(
                f"no node of the cluster is ready: {'; '.join(reasons)}",
                "see whether other work of Ray holds their CPUs (`ray status`), then run it again",
            )
        for reason in reasons:
            self.say(f"{reason}: the run goes on without it, with {count_text(len(ready), 'node')}")
        return ready
