"""``etui power serve``: give other machines the meter of this one."""

from __future__ import annotations

import os
from pathlib import Path

import click

from etui.cli.param_types import TEXT, WholeNumber
from etui.cli.serve_options import check_hosts, keys_option, require_server
from etui.errors import ExitCode, UsageError

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
@keys_option
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
    require_server("etui power serve")
    from etui.config.config import load_config
    from etui.energy.discovery import open_recorder
    from etui.server.keys import KEY_VARIABLE, read_keys
    from etui.server.power_app import serve_meter
    from etui.server.run import format_root, open_sockets
    from etui.server.settings import ServerSettings

    check_hosts(allow_host)
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
    url = format_root(settings)
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
    """Read the key in an environment variable."""
    key = os.environ.get(name, "")
    if not key:
        raise UsageError(
            f"--key-env: the environment variable {name} is not set", f"set {name} to the key"
        )
    return key
