"""Facts about ARC-Challenge, GSM8K and MMLU-Pro: files, hashes, sizes, licences.

The SHA-256 of a file is that of the published bytes at a fixed commit. The hash of the content
(:func:`etui.datasets.questions.hash_questions`) is the same in every form of the data, so that a
local copy in another form is recognised; None where it was not computed from real data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from etui.datasets.question_files import SUFFIXES
from etui.datasets.questions import Grading, Split


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file as it is published.

    Attributes:
        repo, commit, path: Repository, commit and path of the file.
    """

    site: Literal["hub", "github"]
    """``hub`` (the dataset ``repo`` there) or ``github`` (the repository ``repo``)."""
    repo: str
    commit: str
    path: str
    sha256: str
    size_bytes: int
    name: str  # Its name in `ETUI_HOME/data/SUITE`

    def __str__(self) -> str:
        return f"{'hf' if self.site == 'hub' else 'github'} {self.repo}/{self.path}"


@dataclass(frozen=True, slots=True)
class PublishedSplit:
    """One split of a suite."""

    questions: int
    content_sha256: str | None  # Hash of its questions; None if unknown
    file: PublishedFile
    stems: tuple[str, ...]  # Names of its file in a local copy, without suffix


@dataclass(frozen=True, slots=True)
class PublishedSuite:
    """A suite of one file per split."""

    name: str  # `gsm8k`, for `--suite`
    title: str  # `GSM8K`
    licence: str  # `MIT`
    dataset: str  # Its dataset on the hub, which lm-eval names
    grading: Grading  # How answers are compared
    by_category: bool
    """Whether the category of a question is its subject; if not, all questions have the name of the
    suite as their subject."""
    splits: Mapping[Split, PublishedSplit]  # The splits; `dev` has the worked examples
    folders: tuple[str, ...]  # Folders of a local copy that may hold the files

    def list_local(self, split: Split) -> Iterator[str]:
        """List the paths at which a local copy may have a split, the most likely first."""
        for folder in self.folders:
            for stem in self.splits[split].stems:
                for suffix in SUFFIXES:
                    yield f"{folder}/{stem}{suffix}" if folder else f"{stem}{suffix}"


_ARC_COMMIT = "210d026faf9955653af8916fad021475a3f00453"
_MMLU_PRO_COMMIT = "b189ec765aa7ed75c8acfea42df31fdae71f97be"
_GSM8K_COMMIT = "3101c7d5072418e28b9008a6636bde82a006892c"


def _arc(word: str, sha256: str, size_bytes: int) -> PublishedFile:
    name = f"{word}-00000-of-00001.parquet"
    path = f"ARC-Challenge/{name}"
    return PublishedFile("hub", "allenai/ai2_arc", _ARC_COMMIT, path, sha256, size_bytes, name)


def _gsm8k(word: str, sha256: str, size_bytes: int) -> PublishedFile:
    path = f"grade_school_math/data/{word}.jsonl"
    repo = "openai/grade-school-math"
    return PublishedFile("github", repo, _GSM8K_COMMIT, path, sha256, size_bytes, f"{word}.jsonl")


def _mmlu_pro(word: str, sha256: str, size_bytes: int) -> PublishedFile:
    name = f"{word}-00000-of-00001.parquet"
    repo = "TIGER-Lab/MMLU-Pro"
    return PublishedFile("hub", repo, _MMLU_PRO_COMMIT, f"data/{name}", sha256, size_bytes, name)


def _stems(*words: str, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    return (*more, *words, *(f"{word}-00000-of-00001" for word in words))


ARC_CHALLENGE = PublishedSuite(
    name="arc-challenge",
    title="ARC-Challenge",
    licence="CC BY-SA 4.0",
    dataset="allenai/ai2_arc",
    grading="letter",
    by_category=False,
    splits={
        "test": PublishedSplit(
            1172,
            "38c0638162eac070766969dfd6a7df4b59f30183d740039e4accb0dd25358180",
            _arc(
                "test", "62f03257e737aed263f55c6abf87c7bb0028a44a6bdd2a26eb1279eb42c1d1e9", 203_808
            ),
            _stems("test", more=("ARC-Challenge-Test",)),
        ),
        "val": PublishedSplit(
            299,
            None,
            _arc(
                "validation",
                "395a5c88d1580d69855fbaee9450270578df1ad5af6259771cd0a42c20e99f05",
                55_743,
            ),
            _stems("validation", "val", "dev", more=("ARC-Challenge-Dev",)),
        ),
        "dev": PublishedSplit(
            1119,
            None,
            _arc(
                "train", "e488c1587ffdcfc8443f916c53488a95cd471c5790e0746c6bfe4cecf20962cb", 189_909
            ),
            _stems("train", more=("ARC-Challenge-Train",)),
        ),
    },
    folders=("", "ARC-Challenge", "ARC-V1-Feb2018-2/ARC-Challenge", "data"),
)
"""Clark et al., arXiv 1803.05457. The worked examples are those of the training split."""

GSM8K = PublishedSuite(
    name="gsm8k",
    title="GSM8K",
    licence="MIT",
    dataset="openai/gsm8k",
    grading="number",
    by_category=False,
    splits={
        "test": PublishedSplit(
            1319,
            "e201b57c71bb8d5b3d5ae3763856faae6cea66c17041b8481ce2da8e08bc206a",
            _gsm8k(
                "test", "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", 749_738
            ),
            _stems("test"),
        ),
        "dev": PublishedSplit(
            7473,
            "bb37954281ed67b778386b137182c158466395aaaefd51b043b83a8f8fdcb876",
            _gsm8k(
                "train",
                "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
                4_166_206,
            ),
            _stems("train"),
        ),
    },
    folders=("", "main", "data", "grade_school_math/data"),
)
"""Cobbe et al., arXiv 2110.14168. The worked examples are those of the training split."""

MMLU_PRO = PublishedSuite(
    name="mmlu-pro",
    title="MMLU-Pro",
    licence="MIT",
    dataset="TIGER-Lab/MMLU-Pro",
    grading="letter",
    by_category=True,
    splits={
        "test": PublishedSplit(
            12_032,
            None,
            _mmlu_pro(
                "test",
                "0e24a191921c2f453518a537a8b2117bd137e7714d4ef1565e9ba06c1ecb9ad8",
                4_144_185,
            ),
            _stems("test"),
        ),
        "dev": PublishedSplit(
            70,
            None,
            _mmlu_pro(
                "validation",
                "139423c23722e480c807ac4a191409a710cfce4eba744c1d641cf88e730e2078",
                42_857,
            ),
            _stems("validation", "val", "dev"),
        ),
    },
    folders=("", "data"),
)
"""Wang et al., arXiv 2406.01574. The worked examples are the validation split, five a category."""

PUBLISHED = {suite.name: suite for suite in (ARC_CHALLENGE, GSM8K, MMLU_PRO)}
"""Suites of one file per split, by name."""
