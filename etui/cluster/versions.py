"""Versions of the programs of a node, and what in them must agree before the first question."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from etui import __version__
from etui.errors import UsageError
from etui.runtime.provenance import package_version

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
