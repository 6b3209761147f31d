"""Run designs: wire their curves into a bench run, measure a pilot, price what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.bench.config import BenchPart
from etui.bench.formats import list_examples
from etui.design.curve_visits import SHARE, build_curve_visits
from etui.design.dry_run import PlanPrice, price_plan
from etui.design.load import design_of_run
from etui.design.price import count_questions_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from etui.bench.config import RunConfig
    from etui.bench.plan import RunPlan
    from etui.bench.run import BetweenBlocks
    from etui.bench.sample import Sample
    from etui.design.load import Design
    from etui.runtime.runtime import Runtime


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
    return replace(plan, block=questions, part=BenchPart(0, blocks))


def price_new_run(design: Design, plan: RunPlan, runtime: Runtime[Any]) -> PlanPrice:
    """Price a design that has not begun; see :func:`etui.design.dry_run.price_plan`."""
    roles = {name: arm.role for name, arm in design.arms.items()}
    return price_plan(plan, runtime, roles, _widen(plan))


def price_rest(
    plan: RunPlan, runtime: Runtime[Any], run: RunConfig, samples: Sequence[Sample]
) -> PlanPrice:
    """Price what is left of a run, by its own answers first."""
    roles: dict[str, str] = {}
    if run.design is not None:
        roles = {name: arm.role for name, arm in design_of_run(run).arms.items()}
    return price_plan(plan, runtime, roles, None, run, samples)


def count_within(
    price: PlanPrice, plan: RunPlan, seconds: float | None
) -> tuple[float, int | None] | None:
    """Return the seconds of a limit and the questions that they suffice for; None without one."""
    if seconds is None:
        return None
    return seconds, count_questions_within(price.left, seconds, SHARE, plan.block or 1)


def _widen(plan: RunPlan) -> RunPlan | None:
    """Return the plan with all questions of its suite; None if it has them already."""
    suite = plan.suite
    if plan.part is None and plan.questions == sum(suite.sizes.values()):
        return None
    drawn = {subject: tuple(questions) for subject, questions in suite.questions.items()}
    examples = {
        subject: list_examples(plan.format, suite, subject)[: plan.shots] for subject in drawn
    }
    return replace(plan, drawn=drawn, examples=examples, part=None)
