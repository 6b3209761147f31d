"""Read what a user names to pull: a repository of the hub, an address, a file on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from etui.errors import UsageError
from etui.models.spec import PathSource, UrlSource, is_secure

_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
_SHORT = re.compile(r"(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/|hf:(?://)?")
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(
    rf"(?P<repo>{_NAME}/{_NAME}?)(?:@(?P<revision>[\w.-]+))?(?::(?P<label>[^:\s]+))?"
)
_IN_REPOSITORY = re.compile(
    rf"(?P<repo>{_NAME}/{_NAME})/"
    r"(?:(?:resolve|blob|raw|tree)/(?P<revision>[^/]+)(?:/(?P<file>.+))?|(?P<plain>.+\.gguf))"
)


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository of the hub, and what to take from it."""

    repo: str
    label: str = ""  # A quantisation or a file name; empty takes the usual quantisation
    revision: str = ""  # Empty is the newest


Reference: TypeAlias = HubReference | UrlSource | PathSource


def parse_reference(text: str, hub_host: str = "huggingface.co") -> Reference | None:
    """Read a reference; None for a text that can only be the name of a model.

    ``hf.co/OWNER/REPO[:QUANT]``, ``OWNER/REPO[@REVISION][:QUANT]``, ``OWNER/REPO/FILE.gguf``, the
    address of a repository or a file, or the path of a file.

    Args:
        hub_host: Host of the hub in use, which may be another one than that of Hugging Face.

    Raises:
        UsageError: The address is not secure, or holds a password.
    """
    if "://" in text:
        return _parse_address(text, hub_host)
    path = Path(text).expanduser()
    is_path = text.startswith(("/", "./", "../", "~", "\\")) or path.is_absolute()
    is_file = text.endswith(".gguf") and (path.is_file() or text.count("/") == 1)
    if is_path or is_file:
        return PathSource(path.absolute())
    return _parse_repository(_SHORT.sub("", text, count=1))


def _parse_address(text: str, hub_host: str) -> Reference:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https", "hf") or not parts.netloc:
        raise UsageError(f"{text!r} is no https address", "write https://HOST/PATH")
    if parts.username or parts.password:
        raise UsageError(
            f"the address of {parts.hostname} holds a password, which would be kept in models.yaml",
            "download the file yourself and pull its path",
        )
    if parts.scheme == "hf" or parts.hostname in (*_HOSTS, hub_host):
        inner = unquote(f"{parts.netloc}{parts.path}" if parts.scheme == "hf" else parts.path)
        if (found := _parse_repository(inner.strip("/"))) is None:
            raise UsageError(
                f"{text!r} is not the address of a model",
                "copy that of a repository, or of a file in it",
            )
        return found
    if not is_secure(text):
        raise UsageError(
            f"{text!r} is not secure: the file could be exchanged on the way",
            "use its https address",
        )
    return UrlSource(text)


def _parse_repository(text: str) -> HubReference | None:
    if match := _IN_REPOSITORY.fullmatch(text):
        revision = match["revision"] or ""
        file = match["file"] or match["plain"] or ""
        return HubReference(match["repo"], file, "" if revision == "main" else revision)
    if match := _REPOSITORY.fullmatch(text):
        return HubReference(match["repo"], match["label"] or "", match["revision"] or "")
    return None
