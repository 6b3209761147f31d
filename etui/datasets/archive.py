"""The CSV files of a suite's splits, out of a folder, a tar or a zip archive, as bytes."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from etui.errors import InvalidFile, UsageError

Files = dict[str, bytes]
"""``test/anatomy_test.csv`` -> the file."""

_MEMBER = re.compile(r"(?:^|/)(dev|val|test)/(?!\.)([^/]+)_\1\.csv$")
_MOST_BYTES = 64_000_000
"""MMLU's largest file has 2 MB; an archive's member of more than this is none of them."""


def read_files(place: Path, splits: Collection[str]) -> Files:
    """The files ``SPLIT/SUBJECT_SPLIT.csv`` of some splits, at whatever depth they lie.

    Raises:
        UsageError: The place does not exist.
        InvalidFile: It is no archive, or holds no such files.
    """
    if not place.exists():
        raise UsageError(
            f"there is no {place}", "--data takes the folder that holds MMLU's dev, val and test"
        )
    try:
        if place.is_dir():
            found = _folder(place, splits)
        elif tarfile.is_tarfile(place):
            found = dict(_tar(place, splits))
        elif zipfile.is_zipfile(place):
            found = dict(_zip(place, splits))
        else:
            raise InvalidFile(
                f"{place} is neither a folder nor a tar or zip archive",
                "--data takes the folder that holds MMLU's dev, val and test, or an archive of it",
            )
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidFile(f"{place} is damaged: {error}", "download it again") from error
    except OSError as error:
        raise InvalidFile(f"cannot read {place}: {error.strerror or error}") from error
    for split in splits:
        if not any(name.startswith(f"{split}/") for name in found):
            raise InvalidFile(
                f"{place} holds no {split}/SUBJECT_{split}.csv",
                "MMLU's files lie in the folders dev, val and test, one file a subject",
            )
    return found


def key_of(name: str, splits: Collection[str]) -> str | None:
    """``test/anatomy_test.csv`` of a path that ends so, in one of the splits; else None."""
    match = _MEMBER.search(name)
    return (
        None if match is None or match[1] not in splits else f"{match[1]}/{match[2]}_{match[1]}.csv"
    )


def subject_of(name: str) -> str:
    """``anatomy`` of ``test/anatomy_test.csv``."""
    return PurePosixPath(name).stem.rsplit("_", maxsplit=1)[0]


def _folder(place: Path, splits: Collection[str]) -> Files:
    """The folder itself, or the one folder below it that holds the splits."""
    roots = [place, *sorted(path for path in place.iterdir() if path.is_dir())]
    for root in roots:
        paths = [path for split in splits for path in sorted((root / split).glob(f"*_{split}.csv"))]
        named = {key_of(path.as_posix(), splits): path for path in paths}
        found = {key: path for key, path in named.items() if key is not None}
        if found:
            return {key: path.read_bytes() for key, path in found.items()}
    return {}


def _tar(place: Path, splits: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(place) as archive:
        for member in archive:
            key = key_of(member.name, splits)
            body = archive.extractfile(member) if key and member.isfile() else None
            if key is not None and body is not None:
                yield key, _bounded(member.size, key, body.read)


def _zip(place: Path, splits: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            key = key_of(member.filename, splits)
            if key is not None and not member.is_dir():
                with archive.open(member) as body:
                    yield key, _bounded(member.file_size, key, body.read)


def _bounded(size: int, key: str, read: Callable[[int], bytes]) -> bytes:
    if size > _MOST_BYTES:
        raise InvalidFile(f"{key} has {size} bytes", "none of MMLU's files has more than 2 MB")
    return read(size)
