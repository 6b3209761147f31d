"""A policy ready to decide: every name resolved, every pattern compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etui.arm import Arm
from etui.routing.conditions import Condition
from etui.routing.host import HostState
from etui.routing.signals import Signal


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """An arm whose model is still to be chosen by what is on this machine.

    Attributes:
        asked: The role or model the policy names.
        models: Models that may serve, best first.
        arm: The arm with the first of them.
    """

    asked: str
    models: tuple[str, ...]
    arm: Arm

    @property
    def name(self) -> str:
        """Name in the policy."""
        return self.arm.name


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition and the arm it leads to; without a condition it takes every query."""

    name: str
    priority: int
    when: Condition | None
    use: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A question and what must come of it.

    Attributes:
        query: The question.
        rule, not_rule, arm, not_arm: Names that must, and must not, come of it; None is open.
        signals: Signals that must hold (True) or must not (False).
        host: The machine it imagines.
        line: Where it stands in the file.
    """

    query: str
    rule: str | None
    not_rule: str | None
    arm: str | None
    not_arm: str | None
    signals: Mapping[str, bool]
    host: HostState
    line: int


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy.

    Attributes:
        name: The name of its file without the ending.
        path: Where it was read.
        description: One line.
        arms: Arms by name, in the order of the file.
        signals: Signals in an order in which a score comes after what it adds up.
        rules: Rules in the order they are tried.
        probes: Its tests.
        shadow: Name of the policy whose decisions are logged beside its own, None without one.
    """

    name: str
    path: Path
    description: str
    arms: Mapping[str, ArmPlan]
    signals: tuple[Signal, ...]
    rules: tuple[Rule, ...]
    probes: tuple[Probe, ...] = ()
    shadow: str | None = None
