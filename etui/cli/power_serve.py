"""``etui power serve``: give other machines the meter of this one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.cli.param_types import TEXT, WholeNumber
from etui.errors import EtuiError, ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_EXTRA = ("starlette", "uvicorn", "h11", "anyio")
_PORT = 9911


@click.command()
@click.option(
    "--host",
    type=TEXT,
    metavar="ADDRESS",
    default="127.0.0.1",
    help="Address to listen on (127.0.0.1). Any other than this machine's own needs a key.",
)
@click.option(
    "--port",
    type=WholeNumber(0, 65535),
    metavar="N",
    help="Port (9911); 0 takes any.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with one `name: key` a line, which only you can read. ETUI_API_KEY is one more key.",
)
@click.option(
    "--key-env",
    type=TEXT,
    metavar="NAME",
    help="Environment variable with a key, instead of ETUI_API_KEY.",
)
@click.option(
    "--allow-host",
    multiple=True,
    type=TEXT,
    metavar="NAME",
    help="Name or address by which other machines reach this one. Repeatable.",
)
def serve(
    host: str,
    port: int | None,
    keys: Path | None,
    key_env: str | None,
    allow_host: tuple[str, ...],
) -> int:
    """Give other machines the meter of this one, over HTTP and without a model.

    An etui on another machine names it as `meter:` of a backend, and measures what its answers
    cost here. Nothing but watts and joules can be read, and nothing can be changed. Ctrl-C stops
    it.

    \b
    ETUI_API_KEY=$(cat key) etui power serve --host 0.0.0.0 --allow-host desk
    """  # noqa: D301
    serve_meter = _import_server()
    from etui.config.load import load_config
    from etui.energy.discovery import open_recorder
    from etui.server.keys import KEY_VARIABLE, read_keys
    from etui.server.run import open_sockets
    from etui.server.settings import ServerSettings

    _check_hosts(allow_host)
    environment = dict(os.environ)
    if key_env is not None:
        environment[KEY_VARIABLE] = _read_variable(key_env)
    settings = ServerSettings(
        host=host,
        port=_PORT if port is None else port,
        keys=read_keys(keys, environment),
        allow_hosts=allow_host,
        grace_seconds=0.0,
    )
    sockets, settings = open_sockets(settings)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{shown}:{settings.port}"
    with open_recorder(load_config()) as recorder:
        if not recorder.channels:
            click.echo("nothing can be measured on this machine; see `etui doctor`", err=True)
        serve_meter(
            recorder,
            settings,
            sockets,
            lambda: click.echo(f"the meter is at {url}/meter (Ctrl-C to stop)", err=True),
        )
    return ExitCode.DONE


def _read_variable(name: str) -> str:
    """Read the key in an environment variable.

    Raises:
        UsageError: It is not set.
    """
    key = os.environ.get(name, "")
    if not key:
        raise UsageError(
            f"--key-env: the environment variable {name} is not set", f"set {name} to the key"
        )
    return key


def _check_hosts(names: tuple[str, ...]) -> None:
    from etui.text.web_origin import is_host

    for name in names:
        if not is_host(name):
            raise UsageError(
                f"--allow-host: {name[:80]!r} is not a host name",
                "write a name or an address, with or without a port: desk.local",
            )


def _import_server() -> Callable[..., None]:
    """Import the server.

    Raises:
        EtuiError: Its libraries are not installed; the fix has the command.
    """
    try:
        from etui.server.power_app import serve_meter
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise EtuiError(
            "etui power serve needs starlette and uvicorn", "run: pip install 'etui[serve]'"
        ) from error
    return serve_meter
