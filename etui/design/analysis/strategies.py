"""Arms of a design as strategies: a model, a way of reasoning and its budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.bench.config import RunConfig

DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Strategy:
    """An arm as the report names it."""

    arm: str
    role: str  # Role of its model, such as `small`
    model: str
    reasoning: str  # `direct`, `cot` or `vote`
    way: str  # The reasoning and its budget in words: `direct`, `CoT 128`, `vote 5`

    @property
    def label(self) -> str:
        """Role and way; unique in a layout."""
        return f"{self.role} {self.way}"

    @property
    def thinks(self) -> bool:
        """Whether it does more than answer at once."""
        return self.reasoning != DIRECT


@dataclass(frozen=True, slots=True)
class Layout:
    """The strategies of a run."""

    strategies: tuple[Strategy, ...]
    """By model, smallest model first; within a model in the order of the run."""
    roles: Mapping[str, str]  # Role -> model, smallest first

    def of_role(self, role: str) -> tuple[Strategy, ...]:
        """Return the strategies of a role."""
        return tuple(one for one in self.strategies if one.role == role)

    def direct_of(self, role: str) -> Strategy | None:
        """Return the direct answer of a role; None if the run has none."""
        return next((one for one in self.of_role(role) if not one.thinks), None)

    @property
    def reference(self) -> Strategy | None:
        """The direct answer of the largest of several models; None without one."""
        return self.direct_of(list(self.roles)[-1]) if len(self.roles) > 1 else None


def build_layout(config: RunConfig, roles: Mapping[str, str] | None = None) -> Layout:
    """Build the layout of a run.

    Args:
        roles: Role -> model, smallest first; None orders the models by the size of their files and
            names the roles by the models.
    """
    named = {model: role for role, model in (roles or {}).items()}
    used = dict.fromkeys(str(arm.get("model", "")) for arm in config.arms.values())
    sizes = {model.name: model.file_bytes for model in config.models}
    order = list((roles or {}).values())
    models = sorted(
        used,
        key=lambda name: (order.index(name) if name in order else len(order), sizes.get(name, 0)),
    )
    found = [
        Strategy(
            name,
            named.get(model, model),
            model,
            str(config.arms[name].get("reasoning", DIRECT)),
            _describe_way(config.arms[name]),
        )
        for model in models
        for name in config.arms
        if str(config.arms[name].get("model", "")) == model
    ]
    counts = Counter(one.label for one in found)
    unique = tuple(replace(o, way=o.arm) if counts[o.label] > 1 else o for o in found)
    return Layout(unique, {named.get(model, model): model for model in models})


def _describe_way(arm: Mapping[str, Any]) -> str:
    match arm.get("reasoning"):
        case "cot":
            return f"CoT {arm.get('think_tokens', '')}".strip()
        case "vote":
            return f"vote {arm.get('votes', '')}".strip()
        case _:
            return DIRECT
