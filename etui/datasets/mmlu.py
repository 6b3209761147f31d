"""Facts about MMLU: hashes of the original files, subject groups, MMLU-Redux labels."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from etui.config.config import Config, make_home
from etui.datasets.questions import hash_files
from etui.errors import DownloadFailed, InvalidFile, UsageError
from etui.units import bytes_text

Download = Callable[[Path, Callable[[int], None]], Path]
"""(Folder for the partial file, callback for the bytes received) -> path of the archive."""


def suite_dir(config: Config, name: str) -> Path:
    """Return the folder of the local copy of a suite."""
    return config.home / "data" / name


@contextmanager
def hold_copy(place: Path, title: str, config: Config) -> Iterator[None]:
    """Keep other processes from the copy of a suite while it is downloaded."""
    from filelock import FileLock

    make_home(config)
    try:
        place.parent.mkdir(exist_ok=True)
        with FileLock(place.with_name(f"{place.name}.lock")):
            yield
    except OSError as error:
        raise DownloadFailed(
            f"cannot store {title} in {place}: {error.strerror or error}",
            f"free some space, or pass a folder that holds {title} with --data",
        ) from error


def load_mmlu_files(
    config: Config,
    split: str,
    say: Callable[[str], None] = lambda text: None,
    download: Download | None = None,
) -> Files:
    """Load MMLU's files of a split and of the worked examples.

    Args:
        download: Fetches the archive; None downloads it from the Hugging Face hub.
    """
    place = suite_dir(config, "mmlu")
    if not place.is_dir():
        with hold_copy(place, "MMLU", config):
            if not place.is_dir():
                _download(place, say, download or _fetch_from_hub)
    files = read_files(place, ("dev", split))
    changed = [name for name in ("dev", split) if not _is_original(files, name)]
    if changed:
        raise InvalidFile(
            f"the copy of MMLU in {place} was modified ({', '.join(changed)})",
            f"delete {place} to download it again, or use --data for files of your own",
        )
    return files


def report_tenths(name: str, size_bytes: int, say: Callable[[str], None]) -> Callable[[int], None]:
    """Return a callback for the bytes received, which says each tenth of a download once."""
    shown = -1

    def report(done_bytes: int) -> None:
        nonlocal shown
        tenth = 10 * done_bytes // size_bytes
        if tenth != shown:
            shown = tenth
            say(f"{name}: {bytes_text(done_bytes)} of {bytes_text(size_bytes)}")

    return report


def _download(place: Path, say: Callable[[str], None], download: Download) -> None:
    store = place.parent / ".mmlu"
    say(f"downloading MMLU (hf {HUB_REPO}, {bytes_text(HUB_BYTES)}) to {place}, once")
    archive = download(store, report_tenths("MMLU", HUB_BYTES, say))
    files = read_files(archive, tuple(KNOWN))
    wrong = [split for split in KNOWN if not _is_original(files, split)]
    if wrong:
        archive.unlink()
        raise DownloadFailed(
            f"the download from {HUB_REPO} is not MMLU: wrong sha256 of {', '.join(wrong)}",
            "pass a folder that holds MMLU's original files with --data",
        )
    pending = store / "files"
    shutil.rmtree(pending, ignore_errors=True)
    for name, body in files.items():
        path = pending / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    os.replace(pending, place)
    shutil.rmtree(store, ignore_errors=True)


def _fetch_from_hub(folder: Path, report: Callable[[int], None]) -> Path:
    from etui.models.files import hash_file
    from etui.models.hub import HubFile, fetch
    from etui.models.spec import HubSource

    source = HubSource(HUB_REPO, HUB_FILE, kind="dataset")
    try:
        path = fetch(source, HubFile(HUB_SHA256, HUB_BYTES, HUB_COMMIT), folder, report)
    except DownloadFailed as error:
        raise DownloadFailed(
            f"MMLU is not on this machine, and {error.what}",
            "download https://people.eecs.berkeley.edu/~hendrycks/data.tar elsewhere and pass it "
            "with --data; --suite sample needs no download",
        ) from error
    if hash_file(path) != HUB_SHA256:
        path.unlink()
        raise DownloadFailed(
            f"the download of {HUB_REPO}/{HUB_FILE} is damaged", "run the command again to retry"
        )
    return path


def _is_original(files: Files, split: str) -> bool:
    own = {name: body for name, body in files.items() if name.startswith(f"{split}/")}
    return hash_files(own) == KNOWN[split].sha256


Files = dict[str, bytes]
"""``test/anatomy_test.csv`` -> content of the file."""

_MEMBER = re.compile(r"(?:^|/)(dev|val|test)/(?!\.)([^/]+)_\1\.csv$")

_MOST_BYTES = 64_000_000
"""MMLU's largest file has 2 MB, so a larger archive member is not one of its files."""


def read_files(place: Path, splits: Collection[str]) -> Files:
    """Read the files ``SPLIT/SUBJECT_SPLIT.csv`` of some splits, at any depth of an archive.

    Args:
        place: A folder, or a tar or zip archive.
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
