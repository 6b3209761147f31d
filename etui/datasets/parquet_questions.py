"""Questions from Parquet, the form in which the hub publishes most suites; needs pyarrow."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from etui.datasets.jsonl_questions import collect_questions
from etui.datasets.question_record import Number
from etui.datasets.questions import Question
from etui.errors import EtuiError, InvalidFile

_MOST_ROWS = 1_000_000
_MOST_BYTES = 1_000_000_000
"""Size of the columns in memory, which a small file may claim to be vast."""

_FIX = "pass the Parquet file that the hub publishes, or the questions as JSONL"


def require_pyarrow(file: str) -> Any:
    """Import pyarrow with its Parquet module.

    Args:
        file: What it is needed for, for the message.

    Raises:
        EtuiError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise EtuiError(
            f"{file} is a Parquet file, and the package pyarrow is not installed",
            "pip install 'etui[suites]', or pass the questions as JSONL with --data",
        ) from error
    return pyarrow


def read_parquet_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of a Parquet file; rows are counted as lines, from 1.

    Raises:
        EtuiError: pyarrow is not installed.
        InvalidFile: It is not Parquet, or has problems, each reported with its row.
    """
    pyarrow = require_pyarrow(file)
    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(raw))
        meta = table.metadata
        size = sum(meta.row_group(at).total_byte_size for at in range(meta.num_row_groups))
        if meta.num_rows > _MOST_ROWS or size > _MOST_BYTES:
            raise InvalidFile(f"{file} is too large: {meta.num_rows} rows, {size} bytes", _FIX)
        rows = table.read().to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise InvalidFile(f"{file} is not a valid Parquet file: {lines[0][:200]}", _FIX) from error
    return collect_questions(_number_rows(rows), file, subject, [], _FIX)


def _number_rows(rows: list[dict[str, Any]]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, row in enumerate(rows, start=1):
        yield number, {name: _as_json(value) for name, value in row.items()}


def _as_json(value: Any) -> object:
    """Convert a value of Arrow to what the JSON reader makes of the same value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return Number(value)
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    return value
