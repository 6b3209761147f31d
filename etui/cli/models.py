"""``etui models``: what there is, what is on disk, and how to get it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from etui.cli.common import print_json, print_table
from etui.errors import EtuiError, ExitCode, Stopped
from etui.units import UNKNOWN, bytes_text, count_text, tokens_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def models() -> None:
    """List, pull, check and describe models.

    The models are those of models.yaml, the shipped one and your own in ETUI_HOME, and every GGUF
    file that lies in the models folder.
    """


@models.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Show every model: on disk or not, and whether its file fits into the free memory."""
    import psutil

    config, catalogue = _load()
    free = int(psutil.virtual_memory().available)
    rows = [_row(spec, config, free) for spec in catalogue]
    if as_json:
        folder = str(config.models_dir)
        print_json({"models_dir": folder, "free_memory_bytes": free, "models": rows})
        return
    print_table(
        ("NAME", "SIZE", "ON DISK", "MEMORY"),
        [(row["name"], row["size"], _STATE[row["state"]], _FITS[row["fits"]]) for row in rows],
    )
    click.echo(f"models folder {config.models_dir}; {bytes_text(free)} of memory free", err=True)


_STATE = {"absent": "no", "unchecked": "not checked", "refused": "refused", "checked": "yes"}
_FITS = {True: "fits", False: "does not fit", None: UNKNOWN}


@models.command()
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Show what a model's entry says and, when it is on disk, what its GGUF says."""
    import psutil

    from etui.models.files import model_path, recorded_sha256

    config, catalogue = _load()
    spec = catalogue.get(name)
    free = int(psutil.virtual_memory().available)
    row = _row(spec, config, free)
    facts: dict[str, Any] = {
        **row,
        "sha256": spec.sha256 or recorded_sha256(spec, config),
        "context": spec.context,
        "gpu_layers": spec.gpu_layers,
        "kv_type": spec.kv_type,
        "flash_attention": spec.flash_attention,
        "split": spec.split,
        "main_gpu": spec.main_gpu,
        "tensor_split": list(spec.tensor_split),
        "thinking": _thinking(spec),
        "stop": list(spec.stop),
        "gguf": _gguf_facts(spec, config) if model_path(spec, config).is_file() else None,
    }
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts, free)


@models.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@as_json
def pull(names: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Bring models to this machine, the starter if none is named.

    An interrupted pull goes on where it stopped. The sha256 of every file is checked.
    """
    from etui.cli.pull_progress import shown
    from etui.models.download import kept_bytes
    from etui.models.download import pull as pull_model
    from etui.models.files import recorded_sha256
    from etui.models.spec import STARTER

    config, catalogue = _load()
    specs = [catalogue.get(name) for name in dict.fromkeys(names or (STARTER,))]
    done: list[dict[str, Any]] = []
    for spec in specs:
        try:
            with shown(quiet=quiet) as progress:
                path = pull_model(spec, config, progress)
        except KeyboardInterrupt:
            kept = kept_bytes(spec, config)
            raise Stopped(
                f"stopped; {bytes_text(kept)} of {spec.name} are kept",
                f"go on with: etui models pull {' '.join(names) or spec.name}",
            ) from None
        size, digest = path.stat().st_size, recorded_sha256(spec, config)
        done.append({"name": spec.name, "path": str(path), "bytes": size, "sha256": digest})
        if not as_json:
            click.echo(str(path))
        if not quiet:
            click.echo(f"{spec.name} is here and checked: {bytes_text(size)}", err=True)
    if as_json:
        print_json({"models": done})


@models.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@as_json
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Check the header and the sha256 of models in full, all on disk if none is named."""
    from etui.models.files import model_path
    from etui.models.files import verify as verify_model

    config, catalogue = _load()
    if names:
        specs = [catalogue.get(name) for name in dict.fromkeys(names)]
    else:
        specs = [spec for spec in catalogue if model_path(spec, config).is_file()]
        if not specs:
            click.echo(f"no model is in {config.models_dir}", err=True)
    results: list[dict[str, Any]] = []
    for spec in specs:
        path = model_path(spec, config)
        result: dict[str, Any] = {"name": spec.name, "path": str(path), "ok": False}
        try:
            checked = verify_model(spec, config)
        except EtuiError as error:
            result |= {"sha256": None, "expected": spec.sha256, "error": error.what}
            if not as_json:
                click.echo(f"{spec.name}: refused: {error.what}")
                click.echo(error.fix, err=True)
        else:
            digest, expected = checked.sha256, checked.expected
            result |= {"ok": True, "sha256": digest, "expected": expected, "error": None}
            if not as_json:
                against = "as expected" if expected else "nothing to compare with"
                click.echo(f"{spec.name}: ok, sha256 {digest} ({against})")
        results.append(result)
    if as_json:
        print_json({"models": results})
    if not all(result["ok"] for result in results):
        ctx.exit(ExitCode.FAILED)


@models.command()
@click.argument("name", required=False)
@as_json
def path(name: str | None, as_json: bool) -> None:
    """Print the path of a model's file, checked; without a name, of the models folder."""
    from etui.models.files import recorded_sha256, require

    config, catalogue = _load()
    if name is None:
        folder = str(config.models_dir)
        click.echo(json.dumps({"models_dir": folder}) if as_json else folder)
        return
    spec = catalogue.get(name)
    file = require(spec, config)
    if as_json:
        digest = recorded_sha256(spec, config)
        print_json({"name": spec.name, "path": str(file), "sha256": digest})
    else:
        click.echo(str(file))


def _load() -> tuple[Config, Catalogue]:
    from etui.config.load import load_config
    from etui.models.catalogue import load_catalogue

    config = load_config()
    return config, load_catalogue(config)


def _row(spec: ModelSpec, config: Config, free_bytes: int) -> dict[str, Any]:
    """What ``list`` says of one model."""
    from etui.models.files import file_state, model_path

    path, state = model_path(spec, config), file_state(spec, config)
    here = state != "absent"
    size = path.stat().st_size if here else spec.file_bytes
    return {
        "name": spec.name,
        "size": spec.size,
        "bytes": size,
        "on_disk": here,
        "state": state,
        "path": str(path),
        "fits": None if size is None else size <= free_bytes,
        "origin": spec.origin,
        "sources": [str(source) for source in spec.sources],
    }


def _thinking(spec: ModelSpec) -> dict[str, Any] | None:
    if spec.think_open is None and spec.thinking_switch is None:
        return None
    return {"open": spec.think_open, "close": spec.think_close, "switch": spec.thinking_switch}


def _gguf_facts(spec: ModelSpec, config: Config) -> dict[str, Any]:
    from etui.engine.offload import needs
    from etui.models.files import model_path
    from etui.models.gguf import check_gguf

    gguf = check_gguf(model_path(spec, config))
    need = needs(gguf, spec.context, spec.kv_type)
    return {
        "name": gguf.name,
        "architecture": gguf.architecture,
        "parameters": gguf.parameters,
        "quantisation": gguf.quantisation,
        "context": gguf.context_tokens,
        "layers": gguf.layers,
        "embedding_length": gguf.embedding_length,
        "vocabulary": gguf.vocabulary,
        "kv_bytes_per_token": gguf.kv_bytes_per_token(spec.kv_type),
        "kv_bytes": need.kv_bytes,
        "memory_bytes": need.total_bytes,
        "chat_template": gguf.chat_template,
    }


def _print_facts(facts: dict[str, Any], free_bytes: int) -> None:
    gguf, state = facts["gguf"], _STATE[facts["state"]]
    lines = [
        ("model", facts["name"]),
        ("size", facts["size"]),
        ("on disk", state if gguf is None else f"{state}, {facts['path']}"),
        (
            "file",
            f"{bytes_text(facts['bytes'])}, {_FITS[facts['fits']]}: {bytes_text(free_bytes)} free",
        ),
        ("sha256", facts["sha256"] or _no_hash(facts)),
        ("context used", tokens_text(facts["context"])),
        ("gpu layers", str(facts["gpu_layers"])),
    ]
    if facts["thinking"]:
        tags = facts["thinking"]
        switch = f", switched by {tags['switch']}" if tags["switch"] else ""
        lines.append(("thinking", f"{tags['open']} ... {tags['close']}{switch}"))
    if gguf is None:
        lines += [("source", source) for source in facts["sources"]]
    else:
        template = gguf["chat_template"]
        lines += [
            ("architecture", gguf["architecture"]),
            ("parameters", f"{gguf['parameters']:,}"),
            ("quantisation", gguf["quantisation"]),
            ("trained context", tokens_text(gguf["context"])),
            ("layers", str(gguf["layers"] or UNKNOWN)),
            ("vocabulary", tokens_text(gguf["vocabulary"])),
            (
                "KV cache",
                f"{bytes_text(gguf['kv_bytes'])} at the context used ({facts['kv_type']})",
            ),
            ("memory", f"about {bytes_text(gguf['memory_bytes'])} with cache and buffers"),
            ("chat template", count_text(len(template), "character") if template else "none"),
        ]
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        click.echo(f"{label:{width}}  {text}")
    if gguf is None:
        click.echo(f"pull it with: etui models pull {facts['name']}", err=True)


def _no_hash(facts: dict[str, Any]) -> str:
    if facts["on_disk"]:
        return f"not taken yet: etui models verify {facts['name']}"
    return "taken from the hub at the first pull"
