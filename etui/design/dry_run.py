"""Price a plan before it runs: its tokens, joules and hours, and where each number comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.bench.run.loop import collect_done_rows
from etui.bench.run.prompt_tokens import PromptCounts, count_prompts
from etui.bench.run.schedule import build_schedule
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.calibration.grid import Grid, expected_seconds, list_visits
from etui.curves.operating_curve import Speed
from etui.design.curve_visits import SHARE
from etui.design.evidence import collect_evidence
from etui.design.load import read_curve_grid
from etui.design.price import ArmPrice, DesignPrice, price_design
from etui.design.price_arm import ArmEvidence, Slopes, fit_slopes, price_arm

if TYPE_CHECKING:
    from etui.bench.run.plan import RunPlan
    from etui.runtime.open import Runtime

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

    Raises:
        ModelUnavailable: A model is not on this machine, or crashes llama.cpp.
        ContextOverflow: A question does not fit into the context.
    """
    known = list(samples)
    evidence = collect_evidence(plan, runtime, run, known)
    counts = count_prompts(whole_plan or plan, runtime.config, runtime.catalogue)
    done = {} if run is None else collect_done_rows(run, known)
    left = _list_left(plan, done)
    pricer = _Pricer(plan, roles, evidence, counts)
    whole = None if whole_plan is None else pricer.price(_list_left(whole_plan, {}))
    return PlanPrice(
        plan.design.name if plan.design is not None else None,
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
        grid = read_curve_grid(self._plan.design) if self._plan.design is not None else None
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
        order = list_visits(grid, self._plan.seed)
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
