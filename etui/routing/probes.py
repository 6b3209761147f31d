"""Runs the probes of a policy: questions and what must come of them."""

from __future__ import annotations

from dataclasses import dataclass

from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.policy import Policy, PolicyProbe


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """What came of one probe.

    Attributes:
        probe: The question and what must come of it.
        decision: What came of it; None where the policy could not decide.
        failures: What was not as expected; empty where it passed.
    """

    probe: PolicyProbe
    decision: Decision | None
    failures: tuple[str, ...]


def run_probes(policy: Policy) -> tuple[ProbeOutcome, ...]:
    """Every probe decided as if every model were here and nothing were fitted or calibrated.

    So it passes on any machine; an objective then takes its ``otherwise``.
    """
    return tuple(_run(probe, policy) for probe in policy.probes)


def _run(probe: PolicyProbe, policy: Policy) -> ProbeOutcome:
    try:
        decision = decide(
            Query(probe.query), policy, available=lambda _: True, host=probe.host, every_signal=True
        )
    except EtuiError as error:
        return ProbeOutcome(probe, None, (error.what,))
    failures = []
    for what, wanted, refused, got in (
        ("rule", probe.rule, probe.not_rule, decision.rule),
        ("arm", probe.arm, probe.not_arm, decision.arm.name),
    ):
        if wanted is not None and got != wanted:
            failures.append(f"{what} {got}, expected {wanted}")
        if refused is not None and got == refused:
            failures.append(f"{what} {got}, which was ruled out")
    seen = {value.name: value.holds for value in decision.signals}
    for name, expected in probe.signals.items():
        if seen[name] is not expected:
            failures.append(f"signal {name} {'holds' if seen[name] else 'does not hold'}")
    return ProbeOutcome(probe, decision, tuple(failures))
