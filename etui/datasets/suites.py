"""Question suites that ``--suite`` and ``--data`` select: those with a name, or a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from etui.config.config import Config
from etui.datasets._published import PUBLISHED, PublishedSuite, load_published_files, read_local
from etui.datasets.mmlu import (
    HUB_REPO,
    KNOWN,
    SUBJECT_GROUPS,
    Files,
    load_mmlu_files,
    parse_subject,
    read_files,
)
from etui.datasets.question_files import find_grading, read_questions
from etui.datasets.questions import (
    SPLITS,
    Question,
    Split,
    Suite,
    group_by_subject,
    hash_files,
    hash_questions,
)
from etui.datasets.records import read_content
from etui.errors import InvalidFile, UsageError
from etui.text import did_you_mean

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
        UsageError: The suite, the split or the path does not exist.
        InvalidFile: A file has invalid content.
        DownloadFailed: The suite is not on this machine and cannot be downloaded.
        UsageError: A file is Parquet, and pyarrow is not installed.
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
    return Suite(
        suite.name, suite.split, suite.sha256, suite.questions, suite.examples,
        f"these are not MMLU's original files: {count} questions instead of {known.questions}; "
        "scores are not comparable with published ones",
    )  # fmt: skip
