"""Plan of a run: its questions, arms, policy and precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.arm import Arm, Reasoning, Speculate
from etui.bench.arms import (
    ANSWER_TOKENS,
    ArmOverrides,
    build_arms,
    check_format,
    choose_policy_arms,
    list_policy_arms,
    parse_arm,
    speculate_arms,
)
from etui.bench.config import (
    BLOCK,
    BenchPart,
    BenchPrecision,
    NamedText,
    Order,
    RunConfig,
    list_part,
)
from etui.bench.difficulty import DifficultyTable, read_difficulty
from etui.bench.formats import (
    FORMATS,
    Format,
    check_suite,
    choose_default_format,
    count_examples,
    default_answer_tokens,
    list_examples,
)
from etui.datasets.questions import Question, Suite, draw, match_subjects
from etui.datasets.suites import is_named_suite, load_suite
from etui.errors import InvalidFile, UsageError
from etui.units import count_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.policy import Policy


_NO_OVERRIDES = ArmOverrides()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Request of the command line; None or empty selects the default.

    Attributes:
        models, reasonings: Every pair of them is an arm.
    """

    suite: str
    split: str = "test"
    data: str | None = None
    format: str | None = None
    """One of :data:`FORMATS`; None is the suite's, or ``chat`` if reasoning, arms or a policy are
    asked for."""
    shots: int | None = None
    seed: int = 0
    limit: int | None = None
    per_subject: int | None = None
    subjects: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    reasonings: tuple[Reasoning, ...] = ()
    arms: tuple[str, ...] = ()
    policy: str | None = None  # Decides for each question, unless `arms` selects some of its arms
    overrides: ArmOverrides = _NO_OVERRIDES  # Settings that override those of the arms
    reuse: bool = True  # Whether worked examples are computed once per subject
    speculates: tuple[Speculate, ...] = ()
    """Speculation of the arms; with several, each arm is measured with each of them. Empty leaves
    it to the policy or the model."""
    part: BenchPart | None = None  # Share of the plan that is answered; None is the whole plan

    @property
    def routed(self) -> bool:
        """Whether a policy chooses the arm of each question."""
        return self.policy is not None and not self.arms


def check_request(ask: RunRequest) -> None:
    """Check that the options of a request can be combined."""
    if ask.models and (ask.arms or ask.policy):
        raise UsageError(
            "--model cannot be combined with --policy or --arms", "pass only one of them"
        )
    if ask.reasonings and not ask.models:
        raise UsageError("--reasoning needs --model", "add --model, or use --arms")
    if ask.limit is not None and ask.per_subject is not None:
        raise UsageError("--limit and --per-subject cannot be combined", "pass only one of them")
    if ask.routed and (ask.overrides != _NO_OVERRIDES or ask.speculates):
        raise UsageError(
            "options for arms cannot be used with a policy that chooses the arms",
            "change the policy, or select arms with --arms",
        )
    if ask.routed and ask.format not in (None, "chat"):
        raise UsageError(
            f"--format {ask.format} cannot be used with a policy that chooses the arms",
            "use --format chat, or select arms with --arms",
        )


def list_models(ask: RunRequest, config: Config, catalogue: Catalogue) -> list[str]:
    """Return the names of the requested models, the default one without a request."""
    from etui.models.spec import STARTER
    from etui.runtime.model_resolution import catalogue_name

    if ask.policy or ask.arms:
        return []
    requested = ask.models or ((config.model or STARTER),)
    names = [catalogue_name(name, config, catalogue) for name in dict.fromkeys(requested)]
    for name in names:
        catalogue.get(name)
    return names


def choose_arms(
    ask: RunRequest, format_: Format, answer_tokens: int, config: Config, catalogue: Catalogue
) -> tuple[dict[str, Arm], Policy | None, NamedText | None]:
    """Choose the arms of a request, those of its policy included.

    Returns:
        Arm -> its settings, the policy that decides for each question (None if every arm answers
        all of them), and the name and text of the policy.
    """
    from etui.runtime.model_resolution import choose_speculation, models_on_disk

    if not (ask.policy or ask.arms):
        names = list_models(ask, config, catalogue)
        arms = build_arms(
            names, ask.reasonings, ask.overrides, format_, answer_tokens=answer_tokens
        )
        if format_.generates:
            arms = {
                name: replace(
                    arm, speculate=choose_speculation(catalogue.get(arm.model), arm.reasoning)
                )
                for name, arm in arms.items()
            }
        elif ask.speculates:
            raise UsageError(
                f"--speculate has no effect on format {format_.name}, which decodes nothing",
                "add --reasoning direct or cot, or remove it",
            )
        return set_seed(_speculate(arms, ask, catalogue), ask.seed), None, None
    available = models_on_disk(config, catalogue)
    text = _read_policy(ask.policy or config.policy, config)
    policy = compile_policy(text, catalogue)
    if ask.arms:
        arms = choose_policy_arms(policy, ask.arms, available, ask.overrides)
        return set_seed(_speculate(arms, ask, catalogue), ask.seed), None, text
    return list_policy_arms(policy, available), policy, text


def set_seed(arms: dict[str, Arm], seed: int) -> dict[str, Arm]:
    """Set the seed of the sampling of all arms."""
    return {
        name: replace(arm, sampling=replace(arm.sampling, seed=seed)) for name, arm in arms.items()
    }


def compile_policy(text: NamedText, catalogue: Catalogue) -> Policy:
    """Compile the policy of a run."""
    from etui.routing.library import compile_text
    from etui.routing.policy import drop_places

    # The joules of unlike machines are not pooled, so a run is of this machine alone.
    return drop_places(compile_text(text.text, text.name, catalogue.models))


def _speculate(arms: Mapping[str, Arm], ask: RunRequest, catalogue: Catalogue) -> dict[str, Arm]:
    """Set the speculation that the options state."""
    from etui.runtime.model_resolution import check_draft_option

    made = speculate_arms(arms, ask.speculates)
    if "draft" in ask.speculates:
        check_draft_option(made.values(), catalogue)
    return made


def _read_policy(name: str, config: Config) -> NamedText:
    from etui.routing.library import find_policy

    place = find_policy(name, config)
    try:
        return NamedText(place.name, place.path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the policy {place.path}: {error}", "use another policy"
        ) from error


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Everything that a run needs to start.

    Attributes:
        order, block, precision, design, part: As in
            :class:`etui.bench.config.RunConfig`.
    """

    suite: Suite  # All questions to draw from
    data_path: str | None
    drawn: Mapping[str, tuple[Question, ...]]
    """Subject -> the questions of the plan, subjects in the order of the run."""
    examples: Mapping[str, tuple[Question, ...]]  # Subject -> worked examples in the prompt
    format: Format
    shots: int
    seed: int
    limit: int | None
    per_subject: int | None
    subjects: tuple[str, ...] | None
    arms: Mapping[str, Arm]
    policy: Policy | None = None
    """The policy that decides for each question; None if every arm answers all of them."""
    policy_text: NamedText | None = None
    """Name and text of the policy that decides, or that defines the arms."""
    reuse: bool = True
    models: tuple[str, ...] = ()
    order: Order = "subjects"
    block: int | None = None
    precision: BenchPrecision | None = None
    design: NamedText | None = None
    part: BenchPart | None = None
    difficulty: DifficultyTable | None = None  # Difficulties of the questions; None without

    @property
    def systems(self) -> tuple[str, ...]:
        """The compared systems: the policy that decides, or the arms."""
        return tuple(self.arms) if self.policy is None else (self.policy.name,)

    @property
    def population(self) -> dict[str, Sequence[Question]]:
        """Subject -> all its questions in the suite, of the subjects of the run."""
        return {
            subject: questions
            for subject, questions in self.suite.questions.items()
            if self.subjects is None or subject in self.subjects
        }

    @property
    def asked(self) -> Mapping[str, tuple[Question, ...]]:
        """Subject -> the questions that each system answers; of a part, its share."""
        sizes = {subject: len(questions) for subject, questions in self.drawn.items()}
        shares = list_part(sizes, self.order, self.block, self.seed, self.part)
        return {
            subject: tuple(self.drawn[subject][index] for index in indices)
            for subject, indices in shares.items()
        }

    @property
    def questions(self) -> int:
        """Number of questions that each system answers."""
        return sum(len(rows) for rows in self.asked.values())


def make_plan(
    ask: RunRequest,
    config: Config,
    catalogue: Catalogue,
    say: Callable[[str], None] = lambda text: None,
) -> RunPlan:
    """Make the plan of a new run.

    Raises:
        UsageError: A name does not exist, or options cannot be combined.
        InvalidFile: The data or the policy is invalid.
        ModelUnavailable: No suitable model is on this machine.
        DownloadFailed: The suite is not on this machine and cannot be downloaded.
    """
    check_request(ask)
    list_models(ask, config, catalogue)  # a wrong name is reported before a download
    suite = _load_suite(ask, config, say)
    format_ = _choose_format(ask, suite)
    answer_tokens = default_answer_tokens(format_, suite, ANSWER_TOKENS)
    arms, policy, text = choose_arms(ask, format_, answer_tokens, config, catalogue)
    if policy is None:
        check_format(arms, format_)
    return _draw_plan(ask, suite, format_, arms, policy, text)


def make_design_plan(
    ask: RunRequest,
    arms: Mapping[str, Arm],
    design: NamedText,
    block: int,
    config: Config,
    say: Callable[[str], None] = lambda text: None,
) -> RunPlan:
    """Make the plan of a design, whose arms answer balanced blocks of questions.

    Args:
        ask: The questions; what it says of arms is not used.

    Raises:
        UsageError: A name does not exist, or options cannot be combined.
        InvalidFile: The data are invalid.
        DownloadFailed: The data are not on this machine and cannot be downloaded.
    """
    check_request(ask)
    suite = _load_suite(ask, config, say)
    format_ = _choose_format(ask, suite)
    check_format(arms, format_)
    plan = _draw_plan(ask, suite, format_, set_seed(dict(arms), ask.seed), None, None)
    return replace(plan, order="balanced", block=block, design=design)


def _load_suite(ask: RunRequest, config: Config, say: Callable[[str], None]) -> Suite:
    return load_suite(ask.suite, ask.split, _data_place(ask), config, say)


def _data_place(ask: RunRequest) -> Path | None:
    return Path(ask.data).expanduser().absolute() if ask.data else None


def _draw_plan(
    ask: RunRequest,
    suite: Suite,
    format_: Format,
    arms: Mapping[str, Arm],
    policy: Policy | None,
    text: NamedText | None,
) -> RunPlan:
    """Draw the questions of a request."""
    place = _data_place(ask)
    subjects = match_subjects(ask.subjects, tuple(suite.questions)) if ask.subjects else None
    own_file = None if is_named_suite(ask.suite) else Path(ask.suite).expanduser().absolute()
    shots = _choose_shots(ask.shots, format_, suite, own_file)
    return _fill_plan(
        suite,
        RunPlan(
            suite=suite,
            data_path=str(place or own_file) if place or own_file else None,
            drawn={},
            examples={},
            format=format_,
            shots=shots,
            seed=ask.seed,
            limit=ask.limit,
            per_subject=ask.per_subject,
            subjects=subjects,
            arms=arms,
            policy=policy,
            policy_text=text,
            reuse=ask.reuse,
            part=ask.part,
        ),
    )


def restore_plan(run: RunConfig, config: Config, catalogue: Catalogue) -> RunPlan:
    """Make the plan of a resumed run from its configuration.

    Raises:
        UsageError: The data of the run no longer exist.
        InvalidFile: The data or the policy of the run are no longer valid.
    """
    named = is_named_suite(run.suite)
    data = Path(run.data_path) if run.data_path and named else None
    suite = load_suite(run.suite if named else str(run.data_path), run.split, data, config)
    policy = None
    if run.routed and run.policy is not None:
        policy = compile_policy(run.policy, catalogue)
    return _fill_plan(
        suite,
        RunPlan(
            suite=suite,
            data_path=run.data_path,
            drawn={},
            examples={},
            format=FORMATS[run.format],
            shots=run.shots,
            seed=run.seed,
            limit=run.limit,
            per_subject=run.per_subject,
            subjects=run.subjects,
            arms={name: parse_arm(settings) for name, settings in run.arms.items()},
            policy=policy,
            policy_text=run.policy,
            reuse=run.prefix_reuse,
            order=run.order,
            block=run.block,
            precision=run.precision,
            design=run.design,
            part=run.part,
        ),
    )


def _fill_plan(suite: Suite, plan: RunPlan) -> RunPlan:
    """Fill in the drawn questions, the worked examples and the models of a plan."""
    sizes = {
        subject: size
        for subject, size in suite.sizes.items()
        if plan.subjects is None or subject in plan.subjects
    }
    indices = draw(sizes, plan.seed, plan.limit, plan.per_subject)
    drawn = {
        subject: tuple(suite.questions[subject][index] for index in rows)
        for subject, rows in indices.items()
    }
    _check_part(plan.part, sum(len(questions) for questions in drawn.values()))
    examples = {
        subject: list_examples(plan.format, suite, subject)[: plan.shots] for subject in drawn
    }
    models = tuple(dict.fromkeys(arm.model for arm in plan.arms.values()))
    return replace(plan, drawn=drawn, examples=examples, models=models)


def _check_part(part: BenchPart | None, questions: int) -> None:
    if part is not None and questions < part.count:
        raise UsageError(
            f"a plan of {count_text(questions, 'question')} cannot be divided into "
            f"{part.count:,} parts",
            "ask more questions, or use fewer parts",
        )


def _choose_format(ask: RunRequest, suite: Suite) -> Format:
    generates = bool(ask.reasonings or ask.arms or ask.routed)
    format_ = FORMATS[ask.format] if ask.format else None
    if format_ is None:
        return choose_default_format(suite, generates=generates)
    check_suite(format_, suite)
    return format_


def _choose_shots(
    requested: int | None, format_: Format, suite: Suite, own_file: Path | None
) -> int:
    present = count_examples(format_, suite)
    if requested is None:
        return min(format_.shots, present)
    if requested and format_.name == "cot":
        raise UsageError(
            "format cot has no worked examples with thinking", "use --shots 0, or --format chat"
        )
    if requested > present:
        dev_file = f"{own_file.stem}_dev{own_file.suffix}" if own_file else ""
        more = f", or add {dev_file} next to the file" if own_file else ""
        raise UsageError(
            f"--shots {requested} needs {requested} worked examples"
            f"{' with a solution' if format_.raw else ''}, but some subjects of "
            f"{suite.name} ({suite.split}) have only {present}",
            f"use --shots {present}{more}",
        )
    return requested


@dataclass(frozen=True, slots=True)
class PrecisionRequest:
    """What the command line asks for."""

    points: float  # Half width in percentage points, above 0 and below 50
    of: Literal["accuracy", "difference"] | None = None
    """Whose half width; None is that of the accuracies."""
    difficulty: Path | None = None  # File with the difficulties of the questions; None without


def add_precision(
    plan: RunPlan, request: PrecisionRequest, say: Callable[[str], None] = lambda text: None
) -> RunPlan:
    """Make a plan stop at a precision.

    Args:
        say: Receives notes about the table of difficulties.

    Raises:
        UsageError: The plan cannot stop at a precision, or the difficulties are those of other data
            or of a model that is measured.
        InvalidFile: The table of difficulties is invalid.
    """
    of = request.of or "accuracy"
    _check_plan(plan, of)
    table = None if request.difficulty is None else read_difficulty(request.difficulty)
    if table is not None:
        _check_table(plan, table, str(request.difficulty), say)
    every_few = plan.format.generates and not (plan.reuse and plan.shots) and len(plan.models) == 1
    return replace(
        plan,
        order="balanced",
        block=BLOCK if every_few else None,
        precision=BenchPrecision(request.points, of, table.sha256 if table is not None else None),
        difficulty=table,
    )


def restore_difficulty(plan: RunPlan, run: RunConfig, copy: Path) -> RunPlan:
    """Put the table of difficulties of a run back into its plan."""
    if run.precision is None or run.precision.difficulty_sha256 is None:
        return plan
    table = read_difficulty(copy) if copy.is_file() else None
    if table is None or table.sha256 != run.precision.difficulty_sha256:
        what = "is missing" if table is None else "differs from the one the run was started with"
        raise InvalidFile(
            f"{copy}: the table of difficulties {what}", "restore it, or start a new run"
        )
    return replace(plan, difficulty=table)


def _check_plan(plan: RunPlan, of: str) -> None:
    if plan.per_subject is not None:
        raise UsageError(
            "--precision cannot be combined with --per-subject: its questions are in proportion to "
            "the sizes of the subjects",
            "use --limit for the most questions to ask",
        )
    if plan.part is not None:
        raise UsageError(
            "--precision cannot be combined with --part: the run stops by all its answers",
            "remove one of them",
        )
    if of == "difference" and len(plan.systems) < 2:
        raise UsageError(
            "--precision-of difference needs at least two systems",
            "add a --model, a --reasoning or an arm, or use --precision-of accuracy",
        )


def _check_table(
    plan: RunPlan, table: DifficultyTable, place: str, say: Callable[[str], None]
) -> None:
    if table.data_sha256 is not None and table.data_sha256 != plan.suite.sha256:
        raise UsageError(
            f"{place} was made from other data (sha256 {table.data_sha256[:12]}) than "
            f"{plan.suite.name} ({plan.suite.sha256[:12]})",
            "make it from runs of these questions: etui bench difficulty RUN... -o FILE",
        )
    keys = {(q.subject, q.row) for inside in plan.population.values() for q in inside}
    known = len(keys & table.values.keys())
    if not known:
        raise UsageError(
            f"{place} has none of the questions of {plan.suite.name}",
            "make it from runs of these questions: etui bench difficulty RUN... -o FILE",
        )
    if known < len(keys):
        say(
            f"{place} has the difficulty of {known:,} of {len(keys):,} questions; the others count "
            "like the mean of their subject"
        )


def check_sources(
    plan: RunPlan, hashes: dict[str, str | None], say: Callable[[str], None] = lambda text: None
) -> None:
    """Refuse difficulties that are made from the answers of a model that is measured.

    Args:
        hashes: Model of the run -> hash of its file; None if it is not known.
    """
    if plan.difficulty is None:
        return
    for source in plan.difficulty.sources:
        same = [name for name, sha256 in hashes.items() if sha256 and sha256 == source.sha256]
        if same:
            raise UsageError(
                f"the difficulties are made from answers of {same[0]} itself ({source.source}): "
                "its accuracy would be that of the earlier answers",
                "make the table from runs of other models",
            )
        if source.sha256 is None and source.name in hashes:
            say(
                f"the difficulties are made from answers of a model called {source.name} "
                f"({source.source}); if it is the one measured here, its interval is worth less"
            )
