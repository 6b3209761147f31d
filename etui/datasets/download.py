"""MMLU on this machine: the copy in ``ETUI_HOME``, or a verified download."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from etui.config.config import make_home
from etui.datasets.archive import Files, read_files
from etui.datasets.mmlu import HUB_BYTES, HUB_COMMIT, HUB_FILE, HUB_REPO, HUB_SHA256, KNOWN
from etui.datasets.questions import hash_files
from etui.errors import DownloadFailed, InvalidFile
from etui.units import bytes_text

if TYPE_CHECKING:
    from etui.config.config import Config

Download = Callable[[Path, Callable[[int], None]], Path]
"""(Folder for the partial file, callback for the bytes received) -> path of the archive."""


def suite_dir(config: Config, name: str) -> Path:
    """Return the folder of the local copy of a suite."""
    return config.home / "data" / name


def load_mmlu_files(
    config: Config,
    split: str,
    say: Callable[[str], None] = lambda text: None,
    download: Download | None = None,
) -> Files:
    """Load MMLU's files of a split and of the worked examples.

    Args:
        split: ``test``, ``val`` or ``dev``.
        download: Fetches the archive; None downloads it from the Hugging Face hub.

    Raises:
        DownloadFailed: There is no copy, and the download failed.
        InvalidFile: The copy was modified.
    """
    place = suite_dir(config, "mmlu")
    if not place.is_dir():
        from filelock import FileLock

        make_home(config)
        try:
            place.parent.mkdir(exist_ok=True)
            with FileLock(place.with_suffix(".lock")):
                if not place.is_dir():
                    _download(place, say, download or _fetch_from_hub)
        except OSError as error:
            raise DownloadFailed(
                f"cannot store MMLU in {place}: {error.strerror or error}",
                "free some space, or pass a folder that holds MMLU with --data",
            ) from error
    files = read_files(place, ("dev", split))
    changed = [name for name in ("dev", split) if not _is_original(files, name)]
    if changed:
        raise InvalidFile(
            f"the copy of MMLU in {place} was modified ({', '.join(changed)})",
            f"delete {place} to download it again, or use --data for files of your own",
        )
    return files


def _download(place: Path, say: Callable[[str], None], download: Download) -> None:
    store = place.parent / ".mmlu"
    shown = -1

    def report(done_bytes: int) -> None:
        nonlocal shown
        tenth = 10 * done_bytes // HUB_BYTES
        if tenth != shown:
            shown = tenth
            say(f"MMLU: {bytes_text(done_bytes)} of {bytes_text(HUB_BYTES)}")

    say(f"downloading MMLU (hf {HUB_REPO}, {bytes_text(HUB_BYTES)}) to {place}, once")
    archive = download(store, report)
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
