"""Read files of questions of any form, which their suffix names."""

from __future__ import annotations

from pathlib import PurePath

from etui.datasets.csv_questions import read_csv_questions
from etui.datasets.jsonl_questions import read_jsonl_questions
from etui.datasets.questions import Grading, Question

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")
"""Suffixes of files of questions, in the order in which a folder is searched."""


def read_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of one file: JSON Lines, Parquet, or else CSV, by its suffix.

    All questions of a file have options, or the answers of all of them are numbers.

    Raises:
        EtuiError: It is Parquet, and pyarrow is not installed.
        InvalidFile: The file has problems, each reported with its line.
    """
    suffix = PurePath(file).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return read_jsonl_questions(raw, file, subject)
    if suffix == ".parquet":
        from etui.datasets.parquet_questions import read_parquet_questions

        return read_parquet_questions(raw, file, subject)
    return read_csv_questions(raw, file, subject)


def find_grading(questions: list[Question]) -> Grading:
    """Find how the answers of a file are compared: by letter, or as numbers."""
    return "letter" if questions[0].choices else "number"
