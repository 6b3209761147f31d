"""A model file from the Hugging Face hub, resumed byte by byte.

``hf_hub_download`` starts again after an interruption (since huggingface_hub 1.x it deletes its
partial file), which is no way to get five gigabytes over a weak line; so the body is fetched here
over the hub library's own session, with a Range header.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from etui.errors import DownloadFailed, EtuiError
from etui.models.files import check_space
from etui.models.spec import HubSource

_METADATA_SECONDS = 15.0
_READ_SECONDS = 30.0
_FRUITLESS_TRIES = 4
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class HubFile:
    """What the hub says of a file: its sha256, its size, and the commit both belong to."""

    sha256: str
    size_bytes: int | None
    commit: str | None


def look_up(source: HubSource) -> HubFile:
    """Ask the hub about the file, without downloading it.

    Raises:
        DownloadFailed: No such file, no connection, or no sha256 for it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        url = hf_hub_url(source.repo, source.file, repo_type=source.kind)
        metadata = get_hf_file_metadata(url, timeout=_METADATA_SECONDS)
    except Exception as error:  # the library passes on its HTTP client's own errors
        raise DownloadFailed(f"the hub does not give {source.file}: {_reason(error)}") from error
    etag = (metadata.etag or "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        raise DownloadFailed(f"the hub names no sha256 for {source.repo}/{source.file}")
    return HubFile(etag, metadata.size, metadata.commit_hash)


def fetch(
    source: HubSource,
    file: HubFile,
    folder: Path,
    report: Callable[[int], None],
    pause_seconds: float = 1.0,
) -> Path:
    """Download the file, going on where an earlier attempt stopped.

    Args:
        file: What ``look_up`` said; the partial file is kept under its sha256.
        folder: Holds the partial file; it is kept over interruptions.
        report: Called with the bytes that are there.
        pause_seconds: Between a broken connection and the next try.

    Raises:
        DownloadFailed: The connection failed several times without a byte in between.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{file.sha256}.part"
    with partial.open("ab") as out:
        if file.size_bytes is not None:
            if out.tell() > file.size_bytes:
                _empty(out)
            check_space(folder, file.size_bytes - out.tell())
        fruitless = 0
        while True:
            before = out.tell()
            try:
                _stream(source, file, out, report)
                return partial
            except EtuiError:
                raise  # from `report`: the caller wants to stop
            except OSError as error:
                if error.errno in _DISK_ERRORS:
                    raise
                failure: Exception = error
            except Exception as error:  # noqa: BLE001 - whatever the HTTP client raises: try again
                failure = error
            fruitless = 0 if out.tell() > before else fruitless + 1
            if fruitless >= _FRUITLESS_TRIES:
                raise DownloadFailed(
                    f"the hub stopped giving {source.file}: {_reason(failure)}"
                ) from failure
            time.sleep(pause_seconds)


def _stream(
    source: HubSource, file: HubFile, out: IO[bytes], report: Callable[[int], None]
) -> None:
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    start = out.tell()
    report(start)
    if start == file.size_bytes:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    url = hf_hub_url(source.repo, source.file, repo_type=source.kind, revision=file.commit)
    with get_session().stream("GET", url, headers=headers, timeout=_READ_SECONDS) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:  # the server sends the whole file again
            _empty(out)
        # As they come: a chunk size would hold bytes back, and lose them when the line drops.
        for chunk in response.iter_bytes():
            out.write(chunk)
            report(out.tell())
    if file.size_bytes is not None and out.tell() != file.size_bytes:
        raise EOFError(f"the file ended at byte {out.tell()} of {file.size_bytes}")


def _empty(out: IO[bytes]) -> None:
    out.truncate(0)
    out.seek(0)  # truncating leaves the position, and `tell` with it, where it was


def _reason(error: Exception) -> str:
    """The first line of a message; the hub's are pages long."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
