"""``etui sweep --cluster``: one sweep for each machine, each with a result of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.atomic import write_bytes
from etui.cli.cluster_commands import build_words, read_event, refuse_failed, run_on_nodes
from etui.cli.output import print_json
from etui.errors import EtuiError, ExitCode, UsageError

if TYPE_CHECKING:
    from etui.cluster.open_nodes import NodeResult
    from etui.config.config import Config

_OURS = frozenset({"cluster", "as_json", "jsonl", "out"})
_REFUSED = {
    "apply": "apply the result on its machine: etui sweep --apply last",
    "dry_run": "a plan depends on the machine: run --dry-run there",
}


def sweep_cluster(ctx: click.Context, address: str, config: Config) -> int:
    """Sweep on every node, and keep a copy of each sweep in the folder of all sweeps here.

    Args:
        address: HOST:PORT, or ``local``.

    Raises:
        UsageError: An option is for one machine only.
        Stopped: A sweep was interrupted; the same command resumes.
        EtuiError: A node could not measure; the results of the others are kept.
    """
    _refuse_options(ctx)
    as_json, as_lines = bool(ctx.params["as_json"]), bool(ctx.params["jsonl"])
    words = build_words(ctx, _OURS)
    commands: tuple[tuple[str, ...], ...] = ((words[0], "--jsonl", *words[1:]),)
    if ctx.params["model"] is not None:
        commands = (("models", "pull", str(ctx.params["model"])), *commands)
    results, stopped = run_on_nodes(address, commands, collect=True, as_lines=as_lines)
    folders = {
        machine: _keep(machine, result, ctx.params["out"], config)
        for machine, result in results.items()
        if result.files
    }
    documents = {
        machine: {k: v for k, v in event.items() if k != "event"}
        for machine, result in results.items()
        if (event := read_event(result, "result")) is not None
    }
    if as_json:
        print_json({"sweeps": [{"node": name, **each} for name, each in documents.items()]})
    elif not as_lines:
        _print(folders)
    for machine, folder in folders.items():
        click.echo(f"{machine}: {folder}", err=True)
    refuse_failed(results, stopped, "run the same command again to resume")
    return ExitCode.DONE


def _refuse_options(ctx: click.Context) -> None:
    for name, fix in _REFUSED.items():
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} cannot be used with --cluster", fix)
    if ctx.params["cap"] == "user":
        raise UsageError(
            "--cap user asks a person at the machine, and a node has none",
            "use --cap set, where etui may set power limits",
        )


def _keep(machine: str, result: NodeResult, out: Path | None, config: Config) -> Path:
    """Write the files of a node's sweep: into OUT/MACHINE, or into the folder of all sweeps."""
    from etui.sweep.folder import sweeps_dir

    begun = read_event(result, "begun") or {}
    name = Path(str(begun.get("folder") or machine)).name
    folder = out / machine if out is not None else sweeps_dir(config) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in result.files.items():
            content = text.encode("utf-8", "surrogateescape")
            path = folder / Path(file).name  # a node names files, never other folders
            if not path.is_file() or path.read_bytes() != content:
                write_bytes(path, content)
    except OSError as error:
        raise EtuiError(
            f"cannot write {folder}: {error.strerror or error}", "use another folder with --out"
        ) from error
    return folder


def _print(folders: dict[str, Path]) -> None:
    from etui.cli.sweep_text import print_result
    from etui.sweep.folder import read_sweep
    from etui.sweep.run import analyse_folder

    for machine, folder in folders.items():
        click.echo(f"{machine}:")
        print_result(analyse_folder(read_sweep(folder)))
