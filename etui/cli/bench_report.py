"""``etui bench report``: write a run as a page, as Markdown, and as figures for a paper."""

from __future__ import annotations

from pathlib import Path

import click

from etui.cli.param_types import TEXT, flag


@click.command()
@click.argument("name", type=TEXT, metavar="RUN")
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write the figures as SVG and PDF into this folder.",
)
@flag("--markdown", "as_markdown", help="Print a summary in Markdown.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    help="Where the questions are now, if they have moved since the run.",
)
@click.option(
    "--redux",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="MMLU-Redux labels. Default: the file of labels next to the data, if there is one.",
)
@flag("--no-texts", help="Omit the texts of the questions from the page.")
@flag("--open", "open_", help="Open the page in the browser.")
def report(
    name: str,
    figures: Path | None,
    as_markdown: bool,
    data: Path | None,
    redux: Path | None,
    no_texts: bool,
    open_: bool,
) -> None:
    """Write a run's page, summary and table, and figures for a paper.

    The page works offline: it contains everything, including the texts of the questions. The
    report of a design (`etui bench --design`) has tables, figures and a verdict instead, and no
    texts. RUN is the run's folder, its id, or `last`.
    """
    from etui.atomic import write_text
    from etui.bench.folder import MARKDOWN, REPORT, find_run, read_run
    from etui.bench.results import load_labels, load_precision, load_texts, result_files
    from etui.bench.summary import summarise
    from etui.config.config import load_config
    from etui.errors import EtuiError, UsageError
    from etui.extras import require_extra

    config = load_config()
    run = find_run(name, config)
    recorded = read_run(run)
    if not recorded.samples:
        raise UsageError(f"{run} has no answers yet", f"resume it: etui bench --resume {run}")
    for edit in recorded.edited:
        click.echo(f"note: {run} was changed outside etui: {edit}", err=True)
    if figures is not None or recorded.config.design is not None:
        require_extra("figures", "--figures" if figures else "the report of a design")
    try:
        no_texts = no_texts or recorded.config.design is not None
        texts = None if no_texts else load_texts(recorded.config, config, data)
        if texts is None and not no_texts:
            click.echo("note: texts of the questions not found; pass --data", err=True)
        labels = load_labels(recorded.config, config, redux)
        summary = summarise(recorded.samples, recorded.config, labels, load_precision(run))
        files = result_files(recorded.config, recorded.samples, summary, texts)
        design = recorded.config.design is not None
        for file, text in files.items():
            # The report of a design has a page and a Markdown of its own.
            if not design or file not in (REPORT, MARKDOWN):
                write_text(run / file, text, errors="surrogatepass")
        drawn: list[Path] = []
        if design:
            drawn = _write_design(run, figures)
            files[MARKDOWN] = (run / MARKDOWN).read_text(encoding="utf-8")
        elif figures is not None:
            from etui.bench.figures import write_figures

            drawn = write_figures(figures, recorded.config, recorded.samples)
        for path in drawn:
            click.echo(str(path), err=as_markdown)
    except OSError as error:
        raise EtuiError(
            f"cannot write the report: {error.strerror or error}: {error.filename or run}",
            "copy the run to a writable folder",
        ) from error
    if as_markdown:
        click.echo(files[MARKDOWN], nl=False)
    else:
        click.echo(str(run / REPORT))
    if open_:
        click.launch(str((run / REPORT).resolve()))


def _write_design(run: Path, figures: Path | None) -> list[Path]:
    """Write the report of a design into its run, and copy the figures; returns the copies."""
    import shutil

    from etui.design.report import FIGURES, write_design_report

    drawn = [path for path in write_design_report(run, run) if path.parent == run / FIGURES]
    if figures is None:
        return []
    figures.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(path, figures / path.name)) for path in drawn]
