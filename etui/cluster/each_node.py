"""Run one etui command on every node, such as a calibration, and collect what it printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from etui.cluster.carrier import Carrier
from etui.cluster.messages import Command, Failed, Finished, Line, Message, write_request
from etui.cluster.open_nodes import ask_all, name_nodes, start_nodes
from etui.cluster.patience import Patience
from etui.cluster.versions import read_versions
from etui.errors import EtuiError, ExitCode
from etui.units import count_text

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
class EachNode:
    """The nodes of a cluster, on each of which the same command runs."""

    carrier: Carrier  # Carries text to the nodes
    say: Callable[[str], None]  # Shows a line about the current step
    stopped: Callable[[], bool]
    """Whether the user stopped the command; the commands are then interrupted."""
    patience: Patience  # Limits of silence
    now: Callable[[], float] = time.monotonic  # Monotonic clock in seconds

    def run(
        self,
        commands: Sequence[Command],
        hear: Callable[[str, str], None] = lambda machine, line: None,
    ) -> dict[str, NodeResult]:
        """Run commands one after the other on every node; a node stops at its first failure.

        Args:
            commands: The commands; only what the last one printed is returned.
            hear: Called with the machine and each line that the last one prints.

        Returns:
            Key of the machine -> how its last command ended.

        Raises:
            UsageError: A node has other versions.
            EtuiError: No node is ready.
        """
        found = self.carrier.list_nodes()
        if not found:
            raise EtuiError("the cluster has no node with a CPU", "start one: ray start --address")
        nodes = name_nodes(found)
        self.say(f"starting {count_text(len(nodes), 'node')}: {', '.join(nodes)}")
        nodes = start_nodes(
            self.carrier, nodes, read_versions(), self.patience, self.say, self.stopped, self.now
        )
        results: dict[str, NodeResult] = {}
        for command in commands:
            is_last = command is commands[-1]

            def pass_on(machine: str, message: Message, is_last: bool = is_last) -> None:
                if isinstance(message, Line) and is_last:
                    hear(machine, message.text)

            left = {
                machine: node
                for machine, node in nodes.items()
                if results.get(machine, _FINE).exit_code == ExitCode.DONE
            }
            asked = ask_all(
                self.carrier,
                left,
                dict.fromkeys(left, write_request(command)),
                "command",
                COMMAND_SECONDS,
                say=self.say,
                stopped=self.stopped,
                hear=pass_on,
                stopping_seconds=COMMAND_STOP_SECONDS,
                now=self.now,
            )
            for machine, node in left.items():
                why = asked.lost.get(node.id)
                results[machine] = _read_result(asked.said[node.id], asked.failed.get(node.id), why)
        return results


_FINE = NodeResult((), ExitCode.DONE, "")


def _read_result(said: Sequence[Message], failed: Failed | None, why: str | None) -> NodeResult:
    lines = tuple(message.text for message in said if isinstance(message, Line))
    end = next((message for message in said if isinstance(message, Finished)), None)
    if end is not None:
        return NodeResult(lines, end.exit_code, end.errors, end.files)
    reason = failed.what if failed is not None else why or "it said nothing"
    return NodeResult(lines, None, reason)
