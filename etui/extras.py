"""Heavy libraries that the base install leaves out, checked before a command starts to work."""

from __future__ import annotations

from importlib.util import find_spec

from etui.errors import UsageError

_MODULES = {"figures": "matplotlib", "learn": "sklearn"}
"""Extra -> a module that it installs."""


def has_extra(extra: str) -> bool:
    """Return whether an extra of the package is installed, without importing it."""
    return find_spec(_MODULES[extra]) is not None


def require_extra(extra: str, what: str) -> None:
    """Check that an extra is installed.

    Args:
        what: What needs it, the begin of the message: ``etui policy fit``.

    Raises:
        UsageError: It is not installed; the fix is the line that installs it.
    """
    if not has_extra(extra):
        raise UsageError(f"{what} needs etui[{extra}]", f"pip install 'etui[{extra}]'")
