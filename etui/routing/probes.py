"""Run the probes and cases of a policy: questions with the decisions expected for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from etui.errors import EtuiError
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.policy import Policy, PolicyProbe

_MOST_RULES = 3
"""Rules of an expected arm that are named in an explanation, so that it stays short."""


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """The result of one probe or case."""

    probe: PolicyProbe  # The question and its expectations
    decision: Decision | None  # The decision; None if the policy could not decide
    failures: tuple[str, ...]  # Expectations that were not met; empty if the probe passed

    @property
    def route(self) -> tuple[str, str] | None:
        """The rule and the arm; None if the policy could not decide."""
        decision = self.decision
        return None if decision is None else (decision.rule or "", decision.arm.name)


def run_probes(
    policy: Policy, probes: Iterable[PolicyProbe] | None = None
) -> tuple[ProbeOutcome, ...]:
    """Run probes as if all models were available and nothing were fitted or calibrated.

    The result is therefore the same on every machine; an objective takes its ``otherwise``.

    Args:
        probes: Probes or cases; None runs the probes of the policy file.
    """
    chosen = policy.probes if probes is None else probes
    return tuple(_run_probe(probe, policy) for probe in chosen)


def _run_probe(probe: PolicyProbe, policy: Policy) -> ProbeOutcome:
    try:
        decision = decide(
            probe.to_query(),
            policy,
            available=lambda _: True,
            host=probe.host,
            every_signal=bool(probe.signals),
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
    if probe.signals:
        holds = {value.name: value.holds for value in decision.signals}
        for name, expected in probe.signals.items():
            if name not in holds:
                failures.append(f"there is no signal {name}")
            elif holds[name] is not expected:
                failures.append(f"signal {name} {'holds' if holds[name] else 'does not hold'}")
    return ProbeOutcome(probe, decision, tuple(failures))


def format_expectation(probe: PolicyProbe) -> str:
    """Format what is expected: ``rule talk, not arm large, signal long does not hold``."""
    named = (
        ("rule", probe.rule), ("not rule", probe.not_rule), ("arm", probe.arm),
        ("not arm", probe.not_arm),
    )  # fmt: skip
    parts = [f"{what} {name}" for what, name in named if name is not None]
    parts += [
        f"signal {name} {'holds' if holds else 'does not hold'}"
        for name, holds in probe.signals.items()
    ]
    return ", ".join(parts)


def explain_failure(outcome: ProbeOutcome, policy: Policy) -> tuple[str, ...]:
    """Explain why a probe failed, one line each.

    The first line is the rule that decided and why; the others say of each rule that was expected
    to, or that leads to the expected arm, which condition failed first or which rule came before.
    Empty if the policy could not decide: the failure itself says why.
    """
    decision = outcome.decision
    if decision is None:
        return ()
    return (decision.why, *_explain_others(outcome.probe, decision, policy))


def _explain_others(probe: PolicyProbe, decision: Decision, policy: Policy) -> Iterator[str]:
    if probe.rule is not None and probe.rule != decision.rule:
        expected = [rule for rule in policy.rules if rule.name == probe.rule]
    elif probe.arm is not None and probe.arm != decision.arm.name:
        expected = [rule for rule in policy.rules if probe.arm in rule.arms]
    else:
        return
    tried = {rule.name: rule.failed for rule in decision.rules}
    for rule in expected[:_MOST_RULES]:
        if rule.name == decision.rule:
            continue
        if rule.name in tried:
            yield f"{rule.name} did not match: {tried[rule.name] or 'no candidate'}"
        else:
            yield f"{rule.name} was not tried: {decision.rule} comes before it"
