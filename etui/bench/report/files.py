"""The files that a run comes to, as texts: summary, table per subject, and the reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.bench.analysis.summary import Summary
from etui.bench.analysis.summary_text import markdown, per_subject_csv
from etui.bench.store.run_config import RunConfig
from etui.bench.store.run_folder import PER_SUBJECT, REPORT, SUMMARY
from etui.bench.store.sample import Sample
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
    """Name -> text of each file that a run folder gets beside its samples.

    Args:
        run: The configuration.
        samples: In the order they were answered; they need not be all.
        summary: What they come to.
        texts: The questions (:func:`etui.bench.report.sources.texts_for`).
    """
    from etui.bench.report.page import render_page

    return {
        SUMMARY_FILE: json.dumps(to_document(summary), indent=2, ensure_ascii=False) + "\n",
        PER_SUBJECT_FILE: per_subject_csv(summary),
        PAGE_FILE: render_page(summary, run, samples, texts),
        MARKDOWN_FILE: markdown(summary, run),
    }
