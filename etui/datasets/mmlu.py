"""Facts about MMLU: hashes of the original files, subject groups, MMLU-Redux labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from etui.errors import InvalidFile


@dataclass(frozen=True, slots=True)
class KnownSplit:
    """One split: its number of questions, and the SHA-256 of its files concatenated by name."""

    questions: int
    sha256: str


KNOWN = {
    "dev": KnownSplit(285, "b27648cd4b1d389de3362e154cc52fe0b62c0533af585420446dc5583ac8272f"),
    "val": KnownSplit(1531, "dc3d69b3a06dd3a56d1f8014a103ca4dfe106dd7bc73ae06c44539767b482a73"),
    "test": KnownSplit(14042, "fa58faff5210aee66e8791f191a56016fa3d33be6b7f484a1463ae5984b834e0"),
}


HUB_REPO = "cais/mmlu"


HUB_FILE = "data.tar"


HUB_COMMIT = "c30699e8356da336a370243923dbaf21066bb9fe"


HUB_SHA256 = "bec563ba4bac1d6aaf04141cd7d1605d7a5ca833e38f994051e818489592989b"


HUB_BYTES = 166_184_960
"""The authors' own archive on the hub. It holds CSV files, so no Parquet reader is needed."""


GROUPS = ("stem", "humanities", "social sciences", "other")
"""Subject groups in display order."""


_STEM = """
abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
college_mathematics college_physics computer_security conceptual_physics electrical_engineering
elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
high_school_mathematics high_school_physics high_school_statistics machine_learning
"""


_HUMANITIES = """
formal_logic high_school_european_history high_school_us_history high_school_world_history
international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy
prehistory professional_law world_religions
"""


_SOCIAL_SCIENCES = """
econometrics high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
professional_psychology public_relations security_studies sociology us_foreign_policy
"""


_OTHER = """
business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology
"""


SUBJECT_GROUPS = {
    subject: group
    for group, subjects in zip(GROUPS, (_STEM, _HUMANITIES, _SOCIAL_SCIENCES, _OTHER), strict=True)
    for subject in subjects.split()
}
"""Subject -> group, as in lm-eval (Hendrycks' ``categories.py`` puts anatomy in other)."""


def find_group(subject: str) -> str | None:
    """Return the group of a subject; None if it is not one of MMLU's."""
    return SUBJECT_GROUPS.get(subject)


FILE_NAME = "redux_index_by_test_row.json"
"""Labels of MMLU-Redux, searched in the data folder."""


def read_labels(file: Path) -> dict[str, dict[int, str]]:
    """Read the labels of MMLU-Redux.

    Returns:
        Subject -> 0-based test row -> label (``ok``, ``wrong_groundtruth``, ...).

    Raises:
        InvalidFile: The file is not JSON, or not subject -> list of ``{test_row, error_type}``.
        OSError: The file cannot be read.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(subject): {int(row["test_row"]): str(row["error_type"]) for row in rows}
            for subject, rows in document.items()
        }
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidFile(
            f"{file}: not an index of MMLU-Redux labels: {error}",
            'the index maps each subject to a list of {"test_row": 0, "error_type": "ok"}',
        ) from error
