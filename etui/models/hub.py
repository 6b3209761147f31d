"""Ask the Hugging Face hub what it offers, and download from it or from a URL.

``hf_hub_download`` starts over after an interruption (since huggingface_hub 1.x it deletes its
partial file), which does not work for five gigabytes over a weak connection; so the body is fetched
here through the hub library's own session, with a Range header.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from etui.errors import DownloadFailed, EtuiError
from etui.models.files import check_space
from etui.models.gguf import Gguf, parse_start
from etui.models.repository import RemoteFile, Repository, split_roles
from etui.models.spec import HubSource, UrlSource, is_secure
from etui.text import one_line
from etui.units import seconds_text

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

T = TypeVar("T")
_METADATA_SECONDS = 15.0
_READ_SECONDS = 30.0
_FRUITLESS_TRIES = 4
_MOST_WAIT_SECONDS = 90.0
"""Longest wait that a server can ask for; a longer one ends the pull with what it asked for."""
_MOST_SILENT_SECONDS = 20.0  # The same before a download, where nothing shows the wait
_MOST_WAITS = 5
_WAIT_SECONDS = 10.0  # After a 429 that does not say how long to wait
_SLICE_SECONDS = 0.5
_PAUSE_SECONDS = 1.0  # Between a broken connection and the next try
_MOST_CONFIG_BYTES = 1 << 20
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}
_TRY_AGAIN = "try again{}"
_START_BYTES = (1 << 15, 1 << 20, 4 << 20)
"""Bytes of the start of a file to ask for, until the facts of its network are among them."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """Metadata of a file to download."""

    sha256: str | None  # None if its server does not publish one
    size_bytes: int | None  # Its size; None if the server does not give it
    commit: str | None  # The commit of the hub that both belong to
    etag: str = ""
    """Version of a file without a sha256, as its server names it; a file without either is not
    resumed, because it could be another one by then."""

    @property
    def version(self) -> str:
        """What tells this file from another one at the same address; empty if nothing does."""
        return self.sha256 or (self.etag and hashlib.sha256(self.etag.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class _Request:
    """What is downloaded: its URL, the headers, and its name for messages."""

    url: str
    shown: str
    headers: dict[str, str] = field(default_factory=dict)
    repo: str = ""  # Its repository on the hub; empty for another host
    again: str = "pull again{}: the partial download is kept"
    """What to do once a fault is over; braces where the time goes."""


Report = Callable[[int], None]


def _send_no_telemetry() -> None:
    """Keep the library from saying which programs run here, and from writing what it asks for."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


def _ignore(_: str) -> None:
    pass


def read_repository(repo: str, revision: str = "") -> Repository:
    """Read what a repository offers; DownloadFailed if there is none, it is gated, or offline."""
    from huggingface_hub import HfApi

    _send_no_telemetry()
    info = _ask(
        lambda: HfApi().model_info(
            repo, revision=revision or None, files_metadata=True, timeout=_METADATA_SECONDS
        ),
        _Request("", f"the repository {repo}", repo=repo, again=_TRY_AGAIN),
    )
    return _build_repository(info)


def search_repositories(words: str, most: int) -> tuple[Repository, ...]:
    """Search for repositories with GGUF files, whose sizes are not given, most downloaded first."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.hf_api import ModelInfo
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    _send_no_telemetry()
    address = f"{constants.ENDPOINT}/api/models"
    asked: dict[str, Any] = {
        "search": words,
        "filter": "gguf",
        "sort": "downloads",
        "limit": most,
        "expand": ["downloads", "gated", "cardData", "gguf", "siblings", "sha"],
    }

    def read() -> list[ModelInfo]:
        # HfApi.list_models has no timeout, and tries for half a minute without a connection.
        response = get_session().get(
            address, params=asked, headers=build_hf_headers(), timeout=_METADATA_SECONDS
        )
        hf_raise_for_status(response)
        build: Any = ModelInfo  # it has no types
        return [build(**each) for each in response.json()[:most]]

    request = _Request(address, "the list of models", again=_TRY_AGAIN)
    return tuple(map(_build_repository, _ask(read, request)))


def _build_repository(info: ModelInfo) -> Repository:
    quantisations, projectors, drafts = split_roles(_list_files(info))
    card, header = (_object(getattr(info, name, None)) for name in ("card_data", "gguf"))
    bases = card.get("base_model")
    return Repository(
        name=info.id,
        commit=info.sha,
        quantisations=quantisations,
        projectors=projectors,
        drafts=drafts,
        licence=_one_line(card.get("license_name") or card.get("license")),
        downloads=_whole(info.downloads),
        gated=bool(info.gated),
        base_models=tuple(
            _one_line(base) for base in (bases if isinstance(bases, list) else [bases]) if base
        ),
        parameters=_whole(header.get("total")),
        architecture=_one_line(header.get("architecture")),
        context_tokens=_whole(header.get("context_length")),
    )


def _list_files(info: ModelInfo) -> list[RemoteFile]:
    files = []
    for sibling in info.siblings or ():
        if not sibling.rfilename.isprintable():  # a terminal would obey it
            continue
        stored: Any = sibling.lfs or {}
        sha256 = stored.get("sha256")
        files.append(RemoteFile(
            sibling.rfilename,
            _whole(stored.get("size")) or _whole(sibling.size),
            sha256.lower() if isinstance(sha256, str) and _is_sha256(sha256) else None,
        ))  # fmt: skip
    return files


def read_json(repo: str, file: str) -> dict[str, Any] | None:
    """Read a small JSON file of a repository; None if it is missing or cannot be read."""
    import json

    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    _send_no_telemetry()
    try:
        url, content = hf_hub_url(repo, file), b""
        with get_session().stream(
            "GET", url, headers=build_hf_headers(), timeout=_METADATA_SECONDS
        ) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _MOST_CONFIG_BYTES:
                    return None
        found = json.loads(content)
    except Exception:  # noqa: BLE001 - recommended values are left out then, whatever the reason
        return None
    return found if isinstance(found, dict) else None


def read_start(repository: Repository, file: RemoteFile) -> tuple[Gguf, bytes] | None:
    """Read the facts of a model from the start of its file, of which no more is downloaded.

    Returns its header without the tensors, and the bytes from which :func:`parse_start` reads it
    again; None if they are not among the first megabytes. ModelUnavailable if it is no GGUF file.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    _send_no_telemetry()
    url = hf_hub_url(repository.name, file.name, revision=repository.commit)
    start, deadline = bytearray(), time.monotonic() + _READ_SECONDS

    def read(end: int) -> None:
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        headers["Range"] = f"bytes={len(start)}-{end - 1}"
        with get_session().stream(
            "GET", url, headers=headers, timeout=_METADATA_SECONDS
        ) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:
                start.clear()  # the server sends the file from its beginning
            for chunk in response.iter_bytes():
                start.extend(chunk[: end - len(start)])
                if len(start) >= end:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(start):,} bytes in {_READ_SECONDS:.0f} s")

    request = _Request(url, file.name, repo=repository.name, again=_TRY_AGAIN)
    for end in _START_BYTES:
        size = end if file.size_bytes is None else min(end, file.size_bytes)
        _ask(lambda: read(size), request)  # noqa: B023 - called at once
        if found := parse_start(Path(file.name), bytes(start), file.size_bytes or 0):
            return found[0], bytes(start[: found[1]])
        if size < end:
            break
    return None


def look_up(source: HubSource, file: str = "") -> HubFile:
    """Read the metadata of a file, or of another one beside it, without downloading it.

    DownloadFailed if there is no such file, no connection, or no sha256 for it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    _send_no_telemetry()
    name, revision = file or source.file, source.revision or None
    request = _Request("", f"{name} from the hub", repo=source.repo)

    def read() -> HubFile:
        url = hf_hub_url(source.repo, name, repo_type=source.kind, revision=revision)
        metadata = get_hf_file_metadata(url, timeout=_METADATA_SECONDS)
        return HubFile((metadata.etag or "").lower(), metadata.size, metadata.commit_hash)

    found = _ask(read, request)
    if found.sha256 is None or not _is_sha256(found.sha256):
        raise DownloadFailed(f"the hub gives no sha256 for {source.repo}/{name}")
    return found


def look_up_url(url: str) -> HubFile:
    """Read the size and the version of a file of any host, without downloading it.

    DownloadFailed if there is no such file, it is a web page, or the address is not secure.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    def read() -> HubFile:
        # Some servers refuse HEAD, and some sign an address for GET only.
        with get_session().stream(
            "GET", url, headers={"Accept-Encoding": "identity"}, timeout=_METADATA_SECONDS
        ) as response:
            _check_secure(response)
            hf_raise_for_status(response)
            headers = response.headers
            if headers.get("Content-Type", "").startswith("text/html"):
                raise DownloadFailed(
                    f"{url} is a web page, not a file", "copy the address of the file itself"
                )
            etag = headers.get("ETag", "")
            encoded = headers.get("Content-Encoding", "identity") != "identity"
            size = None if encoded else _whole(headers.get("Content-Length"))
            return HubFile(None, size, None, "" if etag.startswith("W/") else etag)

    return _ask(read, _Request(url, url))


def fetch(
    source: HubSource | UrlSource,
    file: HubFile,
    folder: Path,
    report: Report,
    waiting: Callable[[str], None] = _ignore,
    name: str = "",
) -> Path:
    """Download a file, resuming an earlier attempt; only the hub gets its keys.

    ``file`` is its metadata, which names the partial file in ``folder``; ``report`` gets the bytes
    downloaded so far, ``waiting`` the reason when the server asks to wait. ``name`` is another file
    of the same repository, a part of a split model.

    DownloadFailed if the server refuses the file, several tries in a row bring no new byte, or the
    address leads to one that is not secure.
    """
    if isinstance(source, UrlSource):
        request = _Request(source.url, source.url)
    else:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        _send_no_telemetry()
        name = name or source.file
        url = hf_hub_url(source.repo, name, repo_type=source.kind, revision=file.commit)
        request = _Request(url, f"{name} from the hub", build_hf_headers(), source.repo)
    return _Download(request, file, report, waiting).run(folder)


@dataclass(slots=True)
class _Download:
    """One file on its way to the disk."""

    request: _Request
    file: HubFile
    report: Report
    waiting: Callable[[str], None]

    def run(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        file = self.file
        partial = folder / f"{file.version or 'unversioned'}.part"
        with partial.open("ab") as out:
            if file.size_bytes is not None:
                if out.tell() > file.size_bytes:
                    _empty(out)
                check_space(folder, file.size_bytes - out.tell())
            fruitless = waits = 0
            while True:
                if not file.version:
                    _empty(out)
                before = out.tell()
                try:
                    self._stream(out)
                    return partial
                except EtuiError:
                    raise  # raised by `report` to stop the download
                except OSError as error:
                    if error.errno in _DISK_ERRORS:
                        raise
                    failure: Exception = error
                except Exception as error:  # noqa: BLE001 - any error of the HTTP client: try again
                    failure = error
                status = _status_of(failure)
                if status == 429 and waits < _MOST_WAITS:
                    waits += 1
                    self._wait(failure, out)
                    continue
                if status == 416:  # the partial file ends where the file ends, or behind it
                    _empty(out)
                elif status is not None and status != 408 and status < 500:
                    raise _explain(failure, self.request) from failure
                fruitless = 0 if out.tell() > before else fruitless + 1
                if fruitless >= _FRUITLESS_TRIES:
                    raise DownloadFailed(
                        f"the download of {self.request.shown} broke off: {_first_line(failure)}",
                        f"check the connection and {self.request.again.format('')}",
                    ) from failure
                time.sleep(_PAUSE_SECONDS)

    def _wait(self, failure: Exception, out: IO[bytes]) -> None:
        seconds = _asked_seconds(failure)
        if seconds > _MOST_WAIT_SECONDS:
            raise _explain(failure, self.request) from failure
        self.waiting(f"{_host_of(self.request)} asks to wait {seconds_text(seconds)}")
        while seconds > 0:
            self.report(out.tell())
            time.sleep(min(seconds, _SLICE_SECONDS))
            seconds -= _SLICE_SECONDS

    def _stream(self, out: IO[bytes]) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils import hf_raise_for_status

        size, start = self.file.size_bytes, out.tell()
        self.report(start)
        if start == size:
            return
        headers = {**self.request.headers, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self.file.sha256 is None:
                headers["If-Range"] = self.file.etag
        with get_session().stream(
            "GET", self.request.url, headers=headers, timeout=_READ_SECONDS
        ) as response:
            if not self.request.repo:
                _check_secure(response)
            hf_raise_for_status(response)
            if start and response.status_code != 206:  # the server sends the whole file again
                _empty(out)
            # No chunk size: it would buffer bytes and lose them when the connection drops.
            for chunk in response.iter_bytes():
                if size is not None and out.tell() + len(chunk) > size:
                    _empty(out)  # another file, perhaps without an end; its bytes are worth nothing
                    raise DownloadFailed(
                        f"the download of {self.request.shown} is larger than the {size:,} bytes "
                        "of the published file"
                    )
                out.write(chunk)
                self.report(out.tell())
        if size is not None and out.tell() != size:
            raise EOFError(f"the file ended at byte {out.tell()} of {size}")


def _ask(call: Callable[[], T], request: _Request) -> T:
    """Ask a server, and once more after a short wait that it asked for."""
    waited = 0.0
    while True:
        try:
            return call()
        except EtuiError:
            raise
        except Exception as error:  # the library lets the errors of its HTTP client through
            seconds = _asked_seconds(error) if _status_of(error) == 429 else 0.0
            if not 0 < waited + seconds <= _MOST_SILENT_SECONDS:
                raise _explain(error, request) from error
            waited += seconds
            time.sleep(seconds)


def _explain(error: Exception, request: _Request) -> DownloadFailed:
    from huggingface_hub import constants, errors, get_token

    repo, shown, status = request.repo, request.shown, _status_of(error)
    page, is_hub = hub_page(repo), _host_of(request) == hub_host()
    own_token = os.environ.get("HF_TOKEN") and "HF_TOKEN"
    place = own_token or constants.HF_TOKEN_PATH
    put_token = f"put a token into HF_TOKEN or {constants.HF_TOKEN_PATH}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DownloadFailed(
            "HF_HUB_OFFLINE is set, so the hub is not asked", "unset it to use the hub"
        )
    if isinstance(error, errors.HFValidationError):
        return DownloadFailed(
            f"{repo!r} is not the name of a repository", "write OWNER/REPO, as on its page"
        )
    if status == 429:
        seconds = seconds_text(_asked_seconds(error))
        token = "" if get_token() or not is_hub else "; with a token in HF_TOKEN it allows more"
        return DownloadFailed(
            f"{_host_of(request)} limits how often it is asked, and asks to wait {seconds}",
            request.again.format(" after that") + token,
        )
    if repo and isinstance(error, errors.GatedRepoError):
        if get_token():
            help_ = f"accept its terms at {page} with the account of the token in {place}"
        else:
            help_ = f"accept its terms at {page}, then {put_token} (`hf auth login` does)"
        return DownloadFailed(f"{repo} is gated: its owner asks to accept its terms first", help_)
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadFailed(f"{repo} has no such revision", f"see its history at {page}/commits")
    if is_hub and status == 401 and get_token():
        return DownloadFailed(
            f"the hub refuses the token in {place}",
            "replace it, or remove it: public models need none",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or (repo and status == 401):
        return DownloadFailed(
            f"the hub has no repository {repo}, or it is private",
            f"check the name at {page}; for a private one, {put_token}",
        )
    if repo and status == 403:
        what = f"the token in {place} may not read {repo}" if get_token() else f"{repo} is private"
        return DownloadFailed(what, f"{put_token} that may read it")
    if status in (404, 410):
        fix = f"it was renamed or removed; see what there is: etui models info {repo}"
        return DownloadFailed(
            f"there is no {shown.removeprefix('the ')} (404)",
            fix if repo else "check the address: nothing is there",
        )
    if status is not None:
        return DownloadFailed(
            f"{_host_of(request)} answers {status} for {shown}",
            request.again.format(" later"),
        )
    named = os.environ.get("HF_ENDPOINT") and (is_hub or not hub_host())
    return DownloadFailed(
        f"cannot get {shown}: {_host_of(request)} cannot be reached ({_first_line(error)})",
        f"check the connection{' and HF_ENDPOINT,' if named else ''} and "
        f"{request.again.format('')}",
    )


def _status_of(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _asked_seconds(error: Exception) -> float:
    """Read how long a server asks to wait: in seconds, or until a date."""
    from email.utils import parsedate_to_datetime

    from huggingface_hub.utils import parse_ratelimit_headers

    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = headers.get("Retry-After", "")
    if re.fullmatch(r"\d{1,9}", asked):
        return max(1.0, float(asked))
    try:
        if asked:
            return max(1.0, parsedate_to_datetime(asked).timestamp() - time.time())
        limit = parse_ratelimit_headers(headers)
    except (ValueError, TypeError):
        return _WAIT_SECONDS
    return _WAIT_SECONDS if limit is None else max(1.0, float(limit.reset_in_seconds))


def _host_of(request: _Request) -> str:
    return hub_host() if request.repo else urlsplit(request.url).hostname or "the server"


def _check_secure(response: Any) -> None:
    """Refuse an answer that came over a connection that anyone between can change."""
    for step in (*response.history, response):
        if not is_secure(str(step.url)):
            raise DownloadFailed(
                f"{step.url} is not secure, so its file could be exchanged on the way",
                "use an https address that stays https",
            )


def hub_host() -> str:
    """Return the host of the hub in use (``HF_ENDPOINT``)."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).hostname or ""


def hub_page(repo: str) -> str:
    """Return the address of a repository's page."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def _is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{64}", text) is not None


def _whole(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _object(value: Any) -> Any:
    return value if hasattr(value, "get") else {}


def _one_line(value: object) -> str:
    return one_line(value)[:200] if isinstance(value, str) else ""


def _empty(out: IO[bytes]) -> None:
    out.truncate(0)
    out.seek(0)  # truncate() does not move the position


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
