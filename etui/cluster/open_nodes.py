"""Drive the nodes of a cluster together: start and compare them, open a run, run a command."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from etui import __version__
from etui.cluster.messages import (
    Carrier,
    ClusterNode,
    Command,
    Died,
    Facts,
    Failed,
    Finished,
    Line,
    Message,
    Method,
    Note,
    Opened,
    Report,
    Said,
    read_message,
    write_request,
)
from etui.codec import DocumentError
from etui.errors import EtuiError, ExitCode, UsageError
from etui.runtime.provenance import package_version
from etui.units import count_text, seconds_text

_LABELS = {
    "etui": "etui",
    "llama_cpp_python": "llama-cpp-python",
    "python": "Python",
    "ray": "Ray",
}

_SHOWN_HASH = 12


def read_versions() -> dict[str, str | None]:
    """Read the versions that the nodes of a run must have in common."""
    return {
        "etui": __version__,
        "llama_cpp_python": package_version("llama-cpp-python"),
        "python": platform.python_version(),
        "ray": package_version("ray"),
    }


def list_differences(there: Mapping[str, str | None], here: Mapping[str, str | None]) -> list[str]:
    """List the versions that differ, as text: ``etui 0.2, here 0.1``."""
    return [
        f"{label} {there.get(name) or 'unknown'}, here {here.get(name) or 'unknown'}"
        for name, label in _LABELS.items()
        if there.get(name) != here.get(name)
    ]


def refuse_other_versions(
    nodes: Mapping[str, Mapping[str, str | None]], here: Mapping[str, str | None]
) -> None:
    """Refuse nodes with other versions than the driver.

    Args:
        nodes: Key of the machine -> its versions.

    Raises:
        UsageError: A version differs; the message names each node and each program.
    """
    found = {
        machine: list_differences(versions, here)
        for machine, versions in nodes.items()
        if list_differences(versions, here)
    }
    if found:
        raise UsageError(
            "; ".join(f"node {name} has {', '.join(parts)}" for name, parts in found.items()),
            "install the same versions on every node, or take these nodes out of the cluster",
        )


def refuse_other_hash(what: str, there: str | None, here: str | None) -> None:
    """Refuse a file of a node that is not the driver's; an unknown hash equals any.

    Raises:
        UsageError: The hashes differ.
    """
    if there is not None and here is not None and there != here:
        raise UsageError(
            f"{what} has sha256 {there[:_SHOWN_HASH]} there, here {here[:_SHOWN_HASH]}",
            "put the same file on every node",
        )


MOST_DEATHS = 3
"""Deaths in a row, without an answer between them, after which a node is given up."""


MOST_LOSSES = 3
"""Losses of one piece after which the run ends: the piece, not the nodes, is the cause."""


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
        """Return how long a node may be silent while it answers.

        Args:
            longest_seconds: Its longest time to an answer so far; None before the first.
        """
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


_TICK_SECONDS = 0.25
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]+")


def name_nodes(nodes: Sequence[ClusterNode]) -> dict[str, ClusterNode]:
    """Give every node a short unique name: that of its host, numbered if several have the same."""
    found: dict[str, ClusterNode] = {}
    for node in sorted(nodes, key=lambda each: (each.host, each.id)):
        stem = _NOT_IN_NAMES.sub("-", node.host.split(".")[0].lower()).strip("-") or "node"
        key, number = stem, 1
        while key in found:
            number += 1
            key = f"{stem}-{number}"
        found[key] = node
    return found


@dataclass(slots=True)
class Conversation:
    """One request to several nodes, and what came back so far."""

    said: dict[str, list[Message]] = field(default_factory=dict)
    """Node id -> its messages other than notes, once it has ended."""
    failed: dict[str, Failed] = field(default_factory=dict)  # Node id -> its error
    lost: dict[str, str] = field(default_factory=dict)  # Node id -> why it has no answer


COMMAND_SECONDS = 3600.0
"""How long a command may print nothing: a block of a sweep takes minutes."""

COMMAND_STOP_SECONDS = 60.0
"""How long a command may take to end after Ctrl-C: it restores caps, and writes what it has."""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """How a command ended on a node."""

    lines: tuple[str, ...]  # What it printed on its standard output
    exit_code: int | None  # Its exit code; None if the node died, was silent, or could not run it
    errors: str  # The end of its standard error, or why there is no exit code
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of the files that it wrote for the driver."""


@dataclass(frozen=True, slots=True)
class NodeDriver:
    """Starts the nodes of a cluster, asks all of them the same thing, and waits for them."""

    carrier: Carrier
    say: Callable[[str], None]  # Shows a line about the current step
    stopped: Callable[[], bool] = lambda: False
    """Whether the user stopped the command; the nodes are then asked to end."""
    patience: Patience = DEFAULT_PATIENCE
    now: Callable[[], float] = time.monotonic  # Monotonic clock in seconds

    def start(self) -> dict[str, ClusterNode]:
        """Start the process of every node and compare its versions with those of this machine.

        Returns:
            The nodes that are ready, by the name of their machine.

        Raises:
            UsageError: A node has other versions, or no etui.
            EtuiError: No node is ready.
        """
        found = self.carrier.list_nodes()
        if not found:
            raise EtuiError("the cluster has no node with a CPU", "start one: ray start --address")
        nodes = name_nodes(found)
        self.say(f"starting {count_text(len(nodes), 'node')}: {', '.join(nodes)}")
        for node in nodes.values():
            self.carrier.start(node)
        asked = self.ask(nodes, "", "describe", self.patience.ready)
        _refuse_without_etui(nodes, asked)
        refuse_failures(nodes, asked)
        versions: dict[str, Mapping[str, str | None]] = {}
        for machine, node in nodes.items():
            for message in asked.said[node.id]:
                if isinstance(message, Facts):
                    versions[machine] = message.versions
        refuse_other_versions(versions, read_versions())
        return self._keep_ready(nodes, set(versions), asked)

    def open(self, nodes: Mapping[str, ClusterNode], request: str) -> dict[str, Opened]:
        """Have every node load its questions and models.

        Returns:
            What each node that is ready opened, by the name of its machine.

        Raises:
            EtuiError: A node has another model or other data, or no node is ready.
        """
        asked = self.ask(nodes, request, "open", self.patience.opening)
        refuse_failures(nodes, asked)
        opened: dict[str, Opened] = {}
        for machine, node in nodes.items():
            for message in asked.said[node.id]:
                if isinstance(message, Opened):
                    opened[machine] = message
        self._keep_ready(nodes, set(opened), asked)
        return opened

    def run(
        self,
        commands: Sequence[Command],
        hear: Callable[[str, str], None] = lambda machine, line: None,
    ) -> dict[str, NodeResult]:
        """Start all nodes and run commands one after the other on each; a failure ends a node's.

        Args:
            commands: The commands; only what the last one printed is returned.
            hear: Called with the machine and each line that the last one prints.

        Returns:
            Name of the machine -> how its last command ended.

        Raises:
            UsageError: A node has other versions.
            EtuiError: No node is ready.
        """
        nodes = self.start()
        results: dict[str, NodeResult] = {}
        for command in commands:
            is_last = command is commands[-1]

            def pass_on(machine: str, message: Message, is_last: bool = is_last) -> None:
                if isinstance(message, Line) and is_last:
                    hear(machine, message.text)

            left = {
                machine: node
                for machine, node in nodes.items()
                if machine not in results or results[machine].exit_code == ExitCode.DONE
            }
            asked = self.ask(left, write_request(command), "command", COMMAND_SECONDS, pass_on)
            for machine, node in left.items():
                why = asked.lost.get(node.id)
                results[machine] = _read_result(asked.said[node.id], asked.failed.get(node.id), why)
        return results

    def ask(
        self,
        nodes: Mapping[str, ClusterNode],
        request: str,
        method: Method,
        silence_seconds: float,
        hear: Callable[[str, Message], None] = lambda machine, message: None,
    ) -> Conversation:
        """Ask nodes the same thing and wait until each has answered, failed, died or been silent.

        Args:
            silence_seconds: How long a node may be silent.
            hear: Called with the machine and each of its messages.
        """
        now = self.now
        stopping_seconds = self.patience.stopping
        if method == "command":
            stopping_seconds = COMMAND_STOP_SECONDS
        machines = {node.id: machine for machine, node in nodes.items()}
        found = Conversation()
        heard: dict[str, float] = {}
        for node_id in machines:
            self.carrier.call(node_id, method, request)
            heard[node_id] = now()
            found.said[node_id] = []
        until: float | None = None
        while heard:
            if self.stopped() and until is None:
                until = now() + stopping_seconds
                for node_id in heard:
                    self.carrier.stop(node_id)
            for report in self.carrier.wait(_TICK_SECONDS):
                if report.node in heard:
                    heard[report.node] = now()
                    self._note(report, machines[report.node], found, hear)
                    if not isinstance(report, Said):
                        del heard[report.node]
            for node_id in [each for each, at in heard.items() if now() - at > silence_seconds]:
                del heard[node_id]
                found.lost[node_id] = f"was silent for {seconds_text(silence_seconds)}"
            if until is not None and now() > until:
                for node_id in heard:
                    found.lost[node_id] = f"did not stop within {seconds_text(stopping_seconds)}"
                break
        return found

    def _note(
        self,
        report: Report,
        machine: str,
        found: Conversation,
        hear: Callable[[str, Message], None],
    ) -> None:
        if isinstance(report, Died):
            found.lost[report.node] = report.why
        if not isinstance(report, Said):
            return
        try:
            message = read_message(report.text)
        except DocumentError as error:
            message = Failed(f"it speaks another version of etui: {error}", "", 2)
        hear(machine, message)
        if isinstance(message, Note):
            self.say(f"{machine}: {message.text}")
        elif isinstance(message, Failed):
            found.failed[report.node] = message
        else:
            found.said[report.node].append(message)

    def _keep_ready(
        self, nodes: Mapping[str, ClusterNode], ready: set[str], asked: Conversation
    ) -> dict[str, ClusterNode]:
        """End the processes of nodes that are not ready, and name them."""
        reasons = []
        for machine, node in nodes.items():
            if machine not in ready:
                reasons.append(f"node {machine} {asked.lost.get(node.id, 'said nothing')}")
                self.carrier.end(node.id)
        if not ready:
            raise EtuiError(
                f"no node of the cluster is ready: {'; '.join(reasons)}",
                "see whether other work of Ray holds their CPUs (`ray status`), then run it again",
            )
        for reason in reasons:
            self.say(f"{reason}: the run goes on without it, with {count_text(len(ready), 'node')}")
        return {machine: node for machine, node in nodes.items() if machine in ready}


def refuse_failures(nodes: Mapping[str, ClusterNode], asked: Conversation) -> None:
    """Raise the errors that nodes reported, each with the name of its node.

    Raises:
        UsageError: A node reported wrong usage: another model, other data.
        EtuiError: A node reported another error.
    """
    errors = [
        (machine, asked.failed[node.id])
        for machine, node in nodes.items()
        if node.id in asked.failed
    ]
    if not errors:
        return
    kind = (
        UsageError
        if any(error.exit_code == UsageError.exit_code for _, error in errors)
        else (EtuiError)
    )
    raise kind("; ".join(f"node {machine}: {e.what}" for machine, e in errors), errors[0][1].fix)


def _refuse_without_etui(nodes: Mapping[str, ClusterNode], asked: Conversation) -> None:
    for machine, node in nodes.items():
        why = asked.lost.get(node.id, "")
        if "ModuleNotFoundError" in why or "ImportError" in why or "failed to be imported" in why:
            raise UsageError(
                f"node {machine} cannot import etui: {why}",
                "install the same etui there, into the Python that started Ray",
            )


def _read_result(said: Sequence[Message], failed: Failed | None, why: str | None) -> NodeResult:
    lines = tuple(message.text for message in said if isinstance(message, Line))
    end = next((message for message in said if isinstance(message, Finished)), None)
    if end is not None:
        return NodeResult(lines, end.exit_code, end.errors, end.files)
    reason = failed.what if failed is not None else why or "it said nothing"
    return NodeResult(lines, None, reason)
