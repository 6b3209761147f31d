"""``etui models``: list, download, verify and describe models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.cli.output import (
    find_width,
    json_option,
    load_models,
    open_watch,
    print_json,
    print_lines,
    print_notes,
    print_result,
    print_table,
)
from etui.cli.param_types import TEXT, WholeNumber, flag, number_option, text_option
from etui.cli.streams import data_stream
from etui.codec import to_document
from etui.config.config import Config, load_config
from etui.errors import EtuiError, ExitCode, Stopped, UsageError
from etui.measure.progress import Progress as Shown
from etui.measure.progress import Watch
from etui.models.catalogue import Catalogue
from etui.models.files import file_size, model_path, read_record, recorded_sha256, require
from etui.models.files import verify as verify_model
from etui.models.found import TITLES
from etui.models.spec import STARTER, PathSource
from etui.models.tuned import describe_values
from etui.text import join_lines
from etui.units import bytes_text, seconds_text

if TYPE_CHECKING:
    from etui.models.download import Progress
    from etui.runtime.user_models import NewModel, Removed, UserModels


_WORDS = {"wait": "waiting", "download": "pulling", "verify": "checking"}


@click.group()
def models() -> None:
    """List, find, pull, check, compare and remove models.

    Models come from the shipped models.yaml, your own models.yaml in ETUI_HOME, and every GGUF
    file in the models folder.
    """


@models.command("list")
@flag("--found", help="List the models of other programs instead.")
@json_option
def list_(found: bool, as_json: bool) -> None:
    """List all models and whether they are on disk and fit in memory.

    Models are grouped by the memory that they need with their whole context. TOK/S and J/TOKEN are
    those of decode, measured here or (≈) predicted by what was. A file that cannot be used is
    refused, with the reason.
    With `backends` in config.yaml each of them is asked, for at most two seconds, how fast it
    answers and what it serves. What a model has answered and spent, by the log, is below its line.

    --found lists what Ollama, LM Studio, llama.cpp and the cache of the Hugging Face hub keep on
    this machine. `etui models pull` uses one of them in place; nothing of theirs is changed.
    """
    from etui.cli import model_facts, model_tables
    from etui.log.model_usage import build_document, read_model_usage
    from etui.log.queries import LogReader
    from etui.log.text import format_usage
    from etui.runtime.measure_memory import predict_entry, read_machine
    from etui.runtime.remote_models import probe_backends

    config, catalogue = _load_catalogue()
    if found:
        _list_found(catalogue, as_json)
        return
    probed = probe_backends(config)
    with LogReader(config) as log:
        machine = read_machine(log, config, catalogue)
        rows = [
            model_facts.build_model_row(
                spec, config, predict_entry(log, spec, config, machine), probed
            )
            for spec in catalogue
        ]
        usage = read_model_usage(log)
    free = machine.ram_bytes
    if as_json:
        print_json({
            "models_dir": str(config.models_dir),
            "free_memory_bytes": None if free is None else int(free),
            "models": [to_document(row) | {"usage": build_document(usage.get(row.name, {}))}
                       for row in rows],
            **({"backends": list(probed.values())} if probed else {}),
        })  # fmt: skip
        return
    rows.sort(key=lambda row: row.group[0])
    width = find_width()
    first, *lines = model_facts.format_models(rows, width)
    click.echo(first)
    for (_, title), group in groupby(zip(rows, lines, strict=True), lambda pair: pair[0].group):
        click.echo(f"\n{title}:")
        for row, line in group:
            click.echo(line)
            print_lines(model_tables.fold(row.problem, width, "  ") if row.problem else ())
            if row.tuned_by and (use := catalogue.tuned.get(row.name)):
                print_lines(model_tables.fold(f"tuned: {describe_values(use.values)}", width, "  "))
            if row.name in usage:
                print_lines(model_tables.fold(format_usage(usage[row.name]), width, "  "))
    print_lines(model_facts.format_backends(tuple(probed.values()), catalogue), err=True)
    click.echo(f"models folder {config.models_dir}; {bytes_text(free)} of memory free", err=True)


def _list_found(catalogue: Catalogue, as_json: bool) -> None:
    from etui.runtime.user_models import open_stores

    stores = open_stores()
    models = stores.find()
    used = {
        source.path: spec.name
        for spec in catalogue
        for source in spec.sources
        if isinstance(source, PathSource)
    }
    if as_json:
        print_json({
            "found": [asdict(model) | {"path": str(model.path), "entry": used.get(model.path)}
                      for model in models],
            "folders": [{"program": program, "path": str(folder), "exists": folder.is_dir()}
                        for program, folder in stores.folders],
        })  # fmt: skip
        return
    if models:
        print_table(["NAME", "SIZE", "QUANTISATION", "USABLE", "FILE"], [
            [join_lines(model.name), bytes_text(model.size_bytes), model.quantisation or "–",
             f"no: {model.problem}" if model.problem
             else f"in use as {used[model.path]}" if model.path in used else "yes",
             join_lines(str(model.path))]
            for model in models
        ])  # fmt: skip
        click.echo("use one where it is, with: etui models pull NAME", err=True)
    for program, folder in stores.folders:
        if folder.is_dir() or not models:
            there = "" if folder.is_dir() else " (not there)"
            click.echo(f"{TITLES[program]}: {folder}{there}", err=True)


@models.command()
@click.argument("name", type=TEXT)
@json_option
def info(name: str, as_json: bool) -> None:
    """Show a model's settings and the facts in its GGUF header.

    Of a repository (`OWNER/REPO`), show what it offers: the quantisations, their sizes, and what
    each would cost here, as `etui models search` does.

    The header is shown if the model is on disk, and what it has answered and spent by the log.
    Settings that `etui sweep --apply` chose are shown with what they save, and whether they are
    used. The backend of a remote model is asked.
    """
    from etui.cli import model_facts, model_tables
    from etui.log.model_usage import build_document, read_model_usage
    from etui.log.queries import LogReader
    from etui.runtime.measure_memory import predict_entry, read_machine
    from etui.runtime.remote_models import probe_backends
    from etui.runtime.search_models import price_repository
    from etui.runtime.user_models import find_repository

    config, catalogue = _load_catalogue()
    if name not in catalogue and (repository := find_repository(name)) is not None:
        priced = price_repository(repository, config)
        document = to_document(repository) | {"priced": priced.repositories[0].quantisations}
        print_result(
            document, model_tables.format_repository(repository, priced, find_width()), as_json
        )
        return
    spec = catalogue.get(name)
    with LogReader(config) as log:
        machine = read_machine(log, config, catalogue)
        prediction = predict_entry(log, spec, config, machine)
        usage = read_model_usage(log).get(spec.name, {})
    asked = {spec.backend: config.backends[spec.backend]} if spec.backend else {}
    found = probe_backends(replace(config, backends=asked))
    row = model_facts.build_model_row(spec, config, prediction, found)
    facts = model_facts.read_model_facts(spec, config, catalogue)
    if as_json:
        document = to_document(row) | model_facts.build_facts_document(facts)
        print_json(document | {"usage": build_document(usage)})
    elif spec.backend is not None:
        backend = config.backends[spec.backend]
        print_lines(model_facts.format_remote_facts(row, facts, backend, found, usage))
    else:
        print_lines(model_facts.format_facts(row, facts, machine, usage))
        if facts.gguf is None:
            click.echo(f"pull it with: etui models pull {row.name}", err=True)
        if facts.tuned is not None:
            click.echo(f"go back to models.yaml with: etui sweep --revert {row.name}", err=True)


@models.command()
@click.argument("words", type=TEXT, metavar="WORDS...", nargs=-1, required=True)
@number_option(
    WholeNumber(1, 50),
    "-n",
    "--limit",
    default=5,
    show_default=True,
    help="Most repositories, those with most downloads.",
)
@flag("--fits", help="Show only what fits into the free memory.")
@json_option
def search(words: tuple[str, ...], limit: int, fits: bool, as_json: bool) -> int:
    """Search the Hugging Face hub, with what each model would cost here.

    Shown are the repositories of GGUF files that have the WORDS in their names, and of every
    quantisation its size, the memory that it needs with its context, whether that is free, and the
    tok/s and joules per token to expect of its decode (≈, with their uncertainty), predicted by
    what was measured on this machine. Of a mixture the experts that a token uses count. `*` is what
    a pull takes without a choice. No more than the start of one file of a repository is downloaded.

    Without the hub, shows what matches in the catalogue and on this machine. HF_ENDPOINT names
    another hub.
    """
    from etui.cli import model_tables
    from etui.runtime.search_models import search_models

    found = search_models(load_config(), " ".join(words), limit)
    if fits:
        found = found.only_fitting()
    if found.problem:
        click.echo(f"etui: {found.problem}\n{found.fix}", err=True)
    print_result(found, model_tables.format_search(found, find_width()), as_json)
    if not as_json and found.repositories:
        click.echo("pull one with: etui models pull OWNER/REPO:QUANTISATION", err=True)
    elif not as_json and not found.problem:
        kind = "model that fits" if fits else "GGUF model"
        click.echo(f"the hub has no {kind} with these words in its name", err=True)
    return ExitCode.FAILED if found.problem else ExitCode.DONE


@models.command()
@click.argument("names", type=TEXT, metavar="[NAME]...", nargs=-1)
@text_option("--name", "entry_name", metavar="NAME", help="Name of the new model.")
@text_option(
    "--adapter", "adapters", metavar="FILE[:SCALE]", multiple=True,
    help="Add a model with this LoRA adapter.",
)  # fmt: skip
@flag("-q", "--quiet", help="Show no progress.")
@json_option
def pull(
    names: tuple[str, ...],
    entry_name: str | None,
    adapters: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Download models; without a NAME, the starter model.

    NAME is a model of `etui models list`, a repository of the Hugging Face hub
    (`hf.co/OWNER/REPO`, `OWNER/REPO:Q4_K_M`), the https address of a GGUF file, its path on this
    machine, or a name of `etui models list --found`. A model that is new gets an entry in your
    models.yaml; a file on this machine is used where it is.

    An interrupted download resumes where it stopped. The sha256 of every file is checked. Without
    a quantisation, that is Q4_K_M, else Q8_0, else the smallest of at least 4 bits.

    --adapter, which may be repeated, adds a further model: NAME with the adapters applied.
    """
    from etui.runtime.user_models import open_user_models, parse_adapter

    config, catalogue = _load_catalogue()
    parsed = [parse_adapter(text) for text in adapters]
    if (entry_name is not None or parsed) and len(names) != 1:
        option = "--name" if entry_name is not None else "--adapter"
        fix = (
            "pull the models one by one" if names else f"write: etui models pull NAME {option} ..."
        )
        raise UsageError(f"{option} is for one new model", fix)
    models = open_user_models(config, catalogue)
    own_name = "" if parsed else entry_name or ""
    found = [models.find(text, own_name) for text in dict.fromkeys(names or (STARTER,))]
    if own_name and found[0].is_known and found[0].spec.name != own_name:
        raise UsageError(f"{names[0]} has a name already: {found[0].spec.name}", "leave --name out")
    done: list[dict[str, Any]] = []
    for new in found:
        spec = new.spec
        if spec.backend is not None:
            click.echo(
                f"{spec.name}: nothing to pull, the backend {spec.backend} serves it", err=True
            )
            continue
        if not quiet:
            print_lines(map(join_lines, new.notes), err=True)
        path = _pull(models, new, config, names, quiet=quiet)
        if parsed and new is found[0]:
            found.append(models.adapt(spec, parsed, entry_name or ""))
        size, digest = file_size(path), recorded_sha256(spec, config)
        facts = {"name": spec.name, "path": str(path), "bytes": size, "sha256": digest}
        done.append(facts | {"added": not new.is_known, "notes": new.notes})
        if not as_json:
            click.echo(str(path), file=data_stream())
        if not quiet:
            record = read_record(spec.name, config.models_dir)
            if record is not None and record.pinned:
                text = f"is on disk: {bytes_text(size)}, checked by the sha256 of the hub"
            elif new.is_checked:
                text = f"is on disk and checked: {bytes_text(size)}"
            else:
                text = f"is on disk: {bytes_text(size)}, sha256 {digest} (none to compare with)"
            click.echo(f"{spec.name} {text}", err=True)
            if not new.is_known:
                click.echo(f"added {spec.name} to {config.models_file}; ask it with: "
                           f"etui ask --model {spec.name}", err=True)  # fmt: skip
    if as_json:
        print_json({"models": done})


def _pull(
    models: UserModels, new: NewModel, config: Config, names: tuple[str, ...], *, quiet: bool
) -> Path:
    from etui.models.download import kept_bytes

    try:
        with show_progress(quiet=quiet) as progress:
            return models.add(new, progress)
    except KeyboardInterrupt:
        kept = kept_bytes(new.spec, config)
        raise Stopped(
            f"stopped; {bytes_text(kept)} of {new.spec.name} kept",
            f"resume with: etui models pull {' '.join(names) or new.spec.name}",
        ) from None


@models.command()
@click.argument("source", type=TEXT, metavar="FILE_OR_URL")
@text_option("--sha256", metavar="HEX", help="Hash that the release states: another is refused.")
@flag("--yes", help="Do not ask; needs --sha256.")
@json_option
def update(source: str, sha256: str | None, yes: bool, as_json: bool) -> None:
    """Take the entries of a newer release, without updating etui.

    FILE_OR_URL is the models.yaml of a release. Its sha256 and every entry that is new or changed
    are shown, and nothing is written before you agree. Your own entries stay in place of those.
    --json without --yes only shows.
    """
    from etui.cli import model_facts
    from etui.models.update import read_update

    if yes and not sha256:
        raise UsageError("--yes needs --sha256", "name the hash that the release states")
    config, _ = _load_catalogue()
    found = read_update(source, sha256 or "", config)
    if not as_json:
        print_lines(model_facts.format_update(found))
        if not sha256:
            click.echo("compare the sha256 with the one that the release states", err=True)
    accepted = yes or (not as_json and click.confirm("Use this catalogue?", err=True))
    if accepted:
        found.accept(config)
    if as_json:
        document = {"released": found.released, "sha256": found.sha256, "accepted": accepted}
        added = [spec.name for spec in found.added]
        print_json(document | {"added": added, "changed": found.changed, "same": found.same})
    else:
        done = f"written to {config.catalogue_file}" if accepted else "nothing is written"
        click.echo(done, err=True)


@models.command()
@click.argument("names", type=TEXT, metavar="NAME...", nargs=-1, required=True)
@flag("--dry-run", help="Only show what would be freed, and what names the models.")
@json_option
def rm(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove models from this machine.

    Deletes the files that etui pulled, and your entries in models.yaml. A file that is used in
    place, that another model uses too, or that you put into the models folder, stays as it is.
    Shows how much space that frees, and which policies, arms and settings still name the models.
    """
    from etui.runtime.user_models import open_user_models

    config, catalogue = _load_catalogue()
    models = open_user_models(config, catalogue)
    specs = [catalogue.get(name) for name in dict.fromkeys(names)]
    removed = [models.remove(spec, dry_run=dry_run) for spec in specs]
    lines = (line for one in removed for line in _removed_lines(one, dry_run=dry_run))
    print_result({"dry_run": dry_run, "models": removed}, lines, as_json)


def _removed_lines(removed: Removed, *, dry_run: bool) -> Iterator[str]:
    frees, removes = ("would free", "would remove") if dry_run else ("freed", "removed")
    parts = [
        f"{frees} {bytes_text(removed.freed_bytes)}" if removed.freed_bytes else "",
        f"{removes} its entry from models.yaml" if removed.forgotten else "",
        f"its file stays ({removed.kept_why}): {removed.kept_path}" if removed.kept_path else "",
    ]
    done = [part for part in parts if part] or ["there is nothing to remove"]
    yield f"{join_lines(removed.name)}: {join_lines(', '.join(done))}"
    for place, what in removed.named_by.items():
        yield join_lines(f"  still named by {place}: {', '.join(what)}")


@models.command()
@click.argument("names", type=TEXT, metavar="NAME NAME...", nargs=-1, required=True)
@json_option
def compare(names: tuple[str, ...], as_json: bool) -> None:
    """Compare models side by side, each with the first.

    Quantisations or any other models: by their curves at the same lengths, and by the newest bench
    run in which they answered the same questions. A difference is claimed only if its interval at
    95 % shows it. What was not measured is listed with the command that measures it.
    """
    from etui.bench.model_comparison import compare_models
    from etui.cli import model_tables
    from etui.log.queries import LogReader

    config, catalogue = _load_catalogue()
    specs = [catalogue.get(name) for name in dict.fromkeys(names)]
    with LogReader(config) as log:
        found = compare_models(specs, config, log)
    print_result(
        model_tables.build_comparison(found), model_tables.format_comparison(found), as_json
    )
    if not as_json:
        print_notes(map(join_lines, found.notes))


@models.command()
@click.argument("names", type=TEXT, metavar="[NAME]...", nargs=-1)
@json_option
def verify(names: tuple[str, ...], as_json: bool) -> int:
    """Check the header and the sha256 of model files.

    Without a NAME, checks every model on disk. Files are read in full.
    """
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
    results: list[dict[str, Any]] = []
    for spec in specs:
        location = str(model_path(spec, config)) if spec.backend is None else ""
        try:
            checked = verify_model(spec, config)
        except EtuiError as error:
            result = {"sha256": None, "expected": spec.sha256, "error": error.what}
            if not as_json:
                click.echo(f"{join_lines(spec.name)}: refused: {join_lines(error.what)}")
                click.echo(error.fix, err=True)
        else:
            digest, expected = checked.sha256, checked.expected
            result = {"sha256": digest, "expected": expected, "error": None}
            if not as_json:
                comparison = "as expected" if expected else "no expected value known"
                click.echo(f"{join_lines(spec.name)}: ok, sha256 {digest} ({comparison})")
        is_good = result["error"] is None
        results.append({"name": spec.name, "path": location, "ok": is_good} | result)
    if as_json:
        print_json({"models": results})
    return ExitCode.DONE if all(result["ok"] for result in results) else ExitCode.FAILED


@models.command()
@click.argument("name", type=TEXT, required=False)
@json_option
def path(name: str | None, as_json: bool) -> None:
    """Check a model's file and print its path.

    Without NAME, prints the path of the models folder.
    """
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
@json_option
def status(as_json: bool) -> None:
    """Show what keeping each model warm costs.

    Shows the joules of a load, the idle power with the model in memory and without, the break-even
    time T* (joules of a load divided by the difference of the two), how long keep_warm keeps the
    model, and whether the idle power after its last unload was that without a model. Which models
    are in memory now is only known to the running app.
    """
    from etui.cli.model_status import print_status, read_status
    from etui.log.queries import LogReader

    config, catalogue = _load_catalogue()
    with LogReader(config) as log:
        document, known = read_status(log, config, catalogue)
    if as_json:
        print_json(document)
    else:
        print_status(document, known)


def _load_catalogue() -> tuple[Config, Catalogue]:
    config = load_config()
    return config, load_models(config)


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that takes the progress of ``pull``; ``quiet`` shows failures only."""
    with open_watch(texts=not quiet) as watch:
        yield _PullProgress(watch, quiet).show


@dataclass(slots=True)
class _PullProgress:
    """Shows a line for each step of a pull, and how far it is."""

    watch: Watch
    quiet: bool
    step: tuple[str, str] = ("", "")  # The model, and what is done with it
    begun: tuple[float, int] = (0.0, 0)  # When the step began, and at how many bytes

    def show(self, progress: Progress) -> None:
        """Show the progress of a pull."""
        text, done = f"{progress.model}: {progress.note}", progress.done_bytes
        if progress.step == "failed":
            if self.quiet:
                click.echo(text, err=True)
            self.watch(Shown(text))
            return
        if self.step != (progress.model, progress.step):
            self.step, self.begun = (progress.model, progress.step), (time.monotonic(), done)
            resumed = progress.step == "download" and done
            more = f" (resuming at {bytes_text(done)})" if resumed else ""
            self.watch(Shown(f"{_WORDS[progress.step]} {text}{more}"))
        total = progress.total_bytes or 0
        if total:
            parts = [f"{progress.model}: {bytes_text(done)} of {bytes_text(total)}"]
            seconds = time.monotonic() - self.begun[0]
            speed = (done - self.begun[1]) / seconds if seconds > 1 else 0.0
            if speed > 0:
                parts.append(f"{bytes_text(round(speed))}/s")
                parts.append(f"{seconds_text((total - done) / speed)} left")
            self.watch(Shown(" · ".join(parts), min(done, total), total))
