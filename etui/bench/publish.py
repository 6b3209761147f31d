"""Write a run as a public folder: no private facts, and the command that repeats the run."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import shlex
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from etui import __version__
from etui.arm import Arm
from etui.atomic import write_text
from etui.bench.arms import ArmOverrides, build_arms, parse_arm, speculate_arms, to_json
from etui.bench.config import RunConfig
from etui.bench.difficulty import DIFFICULTY, DifficultyTable
from etui.bench.figures import write_figures
from etui.bench.folder import PER_SUBJECT, SAMPLES, SUMMARY, Recorded
from etui.bench.formats import FORMATS
from etui.bench.machines import GPU_SCOPES, list_scopes
from etui.bench.results import result_files
from etui.bench.sample import Sample
from etui.bench.summary import Summary
from etui.bench.summary_text import markdown, suite_name
from etui.codec import DocumentError
from etui.datasets.suites import is_named_suite
from etui.energy.scopes import family
from etui.errors import EtuiError, InvalidFile, UsageError
from etui.measure.page import render_text

T = TypeVar("T")
POLICY_FILE = "policy.yaml"
DESIGN_FILE = "design.yaml"


@dataclass(frozen=True, slots=True)
class RepeatCommand:
    """A command line, and whether it makes exactly the arms of the run."""

    words: tuple[str, ...]  # Its words, the first is `etui`
    exact: bool
    """False if settings of the arms cannot be given on the command line, or come from a model's own
    entry in models.yaml."""


def build_command(config: RunConfig) -> RepeatCommand:
    """Build the command line that repeats a run.

    It names files beside it for a policy, a design and an own suite, and no places of this machine.
    Of a merged run it answers the whole plan on one machine.
    """
    words = ["etui", "bench"]
    drawn = [
        *_option("--limit", config.limit),
        *_option("--per-subject", config.per_subject),
        *_option("--seed", config.seed),
    ]
    part = config.part
    share = [] if part is None else ["--part", f"{part.index + 1}/{part.count}"]
    if config.design is not None:
        return RepeatCommand((*words, "--design", DESIGN_FILE, *drawn, *share), exact=True)
    suite = config.suite
    if not is_named_suite(suite):  # the name of the user's file without its folder
        suite += (Path(config.data_path).suffix if config.data_path else "") or ".csv"
    words += ["--suite", suite]
    words += [] if config.split == "test" else ["--split", config.split]
    words += ["--format", config.format, "--shots", str(config.shots), *drawn]
    if config.subjects is not None:
        words += ["--subjects", ",".join(config.subjects)]
    exact = True
    if config.policy is not None:
        words += ["--policy", POLICY_FILE]
        if not config.routed:
            words += ["--arms", ",".join(config.arms)]
            exact = False  # options that override a policy's arms cannot be recovered
    else:
        options, exact = _arm_words(config)
        words += options
    words += [] if config.prefix_reuse else ["--no-prefix-reuse"]
    if config.precision is not None:
        words += _option("--precision", config.precision.points)
        words += ["--precision-of", config.precision.of]
        if config.precision.difficulty_sha256 is not None:
            words += ["--difficulty", DIFFICULTY]
    return RepeatCommand((*words, *share), exact)


def _option(name: str, value: float | str | None) -> list[str]:
    """Return the words of an option; none without a value."""
    if value is None:
        return []
    return [name, f"{value:g}" if isinstance(value, float) else str(value)]


def _arm_words(config: RunConfig) -> tuple[list[str], bool]:
    """Return the options that define the arms, and whether these are exactly the run's."""
    format_ = FORMATS.get(config.format)
    try:
        arms = [parse_arm(settings) for settings in config.arms.values()]
    except DocumentError:
        arms = []
    models = list(dict.fromkeys(arm.model for arm in arms)) or [m.name for m in config.models]
    words = [word for model in models for word in ("--model", model)]
    if format_ is None or not arms:
        return words, False
    ways = list(dict.fromkeys(arm.reasoning for arm in arms)) if format_.generates else []
    words += [word for way in ways for word in ("--reasoning", way)]
    thinking = [arm for arm in arms if arm.reasoning != "direct"]
    votes = [arm for arm in arms if arm.reasoning == "vote"]
    overrides = ArmOverrides(
        think_tokens=_common(arm.think_tokens for arm in thinking),
        votes=_common(arm.votes for arm in votes),
        stop=_common(arm.stop.rule for arm in votes),
        max_tokens=_common(arm.max_tokens for arm in arms),
        temperature=_common(arm.sampling.temperature for arm in arms),
        loop_guard=_common(arm.loop_guard for arm in arms),
    )
    speculates = list(dict.fromkeys(arm.speculate for arm in arms if arm.reasoning != "vote"))
    if not format_.generates or speculates == ["off"]:
        speculates = []
    methods = [word for method in speculates for word in ("--speculate", method)]
    # The fewest options that make the same arms: none, else all that the arms have in common.
    for used in (ArmOverrides(), overrides):
        with suppress(EtuiError):  # an option that has no effect on these arms
            made = speculate_arms(build_arms(models, ways, used, format_), speculates)
            if _settings(made.values()) == _settings(arms):
                return [*words, *_override_words(used), *methods], True
    return [*words, *_override_words(overrides), *methods], False


def _override_words(overrides: ArmOverrides) -> list[str]:
    guard = overrides.loop_guard
    return [
        *_option("--think-tokens", overrides.think_tokens),
        *_option("--votes", overrides.votes),
        *_option("--stop", overrides.stop),
        *_option("--max-tokens", overrides.max_tokens),
        *_option("--temperature", overrides.temperature),
        *([] if guard is None else ["--loop-guard" if guard else "--no-loop-guard"]),
    ]


def _common(values: Iterable[T]) -> T | None:
    """Return the value that all have; None without one."""
    found = list(values)
    return found[0] if found and all(value == found[0] for value in found) else None


def _settings(arms: Iterable[Arm]) -> dict[str, Any]:
    """Return the settings of arms but for the seed, which the run's own seed sets."""
    found = {}
    for arm in arms:
        document = to_json(arm)
        document["sampling"] = {k: v for k, v in document["sampling"].items() if k != "seed"}
        found[arm.name] = document
    return found


_SERIAL = re.compile(
    r"\b(?:GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){0,3}(?:-[0-9a-fA-F]{1,12})?\b"
)
_HOME = re.compile(
    r"(?<![\w.-])(?:/home/|/Users/|[A-Za-z]:\\+Users\\+)[^/\\\s\"',;:]+|/root/[^\s\"',;:]*"
)
_COMMON_WORDS = frozenset(
    {
        *("root", "user", "users", "admin", "administrator", "ubuntu", "debian", "fedora", "arch"),
        *("localhost", "host", "home", "test", "tests", "guest", "runner", "build", "etui"),
        *("bench", "model", "models", "desktop", "laptop", "server", "work", "default", "linux"),
        "docker",
    }
)
"""Names of users and hosts that say nothing about a person and occur in texts."""
_SHORTEST_WORD = 4


@dataclass(frozen=True, slots=True)
class PrivateData:
    """What must not be in a public folder."""

    places: tuple[str, ...]  # Absolute paths of this user's folders
    words: tuple[str, ...]  # Names of this user and of this machine


def find_private_data(folders: Iterable[Path] = ()) -> PrivateData:
    """Collect the places (those of etui's data, models and run too) and names of this machine."""
    places: set[str] = set()
    for folder in (Path.home(), *folders):
        places.add(str(folder.absolute()))
        with suppress(OSError, RuntimeError):
            places.add(str(folder.resolve()))
    hosts = {socket.gethostname(), platform.node()}
    names = {*hosts, *(host.partition(".")[0] for host in hosts)}
    with suppress(KeyError, OSError):  # a container may have no entry for its user
        names.add(getpass.getuser())
    words = {
        name for name in names if len(name) >= _SHORTEST_WORD and name.lower() not in _COMMON_WORDS
    }
    return PrivateData(
        tuple(sorted(place for place in places if place != os.sep)),
        tuple(sorted(words)),
    )


def redact_config(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as JSON values, without places, backends and serial numbers."""
    document = redact_backends(config.to_json() | {"data_path": None})
    return redact_serials(document, number_gpus(config))  # type: ignore[no-any-return]


def redact_backends(value: Any) -> Any:
    """Replace the names that the user gave to remote backends, in a document of plain JSON values.

    The names of models on them are left out.
    """
    if isinstance(value, Mapping):
        return {
            key: "remote" if key == "backend" and item else redact_backends(item)
            for key, item in value.items()
            if key != "remote_name"
        }
    return [redact_backends(item) for item in value] if isinstance(value, list | tuple) else value


def redact_sample(sample: Sample) -> dict[str, Any]:
    """Return an answer as JSON values, without generated text and error message."""
    return sample.to_json() | {"text": "", "error": None}


def number_gpus(config: RunConfig) -> dict[str, str]:
    """Give the GPUs of each machine numbers: ``gpu:GPU-1a2b`` -> ``gpu:0``."""
    found: dict[str, str] = {}
    energies = [machine.energy for machine in config.machines or ()] or [config.energy]
    for energy in (*energies, config.energy):
        counts: dict[str, int] = {}
        for scope in dict.fromkeys(list_scopes(energy)):
            word = family(scope)
            if word in GPU_SCOPES:
                found.setdefault(scope, f"{word}:{counts.get(word, 0)}")
                counts[word] = counts.get(word, 0) + 1
    return found


def redact_serials(value: Any, numbers: Mapping[str, str]) -> Any:
    """Replace serial numbers of GPUs in all texts of a document, keys included.

    ``numbers``: scope of a GPU -> what replaces it; other serial numbers become ``GPU``.
    """
    if isinstance(value, Mapping):
        return {
            redact_serials(key, numbers): redact_serials(item, numbers)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_serials(item, numbers) for item in value]
    if not isinstance(value, str):
        return value
    for scope in sorted(numbers, key=len, reverse=True):
        value = value.replace(scope, numbers[scope])
    return _SERIAL.sub("GPU", value)


def find_leaks(
    texts: Mapping[str, str], private: PrivateData, allowed: Collection[str] = ()
) -> list[str]:
    """Find private data in texts; one sentence for each kind of private data in each file."""
    return [
        f"{name} contains {what}: {found if len(found) <= 60 else f'{found[:57]}...'}"
        for name, text in texts.items()
        for what, found in _find_in(text, private, {word.lower() for word in allowed})
    ]


def _find_in(
    text: str, private: PrivateData, allowed: Collection[str]
) -> Iterator[tuple[str, str]]:
    plain = text.replace("\\\\", "\\").replace("\\/", "/")
    for place in private.places:
        if re.search(rf"{re.escape(place)}(?![\w-])", plain) and place.lower() not in allowed:
            yield "a folder of this machine", place
    for word in private.words:
        pattern = rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])"
        if word.lower() not in allowed and re.search(pattern, plain, re.IGNORECASE):
            yield "the name of this user or this machine", word
    for what, form in (("a home folder", _HOME), ("the serial number of a GPU", _SERIAL)):
        found = next((m[0] for m in form.finditer(plain) if m[0].lower() not in allowed), None)
        if found is not None:
            yield what, found


PUBLISH_VERSION = 1  # Version of the form of a public folder
README = "README.md"
RECORD = "record.json"
ENERGY_RECORD = "energy_record.json"
SUMS = "SHA256SUMS"
_FIGURES = "figures"


def publish_run(
    recorded: Recorded,
    to: Path,
    *,
    summary: Summary,
    licence: str,
    private: PrivateData,
    allowed: Collection[str] = (),
    difficulty: DifficultyTable | None = None,
) -> tuple[str, ...]:
    """Write the public folder of a run; writing it again changes nothing.

    InvalidFile if the run was changed outside etui; UsageError if the run has no answers, the
    folder is of something else, or one of its files was edited; EtuiError if a file would contain
    private data, or cannot be written.

    Args:
        to: The folder; new, empty, or of an earlier publication of the same run.
        licence: SPDX identifier of the licence of the results.
        private: What must not occur in any file, but for ``allowed`` words.
    """
    if recorded.edited:
        raise InvalidFile(
            f"the run was changed outside etui: {'; '.join(recorded.edited)}",
            "publish a run as etui wrote it",
        )
    if not recorded.samples:
        raise UsageError("the run has no answers yet", "resume it: etui bench --resume RUN")
    texts = _build_files(recorded, summary, licence, difficulty)
    earlier = _check_target(to, recorded.config, texts)
    leaks = find_leaks(texts, private, allowed)
    if leaks:
        raise EtuiError(
            "the public folder would contain private data:\n"
            + "\n".join(f"  {leak}" for leak in leaks),
            "rename it in the run's policy or models; --allow WORD if it is not private",
        )
    try:
        # The record comes first, so that an interrupted publication is known, the checksums last.
        for name in (RECORD, *(name for name in texts if name != RECORD)):
            path = to / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, texts[name], errors="surrogatepass")
        for name in earlier.keys() - texts.keys():
            (to / name).unlink(missing_ok=True)
    except OSError as error:
        raise EtuiError(
            f"cannot write {error.filename or to}: {error.strerror or error}",
            "publish to another folder",
        ) from error
    return tuple(texts)


def _build_files(
    recorded: Recorded, summary: Summary, licence: str, difficulty: DifficultyTable | None
) -> dict[str, str]:
    """Build the files of a public folder: name -> text, the checksums last."""
    config, samples = recorded.config, recorded.samples
    results = result_files(config, samples, summary)
    numbers = number_gpus(config)
    command = build_command(config)
    record = {
        "publish_version": PUBLISH_VERSION,
        "generator": f"etui {__version__}",
        "license": licence,
        "run_id": config.run_id,
        "complete": summary.complete,
        "questions": summary.questions,
        "command": list(command.words),
        "config_sha256": config.sha256,
        "plan_sha256": config.plan_sha256,
        "config": redact_config(config),
    }
    files = {RECORD: _format_json(record)}
    for name in (ENERGY_RECORD, SUMMARY):
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
    readme = render_text(
        "etui.bench",
        "public_readme.md",
        title=suite_name(summary),
        config=config,
        results=markdown(summary, config).rstrip(),
        complete=summary.complete,
        command=shlex.join(command.words),
        exact=command.exact,
        files=[*files, SUMS],
        own_file=not is_named_suite(config.suite),
        version=__version__,
        licence=licence,
    )
    files = {README: redact_serials(readme, numbers), **files}
    files[SUMS] = "".join(f"{_sha256(text)}  {name}\n" for name, text in files.items())
    return files


def read_sums(text: str) -> dict[str, str]:
    """Parse checksums in the form of ``sha256sum``: name -> hash."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        parts = Path(name).parts
        if len(digest) != 64 or not parts or ".." in parts or Path(name).is_absolute():
            raise ValueError(f"not a line of checksums: {line[:80]!r}")
        found[name] = digest
    return found


def _draw_figures(config: RunConfig, samples: Sequence[Sample]) -> dict[str, str]:
    with TemporaryDirectory(prefix="etui-figures-") as folder:
        return {
            f"{_FIGURES}/{path.name}": path.read_text(encoding="utf-8")
            for path in write_figures(Path(folder), config, samples)
            if path.suffix == ".svg"
        }


def _check_target(to: Path, config: RunConfig, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums of an earlier publication of the run; empty without complete one."""
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is a file", "choose a new folder with --to")
    if not to.is_dir() or all(entry.name.startswith(".") for entry in to.iterdir()):
        return {}
    try:
        record = json.loads((to / RECORD).read_text(encoding="utf-8"))
        complete = (to / SUMS).exists()
        sums = read_sums((to / SUMS).read_text(encoding="utf-8")) if complete else {}
        same = record["run_id"] == config.run_id and "publish_version" in record
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise UsageError(
            f"{to} is not empty, and not a publication of this run", "choose a new folder with --to"
        )
    for name in sums.keys() | texts.keys() - {SUMS}:
        path = to / name
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        except OSError:
            found = ""
        known = {None, sums.get(name), _sha256(texts[name]) if name in texts else None}
        if found not in known:
            raise UsageError(
                f"{path} was edited since it was published, and would be overwritten",
                "move it to another name, or publish to a new folder",
            )
    return sums


def _format_json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
