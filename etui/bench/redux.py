"""The labels of MMLU-Redux: which questions of MMLU are sound."""

from __future__ import annotations

import json
from pathlib import Path

from etui.errors import InvalidFile

FILE_NAME = "redux_index_by_test_row.json"
"""Looked for in the folder of the data."""


def read_labels(file: Path) -> dict[str, dict[int, str]]:
    """Subject -> 0-based test row -> label (``ok``, ``wrong_groundtruth``, ...).

    Raises:
        InvalidFile: Not JSON, or not subject -> list of ``{test_row, error_type}``.
        OSError: It cannot be read.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(subject): {int(row["test_row"]): str(row["error_type"]) for row in rows}
            for subject, rows in document.items()
        }
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidFile(
            f"{file}: no index of MMLU-Redux labels: {error}",
            'it maps each subject to a list of {"test_row": 0, "error_type": "ok"}',
        ) from error
