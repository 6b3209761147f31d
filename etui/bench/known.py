"""What the original files of MMLU are known by (Hendrycks et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownSplit:
    """One split: its questions, and the SHA-256 of its files one behind the other by name."""

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
"""The authors' own archive on the hub: CSV files, so that no reader of Parquet is needed."""
