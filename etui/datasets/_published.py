"""Read and download ARC-Challenge, GSM8K and MMLU-Pro; ``published.json`` has their facts.

The SHA-256 of a file is that of the published bytes at a fixed commit. The hash of the content
(:func:`etui.datasets.questions.hash_questions`) is the same in every form of the data, so that a
local copy in another form is recognised; None where it was not computed from real data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from etui.config.config import Config
from etui.datasets.mmlu import hold_copy, report_tenths, suite_dir
from etui.datasets.question_files import SUFFIXES
from etui.datasets.questions import Grading, Split
from etui.datasets.records import read_content, require_pyarrow
from etui.errors import DownloadFailed, InvalidFile, UsageError
from etui.units import bytes_text


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file as it is published."""

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

    source: str  # The paper, and which split has the worked examples
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

    Raises:
        DownloadFailed: A file is missing, and its download failed.
        InvalidFile: A file was modified.
        UsageError: The files are Parquet, and pyarrow is not installed.
    """
    parts = _list_parts(split)
    for part in parts:  # before anything is downloaded
        if (name := suite.splits[part].file.name).endswith(".parquet"):
            require_pyarrow(f"{suite.title} ({name})")
    folder = suite_dir(config, suite.name)
    files: Files = {}
    for part in parts:
        published = suite.splits[part].file
        path = folder / published.name
        if not path.is_file():
            with hold_copy(folder, suite.title, config):
                folder.mkdir(exist_ok=True)
                if not path.is_file():
                    _download(suite, published, path, say, fetch or _fetch)
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

_FACTS = Path(__file__).with_name("published.json")

PUBLISHED = msgspec.json.decode(_FACTS.read_bytes(), type=dict[str, PublishedSuite])
"""Suites of one file per split, by name."""
