"""Question suites that ``--suite`` and ``--data`` select: those with a name, or a file.

``published.json`` has the facts of those with one file per split. The SHA-256 of a file is that of
the published bytes at a fixed commit. The hash of the content
(:func:`etui.datasets.questions.hash_questions`) is the same in every form of the data, so that a
local copy in another form is recognised; None where it was not computed from real data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import msgspec

from etui.config.config import Config
from etui.datasets.mmlu import (
    HUB_REPO,
    KNOWN,
    SUBJECT_GROUPS,
    Files,
    hold_copy,
    load_mmlu_files,
    parse_subject,
    read_files,
    report_tenths,
    suite_dir,
)
from etui.datasets.question_files import SUFFIXES, find_grading, read_questions
from etui.datasets.questions import (
    SPLITS,
    Grading,
    Question,
    Split,
    Suite,
    group_by_subject,
    hash_files,
    hash_questions,
)
from etui.datasets.records import read_content, require_pyarrow
from etui.errors import DownloadFailed, InvalidFile, UsageError
from etui.text import did_you_mean
from etui.units import bytes_text


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file as it is published."""

    site: Literal["hub", "github"]
    """``hub`` (the dataset ``repo`` there) or ``github`` (the repository ``repo``)."""
    repo: str
    commit: str
    path: str
    sha256: str
    size_bytes: int
    name: str  # Its name in `ETUI_HOME/data/SUITE`

    def __str__(self) -> str:
        return f"{'hf' if self.site == 'hub' else 'github'} {self.repo}/{self.path}"


@dataclass(frozen=True, slots=True)
class PublishedSplit:
    """One split of a suite."""

    questions: int
    content_sha256: str | None  # Hash of its questions; None if unknown
    file: PublishedFile
    stems: tuple[str, ...]  # Names of its file in a local copy, without suffix


@dataclass(frozen=True, slots=True)
class PublishedSuite:
    """A suite of one file per split."""

    source: str  # The paper, and which split has the worked examples
    name: str  # `gsm8k`, for `--suite`
    title: str  # `GSM8K`
    licence: str  # `MIT`
    dataset: str  # Its dataset on the hub, which lm-eval names
    grading: Grading  # How answers are compared
    by_category: bool
    """Whether the category of a question is its subject; if not, all questions have the name of the
    suite as their subject."""
    splits: Mapping[Split, PublishedSplit]  # The splits; `dev` has the worked examples
    folders: tuple[str, ...]  # Folders of a local copy that may hold the files

    def list_local(self, split: Split) -> Iterator[str]:
        """List the paths at which a local copy may have a split, the most likely first."""
        for folder in self.folders:
            for stem in self.splits[split].stems:
                for suffix in SUFFIXES:
                    yield f"{folder}/{stem}{suffix}" if folder else f"{stem}{suffix}"


SplitFiles = dict[Split, tuple[str, bytes]]
"""Split -> name of its file for messages, and the content."""


def read_local(suite: PublishedSuite, split: Split, place: Path) -> SplitFiles:
    """Read a split from a file or a folder, with the worked examples if the folder has them.

    Args:
        place: A file of its questions, or a folder of files named by split.
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
    files: SplitFiles = {}
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
) -> SplitFiles:
    """Load a split and the worked examples from ``ETUI_HOME``; download what is missing there."""
    parts = _list_parts(split)
    for part in parts:  # before anything is downloaded
        if (name := suite.splits[part].file.name).endswith(".parquet"):
            require_pyarrow(f"{suite.title} ({name})")
    folder = suite_dir(config, suite.name)
    files: SplitFiles = {}
    for part in parts:
        published = suite.splits[part].file
        path = folder / published.name
        if not path.is_file():
            with hold_copy(folder, suite.title, config):
                folder.mkdir(exist_ok=True)
                if not path.is_file():
                    _download(suite, published, path, say, fetch or _fetch)
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


def _download(
    suite: PublishedSuite,
    file: PublishedFile,
    path: Path,
    say: Callable[[str], None],
    fetch: Fetch,
) -> None:
    say(f"downloading {suite.title} ({file}, {bytes_text(file.size_bytes)}) to {path}, once")
    try:
        partial = fetch(file, path.parent, report_tenths(suite.title, file.size_bytes, say))
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
    from etui.models.hub import HubFile, fetch
    from etui.models.spec import HubSource, UrlSource

    known = HubFile(file.sha256, file.size_bytes, file.commit)
    if file.site == "github":
        return fetch(UrlSource(build_url(file)), known, folder, report)
    return fetch(HubSource(file.repo, file.path, kind="dataset"), known, folder, report)


Fetch = Callable[[PublishedFile, Path, Callable[[int], None]], Path]
"""(File, folder of the partial file, callback for the bytes received) -> path of the download."""

_FACTS = Path(__file__).with_name("published.json")

PUBLISHED = msgspec.json.decode(_FACTS.read_bytes(), type=dict[str, PublishedSuite])
"""Suites of one file per split, by name."""


MMLU = "mmlu"
SAMPLE = "sample"
NAMED = (MMLU, *PUBLISHED, SAMPLE)
"""Suites with a name; every other suite is the path of a file."""

_TITLES = {MMLU: "MMLU", **{name: suite.title for name, suite in PUBLISHED.items()}}


def is_named_suite(name: str) -> bool:
    """Whether a suite has a name of its own; if not, it is a file."""
    return name in NAMED


def suite_title(name: str) -> str:
    """Return how a suite is written: ``GSM8K`` for ``gsm8k``; a file has its own name."""
    return _TITLES.get(name, name)


def suite_repo(name: str) -> str:
    """Return the dataset of a suite on the hub; its name if it has none there."""
    if name == MMLU:
        return HUB_REPO
    return PUBLISHED[name].dataset if name in PUBLISHED else name


def load_suite(
    name: str,
    split: str,
    data: Path | None,
    config: Config,
    say: Callable[[str], None] = lambda text: None,
) -> Suite:
    """Load the questions of a suite.

    Args:
        name: One of :data:`NAMED`, or the path of a CSV, JSON Lines or Parquet file.
        data: Local copy of a suite with a name; None uses the copy in ``ETUI_HOME``, or downloads
            it. MMLU is a folder or an archive, others are a folder or a file.

    Raises:
        UsageError: The suite, the split or the path does not exist, or pyarrow for Parquet.
        InvalidFile: A file has invalid content.
        DownloadFailed: The suite is not on this machine and cannot be downloaded.
    """
    if name == MMLU:
        files = read_files(data, ("dev", split)) if data else load_mmlu_files(config, split, say)
        return _check_mmlu(_build_suite(MMLU, split, files))
    if name in PUBLISHED:
        return _load_published(PUBLISHED[name], split, data, config, say)
    if data is not None:
        raise UsageError(f"--data has no effect on --suite {name}", "leave it out")
    if name == SAMPLE:
        if split == "val":
            raise UsageError("the sample has no val split", "use --split test or dev")
        place = Path(__file__).with_name("sample")
        return _build_suite(SAMPLE, split, read_files(place, ("dev", split)))
    path = Path(name).expanduser()
    if path.is_file():
        return _load_own_file(path)
    raise UsageError(
        f"unknown suite {name!r}{did_you_mean(name, NAMED, listed=0)}",
        f"use {', '.join(NAMED)}, or the path of a CSV or JSONL file",
    )


def _build_suite(name: str, split: str, files: Files) -> Suite:
    questions: dict[str, Sequence[Question]] = {}
    examples: dict[str, Sequence[Question]] = {}
    for key in sorted(files):
        subject = parse_subject(key)
        rows = read_questions(files[key], key, subject)
        if key.startswith("dev/"):
            examples[subject] = rows
        if key.startswith(f"{split}/"):
            questions[subject] = rows
    return Suite(name, split, hash_files(files), questions, {} if split == "dev" else examples)


def _load_own_file(path: Path) -> Suite:
    """Load a file, with worked examples from ``NAME_dev`` next to it if that exists."""
    dev_file = path.with_name(f"{path.stem}_dev{path.suffix}")
    files = {file.name: read_content(file) for file in (path, dev_file) if file.is_file()}
    questions = read_questions(files[path.name], str(path), path.stem)
    grading = find_grading(questions)
    examples: list[Question] = []
    if dev_file.name in files:
        examples = read_questions(files[dev_file.name], str(dev_file), path.stem)
        if find_grading(examples) != grading:
            raise InvalidFile(
                f"{dev_file} and {path} differ: the answers of one are letters, those of the other "
                "are numbers",
                "make the worked examples of the same kind as the questions",
            )
    # A run finds its suite again by the name, so a file must not have that of another suite.
    name = path.name if is_named_suite(path.stem) else path.stem
    return Suite(
        name,
        "test",
        hash_files(files),
        group_by_subject(questions),
        group_by_subject(examples),
        grading=grading,
    )


def _load_published(
    suite: PublishedSuite,
    split: str,
    data: Path | None,
    config: Config,
    say: Callable[[str], None],
) -> Suite:
    """Load a suite of one file per split; a notice says what differs from the published one."""
    if split not in suite.splits:
        known = " or ".join(name for name in SPLITS if name in suite.splits)
        raise UsageError(f"{suite.title} has no {split} split", f"use --split {known}")
    part = cast("Split", split)
    if data is not None:
        files = read_local(suite, part, data)
    else:
        files = load_published_files(suite, part, config, say)
    shipped = Path(__file__).with_name(f"{suite.name}_examples.jsonl")
    if "dev" not in files and shipped.is_file():
        files["dev"] = (str(shipped), shipped.read_bytes())
    questions = _read_published(suite, *files[part])
    examples = _read_published(suite, *files["dev"]) if "dev" in files and part != "dev" else []
    return Suite(
        suite.name,
        part,
        hash_questions([*questions, *examples]),
        group_by_subject(questions),
        group_by_subject(examples),
        _find_difference(suite, part, questions),
        suite.grading,
    )


def _read_published(suite: PublishedSuite, file: str, raw: bytes) -> list[Question]:
    """Read the questions of a published suite, and set their subjects."""
    questions = read_questions(raw, file, suite.name)
    if find_grading(questions) != suite.grading:
        kinds = {"letter": "have options", "number": "have numbers as their answers"}
        raise InvalidFile(
            f"{file} is not {suite.title}: its questions {kinds[find_grading(questions)]}",
            f"pass {suite.title}'s own files to --data, or this file to --suite",
        )
    if suite.by_category:
        return [replace(one, subject=one.subject.replace(" ", "_")) for one in questions]
    return [replace(one, subject=suite.name) for one in questions]


def _find_difference(suite: PublishedSuite, split: Split, questions: Sequence[Question]) -> str:
    """Describe how questions differ from the published ones; empty if no difference is known."""
    known = suite.splits[split]
    if len(questions) != known.questions:
        differ = f"{len(questions)} questions instead of {known.questions}"
    elif known.content_sha256 not in (None, hash_questions(questions)):
        differ = "as many questions, with other content"
    else:
        return ""
    return (
        f"these are not {suite.title}'s original questions: {differ}; scores are not comparable "
        "with published ones"
    )


def _check_mmlu(suite: Suite) -> Suite:
    """Check that MMLU is complete; add a notice if its files are not the original ones."""
    without_dev = sorted(set(suite.questions) - set(suite.examples)) if suite.split != "dev" else []
    if without_dev:
        raise InvalidFile(
            f"no dev file for {', '.join(without_dev)}",
            "add the worked examples as dev/SUBJECT_dev.csv",
        )
    missing = sorted(set(SUBJECT_GROUPS) - set(suite.questions))
    if missing:
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        raise InvalidFile(
            f"subjects of MMLU are missing: {', '.join(missing[:6])}{more}",
            "complete the folder, or use etui bench --suite FILE.csv for a file of your own",
        )
    known = KNOWN[suite.split]
    count = sum(suite.sizes.values())
    if count == known.questions:
        return suite
    notice = f"these are not MMLU's original files: {count} questions instead of {known.questions}"
    return replace(suite, notice=f"{notice}; scores are not comparable with published ones")
