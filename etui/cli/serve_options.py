"""Options and checks that ``etui serve`` and ``etui power serve`` share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from etui.errors import EtuiError, UsageError

_EXTRA = ("starlette", "uvicorn", "h11", "anyio")

keys_option = click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with one `name: key` a line, which only you can read. ETUI_API_KEY is one more key.",
)


def require_server(command: str) -> None:
    """Import the server's libraries.

    Raises:
        EtuiError: They are not installed; the fix has the command.
    """
    try:
        import etui.server.run  # noqa: F401
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise EtuiError(
            f"{command} needs starlette and uvicorn",
            f"install them: {sys.executable} -m pip install 'starlette>=1.0' 'uvicorn>=0.40'",
        ) from error


def check_hosts(names: Sequence[str]) -> None:
    """Check the values of ``--allow-host``.

    Raises:
        UsageError: One is no host name.
    """
    from etui.web_origin import is_host

    for name in names:
        if not is_host(name):
            raise UsageError(
                f"--allow-host: {name[:80]!r} is not a host name",
                "write a name or an address, with or without a port: desk.local",
            )
