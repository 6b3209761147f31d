"""Files of a published suite: in a local copy, in ``ETUI_HOME``, or downloaded once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etui.config.config import make_home
from etui.datasets.download import suite_dir
from etui.datasets.file_text import read_content
from etui.datasets.published import PublishedFile, PublishedSuite
from etui.datasets.question_files import SUFFIXES
from etui.datasets.questions import Split
from etui.errors import DownloadFailed, InvalidFile, UsageError
from etui.units import bytes_text

if TYPE_CHECKING:
    from etui.config.config import Config

Files = dict[Split, tuple[str, bytes]]
"""Split -> name of its file for messages, and the content."""

Fetch = Callable[[PublishedFile, Path, Callable[[int], None]], Path]
"""(File, folder of the partial file, callback for the bytes received) -> path of the download."""


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
            from etui.datasets.parquet_questions import require_pyarrow

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
    shown = -1

    def report(done_bytes: int) -> None:
        nonlocal shown
        tenth = 10 * done_bytes // file.size_bytes
        if tenth != shown:
            shown = tenth
            say(f"{suite.title}: {bytes_text(done_bytes)} of {bytes_text(file.size_bytes)}")

    say(f"downloading {suite.title} ({file}, {bytes_text(file.size_bytes)}) to {path}, once")
    try:
        partial = fetch(file, path.parent, report)
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
