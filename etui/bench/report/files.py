"""Result files of a run: summary, table of subjects, energy record and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.bench.analysis.precision import Precision
from etui.bench.analysis.summary import Summary, summarise, summary_document
from etui.bench.analysis.summary_text import markdown, per_subject_csv
from etui.bench.report.energy_record import build_energy_record
from etui.bench.store.run_config import RunConfig
from etui.bench.store.run_folder import PER_SUBJECT, REPORT, SUMMARY, RunFolder
from etui.bench.store.sample import Sample
from etui.codec import to_document
from etui.energy.energy_record import RECORD_FILE

if TYPE_CHECKING:
    from etui.bench.report.questions_json import Texts
    from etui.config.config import Config

SUMMARY_FILE = SUMMARY
PER_SUBJECT_FILE = PER_SUBJECT
PAGE_FILE = REPORT
MARKDOWN_FILE = "report.md"


def result_files(
    run: RunConfig,
    samples: Sequence[Sample],
    summary: Summary,
    texts: Texts | None = None,
) -> dict[str, str]:
    """Build the result files of a run folder, its energy record included.

    Args:
        samples: Answers in the order they were given; may be incomplete.
        texts: Texts of the questions (:func:`etui.bench.report.sources.load_texts`).

    Returns:
        File name -> text.
    """
    from etui.bench.report.page import render_page

    return {
        SUMMARY_FILE: _to_json(summary_document(summary)),
        PER_SUBJECT_FILE: per_subject_csv(summary),
        PAGE_FILE: render_page(summary, run, samples, texts),
        MARKDOWN_FILE: markdown(summary, run),
        RECORD_FILE: _to_json(build_energy_record(run, samples, summary)),
    }


def write_results(
    folder: RunFolder,
    config: RunConfig,
    samples: Sequence[Sample],
    settings: Config,
    precision: Precision | None = None,
) -> Summary:
    """Write the result files of a run into its folder, with the texts of its questions.

    Args:
        precision: What its confidence sequences know; None if no precision was asked for.

    Raises:
        EtuiError: A file cannot be written.
    """
    from etui.bench.report.sources import load_labels, load_texts

    labels, texts = load_labels(config, settings), load_texts(config, settings)
    summary = summarise(samples, config, labels, precision)
    for name, text in result_files(config, samples, summary, texts).items():
        folder.write(name, text)
    return summary


def _to_json(value: object) -> str:
    return json.dumps(to_document(value), indent=2, ensure_ascii=False) + "\n"
