"""Plan of a run: its questions, arms, policy and precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from etui.arm import Arm, Reasoning, Speculate
from etui.bench.accuracy import CHANCE
from etui.bench.arms import (
    ANSWER_TOKENS,
    ArmOverrides,
    build_arms,
    check_format,
    choose_policy_arms,
    list_policy_arms,
    parse_arms,
    speculate_arms,
)
from etui.bench.config import BLOCK, BenchPart, BenchPrecision, NamedText, RunConfig, list_part
from etui.bench.difficulty import DifficultyTable, read_difficulty
from etui.bench.formats import (
    FORMATS,
    Format,
    check_suite,
    choose_default_format,
    count_examples,
    default_answer_tokens,
    find_rule,
    list_examples,
)
from etui.config.config import Config
from etui.datasets.questions import Question, Suite, draw, match_subjects
from etui.datasets.suites import is_named_suite, load_suite
from etui.errors import InvalidFile, UsageError
from etui.models.catalogue import Catalogue
from etui.models.spec import STARTER
from etui.routing.library import compile_text, find_policy
from etui.routing.policy import Policy, drop_places
from etui.runtime.model_resolution import catalogue_name, check_draft_option
from etui.units import count_text

Say = Callable[[str], None]
_NO_OVERRIDES = ArmOverrides()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Request of the command line; None or empty selects the default, or leaves it to the design.

    Every pair of ``models`` and ``reasonings`` is an arm; of a design, ``models`` are
    ``ROLE=NAME``.
    """

    suite: str  # Empty for a design
    split: str = "test"
    data: str | None = None
    format: str | None = None
    """One of :data:`FORMATS`; None is the suite's, or ``chat`` if reasoning, arms or a policy are
    asked for."""
    shots: int | None = None
    seed: int | None = None
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
    design: str | None = None  # Name or path of a design

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
    if ask.policy or ask.arms:
        return []
    requested = ask.models or ((config.model or STARTER),)
    names = [catalogue_name(name, config, catalogue) for name in dict.fromkeys(requested)]
    for name in names:
        catalogue.get(name)
    return names


def _choose_arms(
    ask: RunRequest, format_: Format, suite: Suite, config: Config, catalogue: Catalogue
) -> tuple[dict[str, Arm], Policy | None, NamedText | None]:
    """Choose the arms, the policy that decides for each question, and its name and text."""
    from etui.runtime.model_resolution import choose_speculation, models_on_disk

    if not (ask.policy or ask.arms):
        names = list_models(ask, config, catalogue)
        tokens = default_answer_tokens(format_, suite, ANSWER_TOKENS)
        arms = build_arms(names, ask.reasonings, ask.overrides, format_, answer_tokens=tokens)
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
        return _speculate(arms, ask, catalogue), None, None
    available = models_on_disk(config, catalogue)
    text = _read_policy(ask.policy or config.policy, config)
    policy = compile_policy(text, catalogue)
    if ask.arms:
        arms = choose_policy_arms(policy, ask.arms, available, ask.overrides)
        return _speculate(arms, ask, catalogue), None, text
    return list_policy_arms(policy, available), policy, text


def compile_policy(text: NamedText, catalogue: Catalogue) -> Policy:
    """Compile the policy of a run."""
    # The joules of unlike machines are not pooled, so a run is of this machine alone.
    return drop_places(compile_text(text.text, text.name, catalogue.models))


def _speculate(arms: Mapping[str, Arm], ask: RunRequest, catalogue: Catalogue) -> dict[str, Arm]:
    """Set the speculation that the options state, and the seed of all arms."""
    made = speculate_arms(arms, ask.speculates)
    if "draft" in ask.speculates:
        check_draft_option(made.values(), catalogue)
    return _set_seed(made, ask.seed)


def _set_seed(arms: Mapping[str, Arm], seed: int | None) -> dict[str, Arm]:
    return {
        name: replace(arm, sampling=replace(arm.sampling, seed=seed or 0))
        for name, arm in arms.items()
    }


def _read_policy(name: str, config: Config) -> NamedText:
    place = find_policy(name, config)
    try:
        return NamedText(place.name, place.path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the policy {place.path}: {error}", "use another policy"
        ) from error


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The configuration of a run, and what it was made from."""

    config: RunConfig
    """As the run will record it; its id, its arms, its models and what describes the machine are
    filled in when it starts."""
    suite: Suite  # All questions to draw from
    drawn: Mapping[str, tuple[Question, ...]]  # Subject -> questions, in the order of the run
    examples: Mapping[str, tuple[Question, ...]]  # Subject -> worked examples in the prompt
    arms: Mapping[str, Arm]
    policy: Policy | None = None  # None if every arm answers all questions
    difficulty: DifficultyTable | None = None  # Difficulties of the questions; None without

    def change(self, **changes: Any) -> RunPlan:
        """Return the plan with changes of its configuration."""
        return replace(self, config=replace(self.config, **changes))

    @property
    def format(self) -> Format:
        """How questions are asked."""
        return FORMATS[self.config.format]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models of its arms."""
        return tuple(dict.fromkeys(arm.model for arm in self.arms.values()))

    @property
    def systems(self) -> tuple[str, ...]:
        """The compared systems: the policy that decides, or the arms."""
        return tuple(self.arms) if self.policy is None else (self.policy.name,)

    @property
    def population(self) -> dict[str, Sequence[Question]]:
        """Subject -> all its questions in the suite, of the subjects of the run."""
        wanted = self.config.subjects
        questions = self.suite.questions.items()
        return {name: rows for name, rows in questions if wanted is None or name in wanted}

    @property
    def asked(self) -> Mapping[str, tuple[Question, ...]]:
        """Subject -> the questions that each system answers; of a part, its share."""
        sizes = {subject: len(questions) for subject, questions in self.drawn.items()}
        run = self.config
        shares = list_part(sizes, run.order, run.block, run.seed, run.part)
        return {
            subject: tuple(self.drawn[subject][index] for index in indices)
            for subject, indices in shares.items()
        }

    @property
    def questions(self) -> int:
        """Number of questions that each system answers."""
        return sum(len(rows) for rows in self.asked.values())


def make_plan(
    ask: RunRequest, config: Config, catalogue: Catalogue, say: Say = lambda text: None
) -> RunPlan:
    """Make the plan of a new run.

    EtuiError if a name does not exist, options cannot be combined, the data or the policy are
    invalid, or a model or the suite is not here and cannot be downloaded.
    """
    check_request(ask)
    list_models(ask, config, catalogue)  # a wrong name is reported before a download
    suite, format_ = _load_questions(ask, config, say)
    arms, policy, text = _choose_arms(ask, format_, suite, config, catalogue)
    if policy is None:
        check_format(arms, format_)
    plan = _draw_plan(ask, suite, format_, arms)
    plan = replace(plan, policy=policy)
    return plan.change(policy=text, routed=policy is not None)


def make_design_plan(
    ask: RunRequest, arms: Mapping[str, Arm], config: Config, say: Say = lambda text: None
) -> RunPlan:
    """Make the plan of a design from its arms (not those of ``ask``); errors as of a new run."""
    check_request(ask)
    suite, format_ = _load_questions(ask, config, say)
    check_format(arms, format_)
    return _draw_plan(ask, suite, format_, _set_seed(arms, ask.seed))


def _load_questions(ask: RunRequest, config: Config, say: Say) -> tuple[Suite, Format]:
    """Load the suite and choose the format."""
    suite = load_suite(ask.suite, ask.split, _data_place(ask), config, say)
    if not ask.format:
        generates = bool(ask.reasonings or ask.arms or ask.routed)
        return suite, choose_default_format(suite, generates=generates)
    check_suite(FORMATS[ask.format], suite)
    return suite, FORMATS[ask.format]


def _data_place(ask: RunRequest) -> Path | None:
    return Path(ask.data).expanduser().absolute() if ask.data else None


def _draw_plan(ask: RunRequest, suite: Suite, format_: Format, arms: Mapping[str, Arm]) -> RunPlan:
    own_file = None if is_named_suite(ask.suite) else Path(ask.suite).expanduser().absolute()
    place = _data_place(ask) or own_file
    subjects = match_subjects(ask.subjects, tuple(suite.questions)) if ask.subjects else None
    run = RunConfig(
        run_id="",
        started_at="",
        suite=suite.name,
        split=suite.split,
        data_path=str(place) if place else None,
        data_sha256="",
        sizes={},
        drawn={},
        format=format_.name,
        format_version=format_.version,
        shots=_choose_shots(ask.shots, format_, suite, own_file),
        seed=ask.seed or 0,
        limit=ask.limit,
        per_subject=ask.per_subject,
        subjects=subjects,
        arms={},
        policy=None,
        routed=False,
        models=(),
        prefix_reuse=ask.reuse,
        group_questions=0,
        threads=0,
        versions={},
        machine={},
        energy={},
        part=ask.part,
    )
    return _fill_plan(run, suite, arms)


def restore_plan(run: RunConfig, config: Config, catalogue: Catalogue) -> RunPlan:
    """Make the plan of a resumed run from its configuration.

    UsageError if the data of the run no longer exist; InvalidFile if the data, an arm or the policy
    of the run are no longer valid.
    """
    named = is_named_suite(run.suite)
    data = Path(run.data_path) if run.data_path and named else None
    suite = load_suite(run.suite if named else str(run.data_path), run.split, data, config)
    plan = _fill_plan(run, suite, parse_arms(run))
    if run.routed and run.policy is not None:
        plan = replace(plan, policy=compile_policy(run.policy, catalogue))
    return plan


def _fill_plan(run: RunConfig, suite: Suite, arms: Mapping[str, Arm]) -> RunPlan:
    """Draw the questions, and fill in what follows from them and from their suite."""
    sizes = {
        subject: size
        for subject, size in suite.sizes.items()
        if run.subjects is None or subject in run.subjects
    }
    drawn = {
        subject: tuple(suite.questions[subject][index] for index in rows)
        for subject, rows in draw(sizes, run.seed, run.limit, run.per_subject).items()
    }
    counts = {subject: len(rows) for subject, rows in drawn.items()}
    if run.part is not None and sum(counts.values()) < run.part.count:
        raise UsageError(
            f"a plan of {count_text(sum(counts.values()), 'question')} cannot be divided into "
            f"{run.part.count:,} parts",
            "ask more questions, or use fewer parts",
        )
    format_ = FORMATS[run.format]
    examples = {subject: list_examples(format_, suite, subject)[: run.shots] for subject in drawn}
    rule = find_rule(format_, numbers=suite.grading == "number")
    run = replace(
        run,
        suite=suite.name,
        split=suite.split,
        data_sha256=suite.sha256,
        sizes=suite.sizes,
        drawn=counts,
        format_version=format_.version,
        chance=None if suite.chance == CHANCE else suite.chance,
        grading=None if rule is None else rule.label,
    )
    return RunPlan(run, suite, drawn, examples, arms)


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
        more = ""
        if own_file is not None:
            more = f", or add {own_file.stem}_dev{own_file.suffix} next to the file"
        raise UsageError(
            f"--shots {requested} needs {requested} worked examples"
            f"{' with a solution' if format_.raw else ''}, but some subjects of "
            f"{suite.name} ({suite.split}) have only {present}",
            f"use --shots {present}{more}",
        )
    return requested


def add_precision(
    plan: RunPlan,
    points: float,
    of: Literal["accuracy", "difference"] | None = None,
    difficulty: Path | None = None,
    say: Say = lambda text: None,
) -> RunPlan:
    """Make a plan stop at a precision.

    UsageError if the plan cannot stop at a precision, or the difficulties are those of other data
    or of a model that is measured; InvalidFile if the table of difficulties is invalid.

    Args:
        points: Half width in percentage points, above 0 and below 50.
        of: Whose half width; None is that of the accuracies.
        difficulty: File with the difficulties of the questions; notes about it go to ``say``.
    """
    if plan.config.per_subject is not None:
        raise UsageError(
            "--precision cannot be combined with --per-subject: its questions are in proportion to "
            "the sizes of the subjects",
            "use --limit for the most questions to ask",
        )
    if plan.config.part is not None:
        raise UsageError(
            "--precision cannot be combined with --part: the run stops by all its answers",
            "remove one of them",
        )
    if of == "difference" and len(plan.systems) < 2:
        raise UsageError(
            "--precision-of difference needs at least two systems",
            "add a --model, a --reasoning or an arm, or use --precision-of accuracy",
        )
    table = None if difficulty is None else read_difficulty(difficulty)
    if table is not None:
        _check_table(plan, table, str(difficulty), say)
    shares_examples = plan.config.prefix_reuse and plan.config.shots
    every_few = plan.format.generates and not shares_examples and len(plan.models) == 1
    sha256 = None if table is None else table.sha256
    return replace(plan, difficulty=table).change(
        order="balanced",
        block=BLOCK if every_few else None,
        precision=BenchPrecision(points, of or "accuracy", sha256),
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


def _check_table(plan: RunPlan, table: DifficultyTable, place: str, say: Say) -> None:
    fix = "make it from runs of these questions: etui bench difficulty RUN... -o FILE"
    if table.data_sha256 is not None and table.data_sha256 != plan.suite.sha256:
        raise UsageError(
            f"{place} was made from other data (sha256 {table.data_sha256[:12]}) than "
            f"{plan.suite.name} ({plan.suite.sha256[:12]})",
            fix,
        )
    keys = {(q.subject, q.row) for inside in plan.population.values() for q in inside}
    known = len(keys & table.values.keys())
    if not known:
        raise UsageError(f"{place} has none of the questions of {plan.suite.name}", fix)
    if known < len(keys):
        say(
            f"{place} has the difficulty of {known:,} of {len(keys):,} questions; the others count "
            "like the mean of their subject"
        )


def check_sources(
    plan: RunPlan, hashes: dict[str, str | None], say: Say = lambda text: None
) -> None:
    """Refuse difficulties that are made from the answers of a model that is measured.

    ``hashes``: model of the run -> hash of its file; None if it is not known.
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
