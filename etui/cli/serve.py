"""``etui serve``: answer other programs over HTTP."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from threading import Event, Thread
from typing import TYPE_CHECKING, TextIO

import click

from etui.chat import Query
from etui.cli.output import stop_signals
from etui.cli.param_types import (
    MOST_JOULES,
    FiniteNumber,
    WholeNumber,
    choice_option,
    flag,
    number_option,
    path_option,
    text_option,
)
from etui.cli.streams import control_stream, data_stream
from etui.codec import from_document, to_document
from etui.config.config import Config, load_config, make_home
from etui.errors import UsageError
from etui.extras import require_extra
from etui.server.context import DEFAULT_HOST, DEFAULT_PORT, ServerContext, ServerSettings
from etui.server.keys import read_keys
from etui.text import one_line, sanitize
from etui.web_origin import is_host, is_origin

if TYPE_CHECKING:
    from etui.runtime.turn_request import PoolStatus, ServeFacts


_BUSY_SECONDS = 0.5
_IDLE_SECONDS = 2.0
"""Updates this far apart cost too little power for a meter to show."""
_WATTS_NOISE = 0.03
"""Relative change of power that is not worth drawing the line again."""
_COLUMNS = 80
_CLEAR = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class ClientTemplate:
    """The settings that let one client use the server; see ``clients.toml``."""

    where: str
    path: str
    text: str
    key: str
    no_key: str = "none"

    def fill(self, root: str, model: str, models: Sequence[str], *, has_keys: bool) -> str:
        """Fill in the address of a server, what answers there by default, and all that can."""
        return Template(self.text).substitute(
            root=root,
            url=f"{root}/v1",
            model=model,
            coder=next((name for name in models if "coder" in name), model),
            models=json.dumps(models),
            models_object=json.dumps({name: {"name": name} for name in models}),
            key=self.key if has_keys else self.no_key,
        )


def read_clients() -> Mapping[str, ClientTemplate]:
    """Read the templates of the clients by their names."""
    text = (files(__package__) / "clients.toml").read_text("utf-8")
    return {name: from_document(ClientTemplate, each) for name, each in tomllib.loads(text).items()}


keys_option = path_option(
    "--keys",
    metavar="FILE",
    help="File with one `name: key` a line, which only you can read; with `admin` behind it, a key "
    "sees the figures of all keys. ETUI_API_KEY is one more key.",
)

_MOST_PARALLEL = 64
_EVERY_ADDRESS = ("0.0.0.0", "::")


@click.command()
@text_option(
    "--host",
    metavar="ADDRESS",
    help="Address to listen on (127.0.0.1). Any other than this machine's own needs a key.",
)
@number_option(WholeNumber(0, 65535), "--port", help="Port (8420); 0 takes any.")
@text_option("--unix", metavar="PATH", help="Listen on a unix socket of yours instead of a port.")
@text_option("--policy", metavar="NAME|FILE", help="Policy for the model names `etui`, `default`.")
@text_option("--model", metavar="NAME", help="Model for these names, instead of a policy.")
@number_option(
    WholeNumber(1, _MOST_PARALLEL),
    "--parallel",
    default=1,
    help="Answers of one model that are computed together (1).",
)
@number_option(
    WholeNumber(0, 100_000),
    "--queue",
    default=32,
    help="Requests that may wait; further ones get 429 (32).",
)
@keys_option
@text_option(
    "--joules-per-hour",
    multiple=True,
    metavar="[NAME=]J",
    help="Joules that a key may use in an hour; without a name, every key. Repeatable.",
)
@text_option(
    "--origin",
    multiple=True,
    metavar="URL",
    help="Web page that may send requests, such as https://chat.example. Repeatable.",
)
@text_option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Further name of this server, such as that of a reverse proxy. Repeatable.",
)
@number_option(
    FiniteNumber(0, 3600),
    "--grace",
    metavar="S",
    default=10.0,
    help="Seconds that running answers may take after Ctrl-C (10).",
)
@choice_option(
    tuple(read_clients()),
    "--for",
    "client",
    help="Print the settings of this client, to copy, and do not serve.",
)
@flag("--quiet", help="Print no status line.")
@flag("--jsonl", "as_lines", help="Print the status as JSON lines.")
def serve(
    host: str | None,
    port: int | None,
    unix: str | None,
    policy: str | None,
    model: str | None,
    parallel: int,
    queue: int,
    keys: Path | None,
    joules_per_hour: tuple[str, ...],
    origin: tuple[str, ...],
    allow_host: tuple[str, ...],
    grace: float,
    client: str | None,
    quiet: bool,
    as_lines: bool,
) -> None:
    """Answer programs over HTTP, with the protocols of OpenAI, Anthropic and Ollama.

    Every answer is routed and measured like those of the chat, is in the log, and says what it
    cost. Ctrl-C accepts no more requests, lets running answers end, and saves them.

    \b
    etui serve --policy balanced
    OPENAI_BASE_URL=http://127.0.0.1:8420/v1 OPENAI_API_KEY=none my-program
    etui serve --for opencode
    """  # noqa: D301
    if policy and model:
        raise UsageError("--model cannot be combined with --policy", "pass only one of them")
    if unix and (host or port is not None):
        raise UsageError("--unix cannot be combined with --host or --port", "remove one of them")
    _check_origins(origin)
    check_hosts(allow_host)
    require_extra("serve", "`etui serve`")

    given = read_keys(keys, os.environ)
    settings = ServerSettings(
        host=host or DEFAULT_HOST,
        port=DEFAULT_PORT if port is None else port,
        unix=unix,
        keys=given.keys,
        admins=given.admins,
        origins=origin,
        allow_hosts=allow_host,
        policy=policy,
        model=model,
        grace_seconds=grace,
    )
    limits = parse_limits(joules_per_hour, given.keys)
    if client is not None:
        _print_client(client, settings)
        return
    build_line = partial(_build_status_line, quiet=quiet, as_lines=as_lines)
    with stop_signals():
        _serve(settings, parallel, queue, limits, build_line)


def _print_client(name: str, settings: ServerSettings) -> None:
    from etui.runtime.model_ids import DEFAULT_ID, check_names, list_model_ids
    from etui.runtime.runtime import open_process_runtime
    from etui.server.run import format_root

    if settings.unix is not None or not settings.port:
        raise UsageError(
            "--for needs a port that clients can name", "pass --port N, or leave it out"
        )
    if settings.host in _EVERY_ADDRESS:
        settings = replace(settings, host="127.0.0.1")
    config = load_config()
    with open_process_runtime(config) as runtime:
        check_names(runtime, settings.model, settings.policy)
        models = [each.id for each in list_model_ids(runtime) if each.kind != "arm"]
        default = settings.model or settings.policy or config.model or config.policy
        if default not in runtime.policy_names() and default not in runtime.catalogue:
            default = DEFAULT_ID  # a file, which clients cannot name
    template = read_clients()[name]
    text = template.fill(format_root(settings), default, models, has_keys=bool(settings.keys))
    click.echo(f"{name}, {template.where}:", err=True)
    click.echo(text, nl=False, file=data_stream())
    if settings.keys:
        click.echo("ETUI_API_KEY is the key of the client, in its environment", err=True)
    if not models:
        click.echo("no model can answer yet; pull one with: etui models pull", err=True)


def parse_limits(texts: Sequence[str], keys: Mapping[str, str]) -> dict[str, float]:
    """Parse the joules that each key may use in an hour: ``NAME=J``, or ``J`` for all others.

    Without any keys, requests have the name ``""``.
    """
    limits: dict[str, float] = {}
    for text in texts:
        name, _, joules = text.rpartition("=")
        if name and name not in keys:
            raise UsageError(
                f"--joules-per-hour: there is no key {name!r}", "see the names in --keys FILE"
            )
        try:
            limit = float(joules)
        except ValueError:
            limit = -1.0
        if not 0 < limit <= MOST_JOULES:
            raise UsageError(
                f"--joules-per-hour: {text[:40]!r} is not a number of joules",
                "write --joules-per-hour 50000, or NAME=50000 for one key",
            )
        for key in [name] if name else [key for key in keys or {"": ""} if key not in limits]:
            limits[key] = limit
    return limits


def _serve(
    settings: ServerSettings,
    parallel: int,
    queue: int,
    limits: Mapping[str, float],
    build_line: Callable[[str], StatusLine],
) -> None:
    import logging

    from etui.energy.idle import IdleTracker
    from etui.runtime.runtime import open_process_runtime
    from etui.runtime.turn_pool import TurnPool
    from etui.server.run import format_address, open_sockets, run_server, share_heap

    share_heap()
    config = replace(load_config(), parallel=parallel)
    make_home(config)
    _check_answering(settings, config)
    sockets, settings = open_sockets(settings)

    logging.basicConfig(level=logging.WARNING, format="etui: %(message)s")
    with open_process_runtime(config, build_line("").say) as runtime:
        runtime.writer.ready()
        pool = TurnPool(
            runtime,
            parallel=parallel,
            queue_limit=queue,
            idle_tracker=IdleTracker(runtime.recorder, config),
            joules_per_hour=limits,
        )
        address, stopped = format_address(settings), Event()
        line = build_line(address)
        status = Thread(target=line.run, args=(pool.status, stopped), name="etui-serve-status")

        def announce() -> None:
            click.echo(f"etui serves {address} (Ctrl-C to stop)", err=True)
            if settings.keys:
                click.echo(f"keys: {', '.join(sorted(settings.keys))}", err=True)
            status.start()

        try:
            run_server(ServerContext(pool, runtime, settings), sockets, announce)
        finally:
            stopped.set()
            if status.ident is not None:
                status.join()


def _build_status_line(address: str, *, quiet: bool, as_lines: bool) -> StatusLine:
    if as_lines:
        return StatusLine(sys.stdout, False, address=address, quiet=quiet, jsonl=True)
    return StatusLine(control_stream(err=True), sys.stderr.isatty(), address=address, quiet=quiet)


def _check_answering(settings: ServerSettings, config: Config) -> None:
    """Check that what answers by default can answer; warn of aliases that stand for nothing."""
    from etui.runtime.decide import choose
    from etui.runtime.model_ids import list_wrong_aliases
    from etui.runtime.overrides import Overrides
    from etui.runtime.runtime import open_process_runtime

    with open_process_runtime(config) as runtime:
        overrides = Overrides(model=settings.model, policy=settings.policy)
        choose(Query("Which planet is red?"), overrides, runtime, within_budgets=False)
        for error in list_wrong_aliases(runtime):
            text = "; ".join(part for part in (error.what, error.fix) if part)
            click.echo(f"warning: {one_line(text)}", err=True)


def _check_origins(origins: Sequence[str]) -> None:
    for origin in origins:
        if not is_origin(origin):
            raise UsageError(
                f"--origin: {origin[:80]!r} is not the origin of a page",
                "write it as browsers send it: https://chat.example, without a path",
            )


@dataclass(slots=True)
class StatusLine:
    """Shows the status of a server until it ends."""

    stream: TextIO  # Where it is written; one that takes control sequences if `is_tty`
    is_tty: bool  # Whether the line is drawn again in place; else one per change of phase
    address: str = ""  # URL of the API, shown with it
    quiet: bool = False
    jsonl: bool = False  # Whether a JSON document per change is written instead
    columns: Callable[[], int] | None = None
    """Returns the width of the terminal; None asks the stream."""
    _shown: ServeFacts | None = field(default=None, init=False)

    @property
    def _in_place(self) -> bool:
        return self.is_tty and not self.jsonl

    def run(self, pool_status: Callable[[], PoolStatus], stop: Event) -> None:
        """Show the status until ``stop`` is set; return at once with ``quiet``.

        A stream that was closed ends it too, and the server goes on.
        """
        from etui.runtime.turn_request import build_facts

        if self.quiet:
            return
        try:
            while not stop.is_set():
                facts = build_facts(pool_status(), self.address)
                self.show(facts)
                stop.wait(_BUSY_SECONDS if facts.is_busy else _IDLE_SECONDS)
            self._show_end(build_facts(pool_status(), self.address))
        except (OSError, ValueError):
            return

    def show(self, facts: ServeFacts) -> None:
        """Show the facts, if they have changed enough since they were last shown."""
        from etui.runtime.turn_request import format_facts

        if self._shown is not None and not self._is_news(self._shown, facts):
            return
        self._shown = facts
        if self.jsonl:
            self._write_json("status", facts)
        elif self._in_place:
            text = sanitize(format_facts(facts))
            self._write(_CLEAR + text[: max((self.columns or self._read_columns)() - 1, 1)])
        else:
            self._write(f"{sanitize(f'{facts.phase}: {format_facts(facts)}')}\n")

    def say(self, text: str) -> None:
        """Write a line of its own, on standard error where the status is JSON."""
        clear = _CLEAR if self._in_place else ""
        with suppress(OSError, ValueError):  # a stream that was closed
            stream = sys.stderr if self.jsonl else self.stream
            stream.write(f"{clear}etui: {sanitize(one_line(text))}\n")
            stream.flush()

    def _is_news(self, before: ServeFacts, now: ServeFacts) -> bool:
        if not (self.jsonl or self._in_place):
            return before.phase != now.phase
        return _count(before) != _count(now) or _differ(before.watts, now.watts)

    def _show_end(self, facts: ServeFacts) -> None:
        from etui.runtime.turn_request import format_books

        if self.jsonl:
            self._write_json("end", facts)
        else:
            self._write(f"{_CLEAR if self._in_place else ''}{sanitize(format_books(facts))}\n")

    def _write_json(self, event: str, facts: ServeFacts) -> None:
        self._write(json.dumps({"event": event, **to_document(facts)}) + "\n")

    def _read_columns(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or _COLUMNS
        except (OSError, ValueError, AttributeError):
            return _COLUMNS

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _count(facts: ServeFacts) -> tuple[object, ...]:
    ends = (facts.finished, facts.failed, facts.cancelled)
    state = (facts.residents, facts.loading, facts.accepting, facts.unsaved)
    return (facts.running, facts.queued, *ends, *state)


def _differ(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is not now
    return abs(now - before) > _WATTS_NOISE * max(abs(before), 1.0)


def check_hosts(names: Sequence[str]) -> None:
    """Check the values of ``--allow-host``."""
    for name in names:
        if not is_host(name):
            raise UsageError(
                f"--allow-host: {name[:80]!r} is not a host name",
                "write a name or an address, with or without a port: desk.local",
            )
