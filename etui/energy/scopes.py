"""Which scopes overlap: a total sums disjoint scopes only.

Scopes form a tree: the whole machine (``wall``, ``psys``, ``battery``, ``system``) above
``package:N`` (above its cores and its NPU), ``dram:N``, ``gpu:ID`` and ``module:ID`` (a GPU with
its CPU, as on Grace Hopper).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from etui.energy.types import Channel, Kind
from etui.errors import EtuiError

WALL = "wall"
"""Scope of a meter at the wall, with the losses of the power supply."""
COVERING = ("psys", "battery", "system", WALL)
"""Scopes of the whole machine, the finest first; they are never added to other scopes."""
_CPU_PARTS = ("core", "uncore", "npu")
_ORDER = tuple(Kind)


class ScopeOverlap(EtuiError):
    """Two channels to be summed cover the same hardware."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The channels that a total sums, and those that only check it."""

    summed: tuple[Channel, ...]
    cross_checks: tuple[Channel, ...]

    @property
    def covers_machine(self) -> bool:
        """Whether the total covers the whole machine."""
        return any(family(channel.scope) in COVERING for channel in self.summed)


def family(scope: str) -> str:
    """Return the first word of a scope: ``gpu`` of ``gpu:GPU-1a2b``."""
    return scope.partition(":")[0]


def describe_unread(scopes: Sequence[str]) -> str:
    """Say which hardware has no reading: ``CPU package: not readable``; empty for none."""
    names = [_describe_scope(scope, scopes) for scope in scopes]
    return f"{', '.join(names)}: not readable" if names else ""


_SCOPE_WORDS = {"package": "CPU package", "dram": "memory", "gpu": "GPU", "module": "GPU module"}


def _describe_scope(scope: str, scopes: Sequence[str]) -> str:
    """Name a scope: ``CPU package``, with its number if there are several; ``GPU GPU-1 on desk``.

    The scope of a remote machine begins with the name of its backend.
    """
    backend, _, local = scope.rpartition("/")
    word, _, number = local.partition(":")
    lone = sum(family(other.rpartition("/")[2]) == word for other in scopes) == 1
    name = _SCOPE_WORDS.get(word, word)
    if number and not (lone and number == "0"):
        name += f" {number}"
    return f"{name} on {backend}" if backend else name


def weakest(kinds: Iterable[Kind]) -> Kind | None:
    """Return the kind of a sum, which is that of its least certain part; None for no parts."""
    return max(kinds, key=_ORDER.index, default=None)


def overlaps(a: Channel, b: Channel) -> bool:
    """Return whether two channels cover any hardware in common."""
    one, other = family(a.scope), family(b.scope)
    if a.scope == b.scope or a.parent == b.scope or b.parent == a.scope:
        return True
    if one in COVERING or other in COVERING:
        return True
    pair = {one, other}
    if pair == {"estimate"}:
        return False
    if "estimate" in pair:
        # The estimate covers the CPU with its memory, but no GPU.
        return bool(pair & {"package", "dram", "module", *_CPU_PARTS}) and _cpu(a, b)
    if pair & set(_CPU_PARTS) and "package" in pair:
        return _index(a.scope) == _index(b.scope)
    if "module" in pair:
        return bool(pair & {"package", "dram"}) or (
            "gpu" in pair and _index(a.scope) == _index(b.scope)
        )
    if pair == {"package"}:
        return a.scope.startswith(f"{b.scope}/") or b.scope.startswith(f"{a.scope}/")
    return False


def require_disjoint(channels: Sequence[Channel]) -> None:
    """Refuse a sum that would count hardware twice, by a ScopeOverlap."""
    for index, one in enumerate(channels):
        for other in channels[index + 1 :]:
            if overlaps(one, other):
                raise ScopeOverlap(
                    f"{one.id} and {other.id} cover the same hardware and cannot be added",
                    "leave one of the two channels out of the sum",
                )


def select_disjoint(channels: Sequence[Channel], estimate: str = "auto") -> Selection:
    """Select the channels that a total sums.

    Covering scopes are cross-checks; one of them is the total only when nothing finer can be read,
    and a wall meter, which may be far away and slow, only where there is no estimate either. An
    estimate is summed when there is no hardware channel at all, or when ``estimate`` is
    ``always`` (and not ``never``) and no hardware channel covers the same hardware. Of channels
    that overlap, a whole is summed before its parts, then the one of the better kind.
    """
    fine = [c for c in channels if family(c.scope) not in COVERING and c.kind is not Kind.ESTIMATE]
    covering = sorted(
        (c for c in channels if family(c.scope) in COVERING),
        key=lambda c: COVERING.index(family(c.scope)),
    )
    guesses = [c for c in channels if c.kind is Kind.ESTIMATE]
    summed: list[Channel] = []
    scopes = {channel.scope for channel in fine}
    for channel in sorted(fine, key=lambda channel: _rank(channel, scopes)):
        if not any(overlaps(channel, taken) for taken in summed):
            summed.append(channel)
    if not summed and covering and covering[0].scope != WALL:
        summed.append(covering[0])
    if estimate == "always" or (estimate == "auto" and not summed):
        for guess in guesses:
            if not any(overlaps(guess, taken) for taken in summed):
                summed.append(guess)
    if not summed and covering:
        summed.append(covering[0])
    require_disjoint(summed)
    cross_checks = tuple(c for c in channels if c not in summed)
    return Selection(tuple(c for c in channels if c in summed), cross_checks)


def _rank(channel: Channel, scopes: Collection[str]) -> tuple[int, int, str]:
    part = family(channel.scope) in _CPU_PARTS or channel.parent in scopes
    return (int(part), _ORDER.index(channel.kind), channel.id)


def _index(scope: str) -> str:
    return scope.partition(":")[2]


def _cpu(a: Channel, b: Channel) -> bool:
    guess = a if a.kind is Kind.ESTIMATE else b
    return guess.scope == "estimate:cpu"
