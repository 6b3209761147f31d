"""The precision of a run in the summary, in words and on the page."""

from __future__ import annotations

import json

import pytest

from etui.bench.config import BenchPrecision
from etui.bench.folder import SUMMARY
from etui.bench.precision import (
    RunPrecision,
    SystemPrecision,
    describe_expectation,
    describe_precision,
    predict_questions,
)
from etui.bench.results import load_precision, result_files
from etui.bench.summary import Summary, summarise, summary_document
from etui.bench.summary_text import headline, markdown
from etui.codec import from_document
from tests.bench import synthetic

RUN = synthetic.config(
    arms=("direct", "think"),
    precision=BenchPrecision(3.0, "accuracy"),
    drawn=dict.fromkeys(synthetic.config().drawn, 100),
)
ROWS = synthetic.samples(synthetic.config(arms=("direct", "think")))


def known(value=0.41, half=0.03, questions=570, reached=True, **more) -> SystemPrecision:
    return SystemPrecision(value, value - half, value + half, half, reached, questions, 520, **more)


def precision(**changes) -> RunPrecision:
    given = {
        "points": 3.0,
        "of": "accuracy",
        "method": "m",
        "reached": True,
        "questions": 570,
        "population": 5700,
        "looks": (100, 570),
        "systems": {"direct": known(), "think": known(0.5)},
        "differences": {"think": 310},
    }
    return RunPrecision(**{**given, **changes})


def test_a_run_that_was_precise_is_complete():
    summary = summarise(ROWS, RUN, None, precision())
    assert summary.complete
    assert summary.questions == 570
    assert not [text for text in summary.warnings if "questions answered" in text]
    unfinished = summarise(ROWS, RUN, None, precision(reached=False))
    assert not unfinished.complete
    assert unfinished.questions == 5700


def test_the_summary_has_a_precision_only_if_one_was_asked_for(tmp_path):
    plain = summary_document(summarise(ROWS, RUN))
    assert "precision" not in plain
    made = summarise(ROWS, RUN, None, precision())
    files = result_files(RUN, ROWS, made)
    document = json.loads(files[SUMMARY])
    assert document["precision"]["systems"]["think"]["fixed_sample"] == 520
    (tmp_path / SUMMARY).write_text(files[SUMMARY])
    assert load_precision(tmp_path) == made.precision
    assert from_document(Summary, document).precision == made.precision


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"precision": 3}', '{"precision": {}}'])
def test_a_damaged_summary_has_no_precision(tmp_path, text):
    (tmp_path / SUMMARY).write_text(text)
    assert load_precision(tmp_path) is None
    assert load_precision(tmp_path / "none") is None


def test_headline_markdown_and_page_mention_it():
    summary = summarise(ROWS, RUN, None, precision())
    line = "±3 points reached after 570 questions of 5,700"
    assert line in headline(summary)
    assert f"- {line}" in markdown(summary, RUN)
    page = result_files(RUN, ROWS, summary)["report.html"]
    assert line in page
    assert "Precision" in page
    assert "unfinished" not in page
    plain = summarise(ROWS, RUN)
    assert "Precision" not in result_files(RUN, ROWS, plain)["report.html"]


def test_sentences():
    lines = describe_precision(precision())
    assert lines[1].startswith("direct: 41.0 % (38.0-44.0) after 570 questions; a sample of fixed")
    assert "known to ±3 points after about 310 questions" in lines[3]
    assert "--precision-of difference stops sooner" in lines[3]
    later = describe_precision(precision(differences={"think": 1500}))
    assert "needs about 1,500 questions" in later[3]
    assert "sooner" not in later[3]
    missed = describe_precision(precision(reached=False, systems={"direct": known(half=0.06)}))
    assert missed[0].startswith("±3 points not reached after 570 questions of 5,700")
    census = precision(population=570, systems={"direct": known(half=0.0)})
    assert "All 570 questions of the suite were asked" in describe_precision(census)[0]
    difference = precision(
        of="difference", reference="direct", systems={"think": known(0.09)}, differences=None
    )
    lines = describe_precision(difference)
    assert "think: +9.0 points [6.0, 12.0] against direct after 570 questions" in lines[1]
    helped = precision(
        systems={"direct": known(correlation=0.4), "think": known(correlation=0.52)},
        difficulty_sha256="ab" * 32,
        difficulty_questions=5000,
    )
    text = "\n".join(describe_precision(helped))
    assert "The difficulty of 5,000 of 5,700 questions was the covariate" in text
    assert "0.40 to 0.52" in text


def test_the_expected_number_of_questions():
    expected = predict_questions(14_042, 0.03)
    assert list(expected) == [0.3, 0.5, 0.7, 0.9]
    assert expected[0.5] == pytest.approx(1080, abs=20)
    assert expected[0.3] == expected[0.7] < expected[0.5]
    assert expected[0.9] < 500
    text = describe_expectation(3.0, expected, 600)
    assert text.startswith("±3 points after about 600 at an accuracy of 30 %, 600 at")
    assert text.endswith("at most 600 are asked")
