"""``etui models``: list, download, verify and describe models."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from etui.cli.common import load_models, print_json, print_table
from etui.cli.param_types import TEXT
from etui.cli.streams import data_stream
from etui.codec import to_document
from etui.errors import EtuiError, ExitCode, Stopped
from etui.text import join_lines
from etui.units import UNKNOWN, bytes_text, count_text, tokens_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etui.cli.model_facts import ModelFacts, ModelRow
    from etui.cli.model_status import Status
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSampling
    from etui.models.tuned import TunedUse
    from etui.runtime.keep_warm import ModelIdle

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def models() -> None:
    """List, pull, check and describe models.

    Models come from the shipped models.yaml, your own models.yaml in ETUI_HOME, and every GGUF
    file in the models folder.
    """


@models.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List all models and whether they are on disk and fit in memory.

    A model fits if its file is not larger than the free memory. A file that cannot be used is
    refused, with the reason. With `backends` in config.yaml each of them is asked, for at most two
    seconds, how fast it answers and what it serves.
    """
    import psutil

    from etui.cli.backend_text import format_backends
    from etui.cli.model_facts import build_model_row
    from etui.models.tuned import describe_values
    from etui.runtime.remote_models import probe_backends

    config, catalogue = _load_catalogue()
    free = int(psutil.virtual_memory().available)
    found = probe_backends(config)
    rows = [build_model_row(spec, config, free, found) for spec in catalogue]
    if as_json:
        folder = str(config.models_dir)
        backends = {"backends": list(found.values())} if found else {}
        print_json({"models_dir": folder, "free_memory_bytes": free, "models": rows, **backends})
        return
    head = ["NAME", "SIZE", "ON DISK", "MEMORY"]
    cells = [[row.name, row.size, _STATE[row.state], _FITS[row.fits]] for row in rows]
    if any(row.tuned_by for row in rows):
        head.append("TUNED")
        tuned = [describe_values(use.values) if (use := catalogue.tuned.get(row.name)) else ""
                 for row in rows]  # fmt: skip
        cells = [[*line, text] for line, text in zip(cells, tuned, strict=True)]
    if any(row.problem for row in rows):
        head.append("PROBLEM")
        cells = [[*line, row.problem] for line, row in zip(cells, rows, strict=True)]
    print_table(head, cells)
    for line in format_backends(tuple(found.values()), catalogue):
        click.echo(line, err=True)
    click.echo(f"models folder {config.models_dir}; {bytes_text(free)} of memory free", err=True)


_STATE = {
    "absent": "no",
    "unchecked": "not checked",
    "refused": "refused",
    "checked": "yes",
    "remote": "remote",
}
_FITS = {True: "fits", False: "does not fit", None: UNKNOWN}


@models.command()
@click.argument("name", type=TEXT)
@as_json
def info(name: str, as_json: bool) -> None:
    """Show a model's settings and the facts in its GGUF header.

    The header is shown if the model is on disk. Settings that `etui sweep --apply` chose are shown
    with what they save, and whether they are used. The backend of a remote model is asked.
    """
    import psutil

    from etui.cli.model_facts import build_model_row, read_model_facts
    from etui.runtime.remote_models import probe_backends

    config, catalogue = _load_catalogue()
    spec = catalogue.get(name)
    free = int(psutil.virtual_memory().available)
    asked = {spec.backend: config.backends[spec.backend]} if spec.backend else {}
    found = probe_backends(replace(config, backends=asked))
    row = build_model_row(spec, config, free, found)
    facts = read_model_facts(spec, config, catalogue)
    if as_json:
        print_json({**to_document(row), **to_document(facts)})
    elif spec.backend is not None:
        from etui.cli.backend_text import format_remote_facts

        for line in format_remote_facts(row, facts, config.backends[spec.backend], found):
            click.echo(line)
    else:
        _print_facts(row, facts, free, catalogue.tuned.get(spec.name))


@models.command()
@click.argument("names", type=TEXT, metavar="[NAME]...", nargs=-1)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@as_json
def pull(names: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Download models; without a NAME, the starter model.

    An interrupted download resumes where it stopped. The sha256 of every file is checked.
    """
    from etui.cli.model_facts import Pulled
    from etui.cli.pull_progress import show_progress
    from etui.models.download import kept_bytes
    from etui.models.download import pull as pull_model
    from etui.models.files import recorded_sha256
    from etui.models.spec import STARTER

    config, catalogue = _load_catalogue()
    specs = [catalogue.get(name) for name in dict.fromkeys(names or (STARTER,))]
    done: list[Pulled] = []
    for spec in specs:
        if spec.backend is not None:
            click.echo(
                f"{spec.name}: nothing to pull, the backend {spec.backend} serves it", err=True
            )
            continue
        try:
            with show_progress(quiet=quiet) as progress:
                path = pull_model(spec, config, progress)
        except KeyboardInterrupt:
            kept = kept_bytes(spec, config)
            raise Stopped(
                f"stopped; {bytes_text(kept)} of {spec.name} kept",
                f"resume with: etui models pull {' '.join(names) or spec.name}",
            ) from None
        size, digest = path.stat().st_size, recorded_sha256(spec, config)
        done.append(Pulled(spec.name, str(path), size, digest))
        if not as_json:
            click.echo(str(path), file=data_stream())
        if not quiet:
            click.echo(f"{spec.name} is on disk and checked: {bytes_text(size)}", err=True)
    if as_json:
        print_json({"models": done})


@models.command()
@click.argument("names", type=TEXT, metavar="[NAME]...", nargs=-1)
@as_json
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Check the header and the sha256 of model files.

    Without a NAME, checks every model on disk. Files are read in full.
    """
    from etui.cli.model_facts import VerifiedFile
    from etui.models.files import model_path
    from etui.models.files import verify as verify_model

    config, catalogue = _load_catalogue()
    if names:
        specs = [catalogue.get(name) for name in dict.fromkeys(names)]
    else:
        specs = [
            spec for spec in catalogue
            if spec.backend is None and model_path(spec, config).is_file()
        ]  # fmt: skip
        if not specs:
            click.echo(f"no model in {config.models_dir}", err=True)
    results: list[VerifiedFile] = []
    for spec in specs:
        location = str(model_path(spec, config)) if spec.backend is None else ""
        try:
            checked = verify_model(spec, config)
        except EtuiError as error:
            result = VerifiedFile(spec.name, location, False, None, spec.sha256, error.what)
            if not as_json:
                click.echo(f"{join_lines(spec.name)}: refused: {join_lines(error.what)}")
                click.echo(error.fix, err=True)
        else:
            digest, expected = checked.sha256, checked.expected
            result = VerifiedFile(spec.name, location, True, digest, expected, None)
            if not as_json:
                comparison = "as expected" if expected else "no expected value known"
                click.echo(f"{join_lines(spec.name)}: ok, sha256 {digest} ({comparison})")
        results.append(result)
    if as_json:
        print_json({"models": results})
    if not all(result.ok for result in results):
        ctx.exit(ExitCode.FAILED)


@models.command()
@click.argument("name", type=TEXT, required=False)
@as_json
def path(name: str | None, as_json: bool) -> None:
    """Check a model's file and print its path.

    Without NAME, prints the path of the models folder.
    """
    from etui.models.files import recorded_sha256, require

    config, catalogue = _load_catalogue()
    if name is None:
        folder = str(config.models_dir)
        click.echo(json.dumps({"models_dir": folder}) if as_json else folder, file=data_stream())
        return
    spec = catalogue.get(name)
    file = require(spec, config)
    if as_json:
        digest = recorded_sha256(spec, config)
        print_json({"name": spec.name, "path": str(file), "sha256": digest})
    else:
        click.echo(str(file), file=data_stream())


@models.command()
@as_json
def status(as_json: bool) -> None:
    """Show what keeping each model warm costs.

    Shows the joules of a load, the idle power with the model in memory and without, the break-even
    time T* (joules of a load divided by the difference of the two), how long keep_warm keeps the
    model, and whether the machine went back to cold after its last unload. Which models are in
    memory now is only known to the running app.
    """
    from etui.cli.model_status import read_status
    from etui.log.queries import LogReader

    config, catalogue = _load_catalogue()
    with LogReader(config) as log:
        document, known = read_status(log, config, catalogue)
    if as_json:
        print_json(document)
    else:
        _print_status(document, known)


def _print_status(document: Status, known: Sequence[ModelIdle]) -> None:
    from etui.runtime.keep_warm import (
        break_even_text,
        dated_unload_text,
        keep_text,
        load_text,
        power_text,
    )

    if known:
        head = ["MODEL", "LOAD", "IDLE LOADED", "IDLE COLD", "BREAK-EVEN", "KEPT", "LAST UNLOAD"]
        print_table(head, [
            [join_lines(idle.model), load_text(idle),
             power_text(idle.loaded_watts, idle.loaded_kind),
             power_text(idle.cold_watts, idle.cold_kind), break_even_text(idle), keep_text(idle),
             dated_unload_text(idle.last_unload)]
            for idle in known
        ])  # fmt: skip
    else:
        click.echo("no model was loaded or measured yet", err=True)
    if document.device is not None:
        since = "; a model was loaded since" if document.device.loaded_since else ""
        click.echo(f"after the last unload: {document.device.last_unload.text}{since}", err=True)
    for idle in known:
        if idle.setting == "auto":
            click.echo(f"{join_lines(idle.model)}: {idle.choice.why}", err=True)
    if any(idle.load is None for idle in known):
        click.echo("the next load of a model measures its joules and seconds", err=True)
    if known and known[0].cold_watts is None:
        click.echo("measure the cold idle power with: etui power idle", err=True)
    missing = [idle.model for idle in known if idle.loaded_watts is None]
    if missing:
        name = join_lines(missing[0])
        click.echo(
            f"a pause of 35 s after an answer in the app measures a model's idle power, and so "
            f"does: etui power idle --model {name}",
            err=True,
        )


def _load_catalogue() -> tuple[Config, Catalogue]:
    from etui.config.config import load_config

    config = load_config()
    return config, load_models(config)


def _print_facts(row: ModelRow, facts: ModelFacts, free_bytes: int, use: TunedUse | None) -> None:
    from etui.models.tuned import describe_use

    gguf, state = facts.gguf, _STATE[row.state]
    lines = [
        ("model", row.name),
        ("size", row.size),
        ("on disk", state if gguf is None else f"{state}, {row.path}"),
        *([("problem", row.problem)] if row.problem else []),
        (
            "file",
            f"{bytes_text(row.bytes)}, {_FITS[row.fits]}: {bytes_text(free_bytes)} free",
        ),
        ("sha256", facts.sha256 or _missing_hash_text(row)),
        ("context used", tokens_text(facts.context)),
        ("gpu layers", str(facts.gpu_layers)),
    ]
    if (threads := facts.threads) or facts.prefill_threads:
        prefill = facts.prefill_threads
        decode = "as in config.yaml" if threads is None else str(threads)
        lines.append(("threads", decode + (f", prefill {prefill}" if prefill else "")))
    if facts.batch_tokens:
        lines.append(("batch", count_text(facts.batch_tokens, "token")))
    if tags := facts.thinking:
        switch = f", switched by {tags.switch}" if tags.switch else ""
        lines.append(("thinking", f"{tags.open} ... {tags.close}{switch}"))
    if facts.draft:
        problem = f" (cannot be used: {facts.draft_problem})" if facts.draft_problem else ""
        lines.append(("draft model", facts.draft + problem))
    if facts.speculate:
        lines.append(("speculate", facts.speculate))
    if facts.draft_tokens:
        lines.append(("draft depth", count_text(facts.draft_tokens, "token")))
    if facts.sampling is not None:
        lines.append(("sampling", f"{_sampling_text(facts.sampling)} ({facts.sampling_from})"))
    if gguf is None:
        lines += [("source", source) for source in row.sources]
    else:
        template = gguf.chat_template
        lines += [
            ("architecture", gguf.architecture),
            ("parameters", f"{gguf.parameters:,}"),
            ("quantisation", gguf.quantisation),
            ("trained context", tokens_text(gguf.context)),
            ("layers", str(gguf.layers or UNKNOWN)),
            ("vocabulary", tokens_text(gguf.vocabulary)),
            (
                "KV cache",
                f"{bytes_text(gguf.kv_bytes)} at the context used ({facts.kv_type})",
            ),
            ("memory", f"about {bytes_text(gguf.memory_bytes)} with cache and buffers"),
            ("chat template", count_text(len(template), "character") if template else "none"),
        ]
    if use is not None:
        lines += zip(("tuned", *[""] * 99), describe_use(use), strict=False)
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        click.echo(f"{label:{width}}  {join_lines(text)}")
    if gguf is None:
        click.echo(f"pull it with: etui models pull {row.name}", err=True)
    if use is not None:
        click.echo(f"go back to models.yaml with: etui sweep --revert {row.name}", err=True)


def _sampling_text(sampling: ModelSampling) -> str:
    """Write the values that a model asks for: ``temperature 0.7, top_p 0.8; thinking: ...``."""
    from dataclasses import asdict

    values = {name: value for name, value in asdict(sampling).items() if name != "thinking"}
    given = ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)
    if sampling.thinking is not None:
        given += f"; thinking: {_sampling_text(sampling.thinking)}"
    return given or "the defaults"


def _missing_hash_text(row: ModelRow) -> str:
    if row.on_disk:
        return f"not computed yet; run: etui models verify {row.name}"
    return "fetched from the hub with the first download"
