"""What a report takes from outside its run: the questions' texts, and labels of their quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from etui.bench.store.run_config import RunConfig
from etui.datasets.mmlu import FILE_NAME, read_labels
from etui.errors import EtuiError

if TYPE_CHECKING:
    from etui.bench.report.questions_json import Texts
    from etui.config.config import Config


def texts_for(run: RunConfig, config: Config, data: Path | None = None) -> Texts | None:
    """The questions of a run, where the very files it was made of are on this machine.

    Nothing is downloaded for it.

    Args:
        run: The configuration of the run.
        config: Names ``ETUI_HOME``.
        data: Where the data lie now; None looks where the run had them.
    """
    from etui.datasets.suites import MMLU, load_suite

    place = data or _place(run, config)
    if run.suite == MMLU and (place is None or not place.exists()):
        return None
    try:
        if run.suite == MMLU:
            suite = load_suite(MMLU, run.split, place, config)
        else:
            suite = load_suite(str(place or run.suite), run.split, None, config)
    except EtuiError:
        return None  # a report without texts is still a report
    if suite.sha256 != run.data_sha256:
        return None
    return {
        (question.subject, question.row): question
        for rows in suite.questions.values()
        for question in rows
    }


def labels_for(
    run: RunConfig, config: Config, redux: Path | None = None
) -> dict[str, dict[int, str]] | None:
    """The labels of MMLU-Redux: those of a file, else what lies beside the data, if it is one.

    Raises:
        InvalidFile: The file holds no labels.
        OSError: A file that was named cannot be read.
    """
    if redux is not None:
        return read_labels(redux)
    place = _place(run, config)
    found = place / FILE_NAME if place is not None and place.is_dir() else None
    if found is None or not found.is_file():
        return None
    try:
        return read_labels(found)
    except (EtuiError, OSError):
        return None  # nobody asked for it, and the run itself is sound


def _place(run: RunConfig, config: Config) -> Path | None:
    from etui.datasets.download import mmlu_dir

    if run.data_path is not None:
        return Path(run.data_path)
    return mmlu_dir(config) if run.suite == "mmlu" else None
