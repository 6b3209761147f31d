"""A public folder of a run: its files, and where they may be written."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from etui import __version__
from etui.atomic import write_text
from etui.bench.analysis.summary import Summary
from etui.bench.analysis.summary_text import markdown, suite_name
from etui.bench.publish.command import DESIGN_FILE, POLICY_FILE, RepeatCommand, build_command
from etui.bench.publish.private import (
    PrivateData,
    find_leaks,
    number_gpus,
    redact_backends,
    redact_config,
    redact_sample,
    redact_serials,
)
from etui.bench.publish.suites import SUITES, is_own_file
from etui.bench.store.difficulty_table import DIFFICULTY
from etui.bench.store.run_config import RunConfig
from etui.bench.store.run_folder import PER_SUBJECT, SAMPLES, SUMMARY, Recorded
from etui.errors import EtuiError, InvalidFile, UsageError

if TYPE_CHECKING:
    from etui.bench.analysis.precision import Precision
    from etui.bench.analysis.summary import Summary
    from etui.bench.store.difficulty_table import DifficultyTable
    from etui.bench.store.sample import Sample


_ABOUT = {
    "record.json": "the configuration of the run: questions, arms, models, programs, machines",
    "energy_record.json": "the energy record: conditions, method and uncertainty of the joules",
    "summary.json": "the results with their intervals",
    "samples.jsonl": "one line per question and arm: subject, row, letters, log-probabilities, "
    "tokens, joules, seconds; no texts",
    "per_subject.csv": "right answers of each subject",
    POLICY_FILE: "the policy of the run",
    DESIGN_FILE: "the design of the run",
    DIFFICULTY: "difficulties of the questions, the covariate of the intervals",
    "SHA256SUMS": "hashes of all these files: `sha256sum -c SHA256SUMS`",
}


def format_readme(
    config: RunConfig,
    summary: Summary,
    command: RepeatCommand,
    files: Collection[str],
    licence: str,
) -> str:
    """Format README.md.

    Args:
        files: Names of the other files of the folder.
        licence: SPDX identifier of the licence of the results.
    """
    return "\n".join(
        [
            f"# {suite_name(summary)}: accuracy and energy of {', '.join(config.contenders)}",
            "",
            markdown(summary, config).rstrip(),
            "",
            *_list_figures(files),
            *_describe_repeat(config, command),
            "",
            *_list_files(files),
            "",
            *_describe_limits(config, summary),
            "",
            "## Licence and citation",
            "",
            f"SPDX-License-Identifier: {licence}",
            "",
            f"The results in this folder are licensed under {licence}.{_name_suite(config)}",
            "",
            "Accuracy per joule as a measure of reasoning strategies: Wilhelm, Wittkopp and Kao, "
            "Beyond Test-Time Compute Strategies: Advocating Energy-per-Token in LLM Inference. "
            "EuroMLSys 2025, arXiv:2603.20224.",
            "",
        ]
    )


def _list_figures(files: Collection[str]) -> Iterator[str]:
    for name in files:
        if name.endswith(".svg"):
            title = name.rpartition("/")[2].removesuffix(".svg").replace("_", " ")
            yield f"![{title}]({name})"
            yield ""


def _describe_repeat(config: RunConfig, command: RepeatCommand) -> Iterator[str]:
    yield "## Repeat"
    yield ""
    yield "```"
    yield shlex.join(command.words)
    yield "```"
    yield ""
    if config.merged is not None:
        yield (
            f"This run was merged from {len(config.merged):,} runs, which answered parts of it "
            "(`--part`); the command answers all of it on one machine."
        )
        yield ""
    if not command.exact:
        yield "Some settings of the arms are not in this command: `arms` of record.json has all."
        yield ""
    yield (
        f"with etui {config.versions.get('etui', __version__)} and these model files, by the names "
        "of models.yaml:"
    )
    yield ""
    for model in config.models:
        yield f"- `{model.name}`: sha256 `{model.sha256 or 'unknown, a remote model'}`"
    yield ""
    yield (
        f"The data have the sha256 `{config.data_sha256}`. A run of the same plan has the "
        f"`plan_sha256` `{config.plan_sha256}`; `etui bench merge` joins such runs."
    )


def _list_files(files: Collection[str]) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| file | content |"
    yield "| --- | --- |"
    for name in files:
        about = _ABOUT.get(name, "a figure" if name.endswith(".svg") else "")
        yield f"| `{name}` | {about} |"


def _describe_limits(config: RunConfig, summary: Summary) -> Iterator[str]:
    yield "## What is not here"
    yield ""
    yield (
        "No questions, no prompts and no generated texts. `subject` and `row` (from 0, in the "
        "order of the original file) name a question, and `answer` is its right letter"
        + (
            ". The questions are not public; only their owner can repeat the run."
            if is_own_file(config.suite)
            else ", as in the public data."
        )
    )
    yield (
        "Places, names of hosts and users, and serial numbers of GPUs were removed: GPUs are "
        "`gpu:0`, `gpu:1`, ..."
    )
    if not summary.complete:
        yield ""
        yield "The run is unfinished: the figures cover the questions answered so far."


def _name_suite(config: RunConfig) -> str:
    source = SUITES.get(config.suite)
    if source is None:
        return ""
    return f" The questions are from {source.title} ({source.licence}): {source.citation}."


PUBLISH_VERSION = 1
"""Version of the form of a public folder."""

README = "README.md"
RECORD = "record.json"
ENERGY_RECORD = "energy_record.json"
SUMS = "SHA256SUMS"
_FIGURES = "figures"


def publish_run(
    recorded: Recorded,
    to: Path,
    *,
    licence: str,
    private: PrivateData,
    allowed: Collection[str] = (),
    labels: Mapping[str, Mapping[int, str]] | None = None,
    precision: Precision | None = None,
    difficulty: DifficultyTable | None = None,
) -> tuple[str, ...]:
    """Write the public folder of a run; writing it again changes nothing.

    Args:
        to: The folder; new, empty, or of an earlier publication of the same run.
        licence: SPDX identifier of the licence of the results.
        private: What must not occur in any file.
        allowed: Words of it that may.
        labels: Labels of MMLU-Redux.
        difficulty: Table of difficulties of the run; None without one.

    Returns:
        Names of the files.

    Raises:
        InvalidFile: The run was changed outside etui.
        UsageError: The run has no answers, the folder is of something else, or one of its files was
            edited.
        EtuiError: A file would contain private data, or cannot be written.
    """
    if recorded.edited:
        raise InvalidFile(
            f"the run was changed outside etui: {'; '.join(recorded.edited)}",
            "publish a run as etui wrote it",
        )
    if not recorded.samples:
        raise UsageError("the run has no answers yet", "resume it: etui bench --resume RUN")
    texts = build_files(
        recorded.config,
        recorded.samples,
        licence=licence,
        labels=labels,
        precision=precision,
        difficulty=difficulty,
    )
    earlier = _check_target(to, recorded.config, texts)
    leaks = find_leaks(texts, private, allowed)
    if leaks:
        raise EtuiError(
            "the public folder would contain private data:\n"
            + "\n".join(f"  {leak}" for leak in leaks),
            "rename it in the run's policy or models; --allow WORD if it is not private",
        )
    try:
        _write_files(to, texts, earlier)
    except OSError as error:
        raise EtuiError(
            f"cannot write {error.filename or to}: {error.strerror or error}",
            "publish to another folder",
        ) from error
    return tuple(texts)


def build_files(
    config: RunConfig,
    samples: Sequence[Sample],
    *,
    licence: str,
    labels: Mapping[str, Mapping[int, str]] | None = None,
    precision: Precision | None = None,
    difficulty: DifficultyTable | None = None,
) -> dict[str, str]:
    """Build the files of a public folder.

    Args:
        licence: SPDX identifier of the licence of the results.
        labels: Labels of MMLU-Redux.
        precision: Precision of the run, if it was asked for.
        difficulty: Table of difficulties of the run; None without one.

    Returns:
        Name -> text, the checksums last.
    """
    from etui.bench.analysis.summary import summarise
    from etui.bench.report.files import result_files

    summary = summarise(samples, config, labels, precision)
    results = result_files(config, samples, summary)
    numbers = number_gpus(config)
    command = build_command(config)
    files = {RECORD: _format_json(_build_record(config, summary, command.words, licence))}
    for name in (ENERGY_RECORD, SUMMARY):
        if name in results:
            document = redact_backends(json.loads(results[name]))
            files[name] = _format_json(redact_serials(document, numbers))
    files[SAMPLES] = "".join(
        json.dumps(redact_serials(redact_sample(sample), numbers), ensure_ascii=True) + "\n"
        for sample in samples
    )
    files[PER_SUBJECT] = results[PER_SUBJECT]
    if config.policy is not None:
        files[POLICY_FILE] = config.policy.text
    if config.design is not None:
        files[DESIGN_FILE] = config.design.text
    if difficulty is not None:
        files[DIFFICULTY] = difficulty.text
    files |= _draw_figures(config, samples)
    names = [*files, SUMS]
    readme = format_readme(config, summary, command, names, licence)
    files = {README: redact_serials(readme, numbers), **files}
    files[SUMS] = "".join(f"{_sha256(text)}  {name}\n" for name, text in files.items())
    return files


def read_sums(text: str) -> dict[str, str]:
    """Parse checksums in the form of ``sha256sum``: name -> hash.

    Raises:
        ValueError: A line has another form, or a name leaves the folder.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        parts = Path(name).parts
        if len(digest) != 64 or not parts or ".." in parts or Path(name).is_absolute():
            raise ValueError(f"not a line of checksums: {line[:80]!r}")
        found[name] = digest
    return found


def _build_record(
    config: RunConfig, summary: Summary, command: Sequence[str], licence: str
) -> dict[str, Any]:
    return {
        "publish_version": PUBLISH_VERSION,
        "generator": f"etui {__version__}",
        "license": licence,
        "run_id": config.run_id,
        "complete": summary.complete,
        "questions": summary.questions,
        "command": list(command),
        "config_sha256": config.sha256,
        "plan_sha256": config.plan_sha256,
        "config": redact_config(config),
    }


def _draw_figures(config: RunConfig, samples: Sequence[Sample]) -> dict[str, str]:
    from etui.bench.report.figures import write_figures

    with TemporaryDirectory(prefix="etui-figures-") as folder:
        return {
            f"{_FIGURES}/{path.name}": path.read_text(encoding="utf-8")
            for path in write_figures(Path(folder), config, samples)
            if path.suffix == ".svg"
        }


def _check_target(to: Path, config: RunConfig, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums of an earlier publication of the run; empty for a new folder.

    A publication that was interrupted is none of these: it has some of the new files already.
    """
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is a file", "choose a new folder with --to")
    entries = [entry for entry in to.iterdir() if entry.name != ".git"] if to.is_dir() else []
    if not entries:
        return {}
    foreign = UsageError(
        f"{to} is not empty, and not a publication of this run", "choose a new folder with --to"
    )
    try:
        record = json.loads((to / RECORD).read_text(encoding="utf-8"))
        sums = read_sums((to / SUMS).read_text(encoding="utf-8"))
        same = record["run_id"] == config.run_id and "publish_version" in record
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        if _has_only(to, texts):
            return {}
        raise foreign from None
    if not same:
        raise foreign
    for name, digest in sums.items():
        path = to / name
        try:
            edited = path.is_file() and not _holds(path, digest, texts.get(name))
        except OSError:
            edited = True
        if edited:
            raise UsageError(
                f"{path} was edited since it was published, and would be overwritten",
                "move it to another name, or publish to a new folder",
            )
    return sums


def _holds(path: Path, digest: str, text: str | None) -> bool:
    """Return whether a file has a hash, or is a text."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    return found == digest or (text is not None and found == _sha256(text))


def _has_only(to: Path, texts: Mapping[str, str]) -> bool:
    """Return whether a folder has nothing but some of the files that will be written."""
    try:
        for path in to.rglob("*"):
            name = path.relative_to(to).as_posix()
            if name.startswith(".") or (path.is_dir() and not path.is_symlink()):
                continue
            text = texts.get(name)
            pending = path.name.startswith(".") and path.suffix == ".tmp"
            if not pending and (path.is_symlink() or text is None or not _holds(path, "", text)):
                return False
    except OSError:
        return False
    return True


def _write_files(to: Path, texts: Mapping[str, str], earlier: Collection[str]) -> None:
    """Write the files, the checksums last; remove those of an earlier publication."""
    for name, text in texts.items():
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text, errors="surrogatepass")
    for name in earlier:
        if name not in texts:
            (to / name).unlink(missing_ok=True)


def _format_json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
