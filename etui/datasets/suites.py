"""Question suites that ``--suite`` and ``--data`` select: MMLU, the shipped sample, or a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etui.datasets.archive import Files, parse_subject, read_files
from etui.datasets.mmlu import KNOWN, SUBJECT_GROUPS
from etui.datasets.questions import Question, Suite, group_by_subject, hash_files, read_questions
from etui.errors import InvalidFile, UsageError
from etui.text.suggest import did_you_mean

if TYPE_CHECKING:
    from etui.config.config import Config

MMLU = "mmlu"
SAMPLE = "sample"


def load_suite(
    name: str,
    split: str,
    data: Path | None,
    config: Config,
    say: Callable[[str], None] = lambda text: None,
) -> Suite:
    """Load the questions of a suite.

    Args:
        name: ``mmlu``, ``sample``, or the path of a CSV file.
        split: ``test``, ``val`` or ``dev``.
        data: Folder or archive of MMLU; None uses the copy in ``ETUI_HOME``, or downloads it.
        config: Provides ``ETUI_HOME``.
        say: Receives progress messages of a download.

    Raises:
        UsageError: The suite or the path does not exist.
        InvalidFile: A file has invalid content.
        DownloadFailed: MMLU is not on this machine and cannot be downloaded.
    """
    if name == MMLU:
        from etui.datasets.download import load_mmlu_files

        files = read_files(data, ("dev", split)) if data else load_mmlu_files(config, split, say)
        return _check_mmlu(_build_suite(MMLU, split, files))
    if data is not None:
        raise UsageError(f"--data has no effect on --suite {name}", "leave it out")
    if name == SAMPLE:
        if split == "val":
            raise UsageError("the sample has no val split", "use --split test or dev")
        place = Path(__file__).with_name("sample")
        return _build_suite(SAMPLE, split, read_files(place, ("dev", split)))
    path = Path(name).expanduser()
    if path.is_file():
        return _load_csv_suite(path)
    raise UsageError(
        f"unknown suite {name!r}{did_you_mean(name, (MMLU, SAMPLE), listed=0)}",
        "use mmlu, sample, or the path of a CSV file in MMLU's format",
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


def _load_csv_suite(path: Path) -> Suite:
    """Load a CSV file, with worked examples from ``NAME_dev.csv`` next to it if that exists."""
    dev_file = path.with_name(f"{path.stem}_dev.csv")
    try:
        files = {p.name: p.read_bytes() for p in (path, dev_file) if p.is_file()}
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror or error}") from error
    questions = group_by_subject(read_questions(files[path.name], str(path), path.stem))
    shown = files.get(dev_file.name)
    examples = group_by_subject(read_questions(shown, str(dev_file), path.stem)) if shown else {}
    return Suite(path.stem, "test", hash_files(files), questions, examples)


def _check_mmlu(suite: Suite) -> Suite:
    """Check that MMLU is complete; add a notice if its files are not the original ones.

    Raises:
        InvalidFile: Subjects or worked examples are missing.
    """
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
