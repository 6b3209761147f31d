"""``etui power``: show watts and joules of every channel, and check the meter."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import json_option, load_models, print_json_line, print_result
from etui.cli.param_types import FiniteNumber, WholeNumber, flag, text_option
from etui.cli.power_compare import compare
from etui.cli.power_run import run
from etui.cli.power_table import format_power
from etui.cli.power_top import top
from etui.cli.power_wall import calibrate_wall
from etui.cli.serve import check_hosts, keys_option
from etui.cli.streams import control_stream
from etui.errors import EtuiError, ExitCode, UsageError
from etui.extras import require_extra
from etui.units import watts_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.energy.recorder import Recorder
    from etui.energy.sources.estimate import Calibration


_PORT = 9911


@click.command()
@text_option(
    "--host",
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
) -> int:
    """Give other machines the meter of this one, over HTTP and without a model.

    An etui on another machine names it as `meter:` of a backend, and measures what its answers
    cost here. Nothing but watts and joules can be read, and nothing can be changed. Ctrl-C stops
    it.

    \b
    ETUI_API_KEY=$(cat key) etui power serve --host 0.0.0.0 --allow-host desk
    """  # noqa: D301
    require_extra("serve", "`etui power serve`")
    from etui.server.context import ServerSettings
    from etui.server.keys import KEY_VARIABLE, read_keys
    from etui.server.run import format_root, open_sockets, serve_meter

    check_hosts(allow_host)
    environment = dict(os.environ)
    if key_env is not None:
        environment[KEY_VARIABLE] = _read_variable(key_env)
    settings = ServerSettings(
        host=host,
        port=_PORT if port is None else port,
        keys=read_keys(keys, environment).keys,
        allow_hosts=allow_host,
        grace_seconds=0.0,
    )
    sockets, settings = open_sockets(settings)
    url = format_root(settings)
    with _open_recorder() as recorder:
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


_WARM_UP_S = 0.3
_AFTER_LOAD_S = 2.0
"""A GPU keeps its clocks high for a moment after the last copy."""
Seconds = FiniteNumber(0.1, 86_400)


@click.group(invoke_without_command=True)
@json_option
@flag("--jsonl", "as_lines", help="Print one JSON document per interval.")
@click.option(
    "--seconds",
    type=Seconds,
    metavar="N",
    help="Duration in seconds (default: 2, or until Ctrl-C for the live table and --jsonl).",
)
@click.option(
    "--interval", type=Seconds, metavar="N", default=1.0, help="Seconds between two updates (1)."
)
@click.pass_context
def power(
    ctx: click.Context, as_json: bool, as_lines: bool, seconds: float | None, interval: float
) -> int | None:
    """Show the watts and joules of every channel.

    Without options, prints a live table in a terminal, and a single table in a pipe.
    """
    if ctx.invoked_subcommand is not None:
        return None
    from etui.config.config import load_config
    from etui.energy.wall_model import save_checks

    if as_json and as_lines:
        raise UsageError("--json and --jsonl cannot be combined", "pass only one of them")
    live = sys.stdout.isatty() and seconds is None and not as_json
    with _open_recorder() as recorder:
        if as_lines:
            _print_lines(recorder, seconds, interval)
        elif live:
            _watch(recorder, interval)
        else:
            _print_interval(recorder, *_measure(recorder, seconds or 2.0), as_json)
        if drift := save_checks(load_config(), recorder, time.monotonic_ns()):
            click.echo(drift, err=True)
    return ExitCode.DONE


@power.command()
@click.option("--seconds", type=Seconds, metavar="N", default=5.0, help="Duration in seconds (5).")
@json_option
def selftest(seconds: float, as_json: bool) -> int:
    """Check the meter on this machine; exit with code 4 if a check fails.

    Compares each counter with its integrated power, looks for gaps, and checks that the parts sum
    to the whole. The checks are more conclusive on a busy machine than on an idle one.
    """
    from etui.energy.diagnosis import any_failed
    from etui.energy.diagnosis import run_selftest as check

    with _open_recorder() as recorder:
        start_ns, end_ns = _measure(recorder, seconds)
        checks = check(recorder, start_ns, end_ns)
    failed, marks = any_failed(checks), {True: "✓", False: "✗", None: "-"}
    lines = (f"{marks[c.passed]} {c.name:<11} {c.channel or 'total'}: {c.detail}" for c in checks)
    print_result({"passed": not failed, "checks": checks}, lines, as_json)
    return ExitCode.GATE if failed else ExitCode.DONE


@power.command()
@text_option("--model", metavar="NAME", help="Load this model first, and save its own baseline.")
@click.option("--seconds", type=Seconds, metavar="N", default=5.0, help="Duration in seconds (5).")
@flag("--force", help="Measure even if other programs use the machine.")
@json_option
def idle(model: str | None, seconds: float, force: bool, as_json: bool) -> int:
    """Measure the idle power of the machine, the baseline of net joules.

    Net joules are gross joules minus idle power times duration. Without --model, the baseline is
    that of a machine with no model in memory; a loaded model draws more, and its answers use its
    own baseline if there is one. Run nothing else during the measurement: a busy machine is
    refused.
    """
    from etui.config.config import load_config
    from etui.energy.idle import load_baselines, measure_baseline, save_baselines

    config = load_config()
    with _open_recorder() as recorder, _in_memory(model, config) as name:
        time.sleep(_WARM_UP_S if name is None else _AFTER_LOAD_S)
        found = measure_baseline(recorder, seconds, force=force)
        kinds = {channel.id: channel.kind.value for channel in recorder.channels}
    if found is None:
        raise EtuiError("nothing can be measured on this machine", "see `etui doctor`")
    save_baselines(config, load_baselines(config).with_idle(found, name))
    document = {"model": name, "watts": found.watts, "seconds": found.seconds}
    lines = (f"{id_}  {watts_text(watts, kinds[id_])}" for id_, watts in found.watts.items())
    print_result(document | {"steady": found.steady}, lines, as_json)
    if not found.steady:
        click.echo("the machine was not idle: other programs ran; measure again", err=True)
    return ExitCode.DONE


@contextmanager
def _in_memory(model: str | None, config: Config) -> Iterator[str | None]:
    """Keep a model in memory during the body; yield its name in the log, None without a model."""
    if model is None:
        yield None
        return
    from etui.backends.local import LocalBackend
    from etui.models.files import require
    from etui.runtime.model_resolution import catalogue_name

    catalogue = load_models(config)
    spec = catalogue.get(catalogue_name(model, config, catalogue))
    with closing(LocalBackend(config, trials=True)) as engine:
        list(engine.load(spec, require(spec, config)))  # the load runs while its events are read
        yield spec.name


@power.command()
@click.option(
    "--seconds", type=Seconds, metavar="N", default=30.0, help="Duration in seconds (30)."
)
@json_option
def calibrate(seconds: float, as_json: bool) -> int:
    """Fit the CPU power estimate to real readings of the CPU package.

    Keep the machine idle for the first half of the time and busy for the second. Put the two
    printed lines into config.yaml; they are used when the counter cannot be read (for example,
    without root).
    """
    from etui.energy.sources.estimate import fit_range

    with _open_recorder() as recorder:
        readings = list(_read_use_and_watts(recorder, seconds))
    if not readings:
        what = "no counter of the CPU package can be read, so there is nothing to calibrate with"
        raise EtuiError(what, "`etui doctor` shows the command that makes it readable")
    fitted = fit_range(readings)
    if fitted is None or not fitted.trustworthy:
        what = "the readings do not span enough of the CPU's range"
        raise EtuiError(what, "keep the machine idle for one half and busy for the other")
    document = {
        "cpu_idle_watts": fitted.idle_watts,
        "cpu_limit_watts": fitted.limit_watts,
        "band": fitted.band,
        "points": fitted.points,
    }
    print_result(document, _format_calibration(fitted), as_json)
    return ExitCode.DONE


def _read_use_and_watts(recorder: Recorder, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield (utilisation, watts of all packages) every half second; nothing without a package."""
    import psutil

    packages = {c.id for c in recorder.selection.summed if c.scope.startswith("package:")}
    if not packages:
        return
    time.sleep(_WARM_UP_S)
    psutil.cpu_percent()
    start_ns = begin_ns = time.monotonic_ns()
    while (start_ns - begin_ns) / 1e9 < seconds:
        time.sleep(0.5)
        use, end_ns = psutil.cpu_percent() / 100, time.monotonic_ns()
        recorder.settle(end_ns)
        parts = [p for p in recorder.energy(start_ns, end_ns).channels if p.id in packages]
        if len(parts) == len(packages):
            yield use, sum(part.mean_watts for part in parts)
        start_ns = end_ns


@power.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--seconds", type=Seconds, metavar="N", default=10.0, help="Duration in seconds (10)."
)
def record(file: Path, seconds: float) -> int:
    """Write every reading to FILE, for `power replay` or a bug report."""
    from etui.energy.diagnosis import TraceWriter

    try:
        out = file.open("x", encoding="utf-8")
    except OSError as error:
        what = f"cannot write {file}: {error.strerror or error}"
        raise EtuiError(what, "name a new file in a writable folder") from error
    try:
        with out, closing(_open_recorder(doubled=True)) as recorder:
            writer = TraceWriter(out, recorder.channels, recorder.unmeasured)
            recorder.taps.append(writer.write)
            recorder.start()
            with _until_stopped():
                time.sleep(seconds)
            recorder.stop()
            if writer.error is not None:
                raise writer.error
    except OSError as error:
        what = f"cannot write {file}: {error.strerror or error}"
        raise EtuiError(what, "free some space, or name a file on another disk") from error
    click.echo(
        f"{writer.readings} readings of {len(recorder.channels)} channels in {file}", err=True
    )
    return ExitCode.DONE


@power.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def replay(file: Path, as_json: bool) -> int:
    """Compute the energy of the readings in FILE, as if they were live."""
    from etui.energy.diagnosis import replay as play

    recorder, start_ns, end_ns = play(file)
    _print_interval(recorder, start_ns, end_ns, as_json)
    return ExitCode.DONE


@power.command()
@flag("--prometheus", help="Print the metrics once (the default).")
@text_option("--listen", metavar="HOST:PORT", help="Serve the metrics at http://HOST:PORT/metrics.")
@click.option(
    "--seconds",
    type=Seconds,
    metavar="N",
    help="Duration in seconds (default: 1, or until Ctrl-C with --listen).",
)
def export(prometheus: bool, listen: str | None, seconds: float | None) -> int:
    """Export metrics to Prometheus and Grafana."""
    require_extra("prometheus", "`etui power export`")
    from etui.energy.documents import build_registry, format_metrics

    if listen is None:
        with _open_recorder() as recorder:
            _measure(recorder, 1.0 if seconds is None else seconds)
            click.echo(format_metrics(recorder), nl=False)
        return ExitCode.DONE
    host, _, port = listen.rpartition(":")
    if not host or re.fullmatch("[0-9]{1,5}", port) is None or int(port) > 65_535:
        raise UsageError(f"--listen {listen!r} is not HOST:PORT", "for example 127.0.0.1:9595")
    with _open_recorder() as recorder:
        registry = build_registry(recorder)
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            what = f"cannot listen on {listen}: {error.strerror or error}"
            raise EtuiError(what, "choose another port") from error
        click.echo(f"metrics at http://{listen}/metrics; stop with Ctrl-C", err=True)
        with _until_stopped():
            time.sleep(seconds or 1e9)
        server.shutdown()
        thread.join(1.0)
    return ExitCode.DONE


def _open_recorder(*, doubled: bool = False) -> Recorder:
    from etui.config.config import load_config
    from etui.energy.discovery import open_recorder

    return open_recorder(load_config(), doubled=doubled)


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Let Ctrl-C end the body, and nothing else: it is the normal way out of a live view."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)


def _measure(recorder: Recorder, seconds: float) -> tuple[int, int]:
    """Measure for a while, which Ctrl-C shortens."""
    time.sleep(_WARM_UP_S)
    start_ns = time.monotonic_ns()
    with _until_stopped():
        time.sleep(seconds)
    end_ns = time.monotonic_ns()
    recorder.settle(end_ns)
    return start_ns, end_ns


def _print_interval(recorder: Recorder, start_ns: int, end_ns: int, as_json: bool) -> None:
    document = _build_document(recorder, start_ns, end_ns)
    print_result(document, format_power(document), as_json)


def _build_document(recorder: Recorder, start_ns: int, end_ns: int) -> dict[str, Any]:
    from etui.config.config import load_config
    from etui.energy.documents import power_document
    from etui.energy.tariff_files import read_tariff

    tariff = read_tariff(load_config())
    return power_document(recorder, start_ns, end_ns, None if tariff is None else tariff.rate)


def _print_lines(recorder: Recorder, seconds: float | None, interval: float) -> None:
    """Print a JSON line per interval; intervals have no gaps, so their joules sum to the whole."""
    time.sleep(_WARM_UP_S)
    begin_ns = start_ns = time.monotonic_ns()
    with _until_stopped():
        while seconds is None or (start_ns - begin_ns) / 1e9 < seconds - 1e-3:
            left = interval if seconds is None else seconds - (start_ns - begin_ns) / 1e9
            end_ns = start_ns + int(min(interval, left) * 1e9)
            time.sleep(max((end_ns - time.monotonic_ns()) / 1e9, 0.0))
            recorder.settle(end_ns)
            document = _build_document(recorder, start_ns, end_ns)
            print_json_line(document)
            start_ns = end_ns


def _watch(recorder: Recorder, interval: float) -> None:
    """Print a table and repaint it in place until Ctrl-C."""
    time.sleep(_WARM_UP_S)
    begin_ns = time.monotonic_ns()
    drawn = 0
    with _until_stopped():
        while True:
            time.sleep(interval)
            end_ns = time.monotonic_ns()
            recorder.settle(end_ns)
            lines = list(format_power(_build_document(recorder, begin_ns, end_ns)))
            if drawn:
                click.echo(f"\x1b[{drawn}F\x1b[J", file=control_stream(), nl=False)
            click.echo("\n".join(lines))
            drawn = len(lines)


for command in (calibrate_wall, compare, run, serve, top):
    power.add_command(command)


def _format_calibration(fitted: Calibration) -> Iterator[str]:
    """Format a fitted range as lines of config.yaml."""
    yield f"cpu_idle_watts: {fitted.idle_watts:.1f}"
    yield f"cpu_limit_watts: {fitted.limit_watts:.1f}"
    band = f"±{100 * fitted.band:.0f} %"
    yield f"# fitted to {fitted.points} readings, {band} (2 standard deviations)"
