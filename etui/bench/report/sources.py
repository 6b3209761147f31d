"""Data of a report besides the answers: question texts, MMLU-Redux labels, the precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.analysis.precision import Precision
from etui.bench.store.run_config import RunConfig
from etui.bench.store.run_folder import SUMMARY
from etui.codec import from_document
from etui.datasets.mmlu import FILE_NAME, read_labels
from etui.errors import EtuiError

if TYPE_CHECKING:
    from etui.bench.report.questions_json import Texts
    from etui.config.config import Config


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
    from etui.datasets.download import suite_dir
    from etui.datasets.suites import SAMPLE, is_named_suite

    if run.data_path is not None:
        return Path(run.data_path)
    if run.suite == SAMPLE or not is_named_suite(run.suite):
        return None
    return suite_dir(config, run.suite)


def load_precision(folder: Path) -> Precision | None:
    """Load the precision of a run from its last summary; None if it has none.

    The looks of a run belong to it: they cannot be computed again without its questions.
    """
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        found = document.get("precision")
        return None if found is None else from_document(Precision, found)
    except (OSError, ValueError, AttributeError):
        return None  # the report is written without it
