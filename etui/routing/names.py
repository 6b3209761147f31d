"""Names in a policy file that stand for nothing there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from etui.errors import Problem
from etui.routing.schema import PolicyFile
from etui.text.suggest import did_you_mean
from etui.yamlfile import Loc, Located


def unknown(
    located: Located[PolicyFile],
    loc: Loc,
    what: str,
    name: str,
    names: Iterable[str],
    *,
    key: bool = False,
) -> Iterator[Problem]:
    """The problem of an unknown name with the nearest known one; nothing where it is known."""
    known = list(names)
    if name not in known:
        hint = did_you_mean(name, known) if known else "; the file has none"
        yield located.problem(loc, f"unknown {what} '{name}'{hint}", key=key)
