"""Libraries that the base install leaves out, checked before a command starts to work."""

from __future__ import annotations

from importlib.util import find_spec

from etui.errors import UsageError

_MODULES = {
    "cluster": ("ray",),
    "figures": ("matplotlib",),
    "learn": ("sklearn",),
    "prometheus": ("prometheus_client",),
    "serve": ("starlette", "uvicorn"),
    "suites": ("pyarrow",),
    "tools": ("mcp",),
    "web": ("textual_serve",),
}
"""Extra -> modules that it installs."""


def has_extra(extra: str) -> bool:
    """Return whether an extra of the package is installed, without importing it."""
    return all(find_spec(module) is not None for module in _MODULES[extra])


def require_extra(extra: str, what: str, otherwise: str = "") -> None:
    """Check that an extra is installed.

    Args:
        what: What needs it, the begin of the message: ``etui policy fit``.
        otherwise: What helps without it, the end of the fix.

    Raises:
        UsageError: It is not installed; the fix is the line that installs it.
    """
    if not has_extra(extra):
        fix = f"pip install 'etui[{extra}]'"
        raise UsageError(
            f"{what} needs etui[{extra}]", f"{fix}, or {otherwise}" if otherwise else fix
        )
