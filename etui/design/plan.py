"""Plan the run of a design, its pilot, its curves, and the price of what is left of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from etui.bench.config import BenchPart, NamedText, RunConfig
from etui.bench.formats import list_examples
from etui.bench.plan import RunPlan, RunRequest, make_design_plan
from etui.bench.run import BetweenBlocks
from etui.bench.sample import Sample
from etui.design.curve_visits import SHARE, build_curve_visits
from etui.design.dry_run import PlanPrice, price_plan
from etui.design.load import (
    Design,
    ModelChoice,
    check_design,
    design_of_run,
    find_design,
    resolve_design,
)
from etui.design.price import count_questions_within
from etui.design.schema import DesignFile
from etui.errors import UsageError
from etui.runtime.runtime import Runtime
from etui.yaml.load import Located, read_text


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


def connect_curves(
    runtime: Runtime[Any], say: Callable[[str], None]
) -> Callable[[RunPlan], BetweenBlocks | None]:
    """Return what builds the side work of a plan: the curves of its design, if it has any."""
    return lambda plan: build_curve_visits(plan, runtime, say)


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
