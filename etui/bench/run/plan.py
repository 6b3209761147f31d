"""From what was asked for to what is run: the questions, the arms, the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui.arm import Arm, Reasoning
from etui.bench.prompts.formats import FORMATS, Format
from etui.bench.run.arms import (
    ArmOverrides,
    all_of_policy,
    check_format,
    of_policy,
    parse_arm,
    spelled_out,
)
from etui.bench.store.run_config import BenchPolicy, RunConfig
from etui.datasets.question_sample import draw, match_subjects
from etui.datasets.questions import Question, Suite
from etui.datasets.suites import load_suite
from etui.errors import InvalidFile, UsageError

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.policy import Policy


_NO_WISH = ArmOverrides()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asks for; None or empty leaves it to the defaults.

    Attributes:
        suite: ``mmlu``, ``sample`` or a file.
        models, reasonings: An arm for each pair of them.
        arms: Arms of the policy, by name.
        policy: Decides for each question, unless ``arms`` names arms of it.
        format: Of :data:`FORMATS`; None is ``letters``, or ``chat`` where something is generated.
        reuse: Whether worked examples are computed once a subject.
    """

    suite: str
    split: str = "test"
    data: str | None = None
    format: str | None = None
    shots: int | None = None
    seed: int = 0
    limit: int | None = None
    per_subject: int | None = None
    subjects: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    reasonings: tuple[Reasoning, ...] = ()
    arms: tuple[str, ...] = ()
    policy: str | None = None
    wish: ArmOverrides = _NO_WISH
    reuse: bool = True


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is run.

    Attributes:
        suite: The questions there are.
        drawn: Subject -> the questions of the run, subjects in its order.
        examples: Subject -> worked examples that are shown.
        arms: Arm -> its settings.
        policy: The policy that decides for each question; None where the arms are asked in turn.
        policy_text: Name and text of the policy that decides, or whose arms they are.
    """

    suite: Suite
    data_path: str | None
    drawn: Mapping[str, tuple[Question, ...]]
    examples: Mapping[str, tuple[Question, ...]]
    format: Format
    shots: int
    seed: int
    limit: int | None
    per_subject: int | None
    subjects: tuple[str, ...] | None
    arms: Mapping[str, Arm]
    policy: Policy | None = None
    policy_text: BenchPolicy | None = None
    reuse: bool = True
    models: tuple[str, ...] = ()

    @property
    def questions(self) -> int:
        """Questions that each contender answers."""
        return sum(len(rows) for rows in self.drawn.values())


def plan_of(
    ask: RunRequest,
    config: Config,
    catalogue: Catalogue,
    say: Callable[[str], None] = lambda text: None,
) -> RunPlan:
    """What a command line comes to.

    Raises:
        UsageError: A name that does not exist, or wishes that exclude each other.
        InvalidFile: The data or the policy cannot be used.
        ModelUnavailable: No model that may answer is on this machine.
        DownloadFailed: MMLU is not here and cannot be had.
    """
    _check(ask)
    format_ = _format(ask)
    arms, policy, text = _arms(ask, format_, config, catalogue)
    if policy is None:
        check_format(arms, format_)
    place = Path(ask.data).expanduser().absolute() if ask.data else None
    suite = load_suite(ask.suite, ask.split, place, config, say)
    subjects = match_subjects(ask.subjects, tuple(suite.questions)) if ask.subjects else None
    shots = _shots(ask.shots, format_, suite)
    own_file = None if ask.suite in ("mmlu", "sample") else str(Path(ask.suite).absolute())
    return _planned(
        suite,
        RunPlan(
            suite=suite,
            data_path=str(place) if place else own_file,
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
        ),
    )


def plan_again(run: RunConfig, config: Config, catalogue: Catalogue) -> RunPlan:
    """The plan of a run that goes on, from its configuration.

    Raises:
        UsageError: Its data are gone.
        InvalidFile: Its data cannot be used any more.
    """
    named = run.suite in ("mmlu", "sample")
    data = Path(run.data_path) if run.data_path and named else None
    suite = load_suite(run.suite if named else str(run.data_path), run.split, data, config)
    policy = None
    if run.routed and run.policy is not None:
        policy = _compiled(run.policy, catalogue)
    return _planned(
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
        ),
    )


def _planned(suite: Suite, plan: RunPlan) -> RunPlan:
    """With the questions drawn, the examples cut, and the models named."""
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
    examples = {subject: tuple(suite.examples.get(subject, ()))[: plan.shots] for subject in drawn}
    models = tuple(dict.fromkeys(arm.model for arm in plan.arms.values()))
    return replace(plan, drawn=drawn, examples=examples, models=models)


def _check(ask: RunRequest) -> None:
    if ask.models and (ask.arms or ask.policy):
        raise UsageError(
            "--model spells the arms out, and --policy or --arms would choose others",
            "give one or the other",
        )
    if ask.reasonings and not ask.models:
        raise UsageError("--reasoning needs a --model", "name the model, or use --arms")
    if ask.limit is not None and ask.per_subject is not None:
        raise UsageError("--limit and --per-subject exclude each other", "give one of them")
    routed = ask.policy is not None and not ask.arms
    if routed and ask.wish != _NO_WISH:
        raise UsageError(
            "a policy that decides sets its arms itself", "change the policy, or name --arms"
        )


def _format(ask: RunRequest) -> Format:
    routed = ask.policy is not None and not ask.arms
    generates = bool(ask.reasonings or ask.arms or routed)
    format_ = FORMATS[ask.format or ("chat" if generates else "letters")]
    if routed and format_.name != "chat":
        raise UsageError(
            f"a policy chooses how it answers, and --format {format_.name} would too",
            "use --format chat, or name arms with --arms",
        )
    return format_


def _arms(
    ask: RunRequest, format_: Format, config: Config, catalogue: Catalogue
) -> tuple[dict[str, Arm], Policy | None, BenchPolicy | None]:
    from etui.models.spec import STARTER
    from etui.runtime.serving import catalogue_name, models_on_disk

    if not (ask.policy or ask.arms):
        wanted = ask.models or ((config.model or STARTER),)
        names = [catalogue_name(name, config, catalogue) for name in dict.fromkeys(wanted)]
        for name in names:
            catalogue.get(name)  # a name that does not exist is said before anything is spent
        arms = spelled_out(names, ask.reasonings, ask.wish, format_)
        return _seeded(arms, ask.seed), None, None
    here = models_on_disk(config, catalogue)
    text = _policy_text(ask.policy or config.policy, config)
    policy = _compiled(text, catalogue)
    if ask.arms:
        return _seeded(of_policy(policy, ask.arms, here, ask.wish), ask.seed), None, text
    return all_of_policy(policy, here), policy, text


def _seeded(arms: dict[str, Arm], seed: int) -> dict[str, Arm]:
    return {
        name: replace(arm, sampling=replace(arm.sampling, seed=seed)) for name, arm in arms.items()
    }


def _shots(wanted: int | None, format_: Format, suite: Suite) -> int:
    there = min((len(suite.examples.get(name, ())) for name in suite.questions), default=0)
    if wanted is None:
        return min(format_.shots, there)
    if wanted and format_.name == "cot":
        raise UsageError(
            "format cot has no worked thoughts to show", "use --shots 0, or --format chat"
        )
    if wanted > there:
        raise UsageError(
            f"--shots {wanted} needs {wanted} worked examples, and {suite.name} ({suite.split}) "
            f"has {there} for some subject",
            f"use --shots {there}"
            + ("" if suite.name in ("mmlu", "sample") else f", or put {suite.name}_dev.csv there"),
        )
    return wanted


def _policy_text(name: str, config: Config) -> BenchPolicy:
    from etui.routing.library import find_policy

    place = find_policy(name, config)
    try:
        return BenchPolicy(place.name, place.path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the policy {place.path}: {error}", "name another") from error


def _compiled(text: BenchPolicy, catalogue: Catalogue) -> Policy:
    from etui.routing.library import PolicyPlace, check_text

    place = PolicyPlace(text.name, Path(f"{text.name}.yaml"), "file")
    checked: Any = check_text(text.text, place, catalogue.models)
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, f"mend the policy {text.name} and check it again")
    return checked.policy  # type: ignore[no-any-return]
