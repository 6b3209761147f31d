"""Designs: the schema of the file, its check, and its roles as models of this machine or a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from etui.arm import VOTE_TEMPERATURE, Arm, EarlyExit, Sampling, VoteStop
from etui.bench.arms import ANSWER_TOKENS, check_format, parse_arms
from etui.bench.config import BLOCK, NamedText, RunConfig
from etui.bench.formats import FORMATS
from etui.calibration.grid import Grid
from etui.config.config import Config, shipped_dir
from etui.errors import InvalidFile, ModelUnavailable, Problem, UsageError
from etui.routing.schema.rules import EarlyExitEntry, ModelName, Name, StopEntry, check_effect
from etui.text import did_you_mean
from etui.yaml.load import Located, Strict, parse_yaml, refuse
from etui.yaml.named_files import NamedFile, find_named_file, list_named_files

VERSION = 1
"""The only version of designs so far."""

MOST_ARMS = 200

Line = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=4000)]
ThinkTokens = Annotated[int, Field(ge=0, le=100_000)]
Votes = Annotated[int, Field(ge=1, le=64)]
AnswerTokens = Annotated[int, Field(ge=1, le=100_000)]
PromptTokens = Annotated[int, Field(ge=1, le=1_000_000)]
OutputTokens = Annotated[int, Field(ge=2, le=1_000_000)]
StopRule = Literal["all", "lead", "flip", "adaptive"]

LISTED = ("votes", "think_tokens", "max_tokens")
"""Keys of an arm that may be lists, in the order in which their values name its arms."""


class DesignArmEntry(Strict):
    """One way to answer, for every role of `models`; a list makes one arm of each of its values."""

    model: Name | None = Field(
        None, description="The only role of `models` that answers so; without it, every role."
    )
    reasoning: Literal["direct", "cot", "vote"] = Field(
        "direct",
        description="direct answers without thinking; cot thinks first, within think_tokens; vote "
        "takes the majority of several answers.",
    )
    think_tokens: ThinkTokens | tuple[ThinkTokens, ...] | None = Field(
        None,
        description="Thinking budget in tokens (cot, vote; default 256), or a list of budgets; "
        "with 0 a vote answers without thinking.",
    )
    votes: Votes | tuple[Votes, ...] | None = Field(
        None, description="Maximum number of answers drawn (vote; default 7), or a list of them."
    )
    max_tokens: AnswerTokens | tuple[AnswerTokens, ...] = Field(
        ANSWER_TOKENS, description="Maximum tokens of the answer, thinking excluded, or a list."
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Maximum number of votes decoded together (vote; default 8); 1 draws them one "
        "by one, as the paper does.",
    )
    stop: StopRule | StopEntry | None = Field(
        None, description="When to stop drawing votes (vote; default flip): a rule, or a mapping."
    )
    weight: Literal["none", "probability"] | None = Field(
        None, description="Weight of a vote: one, or the probability of its answer."
    )
    style: Literal["auto", "plain", "draft", "native"] | None = Field(
        None, description="How thinking is requested (cot, vote); default auto."
    )
    early_exit: EarlyExitEntry | None = Field(
        None, description="Ends thinking once its answer is stable (cot)."
    )
    readout: Literal["text", "choices", "letter"] = Field(
        "letter",
        description="letter takes the option letter with the highest probability behind the "
        "decoded answer, in every arm alike; choices decodes nothing before it (direct); text "
        "looks for a letter in the decoded answer.",
    )
    temperature: float | None = Field(
        None, ge=0, le=5, description="0 takes the most probable token; default 0, for vote 0.7."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="Mass of the nucleus; default 0.95.")
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="Tokens kept; default 40.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Minimum relative probability of a token; default 0.05."
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        check_effect(self, self.reasoning)
        for key in LISTED:
            value = getattr(self, key)
            if isinstance(value, tuple):
                if not value:
                    refuse(f"{key} is empty, so that it makes no arm; list at least one value", key)
                if len(set(value)) < len(value):
                    refuse(f"{key} lists a value twice", key)
        if self.reasoning == "cot" and 0 in _as_tuple(self.think_tokens):
            refuse("think_tokens: 0 means no thinking; use reasoning: direct", "think_tokens")
        if self.reasoning == "vote" and self.temperature == 0 and _as_tuple(self.votes) != (1,):
            refuse("votes drawn at temperature 0 are identical; use about 0.7", "temperature")
        return self


class QuestionsEntry(Strict):
    """Which questions are asked, and how."""

    suite: Annotated[str, StringConstraints(min_length=1, max_length=1000)] = Field(
        description="mmlu, sample, another suite, or the path of a file beside this one."
    )
    split: Literal["test", "val", "dev"] = Field("test", description="Split of the questions.")
    format: str = Field("chat", description="Prompt format, as --format of etui bench.")
    shots: int | None = Field(
        None, ge=0, le=5, description="Number of worked examples; default: that of the format."
    )
    order: Literal["balanced"] = Field(
        "balanced", description="Every prefix of the run is a stratified random sample."
    )
    block: int = Field(
        BLOCK,
        ge=1,
        le=1000,
        description="Number of questions that every arm answers before the next ones are asked.",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the questions, of the orders and of the sampling."
    )


class CurvesEntry(Strict):
    """Lengths of the operating curves, measured in every combination between the blocks."""

    prompt_tokens: tuple[PromptTokens, ...] = Field(
        min_length=2, max_length=20, description="Prompt lengths, at least two."
    )
    output_tokens: tuple[OutputTokens, ...] = Field(
        min_length=2, max_length=20, description="Output lengths, at least two, each at least 2."
    )
    repeats: int = Field(3, ge=1, le=100, description="Measurements of each combination.")
    window_seconds: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Least seconds of a phase; a shorter one is repeated, since meters are slow.",
    )
    cool_down_seconds: float = Field(
        0.0, ge=0, le=600, description="Idle seconds before each measurement."
    )

    @field_validator("prompt_tokens", "output_tokens")
    @classmethod
    def _check_lengths(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(lengths)) < len(lengths):
            refuse("it lists a length twice")
        return lengths


class DesignFile(Strict):
    """A design: the arms of a study, its questions, and its operating curves."""

    version: int = Field(description="Version of the language: 1.")
    title: Line = Field(description="What the study measures, in a line.")
    summary: Text = Field("", description="What it is for.")
    models: Mapping[Name, tuple[ModelName, ...]] = Field(
        min_length=1,
        max_length=20,
        description="Role -> names in models.yaml in order of preference, smallest role first; the "
        "first one on this machine serves.",
    )
    arms: Mapping[Name, DesignArmEntry] = Field(
        min_length=1, max_length=MOST_ARMS, description="Ways to answer, each for every role."
    )
    questions: QuestionsEntry
    curves: CurvesEntry | None = Field(
        None, description="Operating curves to measure on the way; none without this key."
    )

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: int) -> int:
        if version != VERSION:
            refuse(f"unsupported version {version}; this etui reads version {VERSION}")
        return version

    @field_validator("models")
    @classmethod
    def _check_models(cls, models: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        for role, names in models.items():
            if not names:
                refuse(f"role {role!r} has no models; list at least one", role)
        return models


def json_schema() -> dict[str, Any]:
    """Build the JSON Schema (2020-12) of a design file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "etui bench design",
        **DesignFile.model_json_schema(by_alias=True),
    }


def _as_tuple(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


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
    used = parse_arms(config)
    arms = {
        arm.name: replace(arm, arm=used[arm.name])
        for arm in drafted.arms.values()
        if arm.name in used
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
