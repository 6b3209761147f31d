"""From ``--suite`` and ``--data`` to questions: MMLU, the sample that ships, or a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etui.datasets.archive import Files, read_files, subject_of
from etui.datasets.mmlu import KNOWN, SUBJECT_GROUPS
from etui.datasets.questions import Question, Suite, by_subject, hash_of, read_questions
from etui.errors import InvalidFile, UsageError

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
    """The questions of a suite.

    Args:
        name: ``mmlu``, ``sample``, or the path of a CSV file.
        split: ``test``, ``val`` or ``dev``.
        data: Where MMLU lies; None takes the copy in ``ETUI_HOME``, or downloads it.
        config: Names ``ETUI_HOME``.
        say: Told of a download.

    Raises:
        UsageError: There is no such suite or place.
        InvalidFile: A file does not hold what it should.
        DownloadFailed: MMLU is not here and cannot be had.
    """
    if name == MMLU:
        from etui.datasets.download import mmlu_files

        files = read_files(data, ("dev", split)) if data else mmlu_files(config, split, say)
        return _checked(_of_files(MMLU, split, files))
    if data is not None:
        raise UsageError(f"--data has no effect on --suite {name}", "leave it out")
    if name == SAMPLE:
        if split == "val":
            raise UsageError("the sample has no val split", "use --split test or dev")
        place = Path(__file__).with_name("sample")
        return _of_files(SAMPLE, split, read_files(place, ("dev", split)))
    path = Path(name).expanduser()
    if path.is_file():
        return _of_file(path)
    raise UsageError(
        f"there is no suite {name!r}", "use mmlu, sample, or the path of a CSV file of MMLU's form"
    )


def _of_files(name: str, split: str, files: Files) -> Suite:
    questions: dict[str, Sequence[Question]] = {}
    examples: dict[str, Sequence[Question]] = {}
    for key in sorted(files):
        subject = subject_of(key)
        rows = read_questions(files[key], key, subject)
        if key.startswith("dev/"):
            examples[subject] = rows
        if key.startswith(f"{split}/"):
            questions[subject] = rows
    return Suite(name, split, hash_of(files), questions, {} if split == "dev" else examples)


def _of_file(path: Path) -> Suite:
    """A file, and the worked examples of ``NAME_dev.csv`` beside it if there is one."""
    beside = path.with_name(f"{path.stem}_dev.csv")
    try:
        files = {p.name: p.read_bytes() for p in (path, beside) if p.is_file()}
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror or error}") from error
    questions = by_subject(read_questions(files[path.name], str(path), path.stem))
    shown = files.get(beside.name)
    examples = by_subject(read_questions(shown, str(beside), path.stem)) if shown else {}
    return Suite(path.stem, "test", hash_of(files), questions, examples)


def _checked(suite: Suite) -> Suite:
    """MMLU, complete, or with a notice that its files are not the original ones.

    Raises:
        InvalidFile: Subjects are missing.
    """
    lonely = sorted(set(suite.questions) - set(suite.examples)) if suite.split != "dev" else []
    if lonely:
        raise InvalidFile(
            f"there is no dev file for {', '.join(lonely)}",
            "the worked examples are in dev/SUBJECT_dev.csv",
        )
    missing = sorted(set(SUBJECT_GROUPS) - set(suite.questions))
    if missing:
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        raise InvalidFile(
            f"subjects of MMLU are missing: {', '.join(missing[:6])}{more}",
            "complete the folder; etui bench --suite FILE.csv takes a file of your own",
        )
    known = KNOWN[suite.split]
    count = sum(suite.sizes.values())
    if count == known.questions:
        return suite
    return Suite(
        suite.name, suite.split, suite.sha256, suite.questions, suite.examples,
        f"these are not MMLU's original files: {count} questions, not {known.questions}; "
        "a score over them compares with no published one",
    )  # fmt: skip
