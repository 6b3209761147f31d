"""Run the probes of a policy: questions with the decisions expected for them."""

from __future__ import annotations

from dataclasses import dataclass

from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.policy import Policy, PolicyProbe


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """The result of one probe.

    Attributes:
        probe: The question and its expectations.
        decision: The decision; None if the policy could not decide.
        failures: Expectations that were not met; empty if the probe passed.
    """

    probe: PolicyProbe
    decision: Decision | None
    failures: tuple[str, ...]


def run_probes(policy: Policy) -> tuple[ProbeOutcome, ...]:
    """Run every probe as if all models were available and nothing were fitted or calibrated.

    The result is therefore the same on every machine; an objective takes its ``otherwise``.
    """
    return tuple(_run_probe(probe, policy) for probe in policy.probes)


def _run_probe(probe: PolicyProbe, policy: Policy) -> ProbeOutcome:
    try:
        query = Query(probe.query, metadata=probe.metadata)
        decision = decide(
            query, policy, available=lambda _: True, host=probe.host, every_signal=True
        )
    except EtuiError as error:
        return ProbeOutcome(probe, None, (error.what,))
    failures = []
    for what, required, excluded, got in (
        ("rule", probe.rule, probe.not_rule, decision.rule),
        ("arm", probe.arm, probe.not_arm, decision.arm.name),
    ):
        if required is not None and got != required:
            failures.append(f"{what} {got}, expected {required}")
        if excluded is not None and got == excluded:
            failures.append(f"{what} {got}, expected any other")
    holds = {value.name: value.holds for value in decision.signals}
    for name, expected in probe.signals.items():
        if holds[name] is not expected:
            failures.append(f"signal {name} {'holds' if holds[name] else 'does not hold'}")
    return ProbeOutcome(probe, decision, tuple(failures))
