"""``etui power serve`` and ``export``: the meter for other machines, and for Prometheus."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import click

from etui.cli.param_types import WholeNumber, flag, number_option, text_option
from etui.cli.power import Seconds, measure, open_meter, until_stopped
from etui.cli.serve import keys_option
from etui.energy.documents import build_registry, format_metrics
from etui.errors import EtuiError, UsageError
from etui.extras import require_extra
from etui.server.context import ServerSettings
from etui.server.keys import KEY_VARIABLE, read_keys

_PORT = 9911


@click.command()
@text_option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    help="Address to listen on (127.0.0.1). Any other than this machine's own needs a key.",
)
@number_option(WholeNumber(0, 65535), "--port", help="Port (9911); 0 takes any.")
@keys_option
@text_option(
    "--key-env", metavar="NAME", help="Environment variable with a key, instead of ETUI_API_KEY."
)
@text_option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Name or address by which other machines reach this one. Repeatable.",
)
def serve(
    host: str,
    port: int | None,
    keys: Path | None,
    key_env: str | None,
    allow_host: tuple[str, ...],
) -> None:
    """Give other machines the meter of this one, over HTTP and without a model.

    An etui on another machine names it as `meter:` of a backend, and measures what its answers
    cost here. Nothing but watts and joules can be read, and nothing can be changed. Ctrl-C stops
    it.

    \b
    ETUI_API_KEY=$(cat key) etui power serve --host 0.0.0.0 --allow-host desk
    """  # noqa: D301
    from etui.cli.serve import check_hosts

    require_extra("serve", "`etui power serve`")
    from etui.server.run import format_root, open_sockets, serve_meter

    check_hosts(allow_host)
    environment = dict(os.environ)
    if key_env is not None:
        environment[KEY_VARIABLE] = environment.get(key_env, "")
        if not environment[KEY_VARIABLE]:
            what = f"--key-env: the environment variable {key_env} is not set"
            raise UsageError(what, f"set {key_env} to the key")
    settings = ServerSettings(
        host=host,
        port=_PORT if port is None else port,
        keys=read_keys(keys, environment).keys,
        allow_hosts=allow_host,
        grace_seconds=0.0,
    )
    sockets, settings = open_sockets(settings)
    url = format_root(settings)
    with open_meter() as recorder:
        if not recorder.channels:
            click.echo("nothing can be measured on this machine; see `etui doctor`", err=True)
        serve_meter(
            recorder,
            settings,
            sockets,
            lambda: click.echo(f"the meter is at {url}/meter (Ctrl-C to stop)", err=True),
        )


@click.command()
@flag("--prometheus", help="Print the metrics once (the default).")
@text_option("--listen", metavar="HOST:PORT", help="Serve the metrics at http://HOST:PORT/metrics.")
@number_option(
    Seconds, "--seconds", help="Duration in seconds (default: 1, or until Ctrl-C with --listen)."
)
def export(prometheus: bool, listen: str | None, seconds: float | None) -> None:
    """Export metrics to Prometheus and Grafana."""
    require_extra("prometheus", "`etui power export`")

    if listen is None:
        with open_meter() as recorder:
            measure(recorder, 1.0 if seconds is None else seconds)
            click.echo(format_metrics(recorder), nl=False)
        return
    host, _, port = listen.rpartition(":")
    if not host or re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65_535:
        raise UsageError(f"--listen {listen!r} is not HOST:PORT", "for example 127.0.0.1:9595")
    with open_meter() as recorder:
        registry = build_registry(recorder)
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            what = f"cannot listen on {listen}: {error.strerror or error}"
            raise EtuiError(what, "choose another port") from error
        click.echo(f"metrics at http://{listen}/metrics; stop with Ctrl-C", err=True)
        with until_stopped():
            time.sleep(seconds or 1e9)
        server.shutdown()
        thread.join(1.0)
