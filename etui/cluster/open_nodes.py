"""Start the nodes of a run, compare what they are, and have each make itself ready."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from etui.cluster.carrier import Carrier, ClusterNode, Died, Ended, Method, Report, Said
from etui.cluster.messages import Facts, Failed, Message, Note, Opened, read_message
from etui.cluster.patience import DEFAULT_PATIENCE, Patience
from etui.cluster.versions import refuse_other_versions
from etui.codec import DocumentError
from etui.errors import EtuiError, UsageError
from etui.units import count_text, seconds_text

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


def ask_all(
    carrier: Carrier,
    nodes: Mapping[str, ClusterNode],
    requests: Mapping[str, str],
    method: Method,
    silence_seconds: float,
    *,
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    hear: Callable[[str, Message], None] = lambda machine, message: None,
    stopping_seconds: float = DEFAULT_PATIENCE.stopping,
    now: Callable[[], float] = time.monotonic,
) -> Conversation:
    """Ask nodes the same thing and wait until each has answered, failed, died or been silent.

    Args:
        carrier: Carries the text.
        nodes: Key of the machine -> node.
        requests: Key of the machine -> text of its request.
        silence_seconds: How long a node may be silent.
        stopped: Whether the user stopped the command; the nodes are then asked to end.
        stopping_seconds: How long the nodes have to end after that.
    """
    machines = {node.id: machine for machine, node in nodes.items()}
    found = Conversation()
    heard: dict[str, float] = {}
    for machine, node in nodes.items():
        carrier.call(node.id, method, requests[machine])
        heard[node.id] = now()
        found.said[node.id] = []
    until: float | None = None
    while heard:
        if stopped() and until is None:
            until = now() + stopping_seconds
            for node_id in heard:
                carrier.stop(node_id)
        for report in carrier.wait(_TICK_SECONDS):
            if report.node in heard:
                heard[report.node] = now()
                _note(report, machines[report.node], found, heard, say, hear)
        for node_id in [each for each, at in heard.items() if now() - at > silence_seconds]:
            del heard[node_id]
            found.lost[node_id] = f"was silent for {seconds_text(silence_seconds)}"
        if until is not None and now() > until:
            for node_id in heard:
                found.lost[node_id] = f"did not stop within {seconds_text(stopping_seconds)}"
            break
    return found


def _note(
    report: Report,
    machine: str,
    found: Conversation,
    heard: dict[str, float],
    say: Callable[[str], None],
    hear: Callable[[str, Message], None],
) -> None:
    if isinstance(report, Said):
        try:
            message = read_message(report.text)
        except DocumentError as error:
            message = Failed(f"it speaks another version of etui: {error}", "", 2)
        hear(machine, message)
        if isinstance(message, Note):
            say(f"{machine}: {message.text}")
        elif isinstance(message, Failed):
            found.failed[report.node] = message
        else:
            found.said[report.node].append(message)
        return
    del heard[report.node]
    if isinstance(report, Died):
        found.lost[report.node] = report.why
    else:
        assert isinstance(report, Ended)


def start_nodes(
    carrier: Carrier,
    nodes: Mapping[str, ClusterNode],
    here: Mapping[str, str | None],
    patience: Patience,
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, ClusterNode]:
    """Start the process of every node and compare its versions.

    Args:
        carrier: Carries the text.
        nodes: Key of the machine -> node.
        stopped: Whether the user stopped the command.

    Returns:
        The nodes that are ready, by the key of their machine.

    Raises:
        UsageError: A node has other versions, or no etui.
        EtuiError: No node is ready.
    """
    for node in nodes.values():
        carrier.start(node)
    asked = ask_all(
        carrier,
        nodes,
        dict.fromkeys(nodes, ""),
        "describe",
        patience.ready,
        say=say,
        stopped=stopped,
        stopping_seconds=patience.stopping,
        now=now,
    )
    _refuse_without_etui(nodes, asked)
    refuse_failures(nodes, asked)
    versions: dict[str, Mapping[str, str | None]] = {}
    for machine, node in nodes.items():
        for message in asked.said[node.id]:
            if isinstance(message, Facts):
                versions[machine] = message.versions
    refuse_other_versions(versions, here)
    return _keep_ready(carrier, nodes, set(versions), asked, say)


def open_all(
    carrier: Carrier,
    nodes: Mapping[str, ClusterNode],
    request: str,
    patience: Patience,
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, Opened]:
    """Have every node load its questions and models.

    Returns:
        What each node that is ready opened, by the key of its machine.

    Raises:
        EtuiError: A node has another model or other data, or no node is ready.
    """
    requests = dict.fromkeys(nodes, request)
    asked = ask_all(
        carrier,
        nodes,
        requests,
        "open",
        patience.opening,
        say=say,
        stopped=stopped,
        stopping_seconds=patience.stopping,
        now=now,
    )
    refuse_failures(nodes, asked)
    opened: dict[str, Opened] = {}
    for machine, node in nodes.items():
        for message in asked.said[node.id]:
            if isinstance(message, Opened):
                opened[machine] = message
    _keep_ready(carrier, nodes, set(opened), asked, say)
    return opened


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


def _keep_ready(
    carrier: Carrier,
    nodes: Mapping[str, ClusterNode],
    ready: set[str],
    asked: Conversation,
    say: Callable[[str], None],
) -> dict[str, ClusterNode]:
    """End the processes of nodes that are not ready, and name them."""
    reasons = []
    for machine, node in nodes.items():
        if machine not in ready:
            reasons.append(f"node {machine} {asked.lost.get(node.id, 'said nothing')}")
            carrier.end(node.id)
    if not ready:
        raise EtuiError(
            f"no node of the cluster is ready: {'; '.join(reasons)}",
            "see whether other work of Ray holds their CPUs (`ray status`), then run it again",
        )
    for reason in reasons:
        say(f"{reason}: the run goes on without it, with {count_text(len(ready), 'node')}")
    return {machine: node for machine, node in nodes.items() if machine in ready}
