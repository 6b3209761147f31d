"""CSV files of a suite's splits, read from a folder or a tar or zip archive as bytes."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from etui.errors import InvalidFile, UsageError

Files = dict[str, bytes]
"""``test/anatomy_test.csv`` -> content of the file."""

_MEMBER = re.compile(r"(?:^|/)(dev|val|test)/(?!\.)([^/]+)_\1\.csv$")
_MOST_BYTES = 64_000_000
"""MMLU's largest file has 2 MB, so a larger archive member is not one of its files."""


def read_files(place: Path, splits: Collection[str]) -> Files:
    """Read the files ``SPLIT/SUBJECT_SPLIT.csv`` of some splits, at any depth of an archive.

    Args:
        place: A folder, or a tar or zip archive.

    Raises:
        UsageError: The path does not exist.
        InvalidFile: It is not an archive, or a split has no files.
    """
    if not place.exists():
        raise UsageError(
            f"{place} does not exist", "pass the folder with MMLU's dev, val and test to --data"
        )
    try:
        if place.is_dir():
            found = _read_folder(place, splits)
        elif tarfile.is_tarfile(place):
            found = dict(_read_tar(place, splits))
        elif zipfile.is_zipfile(place):
            found = dict(_read_zip(place, splits))
        else:
            raise InvalidFile(
                f"{place} is neither a folder nor a tar or zip archive",
                "pass the folder with MMLU's dev, val and test, or an archive of it, to --data",
            )
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidFile(f"{place} is damaged: {error}", "download it again") from error
    except OSError as error:
        raise InvalidFile(f"cannot read {place}: {error.strerror or error}") from error
    for split in splits:
        if not any(name.startswith(f"{split}/") for name in found):
            raise InvalidFile(
                f"{place} contains no {split}/SUBJECT_{split}.csv",
                "MMLU's files are in the folders dev, val and test, one file per subject",
            )
    return found


def find_key(name: str, splits: Collection[str]) -> str | None:
    """Extract ``test/anatomy_test.csv`` from a path that ends with it; None for other splits."""
    match = _MEMBER.search(name)
    return (
        None if match is None or match[1] not in splits else f"{match[1]}/{match[2]}_{match[1]}.csv"
    )


def parse_subject(name: str) -> str:
    """Extract ``anatomy`` from ``test/anatomy_test.csv``."""
    return PurePosixPath(name).stem.rsplit("_", maxsplit=1)[0]


def _read_folder(place: Path, splits: Collection[str]) -> Files:
    """Read the splits in the folder itself, or in the first subfolder that has them."""
    roots = [place, *sorted(path for path in place.iterdir() if path.is_dir())]
    for root in roots:
        paths = [path for split in splits for path in sorted((root / split).glob(f"*_{split}.csv"))]
        named = {find_key(path.as_posix(), splits): path for path in paths}
        found = {key: path for key, path in named.items() if key is not None}
        if found:
            return {key: path.read_bytes() for key, path in found.items()}
    return {}


def _read_tar(place: Path, splits: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(place) as archive:
        for member in archive:
            key = find_key(member.name, splits)
            body = archive.extractfile(member) if key and member.isfile() else None
            if key is not None and body is not None:
                yield key, _read_bounded(member.size, key, body.read)


def _read_zip(place: Path, splits: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            key = find_key(member.filename, splits)
            if key is not None and not member.is_dir():
                with archive.open(member) as body:
                    yield key, _read_bounded(member.file_size, key, body.read)


def _read_bounded(size: int, key: str, read: Callable[[int], bytes]) -> bytes:
    if size > _MOST_BYTES:
        raise InvalidFile(f"{key} is too large ({size} bytes)", "no MMLU file is larger than 2 MB")
    return read(size)
