"""``etui mcp``: etui as an MCP server for agents, over standard input and output or HTTP."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import click

from etui.cli.output import stop_signals
from etui.cli.param_types import WholeNumber, number_option, text_option
from etui.cli.streams import raw_streams
from etui.config.config import load_config, make_home
from etui.errors import UsageError
from etui.extras import require_extra


@click.command()
@text_option("--policy", metavar="NAME|FILE", help="Policy that answers where none is named.")
@text_option("--model", metavar="NAME", help="Model that answers instead of a policy.")
@number_option(
    WholeNumber(1, 65535),
    "--port",
    help="Listen on this port of 127.0.0.1 (streamable HTTP, /mcp) instead of standard input.",
)
def mcp(policy: str | None, model: str | None, port: int | None) -> None:
    """Offer etui to agents as an MCP server.

    Its tools are ask, power_now, energy_of_interval and models. An agent starts the command and
    talks to it over standard input and output; nothing but the protocol is written there. Answers
    are in the log like all others. It ends with its input.

    \b
    claude mcp add etui -- etui mcp
    """  # noqa: D301
    from etui.energy.idle import IdleTracker
    from etui.runtime.model_ids import check_names
    from etui.runtime.overrides import Overrides
    from etui.runtime.runtime import open_process_runtime
    from etui.runtime.turn_pool import TurnPool

    if policy and model:
        raise UsageError("--model cannot be combined with --policy", "pass only one of them")
    require_extra("tools", "`etui mcp`")
    import anyio

    from etui.server.mcp_tools import EtuiTools
    from etui.server.meter import MeterSource

    config = load_config()
    make_home(config)
    with stop_signals(), raw_streams(), open_process_runtime(config) as runtime:
        check_names(runtime, model, policy)
        runtime.writer.ready()
        pool = TurnPool(runtime, idle_tracker=IdleTracker(runtime.recorder, config))
        source = MeterSource(runtime.meter, lambda: pool.status().running)
        default = Overrides(model=model, policy=policy)
        server = EtuiTools(pool, runtime, source, default).build_server()
        run = server.run_stdio_async
        if port is not None:
            click.echo(f"etui offers MCP on http://127.0.0.1:{port}/mcp (Ctrl-C to stop)", err=True)
            run = partial(server.run_streamable_http_async, port=port)
        try:
            with suppress(KeyboardInterrupt):
                anyio.run(run)
        finally:
            pool.close()
