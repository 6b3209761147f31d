"""Plan the run of a design, its pilot and its curves, and price it by what is known of its arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etui.arm import Arm
from etui.bench.arms import parse_arm
from etui.bench.config import BenchPart, NamedText, RunConfig, parse_run_config
from etui.bench.dry_run import count_prompts
from etui.bench.formats import list_examples
from etui.bench.plan import RunPlan, RunRequest, make_design_plan
from etui.bench.run import collect_done_rows
from etui.bench.sample import Sample
from etui.bench.schedule import build_schedule
from etui.calibration.grid import expected_seconds, list_visits
from etui.codec import DocumentError, to_document
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve, Speed
from etui.design.curve_visits import SHARE
from etui.design.load import (
    Design,
    DesignFile,
    ModelChoice,
    check_design,
    design_of_run,
    find_design,
    read_curve_grid,
    resolve_design,
)
from etui.design.price import (
    Amount,
    ArmEvidence,
    ArmPrice,
    DesignPrice,
    Slopes,
    count_questions_within,
    fit_slopes,
    price_arm,
    price_design,
)
from etui.errors import LogUnavailable, UsageError
from etui.log.curve_lookup import find_curve
from etui.log.past_answers import PastAnswer, read_past_answers, read_run_documents
from etui.log.queries import LogReader
from etui.models.spec import ModelSpec
from etui.runtime.model_resolution import find_model_file
from etui.runtime.provenance import conditions
from etui.runtime.runtime import Runtime
from etui.text import format_table
from etui.units import count_text, energy_text, seconds_text, significant
from etui.yaml.load import Located, read_text

_THIS_RUN = "this run"
Key = tuple[str, int]


def collect_evidence(
    plan: RunPlan,
    runtime: Runtime[Any],
    run: RunConfig | None = None,
    samples: Iterable[Sample] = (),
) -> dict[str, ArmEvidence]:
    """Collect what is known of every arm of a plan; nothing is loaded.

    A log that cannot be read knows nothing.

    ``run``: the run that is resumed, with its samples; None for a new one.
    """
    specs = {name: _find_spec(name, runtime) for name in plan.models}
    found = {name: ArmEvidence([], []) for name in plan.arms}
    runs: dict[str, set[str]] = {name: set() for name in plan.arms}
    curves: dict[str, OperatingCurve | None] = {}
    for sample in samples:
        if sample.arm in found and sample.status != "error":
            tokens = sample.tokens
            answer = PastAnswer(
                sample.joules,
                sample.uncertainty,
                sample.seconds,
                tokens.computed + sample.prefix_tokens,
                tokens.output,
                sample.kind,
            )
            found[sample.arm].answers.append(answer)
            found[sample.arm].outputs.append(tokens.output)
            runs[sample.arm].add(_THIS_RUN)
    try:
        with LogReader(runtime.config) as log:
            for earlier in _list_earlier(log, plan, run):
                _add_answers(log, plan, earlier, specs, runtime, found, runs)
            channels = runtime.recorder.selection.summed
            for name, spec in specs.items():
                if spec.backend is None:
                    now = conditions(runtime.config, channels, spec)
                    curves[name] = find_curve(log, name, spec.sha256, now)
    except LogUnavailable:
        pass
    return {
        name: replace(
            one, curve=curves.get(plan.arms[name].model), origin=_describe_origin(runs[name])
        )
        for name, one in found.items()
    }


def _list_earlier(log: LogReader, plan: RunPlan, run: RunConfig | None) -> Iterator[RunConfig]:
    """Yield the other runs that asked the suite of a plan in the same way."""
    now = plan.config
    for run_id, document in read_run_documents(log, plan.suite.name):
        try:
            earlier = parse_run_config(document)
        except DocumentError:
            continue
        alike = (
            earlier.suite == now.suite
            and (earlier.format, earlier.format_version) == (now.format, now.format_version)
            and (earlier.shots, earlier.prefix_reuse) == (now.shots, now.prefix_reuse)
            and earlier.data_sha256 == now.data_sha256
        )
        if alike and not earlier.routed and (run is None or run.run_id != run_id):
            yield replace(earlier, run_id=run_id)


def _add_answers(
    log: LogReader,
    plan: RunPlan,
    earlier: RunConfig,
    specs: Mapping[str, ModelSpec],
    runtime: Runtime[Any],
    found: Mapping[str, ArmEvidence],
    runs: Mapping[str, set[str]],
) -> None:
    """Add the answers of equal arms of an earlier run; costs only if it was measured here."""
    facts = runtime.provenance
    measured_here = (
        earlier.machines is None
        and earlier.machine.get("name") == machine_name()
        and earlier.threads == int(facts["threads"])
        and earlier.versions.get("llama_cpp_python") == facts["llama_cpp_python"]
        and set(earlier.energy.get("channels", {}))
        == {channel.id for channel in runtime.recorder.selection.summed}
    )
    hashes = {model.name: model.sha256 for model in earlier.models}
    for name, arm in plan.arms.items():
        for other, settings in earlier.arms.items():
            if (
                settings.get("model") != arm.model
                or hashes.get(arm.model) != specs[arm.model].sha256
            ):
                continue
            if _anonymous(parse_arm(settings)) != _anonymous(arm):
                continue
            answers = read_past_answers(log, earlier.run_id, other)
            found[name].outputs.extend(answer.tokens_output for answer in answers)
            if measured_here and answers:
                runs[name].add(earlier.run_id)
                found[name].answers.extend(answers)


def _find_spec(name: str, runtime: Runtime[Any]) -> ModelSpec:
    spec = runtime.catalogue.get(name)
    if spec.backend is not None:
        return spec
    return find_model_file(Arm(name, name), runtime.config, runtime.catalogue)[0]


def _anonymous(arm: Arm) -> Arm:
    """Return an arm without its name and seed, which do not change its work."""
    return replace(arm, name="", sampling=replace(arm.sampling, seed=0))


def _describe_origin(runs: set[str]) -> str:
    earlier = len(runs - {_THIS_RUN})
    parts = [_THIS_RUN] if _THIS_RUN in runs else []
    parts += [count_text(earlier, "earlier run")] if earlier else []
    return " and ".join(parts)


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
        run: The run that is resumed, with its samples; None for a new one.
    """
    known = list(samples)
    evidence = collect_evidence(plan, runtime, run, known)
    counts = count_prompts(whole_plan or plan, runtime.config, runtime.catalogue)
    slopes: dict[str, Slopes] = {}
    for model in plan.models:
        own = [evidence[name] for name, arm in plan.arms.items() if arm.model == model]
        slopes[model] = fit_slopes([a for one in own for a in one.answers], own[0].curve)

    def price(pieces: Mapping[str, list[list[Key]]]) -> DesignPrice:
        arms = []
        for name, inside in pieces.items():
            arm = plan.arms[name]
            arms.append(
                price_arm(
                    arm,
                    roles.get(name, arm.model),
                    evidence[name],
                    sum(map(len, inside)),
                    counts.mean(arm, inside),
                    slopes[arm.model],
                    generates=plan.format.generates,
                )
            )
        most = max((arm.questions for arm in arms), default=0)
        return price_design(most, arms, _price_curves(plan, arms, slopes))

    done = {} if run is None else collect_done_rows(run, known)
    return PlanPrice(
        plan.config.design.name if plan.config.design is not None else None,
        plan.suite.name,
        price(_list_left(plan, done)),
        None if whole_plan is None else price(_list_left(whole_plan, {})),
    )


def _price_curves(
    plan: RunPlan, arms: Iterable[ArmPrice], slopes: Mapping[str, Slopes]
) -> tuple[float, float] | None:
    """Return seconds and joules of the curves; None if unknown.

    They take the time of their visits, and at most their share of the run's. Their watts are taken
    to be those of the answers.
    """
    design = plan.config.design
    grid = read_curve_grid(design) if design is not None else None
    if grid is None:
        return 0.0, 0.0
    totals = [(arm.total_seconds, arm.total_joules) for arm in arms]
    if any(seconds is None or joules is None for seconds, joules in totals):
        return None
    seconds = math.fsum(one.value for one, _ in totals if one is not None)
    watts = math.fsum(one.value for _, one in totals if one is not None) / max(seconds, 1e-9)
    taken = SHARE / (1 - SHARE) * seconds
    order = list_visits(grid, plan.config.seed)
    visits = [expected_seconds(order, grid, estimate_speed(slopes[name])) for name in plan.models]
    known = [each for each in visits if each is not None]
    if len(known) == len(visits):
        taken = min(math.fsum(known), taken)
    return taken, taken * watts


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


def plan_design(
    ask: RunRequest, runtime: Runtime[Any], say: Callable[[str], None]
) -> tuple[Design, RunPlan]:
    """Make the plan of a design; what the request leaves open is the design's.

    Raises:
        EtuiError: A name does not exist, options cannot be combined, the design or the data are
            invalid, or a model or the data are not on this machine and cannot be downloaded.
    """
    place = find_design(ask.design or "", runtime.config)
    text = read_text(place.path)
    known = runtime.catalogue.models
    located = check_design(text, str(place.path), known)
    choice = ModelChoice(known, runtime.find_available(), parse_roles(ask.models))
    design = resolve_design(located, place.name, choice)
    asked = design.questions
    beside = place.path.parent / Path(asked.suite).expanduser()
    ask = replace(
        ask,
        suite=str(beside) if beside.is_file() else asked.suite,
        split=asked.split,
        format=asked.format,
        shots=asked.shots,
        seed=asked.seed if ask.seed is None else ask.seed,
        models=(),
    )
    arms = {name: arm.arm for name, arm in design.arms.items()}
    try:
        plan = make_design_plan(ask, arms, runtime.config, say)
    except UsageError as error:
        raise _locate(error, located) from error
    noted = NamedText(place.name, text)
    return design, plan.change(order="balanced", block=asked.block, design=noted)


def parse_roles(options: Sequence[str]) -> dict[str, str]:
    """Parse ``ROLE=NAME`` of each ``--model``."""
    found: dict[str, str] = {}
    for option in options:
        role, separator, name = option.partition("=")
        if not separator or not role.strip() or not name.strip():
            raise UsageError(
                f"--model {option} names no role of the design",
                "write --model ROLE=NAME, such as --model small=smollm2-135m",
            )
        if role.strip() in found:
            raise UsageError(f"--model names the role {role.strip()} twice", "pass it once")
        found[role.strip()] = name.strip()
    return found


def _locate(error: UsageError, located: Located[DesignFile]) -> UsageError:
    """Name the place of a suite that does not exist, and of shots that it does not have."""
    for start, key in (("unknown suite", "suite"), ("--shots", "shots")):
        if error.what.startswith(start):
            mark = located.where(("questions", key))
            place = f"{located.file}:{mark.line}:{mark.column}"
            return UsageError(f"{place}: {error.what}", error.fix)
    return error


def plan_pilot(plan: RunPlan, questions: int) -> RunPlan:
    """Return the plan of a pilot: the first questions of a plan, as one block, by every arm.

    They are a random sample of the plan's, as every prefix of it is.
    """
    blocks = max(1, math.ceil(plan.questions / questions))
    return plan.change(block=questions, part=BenchPart(0, blocks))


def price_new_run(design: Design, plan: RunPlan, runtime: Runtime[Any]) -> PlanPrice:
    """Price a design that has not begun."""
    roles = {name: arm.role for name, arm in design.arms.items()}
    return price_plan(plan, runtime, roles, _widen(plan))


def price_rest(
    plan: RunPlan, runtime: Runtime[Any], run: RunConfig, samples: Sequence[Sample]
) -> PlanPrice:
    """Price what is left of a run by its own answers."""
    roles = {}
    if run.design is not None:
        roles = {name: arm.role for name, arm in design_of_run(run).arms.items()}
    return price_plan(plan, runtime, roles, None, run, samples)


def count_within(
    price: PlanPrice, plan: RunPlan, seconds: float | None
) -> tuple[float, int | None] | None:
    """Return the seconds of a limit and the questions that they suffice for; None without one."""
    if seconds is None:
        return None
    block = plan.config.block or 1
    return seconds, count_questions_within(price.left, seconds, SHARE, block)


def _widen(plan: RunPlan) -> RunPlan | None:
    """Return the plan with all questions of its suite; None if it has them already."""
    suite, run = plan.suite, plan.config
    if run.part is None and plan.questions == sum(suite.sizes.values()):
        return None
    drawn = {subject: tuple(questions) for subject, questions in suite.questions.items()}
    examples = {name: list_examples(plan.format, suite, name)[: run.shots] for name in drawn}
    return replace(plan, drawn=drawn, examples=examples).change(part=None)
