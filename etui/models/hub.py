"""Download a file from the Hugging Face hub or a URL, resuming at the last byte.

``hf_hub_download`` starts over after an interruption (since huggingface_hub 1.x it deletes its
partial file), which does not work for five gigabytes over a weak connection; so the body is fetched
here through the hub library's own session, with a Range header.
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
    """Metadata of a file on the hub."""

    sha256: str
    size_bytes: int | None  # Its size; None if the hub does not give it
    commit: str | None  # The commit that both belong to


def look_up(source: HubSource) -> HubFile:
    """Read the metadata of a file from the hub, without downloading it.

    Raises:
        DownloadFailed: There is no such file, no connection, or no sha256 for it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        url = hf_hub_url(source.repo, source.file, repo_type=source.kind)
        metadata = get_hf_file_metadata(url, timeout=_METADATA_SECONDS)
    except Exception as error:  # the library lets the errors of its HTTP client through
        raise DownloadFailed(
            f"cannot get {source.file} from the hub: {_first_line(error)}"
        ) from error
    etag = (metadata.etag or "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        raise DownloadFailed(f"the hub gives no sha256 for {source.repo}/{source.file}")
    return HubFile(etag, metadata.size, metadata.commit_hash)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is downloaded: its URL, the headers, and its name for messages."""

    url: str
    headers: dict[str, str]
    shown: str


def fetch(
    source: HubSource,
    file: HubFile,
    folder: Path,
    report: Callable[[int], None],
    pause_seconds: float = 1.0,
) -> Path:
    """Download a file of the hub, resuming an earlier attempt.

    Args:
        file: Its metadata from :func:`look_up`; the partial file is named by the sha256.
        folder: Folder of the partial file, which stays after an interruption.
        report: Called with the bytes downloaded so far.
        pause_seconds: Wait between a broken connection and the next try.

    Raises:
        DownloadFailed: The connection failed several times in a row without any new byte.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(source.repo, source.file, repo_type=source.kind, revision=file.commit)
    request = _Request(url, build_hf_headers(), f"{source.file} from the hub")
    return _fetch(request, file, folder, report, pause_seconds)


def fetch_url(
    url: str,
    file: HubFile,
    folder: Path,
    report: Callable[[int], None],
    pause_seconds: float = 1.0,
) -> Path:
    """Download a file from any URL, without the keys of the hub, as :func:`fetch` does.

    Raises:
        DownloadFailed: The connection failed several times in a row without any new byte.
    """
    return _fetch(_Request(url, {}, url), file, folder, report, pause_seconds)


def _fetch(
    request: _Request,
    file: HubFile,
    folder: Path,
    report: Callable[[int], None],
    pause_seconds: float,
) -> Path:
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
                _stream(request, file, out, report)
                return partial
            except EtuiError:
                raise  # raised by `report` to stop the download
            except OSError as error:
                if error.errno in _DISK_ERRORS:
                    raise
                failure: Exception = error
            except Exception as error:  # noqa: BLE001 - any error of the HTTP client: try again
                failure = error
            fruitless = 0 if out.tell() > before else fruitless + 1
            if fruitless >= _FRUITLESS_TRIES:
                raise DownloadFailed(
                    f"the download of {request.shown} broke off: {_first_line(failure)}"
                ) from failure
            time.sleep(pause_seconds)


def _stream(
    request: _Request, file: HubFile, out: IO[bytes], report: Callable[[int], None]
) -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    start = out.tell()
    report(start)
    if start == file.size_bytes:
        return
    headers = {**request.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream(
        "GET", request.url, headers=headers, timeout=_READ_SECONDS
    ) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:  # the server sends the whole file again
            _empty(out)
        # No chunk size: it would buffer bytes and lose them when the connection drops.
        for chunk in response.iter_bytes():
            if file.size_bytes is not None and out.tell() + len(chunk) > file.size_bytes:
                _empty(out)  # another file, perhaps without an end; its bytes are worth nothing
                raise DownloadFailed(
                    f"the download of {request.shown} is larger than the {file.size_bytes:,} bytes "
                    "of the published file"
                )
            out.write(chunk)
            report(out.tell())
    if file.size_bytes is not None and out.tell() != file.size_bytes:
        raise EOFError(f"the file ended at byte {out.tell()} of {file.size_bytes}")


def _empty(out: IO[bytes]) -> None:
    out.truncate(0)
    out.seek(0)  # truncate() does not move the position


def _first_line(error: Exception) -> str:
    """Return the first line of an error message; those of the hub are pages long."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
