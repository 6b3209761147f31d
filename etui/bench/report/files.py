"""Result files of a run as texts: summary, table of subjects, and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.bench.analysis.summary import Summary, summary_document
from etui.bench.analysis.summary_text import markdown, per_subject_csv
from etui.bench.report.energy_record import build_energy_record
from etui.bench.store.run_config import RunConfig
from etui.bench.store.run_folder import PER_SUBJECT, REPORT, SUMMARY
from etui.bench.store.sample import Sample
from etui.energy.energy_record import RECORD_FILE
from etui.text.codec import to_document

if TYPE_CHECKING:
    from etui.bench.report.questions_json import Texts

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
        run: Configuration of the run.
        samples: Answers in the order they were given; may be incomplete.
        summary: Summary of the samples.
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


def _to_json(value: object) -> str:
    return json.dumps(to_document(value), indent=2, ensure_ascii=False) + "\n"
