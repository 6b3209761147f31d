"""Facts about ARC-Challenge, GSM8K and MMLU-Pro: files, hashes, sizes, licences.

The SHA-256 of a file is that of the published bytes at a fixed commit. The hash of the content
(:func:`etui.datasets.questions.hash_questions`) is the same in every form of the data, so that a
local copy in another form is recognised; None where it was not computed from real data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.config.config import make_home
from etui.datasets.mmlu import report_tenths, suite_dir
from etui.datasets.question_files import SUFFIXES
from etui.datasets.questions import Grading, Split
from etui.datasets.records import read_content
from etui.errors import DownloadFailed, InvalidFile, UsageError
from etui.units import bytes_text

if TYPE_CHECKING:
    from etui.config.config import Config


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


Files = dict[Split, tuple[str, bytes]]
"""Split -> name of its file for messages, and the content."""


def read_local(suite: PublishedSuite, split: Split, place: Path) -> Files:
    """Read a split from a file or a folder, with the worked examples if the folder has them.

    Args:
        place: A file of its questions, or a folder of files named by split.

    Raises:
        UsageError: The path does not exist, or is not a file of questions.
        InvalidFile: The folder does not contain the split, or a file cannot be read.
    """
    if place.is_file():
        if place.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"{place} is not a file of questions",
                f"pass a folder, or a file that ends in {', '.join(SUFFIXES)}, to --data",
            )
        return {split: (str(place), read_content(place))}
    if not place.is_dir():
        raise UsageError(
            f"{place} does not exist",
            f"pass a folder or a file of {suite.title}'s questions to --data",
        )
    files: Files = {}
    for part in _list_parts(split):
        path = next(
            (place / name for name in suite.list_local(part) if (place / name).is_file()), None
        )
        if path is not None:
            files[part] = (str(path), read_content(path))
    if split not in files:
        names = ", ".join(f"{stem}.jsonl" for stem in suite.splits[split].stems[:2])
        raise InvalidFile(
            f"{place} does not contain the {split} split of {suite.title}",
            f"name its file {names} or {suite.splits[split].file.name}, or pass the file itself",
        )
    return files


def load_published_files(
    suite: PublishedSuite,
    split: Split,
    config: Config,
    say: Callable[[str], None] = lambda text: None,
    fetch: Fetch | None = None,
) -> Files:
    """Load a split and the worked examples from ``ETUI_HOME``; download what is missing there.

    Args:
        fetch: Downloads a file; None takes it from where it is published.

    Raises:
        DownloadFailed: A file is missing, and its download failed.
        InvalidFile: A file was modified.
        EtuiError: The files are Parquet, and pyarrow is not installed.
    """
    parts = _list_parts(split)
    _check_readable(suite, parts)
    folder = suite_dir(config, suite.name)
    files: Files = {}
    for part in parts:
        published = suite.splits[part].file
        path = folder / published.name
        if not path.is_file():
            _store(suite, published, path, config, say, fetch or _fetch)
        content = read_content(path)
        if hashlib.sha256(content).hexdigest() != published.sha256:
            raise InvalidFile(
                f"{path} is not the published file of {suite.title}",
                "delete it to download it again, or use --data for files of your own",
            )
        files[part] = (str(path), content)
    return files


def _list_parts(split: Split) -> tuple[Split, ...]:
    """List the splits to load: the questions, and the worked examples if they are others."""
    return (split,) if split == "dev" else (split, "dev")


def _check_readable(suite: PublishedSuite, parts: Sequence[Split]) -> None:
    """Check that the files can be read before anything is downloaded."""
    for part in parts:
        name = suite.splits[part].file.name
        if name.endswith(".parquet"):
            from etui.datasets.records import require_pyarrow

            require_pyarrow(f"{suite.title} ({name})")


def _store(
    suite: PublishedSuite,
    file: PublishedFile,
    path: Path,
    config: Config,
    say: Callable[[str], None],
    fetch: Fetch,
) -> None:
    """Download a file, check its hash and move it into place, in one process at a time."""
    from filelock import FileLock

    make_home(config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent.with_name(f"{suite.name}.lock")):
            if not path.is_file():
                _download(suite, file, path, say, fetch)
    except OSError as error:
        raise DownloadFailed(
            f"cannot store {suite.title} in {path.parent}: {error.strerror or error}",
            f"free some space, or pass a folder that holds {suite.title} with --data",
        ) from error


def _download(
    suite: PublishedSuite,
    file: PublishedFile,
    path: Path,
    say: Callable[[str], None],
    fetch: Fetch,
) -> None:
    say(f"downloading {suite.title} ({file}, {bytes_text(file.size_bytes)}) to {path}, once")
    try:
        partial = fetch(file, path.parent, report_tenths(suite.title, file.size_bytes, say))
    except DownloadFailed as error:
        raise DownloadFailed(
            f"{suite.title} is not on this machine, and {error.what}",
            f"download {build_url(file)} elsewhere and pass its folder with --data; "
            "--suite sample needs no download",
        ) from error
    if hashlib.sha256(partial.read_bytes()).hexdigest() != file.sha256:
        partial.unlink()
        raise DownloadFailed(
            f"the download of {file} has the wrong sha256",
            "run the command again to retry, or pass a local copy with --data",
        )
    os.replace(partial, path)


def build_url(file: PublishedFile) -> str:
    """Build the URL of a file at its commit."""
    if file.site == "github":
        return f"https://raw.githubusercontent.com/{file.repo}/{file.commit}/{file.path}"
    return f"https://huggingface.co/datasets/{file.repo}/resolve/{file.commit}/{file.path}"


def _fetch(file: PublishedFile, folder: Path, report: Callable[[int], None]) -> Path:
    from etui.models.hub import HubFile, fetch, fetch_url
    from etui.models.spec import HubSource

    known = HubFile(file.sha256, file.size_bytes, file.commit)
    if file.site == "github":
        return fetch_url(build_url(file), known, folder, report)
    return fetch(HubSource(file.repo, file.path, kind="dataset"), known, folder, report)


Fetch = Callable[[PublishedFile, Path, Callable[[int], None]], Path]
"""(File, folder of the partial file, callback for the bytes received) -> path of the download."""

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
