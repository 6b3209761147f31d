"""What ``etui bench`` does with recorded runs: reports, joined runs, comparisons, other formats."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.atomic import write_text
from etui.cli.output import json_option, print_json, print_notes, print_result, write_output
from etui.cli.param_types import TEXT, FiniteNumber, flag, number_option, path_option, text_option
from etui.config.config import Config, load_config, make_home
from etui.errors import ExitCode, UsageError, writing
from etui.extras import require_extra
from etui.measure.folder import check_new
from etui.stats.tests import holm
from etui.units import count_text

if TYPE_CHECKING:
    from etui.bench.compare import Comparison, Gate, System
    from etui.bench.difficulty import ModelOutcomes
    from etui.bench.folder import Recorded

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


def _read_answered(name: str, config: Config) -> Recorded:
    """Read a run that has answers; say what was changed in it outside etui."""
    from etui.bench.folder import find_run, read_run

    run = find_run(name, config)
    recorded = read_run(run)
    if not recorded.samples:
        raise UsageError(f"{run} has no answers yet", f"resume it: etui bench --resume {run}")
    print_notes(f"{run} was changed outside etui: {edit}" for edit in recorded.edited)
    return recorded


@click.command()
@click.argument("name", type=TEXT, metavar="RUN")
@path_option(
    "--figures",
    file_okay=False,
    metavar="DIR",
    help="Also write the figures as SVG and PDF into this folder.",
)
@flag("--markdown", "as_markdown", help="Print a summary in Markdown.")
@path_option(
    "--data",
    exists=True,
    metavar="DIR",
    help="Where the questions are now, if they have moved since the run.",
)
@path_option(
    "--redux",
    exists=True,
    dir_okay=False,
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
    from etui.bench.folder import MARKDOWN, REPORT
    from etui.bench.results import load_labels, load_precision, load_texts, result_files
    from etui.bench.summary import summarise

    config = load_config()
    recorded = _read_answered(name, config)
    run, design = recorded.folder, recorded.config.design is not None
    if figures is not None or design:
        require_extra("figures", "--figures" if figures else "the report of a design")
    with writing("the report", "copy the run to a writable folder", folder=run):
        no_texts = no_texts or design
        texts = None if no_texts else load_texts(recorded.config, config, data)
        if texts is None and not no_texts:
            print_notes(["texts of the questions not found; pass --data"])
        labels = load_labels(recorded.config, config, redux)
        summary = summarise(recorded.samples, recorded.config, labels, load_precision(run))
        files = result_files(recorded.config, recorded.samples, summary, texts)
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
    if as_markdown:
        click.echo(files[MARKDOWN], nl=False)
    else:
        click.echo(str(run / REPORT))
    if open_:
        click.launch(str((run / REPORT).resolve()))


def _write_design(run: Path, figures: Path | None) -> list[Path]:
    """Write the report of a design into its run, and copy the figures; returns the copies."""
    from etui.design.report import FIGURES, write_design_report

    drawn = [path for path in write_design_report(run, run) if path.parent == run / FIGURES]
    if figures is None:
        return []
    figures.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(path, figures / path.name)) for path in drawn]


@click.command()
@click.argument("runs", type=TEXT, nargs=-1, required=True, metavar="RUN RUN...")
@path_option("-o", "--out", metavar="DIR", help="Folder for the joined run.")
@flag("--json", "as_json", help="Print the summary as one JSON document.")
@flag("-q", "--quiet", help="Do not print notes.")
def merge(runs: tuple[str, ...], out: Path | None, as_json: bool, quiet: bool) -> None:
    """Join the runs of one plan into a new run: its parts, from other machines or other days.

    \b
    etui bench merge part-1 part-2 --out whole

    The runs must have the same questions, format, seed, arms and model files; versions and machines
    may differ, and are named. A question that several runs answered counts once, with the answer of
    the run that is given first. Runs may be unfinished, and may be joined themselves.

    Joules are given for each machine, and pooled only if all machines are equal: hardware,
    programs, settings and power channels. RUN is the run's folder, its id, or `last`.
    """  # noqa: D301
    from etui.bench.folder import RUN, find_run, new_run_id, read_run, runs_dir
    from etui.bench.merge import merge_runs, write_merged
    from etui.bench.summary import summary_document
    from etui.bench.summary_text import headline
    from etui.log.writer import TurnWriter

    config = load_config()
    make_home(config)
    folders = [find_run(text, config) for text in runs]
    if out is not None:
        check_new(out, RUN)
    found = [read_run(folder) for folder in folders]
    first = found[0].config
    run_id = new_run_id(first.suite, first.format, first.contenders, datetime.now())
    merged = merge_runs(found, run_id)
    log = TurnWriter(config, report=lambda text: click.echo(text, err=True))
    to = out or runs_dir(config) / run_id
    summary = write_merged(merged, to, config, log)
    print_result(summary_document(summary), [headline(summary)], as_json)
    if not quiet:
        print_notes((*merged.notes, *summary.warnings))
        click.echo(f"report: {to / 'report.html'}", err=True)


def _parse_licence(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not _LICENCE.fullmatch(value):
        shown = repr(value if len(value) <= 20 else f"{value[:20]}...")
        raise click.BadParameter(f"{shown} is not an SPDX identifier like CC-BY-4.0", ctx, param)
    return value


@click.command()
@click.argument("name", type=TEXT, metavar="RUN")
@path_option(
    "--to",
    file_okay=False,
    required=True,
    metavar="FOLDER",
    help="New folder, or that of an earlier publication of the same run.",
)
@text_option(
    "--license",
    "licence",
    default="CC-BY-4.0",
    show_default=True,
    callback=_parse_licence,
    metavar="SPDX",
    help="Licence of the results.",
)
@text_option(
    "--allow",
    multiple=True,
    metavar="WORD",
    help="A name or folder of this machine that is not private; repeatable.",
)
def publish(name: str, to: Path, licence: str, allow: tuple[str, ...]) -> None:
    """Write a run as a folder for a public git repository.

    It has the configuration, the results, the figures, every answer without its texts, the command
    that repeats the run, and checksums. Folders and names of this machine and its user, and serial
    numbers of GPUs, are removed, and the command refuses to write a file in which one is left.
    RUN is the run's folder, its id, or `last`.
    """
    from etui.bench.folder import find_run, read_run

    require_extra("figures", "`etui bench publish`")
    from etui.bench.difficulty import DIFFICULTY, read_difficulty
    from etui.bench.publish import find_private_data, publish_run
    from etui.bench.results import load_labels, load_precision
    from etui.bench.summary import summarise
    from etui.datasets.suites import is_named_suite

    config = load_config()
    run = find_run(name, config)
    recorded = read_run(run)
    private = find_private_data((config.home, config.models_dir, run))
    labels = load_labels(recorded.config, config)
    table = run / DIFFICULTY
    publish_run(
        recorded,
        to,
        summary=summarise(recorded.samples, recorded.config, labels, load_precision(run)),
        licence=licence,
        private=private,
        allowed=allow,
        difficulty=read_difficulty(table) if table.is_file() else None,
    )
    if not is_named_suite(suite := recorded.config.suite):
        print_notes([f"{suite} is your own file: its subjects and right letters are in the folder"])
    click.echo(str(to))


@click.command()
@click.argument("runs", type=TEXT, nargs=-1, required=True, metavar="RUN[:ARM]...")
@number_option(
    FiniteNumber(0, 100),
    "--max-regression",
    metavar="POINTS",
    help="Exit with code 4 if the measured accuracy (micro) drops by more than POINTS percentage "
    "points; its confidence interval is ignored.",
)
@click.option(
    "--subjects/--no-subjects", default=True, help="Print the table per subject, or omit it."
)
@json_option
def compare(
    runs: tuple[str, ...], max_regression: float | None, subjects: bool, as_json: bool
) -> int:
    """Compare runs, or the arms of a run, question by question.

    Everything is compared with the first RUN. Runs that share the same several arms are compared
    arm by arm. Only runs that ask the same questions in the same way can be compared. RUN is the
    run's folder, its id, or `last`.
    """
    from etui.bench import compare as comparing

    chosen, notes = comparing.read_systems(runs, load_config())
    pairs = comparing.choose_pairs(chosen)
    systems = [system for run in chosen for system in run]
    comparing.check_comparable(systems)
    notes += comparing.list_differences(systems)
    comparisons = _compare_pairs(pairs)
    mixtures = comparing.compare_with_mixtures(systems)
    gate = _check_gate(comparisons, max_regression)
    if as_json:
        print_json(comparing.comparison_document(comparisons, mixtures, notes, gate))
    else:
        for comparison in comparisons:
            lines = comparing.comparison_lines(comparison, several=len(comparisons) > 1)
            if subjects and len(comparison.subjects) > 1:
                lines += ["", *comparing.subject_lines(comparison)]
            click.echo("\n".join([*lines, ""]))
        for mixture in mixtures:
            click.echo(comparing.mixture_line(mixture))
    print_notes(notes)
    if gate is None or gate.met:
        return ExitCode.DONE
    lost = f"accuracy dropped by more than {max_regression:g} points"
    click.echo(f"etui: {', '.join(gate.failed)}: {lost}", err=True)
    return ExitCode.GATE


def _compare_pairs(pairs: Sequence[tuple[System, System]]) -> list[Comparison]:
    """Compare each pair; p-values are adjusted for the number of pairs (Holm)."""
    from etui.bench.compare import compare as compare_two

    found = [compare_two(first, second) for first, second in pairs]
    adjusted = holm([one.p_value for one in found])
    return [replace(one, p_holm=value) for one, value in zip(found, adjusted, strict=True)]


def _check_gate(comparisons: Iterable[Comparison], most: float | None) -> Gate | None:
    from etui.bench.compare import Gate

    if most is None:
        return None
    # A drop of exactly the limit passes, even if rounding makes it slightly larger.
    failed = tuple(one.second for one in comparisons if one.points_lost > most + 1e-9)
    return Gate(most, not failed, failed)


@click.command()
@click.argument("runs", nargs=-1, type=TEXT, metavar="[RUN]...")
@path_option(
    "--outcomes",
    "tables",
    multiple=True,
    metavar="FILE",
    help="Table subject,row,MODEL,MODEL,... of 0 and 1; repeatable.",
)
@path_option("-o", "--out", required=True, metavar="FILE", help="The table to write.")
def difficulty(runs: tuple[str, ...], tables: tuple[Path, ...], out: Path) -> None:
    """Make the table of difficulties that --difficulty reads, from runs.

    The difficulty of a question is the expected accuracy of a model on it, from the answers of the
    models in RUN (a folder, an id, or `last`) and in tables of outcomes. Use other models than the
    one that you will measure.

    \b
    etui bench difficulty last --outcomes other_models.csv -o difficulty.csv
    etui bench --suite mmlu --precision 3 --difficulty difficulty.csv --model qwen2.5-coder-0.5b
    """  # noqa: D301
    from etui.bench.difficulty import build_difficulty, collect_models, parse_difficulty

    if not runs and not tables:
        raise UsageError("no answers given", "name a run, or a table with --outcomes")
    config = load_config()
    models = []
    for name in runs:
        recorded = _read_answered(name, config)
        models += collect_models(recorded.config, recorded.samples, f"run {recorded.config.run_id}")
    models += [model for path in tables for model in _read_table(path)]
    text = build_difficulty(models)
    write_output(out, text, "use another file with --out")
    made = parse_difficulty(text, str(out))
    click.echo(
        f"{out}: {count_text(len(made.values), 'question')}, answered by "
        f"{count_text(max(made.models.values()), 'model')} at most",
        err=True,
    )


def _read_table(path: Path) -> list[ModelOutcomes]:
    from etui.bench.difficulty import DifficultySource, ModelOutcomes
    from etui.learning.outcomes import read_table

    graded = read_table(path, complete=True).graded
    keys = list(zip(graded.subjects, graded.rows, strict=True))
    return [
        ModelOutcomes(
            DifficultySource(name, None, f"table {path.name}"),
            dict(zip(keys, map(float, graded.correct[:, at]), strict=True)),
        )
        for at, name in enumerate(graded.arms)
    ]


@click.command()
@click.argument("run", type=TEXT, metavar="RUN[:ARM]")
@flag("--lm-eval", "lm_eval", help="Use the format of lm-evaluation-harness results.")
@path_option(
    "-o",
    "--output",
    metavar="FILE",
    help="Output file. For a folder, lm-eval's own file name is added. Default: standard output.",
)
def export(run: str, lm_eval: bool, output: Path | None) -> None:
    """Write a run's results in the form that lm-eval's viewers read.

    If the run has several arms, choose one with RUN:ARM. RUN is the run's folder, its id, or
    `last`.
    """
    from etui.bench.compare import read_systems
    from etui.bench.lm_eval import default_path, lm_eval_document

    if not lm_eval:
        raise UsageError("no export format given", "add it: etui bench export RUN --lm-eval")
    (systems,), notes = read_systems([run], load_config())
    print_notes(notes)
    if len(systems) > 1:
        arms = [system.name for system in systems]
        raise UsageError(
            f"{run} has the arms {', '.join(arms)}; a results file holds only one",
            f"choose one, for example {run}:{arms[0]}",
        )
    document = lm_eval_document(systems[0])
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    path = default_path(output, document) if output.is_dir() else output
    fix = "choose another file with --output"
    write_output(path, text, fix, make_folder=True, errors="surrogatepass")
    click.echo(str(path))
