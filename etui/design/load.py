"""Parse designs: check a file, and resolve its roles to the models of this machine or of a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etui.arm import VOTE_TEMPERATURE, Arm, EarlyExit, Sampling, VoteStop
from etui.bench.arms import check_format, parse_arm
from etui.bench.config import NamedText, RunConfig
from etui.bench.formats import FORMATS
from etui.calibration.grid import Grid
from etui.config.config import Config, shipped_dir
from etui.design.schema import (
    LISTED,
    MOST_ARMS,
    CurvesEntry,
    DesignArmEntry,
    DesignFile,
    QuestionsEntry,
)
from etui.errors import InvalidFile, ModelUnavailable, Problem, UsageError
from etui.text import did_you_mean
from etui.yaml.load import Located, parse_yaml
from etui.yaml.named_files import NamedFile, find_named_file, list_named_files


@dataclass(frozen=True, slots=True)
class DesignArm:
    """An arm of a design."""

    name: str
    """Name in the run: that of the role, of the entry, and the values of its lists, joined by
    hyphens, such as ``small-vote-3``."""
    role: str  # The role whose model answers
    arm: Arm


@dataclass(frozen=True, slots=True)
class Design:
    """The layout of a study, resolved to the models of this machine or of a run."""

    name: str  # Name of its file without the extension
    title: str  # What the study measures, in a line
    summary: str  # What it is for; may be empty
    models: Mapping[str, str]  # Role -> model that serves it, smallest role first
    arms: Mapping[str, DesignArm]  # Name -> arm, in the order of the file within each role
    questions: QuestionsEntry  # Which questions are asked, and how
    curves: Grid | None  # Lengths of the operating curves; None measures none


def designs_dir(config: Config) -> Path:
    """Return the folder of the user's own designs."""
    return config.home / "designs"


def list_designs(config: Config) -> tuple[NamedFile, ...]:
    """List every design that has a name, sorted; the user's own replace shipped ones."""
    return list_named_files(shipped_dir() / "designs", designs_dir(config))


def find_design(name: str, config: Config) -> NamedFile:
    """Find a design by name; a name that ends in ``.yaml`` or contains a slash is a path.

    Raises:
        UsageError: There is no design of that name.
    """
    shipped = shipped_dir() / "designs"
    return find_named_file(name, shipped, designs_dir(config), "design", "designs")


_PLAIN = (
    "reasoning", "think_tokens", "max_tokens", "style", "readout", "votes", "batch", "weight",
)  # fmt: skip
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """How the roles of a design are resolved to models."""

    known: Collection[str] | None = None  # Names in models.yaml; None accepts every name
    is_available: Callable[[str], bool] | None = None
    """Whether a model is on this machine; None takes the first name of each role."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Role -> model that replaces those of the file."""


ANY_MODEL = ModelChoice()
"""Takes the first name of each role, whether it is on this machine or not."""


def parse_design(text: str, place: str, name: str, choice: ModelChoice = ANY_MODEL) -> Design:
    """Parse a design and resolve its roles (``place``: name of its file in messages)."""
    return resolve_design(check_design(text, place, choice.known), name, choice)


def check_design(
    text: str, place: str, known: Collection[str] | None = None
) -> Located[DesignFile]:
    """Parse a design and check it, without looking for its models.

    Args:
        place: Name of its file in messages.
        known: Names in models.yaml; None accepts every name.

    Raises:
        InvalidFile: The text is not a valid design; ``problems`` holds every problem.
    """
    located = parse_yaml(text, DesignFile, file=place)
    problems = [
        *_check_models(located, known),
        *_check_arms(located),
        *_check_format(located),
    ]
    if problems:
        ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
        raise InvalidFile.of(ordered, "fix the file at each place named")
    return located


def resolve_design(located: Located[DesignFile], name: str, choice: ModelChoice) -> Design:
    """Resolve the roles of a checked design."""
    file = located.model
    models = _choose_models(located, choice)
    arms = {
        arm.name: arm
        for role in models
        for _, arm in _iterate_arms(file, role, models[role], file.questions.seed)
    }
    return Design(
        name=name,
        title=file.title,
        summary=file.summary.strip(),
        models=models,
        arms=arms,
        questions=file.questions,
        curves=None if file.curves is None else _build_grid(file.curves),
    )


def design_of_run(config: RunConfig) -> Design:
    """Return the design of a run, with the models, arms and seed that the run used."""
    if config.design is None:
        raise ValueError(f"run {config.run_id} has no design")
    name = config.design.name
    drafted = parse_design(config.design.text, f"{name}.yaml", name)
    arms = {
        arm.name: replace(arm, arm=parse_arm(config.arms[arm.name]))
        for arm in drafted.arms.values()
        if arm.name in config.arms
    }
    models = {
        role: next((arm.arm.model for arm in arms.values() if arm.role == role), model)
        for role, model in drafted.models.items()
    }
    asked = {
        "suite": config.suite,
        "split": config.split,
        "format": config.format,
        "shots": config.shots,
        "seed": config.seed,
        "block": config.block or drafted.questions.block,
    }
    questions = drafted.questions.model_copy(update=asked)
    return replace(drafted, models=models, arms=arms, questions=questions)


def read_curve_grid(design: NamedText) -> Grid | None:
    """Return the lengths of the operating curves of a run's design; None if it has no curves."""
    curves = check_design(design.text, f"{design.name}.yaml").model.curves
    return None if curves is None else _build_grid(curves)


def list_arm_names(file: DesignFile) -> list[str]:
    """List the names of the arms of a design, role by role."""
    used = {entry.model for entry in file.arms.values()}
    roles = [role for role in file.models if None in used or role in used]
    return [arm.name for role in roles for _, arm in _iterate_arms(file, role, role, 0)]


def _check_models(located: Located[DesignFile], known: Collection[str] | None) -> Iterator[Problem]:
    if known is None:
        return
    for role, names in located.model.models.items():
        for index, name in enumerate(names):
            if name not in known:
                message = f"unknown model {name!r}{did_you_mean(name, known)}"
                yield located.problem(("models", role, index), message)


def _check_arms(located: Located[DesignFile]) -> Iterator[Problem]:
    """Check the roles of arms, and that their names are unique; yields every problem."""
    file = located.model
    seen: dict[str, str] = {}
    for key, entry in file.arms.items():
        if entry.model is not None and entry.model not in file.models:
            hint = did_you_mean(entry.model, file.models)
            yield located.problem(("arms", key, "model"), f"unknown role {entry.model!r}{hint}")
    for role in file.models:
        for key, arm in _iterate_arms(file, role, role, 0):
            if arm.name in seen:
                message = f"arm {arm.name!r} is also made by {seen[arm.name]!r}; rename one of them"
                yield located.problem(("arms", key), message, key=True)
            seen.setdefault(arm.name, key)
    if len(seen) > MOST_ARMS:
        message = f"the design has {len(seen):,} arms, and at most {MOST_ARMS} are possible"
        yield located.problem(("arms",), message, key=True)


def _check_format(located: Located[DesignFile]) -> Iterator[Problem]:
    file = located.model
    name = file.questions.format
    if name not in FORMATS:
        message = f"format: unknown format {name!r}{did_you_mean(name, FORMATS, listed=20)}"
        yield located.problem(("questions", "format"), message)
        return
    role = next(iter(file.models))
    for key, entry in file.arms.items():
        try:
            check_format({key: Arm(key, role, entry.reasoning)}, FORMATS[name])
        except UsageError as error:
            yield located.problem(("arms", key, "reasoning"), f"{error.what}; {error.fix}")


def _choose_models(located: Located[DesignFile], choice: ModelChoice) -> dict[str, str]:
    """Choose a model for each role that an arm uses."""
    file = located.model
    for role in choice.overrides:
        if role not in file.models:
            raise UsageError(
                f"--model {role}={choice.overrides[role]}: the design has no role {role!r}",
                f"its roles are {', '.join(file.models)}",
            )
    used = {entry.model for entry in file.arms.values()}
    models: dict[str, str] = {}
    for role in file.models:
        if None not in used and role not in used:
            continue
        model = _choose_model(located, role, choice)
        other = next((other for other, taken in models.items() if taken == model), None)
        if other is not None and choice.is_available is not None:
            better = [name for name in file.models[role] if name != model]
            raise ModelUnavailable(
                f"the roles {other} and {role} of {located.file} would both be served by {model}, "
                "so that there is nothing to compare",
                f"pull another model: etui models pull {better[0]}"
                if better
                else f"name another one: --model {role}=NAME",
            )
        models[role] = model
    return models


def _choose_model(located: Located[DesignFile], role: str, choice: ModelChoice) -> str:
    given = choice.overrides.get(role)
    names = (given,) if given is not None else located.model.models[role]
    if given is not None and choice.known is not None and given not in choice.known:
        raise UsageError(
            f"--model {role}={given}: unknown model {given!r}{did_you_mean(given, choice.known)}",
            "see `etui models list`",
        )
    if choice.is_available is None:
        return names[0]
    for name in names:
        if choice.is_available(name):
            return name
    mark = located.where(("models", role))
    listed = names[0] if len(names) == 1 else f"none of {', '.join(names)}"
    verb = "is not" if len(names) == 1 else "is"
    raise ModelUnavailable(
        f"{located.file}:{mark.line}:{mark.column}: role {role}: {listed} {verb} on this machine",
        f"pull one of them, for example: etui models pull {names[-1]}",
    )


def _iterate_arms(
    file: DesignFile, role: str, model: str, seed: int
) -> Iterator[tuple[str, DesignArm]]:
    """Yield the key of its entry and the arm, for every arm of a role."""
    for key, entry in file.arms.items():
        if entry.model in (None, role):
            for suffix, settings in _expand(entry):
                name = "-".join((role, key, *suffix))
                yield key, DesignArm(name, role, _build_arm(name, model, entry, settings, seed))


def _expand(entry: DesignArmEntry) -> Iterator[tuple[tuple[str, ...], dict[str, int]]]:
    """Yield the values of the lists of an entry in every combination, as texts and as settings."""
    listed = [key for key in LISTED if isinstance(getattr(entry, key), tuple)]
    for values in itertools.product(*(getattr(entry, key) for key in listed)):
        yield tuple(map(str, values)), dict(zip(listed, values, strict=True))


def _build_arm(
    name: str, model: str, entry: DesignArmEntry, settings: Mapping[str, int], seed: int
) -> Arm:
    given: dict[str, Any] = {
        key: value for key in _PLAIN if (value := getattr(entry, key)) is not None
    } | dict(settings)
    if isinstance(entry.stop, str):
        given["stop"] = VoteStop(rule=entry.stop)
    elif entry.stop is not None:
        given["stop"] = VoteStop(**entry.stop.model_dump(exclude_none=True))
    if entry.early_exit is not None:
        given["early_exit"] = EarlyExit(**entry.early_exit.model_dump())
    sampling = {key: value for key in _SAMPLING if (value := getattr(entry, key)) is not None}
    if entry.reasoning == "vote":
        sampling.setdefault("temperature", VOTE_TEMPERATURE)
    return Arm(name=name, model=model, sampling=Sampling(**sampling, seed=seed), **given)


def _build_grid(entry: CurvesEntry) -> Grid:
    return Grid(
        tuple(sorted(entry.prompt_tokens)),
        tuple(sorted(entry.output_tokens)),
        entry.repeats,
        entry.window_seconds,
        entry.cool_down_seconds,
    )
