"""``etui stats --audit``: what audits cost, and how often each arm agreed with the audit arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from etui.config.config import Config
from etui.errors import EtuiError
from etui.learning.predictor import load_accuracy
from etui.log.labels import read_audits, read_labelled
from etui.log.queries import LogReader
from etui.models.catalogue import load_catalogue
from etui.routing.library import load_policy
from etui.routing.policy import list_priors
from etui.runtime.replay import FitChange, compare_with_fit
from etui.runtime.runtime import open_runtime
from etui.stats.tests import wilson
from etui.text import format_table, local_time
from etui.units import ESTIMATE, count_text, energy_text, percent_text

if TYPE_CHECKING:
    from etui.learning.labels import LogLabels


_ENDED_EARLY = ("truncated", "stopped", "budget")


@dataclass(frozen=True, slots=True)
class PairSummary:
    """How often an arm agreed with an audit arm, and the accuracy that follows.

    Attributes:
        compared, agreed: Audits that could be compared, and those that agree.
        agreement, low, high: The share that agrees, with Wilson's interval at 95 %.
    """

    policy: str
    arm: str
    audit_arm: str
    compared: int
    agreed: int
    agreement: float
    low: float | None
    high: float | None
    accuracy_fitted: float | None  # Accuracy of the arm in the fit of now; None without a fit
    accuracy_by_labels: float
    """Accuracy of the arm that follows from the labels, at the audit arm's."""
    audit_accuracy: float
    audit_accuracy_from: str  # `grades` of its answers, `prior` of the policy, or `assumed`
    fitted_from_log: bool  # Whether the policy's fit contains labels of the log


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """The audits of some days; joules exclude unmeasured ones, and are None if all are."""

    days: int
    audits: int
    compared: int
    agreed: int
    unfinished: int
    """Audits without a whole answer, which are not compared: the sum of the next four."""
    cut_off: int  # Audits that ended at their token limit
    stopped: int  # Audits that ended for a question, or with etui
    out_of_joules: int  # Audits that ended because the joules of the day were spent
    failed: int  # Audits that ended in an error
    joules: float | None
    load_joules: float | None
    estimated: bool
    unmeasured: int
    good: int
    bad: int
    pairs: tuple[PairSummary, ...]
    changes: tuple[FitChange, ...] = ()
    """Those of routing by the last fit of each policy that contains the log."""


def summarise_audits(config: Config, days: int, now: datetime | None = None) -> AuditSummary:
    """Sum up the audits and grades of the last days."""
    from etui.learning.labels import collect_labels

    since = (now or datetime.now(UTC)) - timedelta(days=days)
    with LogReader(config) as log:
        audits = read_audits(log, since)
        turns = [
            turn for turn in read_labelled(log) if datetime.fromisoformat(turn.created_at) >= since
        ]
    statuses = Counter(audit.status for audit in audits if audit.status != "complete")
    pairs: list[PairSummary] = []
    for policy in dict.fromkeys(turn.policy for turn in turns if turn.policy is not None):
        rates, from_log, priors = _read_rates(config, policy)
        labels = collect_labels(turns, policy, priors=priors, by_question=False)
        pairs += _summarise_pairs(policy, labels, rates, from_log)
    return AuditSummary(
        days=days,
        audits=len(audits),
        compared=sum(audit.agrees is not None for audit in audits),
        agreed=sum(audit.agrees is True for audit in audits),
        unfinished=sum(statuses.values()),
        cut_off=statuses["truncated"],
        stopped=statuses["stopped"],
        out_of_joules=statuses["budget"],
        failed=sum(n for status, n in statuses.items() if status not in _ENDED_EARLY),
        joules=_sum([audit.joules for audit in audits]),
        load_joules=_sum([audit.load_joules for audit in audits]),
        estimated=any(audit.kind == ESTIMATE for audit in audits),
        unmeasured=sum(None in (audit.joules, audit.load_joules) for audit in audits),
        good=sum(turn.good is True for turn in turns),
        bad=sum(turn.good is False for turn in turns),
        pairs=tuple(pairs),
        changes=_compare_fits(config, [pair.policy for pair in pairs if pair.fitted_from_log]),
    )


def _compare_fits(config: Config, policies: Sequence[str]) -> tuple[FitChange, ...]:
    if not policies:
        return ()
    with open_runtime(config) as runtime:
        found = [compare_with_fit(policy, runtime) for policy in dict.fromkeys(policies)]
    return tuple(change for change in found if change is not None)


def _summarise_pairs(
    policy: str, labels: LogLabels, rates: dict[str, float], from_log: bool
) -> Iterator[PairSummary]:
    for pair in labels.pairs:
        share = wilson(pair.agreed, pair.compared)
        yield PairSummary(
            policy=policy,
            arm=pair.arm,
            audit_arm=pair.audit_arm,
            compared=pair.compared,
            agreed=pair.agreed,
            agreement=share.value,
            low=share.low,
            high=share.high,
            accuracy_fitted=rates.get(pair.arm),
            accuracy_by_labels=pair.model.arm,
            audit_accuracy=pair.model.audit,
            audit_accuracy_from=pair.basis,
            fitted_from_log=from_log,
        )


def _read_rates(config: Config, policy: str) -> tuple[dict[str, float], bool, dict[str, float]]:
    """Return the fitted rate of each arm, whether the fit contains the log, and stated priors."""
    priors: dict[str, float] = {}
    try:
        loaded = load_policy(policy, config, load_catalogue(config).models)
        priors = list_priors(loaded)
        heads = load_accuracy(loaded, config)
    except EtuiError:  # the policy was deleted, or its fit is damaged
        return {}, False, priors
    if heads is None:
        return {}, False, priors
    model = heads.model
    rates = {name: head.rate for name, head in model.arms.items()}
    return rates, "log" in model.provenance.source, priors


def format_audits(found: AuditSummary) -> Iterator[str]:
    """Format what the audits cost, and how often each arm agreed with the audit arm."""
    days = count_text(found.days, "day")
    if not found.audits and not found.good + found.bad:
        yield f"no audit and no grade in the last {days}"
        return
    kind = ESTIMATE if found.estimated else None
    cost = energy_text(found.joules, kind=kind)
    if found.load_joules:
        cost += f" and {energy_text(found.load_joules, kind=kind)} of loading"
    if found.audits:
        yield f"{count_text(found.audits, 'audit')} in the last {days}: {cost}"
    else:
        yield f"no audit in the last {days}"
    if found.unmeasured and found.joules is not None:
        yield f"{count_text(found.unmeasured, 'audit')} unmeasured and not counted in the joules"
    if found.unfinished:
        yield f"{count_text(found.unfinished, 'audit')} not finished: {_format_unfinished(found)}"
    yield f"{count_text(found.good + found.bad, 'grade')}: {found.good} good, {found.bad} bad"
    if not found.pairs:
        return
    rows = [
        (
            pair.policy,
            pair.arm,
            pair.audit_arm,
            f"{pair.agreed} of {pair.compared}",
            f"{percent_text(pair.agreement)} [{percent_text(pair.low)}, {percent_text(pair.high)}]",
            percent_text(pair.accuracy_fitted),
            percent_text(pair.accuracy_by_labels),
        )
        for pair in found.pairs
    ]
    head = ("POLICY", "ARM", "AUDIT ARM", "AGREE", "SHARE", "FITTED", "BY LABELS")
    yield from format_table(rows, header=head)
    for change in found.changes:
        yield from _format_change(change)
    for policy in dict.fromkeys(pair.policy for pair in found.pairs if not pair.fitted_from_log):
        yield f"not in the fit yet; run: etui policy fit {policy} --log"


def _format_unfinished(found: AuditSummary) -> str:
    counts = (
        (found.cut_off, "cut off at the token limit"),
        (found.stopped, "stopped for a question or at exit"),
        (found.out_of_joules, "out of joules for the day"),
        (found.failed, "failed"),
    )
    return ", ".join(f"{number} {how}" for number, how in counts if number)


def _format_change(change: FitChange) -> Iterator[str]:
    turns, fitted_at = count_text(change["turns"], "turn"), local_time(change["fitted_at"])
    moved = sum(move["turns"] for move in change["moves"])
    moves = ", ".join(f"{m['before']} to {m['after']} {m['turns']}" for m in change["moves"])
    yield f"{change['policy']}, the last {turns} before the fit of {fitted_at}: " + (
        f"{moved} would be routed otherwise now ({moves})" if moves else "none moves"
    )
    if change["undecided"]:
        yield f"  {change['undecided']} of them have no arm now, because a model is missing"
    if change["joules_before"] is not None:
        yield (
            f"  joules predicted for {count_text(change['compared_joules'], 'turn')}: "
            f"{energy_text(change['joules_before'], kind=ESTIMATE)} as routed, "
            f"{energy_text(change['joules_after'], kind=ESTIMATE)} now"
        )
    if change["accuracy_before"] is not None:
        yield (
            f"  right by the fit of now: {percent_text(change['accuracy_before'])} as routed, "
            f"{percent_text(change['accuracy_after'])} now"
        )
    yield "  as routed: by policy, fit and machine of that time; now: without machine and budgets"


def _sum(values: Sequence[float | None]) -> float | None:
    """Sum the known values; None if there are values and none of them is known."""
    known = [value for value in values if value is not None]
    return sum(known, 0.0) if known or not values else None
