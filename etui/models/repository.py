"""What a user can name to pull, and what a repository of the hub offers.

Names are all that a hub says of quantisations, so they are read as llama.cpp and Ollama read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from etui.errors import ModelUnavailable, UsageError
from etui.models.gguf import drop_part, list_parts
from etui.models.spec import PathSource, UrlSource, is_secure
from etui.text import did_you_mean

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
    address of a repository or a file, or the path of a file. UsageError if the address is not
    secure, or holds a password. The hub in use may be on another host than that of Hugging Face.
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


_LABEL = re.compile(
    r"(?:^|[-._ ])((?:UD-)?(?:I?Q\d(?:_[0-9KSMLXN]{1,3})*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4"
    r"|BF16|F(?:P)?16|F(?:P)?32))(?=$|[-._ ])",
    re.IGNORECASE,
)
_BITS = re.compile(r"(\d+)")
_ENDING = ".gguf"
_DRAFT = re.compile(r"(?:^|[-._ ])(?:draft(?:er)?|mtp|eagle3?)(?:$|[-._ ])", re.IGNORECASE)
_BESIDE = re.compile(r"(?:^|[-._ ])(?:imatrix|lora|adapter|vocab)(?:$|[-._ ])", re.IGNORECASE)
_LEAST_BITS = 4
_PREFERRED = ("Q4_K_M", "Q8_0")
Role = Literal["model", "projector", "draft", "other"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository."""

    name: str  # Path in the repository
    size_bytes: int | None  # None if the hub does not give it
    sha256: str | None  # None for a file that is not stored by its hash


@dataclass(frozen=True, slots=True)
class Quantisation:
    """One model file of a repository, with all parts if it is split."""

    label: str  # ``Q4_K_M``; without one in the name, the name of the file
    files: tuple[RemoteFile, ...]  # In the order of the parts
    missing: tuple[str, ...] = ()  # Names of the parts that the repository lacks

    @property
    def size_bytes(self) -> int | None:
        """Size of all parts; None if that of one is unknown."""
        sizes = [file.size_bytes for file in self.files]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @property
    def bits(self) -> int | None:
        """Bits of a weight as the label says; None without a label."""
        found = _BITS.search(self.label) if find_label(self.label) else None
        return int(found[1]) if found else None

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True, slots=True)
class Choice:
    """The quantisation to pull, and why it is that one."""

    quantisation: Quantisation
    why: str  # Empty if the user named it


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the hub: all that it says before anything is downloaded."""

    name: str  # ``OWNER/REPO``, as the hub spells it now
    commit: str | None  # Commit that all facts belong to
    quantisations: tuple[Quantisation, ...]
    projectors: tuple[RemoteFile, ...] = ()  # Files that read pictures or sound (``mmproj``)
    drafts: tuple[RemoteFile, ...] = ()  # Models that draft tokens for the others
    licence: str = ""  # As its card says; empty if it does not
    downloads: int | None = None  # In the last 30 days
    gated: bool = False  # Whether its terms must be accepted before a download
    base_models: tuple[str, ...] = ()  # Repositories of the weights before quantisation
    parameters: int | None = None
    architecture: str = ""  # As the hub reads it from a GGUF header; empty if it does not
    context_tokens: int | None = None  # The context it was trained with, by the same source

    def choose(self, label: str = "") -> Choice:
        """Choose a quantisation by its label or file name; without one, as llama.cpp does.

        That is Q4_K_M, else Q8_0, else the smallest of at least 4 bits, else the largest.
        UsageError if there is none or several have the label, ModelUnavailable if it is not
        complete.
        """
        if not self.quantisations:
            found = (
                "only files that belong to another model" if self.projectors else "no .gguf file"
            )
            raise ModelUnavailable(
                f"{self.name} has {found}",
                "search the hub for a repository with GGUF in its name: other formats do not run",
            )
        chosen = self._find(label) if label else self._choose_default()
        if chosen.quantisation.missing:
            missing = chosen.quantisation.missing
            raise ModelUnavailable(
                f"{self.name} lacks {len(missing)} of the "
                f"{len(missing) + len(chosen.quantisation.files)} parts of "
                f"{chosen.quantisation}: {missing[0]}",
                f"choose another quantisation: {self.list_labels() or 'none is complete'}",
            )
        return chosen

    def list_labels(self) -> str:
        """List the labels of all complete quantisations, from small to large."""
        complete = [found for found in self.quantisations if not found.missing]
        complete.sort(key=lambda found: found.size_bytes or 0)
        return ", ".join(dict.fromkeys(found.label for found in complete))

    def _find(self, label: str) -> Choice:
        wanted = label.lower()
        for matches in (
            [q for q in self.quantisations if wanted in {file.name.lower() for file in q.files}],
            [q for q in self.quantisations if q.label.lower() == wanted],
            [q for q in self.quantisations if q.label.lower() == f"ud-{wanted}"],
        ):
            if len(matches) == 1:
                return Choice(matches[0], "")
            if matches:
                names = ", ".join(found.files[0].name for found in matches)
                raise UsageError(
                    f"{self.name} has {len(matches)} models of {matches[0].label}: {names}",
                    f"name one of them: {self.name}:{matches[0].files[0].name}",
                )
        if draft := next((file for file in self.drafts if file.name.lower() == wanted), None):
            return Choice(Quantisation(find_label(draft.name) or draft.name, (draft,)), "")
        labels = [found.label for found in self.quantisations]
        near = did_you_mean(label, labels, listed=0)
        raise UsageError(f"{self.name} has no {label!r}{near}", f"it has: {self.list_labels()}")

    def _choose_default(self) -> Choice:
        complete = [found for found in self.quantisations if not found.missing]
        for label in _PREFERRED:
            matches = [found for found in complete if found.label.upper() == label]
            if matches:
                why = "the default" if label == _PREFERRED[0] else f"there is no {_PREFERRED[0]}"
                return Choice(self._find(label).quantisation, why)
        if not complete:
            return Choice(self.quantisations[0], "")
        if len(complete) == 1:
            return Choice(complete[0], "the only one")
        able = [found for found in complete if (found.bits or 0) >= _LEAST_BITS]
        neither = f"there is neither {' nor '.join(_PREFERRED)}"
        if able:
            smallest = min(able, key=lambda found: found.size_bytes or 0)
            return Choice(smallest, f"the smallest of at least {_LEAST_BITS} bits: {neither}")
        largest = max(complete, key=lambda found: found.size_bytes or 0)
        return Choice(largest, f"the largest: {neither}")


def find_label(name: str) -> str:
    """Find the quantisation in the name of a file or its folder, in upper case; else empty."""
    path = PurePosixPath(name)
    stem = path.name.removesuffix(".gguf")
    for text in (drop_part(stem), path.parent.name):
        if found := [match[1].upper() for match in _LABEL.finditer(text)]:
            return {"FP16": "F16", "FP32": "F32"}.get(found[-1], found[-1])
    return ""


def find_role(name: str) -> Role:
    """Find by its name what a GGUF file is for."""
    stem = PurePosixPath(name).name.removesuffix(".gguf")
    if "mmproj" in stem.lower():
        return "projector"
    if _DRAFT.search(stem):
        return "draft"
    return "other" if _BESIDE.search(stem) else "model"


def _group_files(files: Iterable[RemoteFile]) -> tuple[Quantisation, ...]:
    named = {file.name: file for file in files}
    found: dict[tuple[str, ...], Quantisation] = {}
    for name in sorted(named):
        parts = list_parts(name)
        if parts not in found:
            here = tuple(named[part] for part in parts if part in named)
            missing = tuple(part for part in parts if part not in named)
            label = find_label(name) or PurePosixPath(drop_part(name.removesuffix(".gguf"))).name
            found[parts] = Quantisation(label, here, missing)
    return tuple(found.values())


def split_roles(
    files: Iterable[RemoteFile],
) -> tuple[tuple[Quantisation, ...], tuple[RemoteFile, ...], tuple[RemoteFile, ...]]:
    """Split GGUF files into quantisations, projectors and drafts, which may be the only models."""
    found: dict[Role, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.name):
        if file.name.endswith(_ENDING):
            found.setdefault(find_role(file.name), []).append(file)
    models, drafts = found.get("model", []), found.get("draft", [])
    if not models:
        models, drafts = drafts, []
    return _group_files(models), tuple(found.get("projector", ())), tuple(drafts)
