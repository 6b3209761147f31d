"""Write the price of a plan for a reader."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from etui.arm import Arm
from etui.bench.arms import parse_arm
from etui.bench.config import RunConfig, parse_run_config
from etui.bench.dry_run import PromptCounts, count_prompts
from etui.bench.run import collect_done_rows
from etui.bench.sample import Sample
from etui.bench.schedule import build_schedule
from etui.calibration.grid import Grid, expected_seconds, list_visits
from etui.codec import DocumentError, to_document
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.design.curve_visits import SHARE
from etui.design.load import read_curve_grid
from etui.design.price import (
    Amount,
    ArmEvidence,
    ArmPrice,
    DesignPrice,
    MeasuredAnswer,
    Slopes,
    fit_slopes,
    price_arm,
    price_design,
)
from etui.errors import LogUnavailable
from etui.log.curve_lookup import find_curve
from etui.log.past_answers import PastAnswer, read_past_answers, read_run_documents
from etui.log.queries import LogReader
from etui.runtime.model_resolution import find_model_file
from etui.runtime.provenance import conditions
from etui.text import format_table
from etui.units import count_text, energy_text, seconds_text, significant

if TYPE_CHECKING:
    from etui.bench.plan import RunPlan
    from etui.models.spec import ModelSpec
    from etui.runtime.runtime import Runtime


_THIS_RUN = "this run"


@dataclass(frozen=True, slots=True)
class Here:
    """What joules depend on here, besides the arm and its model."""

    machine: str
    threads: int  # Threads of llama.cpp
    llama_cpp: str | None  # Version of the bindings
    channels: frozenset[str]  # Ids of the power channels


@dataclass(slots=True)
class _Found:
    answers: list[MeasuredAnswer] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    runs: set[str] = field(default_factory=set)


def collect_evidence(
    plan: RunPlan,
    runtime: Runtime[Any],
    run: RunConfig | None = None,
    samples: Iterable[Sample] = (),
) -> dict[str, ArmEvidence]:
    """Collect what is known of every arm of a plan.

    Args:
        runtime: This machine; nothing is loaded.
        run: The run that is resumed; None for a new one.

    Returns:
        Arm -> what is known of it. A log that cannot be read knows nothing.
    """
    specs = {name: _find_spec(name, runtime) for name in plan.models}
    here = describe_here(runtime)
    found = {name: _Found() for name in plan.arms}
    for sample in samples:
        if sample.arm in found and sample.status != "error":
            found[sample.arm].answers.append(measured_sample(sample))
            found[sample.arm].outputs.append(sample.tokens.output)
            found[sample.arm].runs.add(_THIS_RUN)
    curves: dict[str, OperatingCurve | None] = dict.fromkeys(specs)
    try:
        with LogReader(runtime.config) as log:
            hashes = {name: spec.sha256 for name, spec in specs.items()}
            skipped = None if run is None else run.run_id
            _read_earlier(log, plan, hashes, here, skipped, found)
            for name, spec in specs.items():
                if spec.backend is None:
                    now = conditions(runtime.config, runtime.recorder.selection.summed, spec)
                    curves[name] = find_curve(log, name, spec.sha256, now)
    except LogUnavailable:
        pass
    return {
        name: ArmEvidence(each.answers, each.outputs, curves[plan.arms[name].model], _origin(each))
        for name, each in found.items()
    }


def describe_here(runtime: Runtime[Any]) -> Here:
    """Describe this machine as the configuration of a run does."""
    facts = runtime.provenance
    channels = runtime.recorder.selection.summed
    return Here(
        machine_name(),
        int(facts["threads"]),
        facts["llama_cpp_python"],
        frozenset(channel.id for channel in channels),
    )


def is_same_arm(one: Arm, other: Arm) -> bool:
    """Return whether two arms do the same work; their names and seeds do not matter."""
    return _anonymous(one) == _anonymous(other)


def asks_alike(run: RunConfig, plan: RunPlan) -> bool:
    """Return whether a run asked the suite of a plan in the same way."""
    return (
        run.suite == plan.suite.name
        and (run.format, run.format_version) == (plan.format.name, plan.format.version)
        and (run.shots, run.prefix_reuse) == (plan.config.shots, plan.config.prefix_reuse)
        and run.data_sha256 == plan.suite.sha256
        and not run.routed
    )


def ran_here(run: RunConfig, here: Here) -> bool:
    """Return whether a run was made under the conditions of this machine."""
    return (
        run.machines is None
        and run.machine.get("name") == here.machine
        and run.threads == here.threads
        and run.versions.get("llama_cpp_python") == here.llama_cpp
        and frozenset(run.energy.get("channels", {})) == here.channels
    )


def measured_sample(sample: Sample) -> MeasuredAnswer:
    """Return the cost of an answer of a run."""
    tokens = sample.tokens
    return MeasuredAnswer(
        sample.joules,
        sample.uncertainty,
        sample.seconds,
        tokens.computed + sample.prefix_tokens,
        tokens.output,
        sample.kind,
    )


def _read_earlier(
    log: LogReader,
    plan: RunPlan,
    hashes: Mapping[str, str | None],
    here: Here,
    skipped: str | None,
    found: Mapping[str, _Found],
) -> None:
    """Add the answers of equal arms in earlier runs."""
    for run_id, document in read_run_documents(log, plan.suite.name):
        run = _parse(document)
        if run is None or run_id == skipped or not asks_alike(run, plan):
            continue
        measured_here = ran_here(run, here)
        equal_models = {model.name: model.sha256 for model in run.models}
        for name, arm in plan.arms.items():
            for other, settings in run.arms.items():
                if settings.get("model") != arm.model or not is_same_arm(parse_arm(settings), arm):
                    continue
                if equal_models.get(arm.model) != hashes[arm.model]:
                    continue
                answers = read_past_answers(log, run_id, other)
                found[name].outputs.extend(answer.tokens_output for answer in answers)
                if measured_here and answers:
                    found[name].answers.extend(map(_measured, answers))
                    found[name].runs.add(run_id)


def _parse(document: Mapping[str, Any]) -> RunConfig | None:
    try:
        return parse_run_config(document)
    except DocumentError:
        return None


def _measured(answer: PastAnswer) -> MeasuredAnswer:
    return MeasuredAnswer(
        answer.joules,
        answer.uncertainty,
        answer.seconds,
        answer.tokens_computed,
        answer.tokens_output,
        answer.kind,
    )


def _find_spec(name: str, runtime: Runtime[Any]) -> ModelSpec:
    spec = runtime.catalogue.get(name)
    if spec.backend is not None:
        return spec
    return find_model_file(Arm(name, name), runtime.config, runtime.catalogue)[0]


def _anonymous(arm: Arm) -> Arm:
    return replace(arm, name="", sampling=replace(arm.sampling, seed=0))


def _origin(found: _Found) -> str:
    earlier = len(found.runs - {_THIS_RUN})
    parts = [_THIS_RUN] if _THIS_RUN in found.runs else []
    parts += [count_text(earlier, "earlier run")] if earlier else []
    return " and ".join(parts)


Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PlanPrice:
    """What a plan costs: all of it, and what is left to answer."""

    name: str | None  # Name of the design; None for a run without one
    suite: str
    left: DesignPrice  # Of the questions that this run still has to answer, within its part
    whole: DesignPrice | None
    """Of all questions of the suite, as if none was answered; None if it is the same."""


def price_plan(
    plan: RunPlan,
    runtime: Runtime[Any],
    roles: Mapping[str, str],
    whole_plan: RunPlan | None = None,
    run: RunConfig | None = None,
    samples: Iterable[Sample] = (),
) -> PlanPrice:
    """Price a plan; no weights are loaded.

    Args:
        whole_plan: The same plan with all questions of its suite; None if it is ``plan``.
        run: The run that is resumed; None for a new one.
    """
    known = list(samples)
    evidence = collect_evidence(plan, runtime, run, known)
    counts = count_prompts(whole_plan or plan, runtime.config, runtime.catalogue)
    done = {} if run is None else collect_done_rows(run, known)
    left = _list_left(plan, done)
    pricer = _Pricer(plan, roles, evidence, counts)
    whole = None if whole_plan is None else pricer.price(_list_left(whole_plan, {}))
    return PlanPrice(
        plan.config.design.name if plan.config.design is not None else None,
        plan.suite.name,
        pricer.price(left),
        whole,
    )


class _Pricer:
    """Prices sets of questions of one plan with the same evidence."""

    def __init__(
        self,
        plan: RunPlan,
        roles: Mapping[str, str],
        evidence: Mapping[str, ArmEvidence],
        counts: PromptCounts,
    ) -> None:
        self._plan = plan
        self._roles = roles
        self._evidence = evidence
        self._counts = counts
        self._slopes = {model: self._find_slopes(model) for model in plan.models}

    def price(self, pieces: Mapping[str, list[list[Key]]]) -> DesignPrice:
        """Price the questions of each arm, in the pieces in which it answers them."""
        arms = [self._price_arm(name, inside) for name, inside in pieces.items()]
        most = max((arm.questions for arm in arms), default=0)
        return price_design(most, arms, self._price_curves(arms))

    def _price_arm(self, name: str, pieces: list[list[Key]]) -> ArmPrice:
        arm = self._plan.arms[name]
        tokens = self._counts.mean(arm, pieces)
        return price_arm(
            arm,
            self._roles.get(name, arm.model),
            self._evidence[name],
            sum(map(len, pieces)),
            tokens,
            self._slopes[arm.model],
            generates=self._plan.format.generates,
        )

    def _find_slopes(self, model: str) -> Slopes:
        arms = [name for name, arm in self._plan.arms.items() if arm.model == model]
        answers = [answer for name in arms for answer in self._evidence[name].answers]
        return fit_slopes(answers, self._evidence[arms[0]].curve)

    def _price_curves(self, arms: list[ArmPrice]) -> tuple[float, float] | None:
        """Return seconds and joules of the curves; None if unknown.

        They take the time of their visits, and at most their share of the run's. Their watts are
        taken to be those of the answers.
        """
        grid = (
            read_curve_grid(self._plan.config.design)
            if self._plan.config.design is not None
            else None
        )
        if grid is None:
            return 0.0, 0.0
        totals = [arm.total_seconds for arm in arms]
        joules = [arm.total_joules for arm in arms]
        if any(total is None for total in totals) or any(total is None for total in joules):
            return None
        seconds = math.fsum(total.value for total in totals if total is not None)
        watts = math.fsum(total.value for total in joules if total is not None) / max(seconds, 1e-9)
        share = SHARE / (1 - SHARE) * seconds
        visits = self._expect_visits(grid)
        taken = share if visits is None else min(visits, share)
        return taken, taken * watts

    def _expect_visits(self, grid: Grid) -> float | None:
        """Predict the seconds of all visits; None while the speed of a model is unknown."""
        order = list_visits(grid, self._plan.config.seed)
        found = [
            expected_seconds(order, grid, estimate_speed(self._slopes[model]))
            for model in self._plan.models
        ]
        known = [seconds for seconds in found if seconds is not None]
        return math.fsum(known) if len(known) == len(found) else None


def estimate_speed(slopes: Slopes) -> Speed:
    """Return the speed of a model by the seconds that one more token takes."""
    prompt, output = slopes.seconds_per_prompt_token, slopes.seconds_per_output_token
    return Speed(1 / prompt if prompt > 0 else None, 1 / output if output > 0 else None)


def _list_left(
    plan: RunPlan, done: Mapping[tuple[str, str], set[int]]
) -> dict[str, list[list[Key]]]:
    """List the questions of each arm in this part that it has not answered, by piece."""
    left: dict[str, list[list[Key]]] = {name: [] for name in plan.arms}
    for piece in build_schedule(plan, plan.arms):
        answered = done.get((piece.system, piece.subject), set())
        rows = [(piece.subject, row) for row in piece.rows if row not in answered]
        if rows:
            left[piece.system].append(rows)
    return left


_HEADER = (
    "arm", "prompt", "output", "at most", "energy each", "time each", "energy", "time", "from",
)  # fmt: skip
_WAYS = "--pilot N measures N questions of each arm first"


def format_price(price: PlanPrice, within: tuple[float, int | None] | None) -> list[str]:
    """Write a price as lines.

    Args:
        within: Seconds of ``--max-hours``, and the questions of every arm that they suffice for;
            None without a limit.
    """
    left = price.left
    name = f"{price.name}: " if price.name is not None else ""
    lines = [f"{name}{count_text(left.questions, 'question')} of {price.suite}, "
             f"{count_text(len(left.arms), 'arm')}; tokens per question"]  # fmt: skip
    lines += format_table([_build_row(arm) for arm in left.arms], header=_HEADER, align="<>>>>>>><")
    if left.questions:
        lines += _format_total("in all", left)
    else:
        lines.append("in all: every arm has answered every question")
    if left.curve_seconds:
        lines.append(
            f"with operating curves: {seconds_text(left.total_seconds)}, of which the curves take "
            f"{seconds_text(left.curve_seconds)}"
        )
    if price.whole is not None:
        what = f"all {count_text(price.whole.questions, 'question')} of {price.suite}"
        lines += _format_total(what, price.whole)
    if within is not None:
        lines.append(_format_within(*within, left))
    if left.unknown:
        lines.append(_format_unknown(left))
    return lines


def build_price_document(price: PlanPrice, within: tuple[float, int | None] | None) -> Any:
    """Return the price as plain JSON values."""
    document = to_document(price)
    for part in ("left", "whole"):
        found: DesignPrice | None = getattr(price, part)
        if found is not None:
            document[part]["tokens"] = found.tokens
            document[part]["total_joules"] = found.total_joules
            document[part]["total_seconds"] = found.total_seconds
    document["max_seconds"] = None if within is None else within[0]
    document["questions_within"] = None if within is None else within[1]
    return document


def _build_row(arm: ArmPrice) -> tuple[str, ...]:
    return (
        arm.arm,
        _tokens(arm.prompt_tokens),
        _tokens(arm.output_tokens),
        f"{arm.most_output_tokens:,}",
        _joules(arm.joules, arm.kind),
        _seconds(arm.seconds),
        _joules(arm.total_joules, arm.kind),
        _seconds(arm.total_seconds),
        arm.origin,
    )


def _format_total(what: str, price: DesignPrice) -> Iterator[str]:
    if price.joules is None and price.seconds is None:
        if price.prompt_tokens is not None:
            yield (
                f"{what}: {price.prompt_tokens:,.0f} prompt tokens and at most "
                f"{price.most_output_tokens:,} output tokens"
            )
        return
    most = ""
    if price.most_joules is not None and price.most_seconds is not None:
        most = (
            f"; at most {energy_text(price.most_joules, None, price.kind)} and "
            f"{seconds_text(price.most_seconds)} with all budgets used up"
        )
    tokens = price.tokens
    counted = "" if tokens is None else f"{_count_tokens(tokens)}, "
    cost = f"{_joules(price.joules, price.kind)} in {_seconds(price.seconds)}"
    yield f"{what}: {counted}{cost}{most}"
    if price.joules is not None and price.joules.uncertainty is not None:
        half = energy_text(price.joules.uncertainty, None, price.kind)
        own = energy_text(price.joules.scatter, None, price.kind)
        yield f"  the joules are known to ± {half}, of which ± {own} by the spread of the answers"


def _count_tokens(tokens: float) -> str:
    if tokens < 1e5:
        return f"{tokens:,.0f} tokens"
    return f"{significant(tokens / 1e6, 3)} million tokens"


def _format_within(seconds: float, questions: int | None, price: DesignPrice) -> str:
    hours = seconds_text(seconds)
    if questions is None:
        return f"{hours}: unknown how many questions, because the seconds of an arm are unknown"
    if questions >= price.questions:
        return f"{hours} suffice for all of them"
    return f"{hours} suffice for about {count_text(questions, 'question')} of every arm"


def _format_unknown(price: DesignPrice) -> str:
    count = len(price.unknown)
    arms = "every arm" if count == len(price.arms) else count_text(count, "arm")
    return f"unknown joules or seconds of {arms}: {_WAYS}, or etui calibrate MODEL gives its curve"


def _tokens(tokens: float | None) -> str:
    return "?" if tokens is None else f"{tokens:,.0f}"


def _joules(amount: Amount | None, kind: str | None) -> str:
    return "unknown" if amount is None else energy_text(amount.value, amount.uncertainty, kind)


def _seconds(amount: Amount | None) -> str:
    return "unknown" if amount is None else seconds_text(amount.value)
