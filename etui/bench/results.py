"""Result files of a run, and the data that they need besides the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from etui.bench.config import RunConfig
from etui.bench.energy_record import build_energy_record
from etui.bench.folder import MARKDOWN, PER_SUBJECT, REPORT, SUMMARY, RunFolder
from etui.bench.page import Texts, render_page
from etui.bench.precision import RunPrecision
from etui.bench.sample import Sample
from etui.bench.summary import Summary, summarise, summary_document
from etui.bench.summary_text import markdown, per_subject_csv
from etui.codec import from_document, to_document
from etui.config.config import Config
from etui.datasets.mmlu import FILE_NAME, read_labels, suite_dir
from etui.datasets.suites import SAMPLE, is_named_suite
from etui.energy.energy_record import RECORD_FILE
from etui.errors import EtuiError


def load_texts(run: RunConfig, config: Config, data: Path | None = None) -> Texts | None:
    """Load the questions of a run if exactly the same files are on this machine.

    Nothing is downloaded.

    Args:
        data: Current path of the data; None uses the path of the run.

    Returns:
        (subject, row) -> question; None if the files are missing or differ.
    """
    from etui.datasets.suites import SAMPLE, is_named_suite, load_suite

    place = data or _find_data(run, config)
    # Without a place, a suite with a name would be downloaded.
    downloads = is_named_suite(run.suite) and run.suite != SAMPLE
    if downloads and (place is None or not place.exists()):
        return None
    try:
        if downloads:
            suite = load_suite(run.suite, run.split, place, config)
        else:
            suite = load_suite(str(place or run.suite), run.split, None, config)
    except EtuiError:
        return None  # the report is useful without texts too
    if suite.sha256 != run.data_sha256:
        return None
    return {
        (question.subject, question.row): question
        for rows in suite.questions.values()
        for question in rows
    }


def load_labels(
    run: RunConfig, config: Config, redux: Path | None = None
) -> dict[str, dict[int, str]] | None:
    """Read the labels of MMLU-Redux from a given file, or from the data folder if it has them.

    Args:
        redux: File with the labels; None searches the data folder.

    Raises:
        InvalidFile: The given file contains no labels.
        OSError: The given file cannot be read.
    """
    if redux is not None:
        return read_labels(redux)
    place = _find_data(run, config)
    found = place / FILE_NAME if place is not None and place.is_dir() else None
    if found is None or not found.is_file():
        return None
    try:
        return read_labels(found)
    except (EtuiError, OSError):
        return None  # the labels were not requested, and the run itself is valid


def _find_data(run: RunConfig, config: Config) -> Path | None:
    if run.data_path is not None:
        return Path(run.data_path)
    if run.suite == SAMPLE or not is_named_suite(run.suite):
        return None
    return suite_dir(config, run.suite)


def load_precision(folder: Path) -> RunPrecision | None:
    """Load the precision of a run from its last summary; None if it has none.

    The interim checks of a run belong to it: they cannot be computed again without its questions.
    """
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        found = document.get("precision")
        return None if found is None else from_document(RunPrecision, found)
    except (OSError, ValueError, AttributeError):
        return None  # the report is written without it


def result_files(
    run: RunConfig,
    samples: Sequence[Sample],
    summary: Summary,
    texts: Texts | None = None,
) -> dict[str, str]:
    """Build the result files of a run folder, its energy record included.

    Args:
        samples: Answers in the order they were given; may be incomplete.
        texts: Texts of the questions (:func:`etui.bench.results.load_texts`).

    Returns:
        File name -> text.
    """
    return {
        SUMMARY: _to_json(summary_document(summary)),
        PER_SUBJECT: per_subject_csv(summary),
        REPORT: render_page(summary, run, samples, texts),
        MARKDOWN: markdown(summary, run),
        RECORD_FILE: _to_json(build_energy_record(run, samples, summary)),
    }


def write_results(
    folder: RunFolder,
    config: RunConfig,
    samples: Sequence[Sample],
    settings: Config,
    precision: RunPrecision | None = None,
) -> Summary:
    """Write the result files of a run into its folder, with the texts of its questions.

    Raises:
        EtuiError: A file cannot be written.
    """
    labels, texts = load_labels(config, settings), load_texts(config, settings)
    summary = summarise(samples, config, labels, precision)
    for name, text in result_files(config, samples, summary, texts).items():
        folder.write(name, text)
    return summary


def _to_json(value: object) -> str:
    return json.dumps(to_document(value), indent=2, ensure_ascii=False) + "\n"
