"""Explain why a policy would choose an arm, with every signal and prediction, loading no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from etui.chat import Query
from etui.errors import ModelUnavailable
from etui.models.spec import ModelSpec
from etui.routing.decision import Candidate, Decision, Predictor
from etui.routing.library import load_policy
from etui.routing.policy import THIS_MACHINE, Policy, find_place
from etui.runtime.decide import Choice, add_shadow_decision, collect_knowledge, decide_query
from etui.runtime.fit_health import build_fit_document, format_fit, read_health
from etui.runtime.host import read_host
from etui.runtime.runtime import Runtime
from etui.text import sanitize
from etui.units import about_joules, energy_text, marked, number_text

Explanation = dict[str, Any]
"""The document of ``etui policy explain --json``; None for what the arm does not use."""

SIGNAL_HEAD = ("SIGNAL", "HOLDS", "VALUE", "TEST", "DISTANCE", "DETAIL")

RULE_HEAD = ("RULE", "PRIORITY", "MATCHED", "FIRST CONDITION THAT FAILED")

CANDIDATE_HEAD = (
    "CANDIDATE", "MODEL", "ACCURACY", "N", "JOULES", "LOAD", "PREFILL", "DECODE", "OUTCOME",
)  # fmt: skip

_YES = {True: "yes", False: "no"}


def summary_lines(document: Explanation) -> list[str]:
    """Format the decision, its reason and its forecast in a line each, and then the notices."""
    model = document["model"] + _format_place(document)
    policy = f"policy {document['policy']}, rule {document['rule']}"
    lines = [
        f"{document['arm']} -> {model}: {_format_method(document)} ({policy})",
        f"because {document['why']}",
        f"predicted {_format_prediction(document)}",
        *(f"note: {notice}" for notice in document["notices"]),
    ]
    return [sanitize(line) for line in lines]


def explained_facts(document: Explanation) -> list[tuple[str, str]]:
    """Format the decision as (label, text) pairs; empty facts are left out."""
    fit = () if document["fit"] is None else format_fit(document["fit"])
    facts = [
        ("policy", document["policy"]),
        ("rule", document["rule"]),
        ("arm", f"{document['arm']}: {_format_method(document)}"),
        ("model", document["model"] + _format_place(document)),
        ("why", document["why"]),
        ("cascade", _format_cascade(document["cascade"])),
        ("budget", _format_budgets(document)),
        ("fallbacks", _format_fallbacks(document["fallbacks"])),
        ("shadow", _format_shadow(document["shadow"])),
        ("predicted", _format_prediction(document)),
        *(("notice", notice) for notice in document["notices"]),
        *(("needs", _format_need(need)) for need in document["needs"]),
        *(("fit", line.removeprefix("fit ")) for line in fit),
    ]
    return [(name, sanitize(text)) for name, text in facts if text]


def _format_method(document: Explanation) -> str:
    thinking = document["think_tokens"]
    method: str = document["reasoning"] + (f", {thinking} thinking tokens" if thinking else "")
    if document["votes"]:
        method += f", {document['votes']} votes"
    method += f", {document['max_tokens']} answer tokens"
    if document["speculate"] != "off":
        method += f", speculation {document['speculate']}"
    if not document["loop_guard"]:
        method += ", no loop guard"
    return method


def _format_place(document: Explanation) -> str:
    """Format where the model is unless it is here: `` (server)``, `` (not on this machine)``."""
    machine = find_machine(document)
    if document["on_disk"]:
        return f" ({machine})" if machine else ""
    return f" ({machine}, not available)" if machine else " (not on this machine)"


def find_machine(document: Explanation) -> str | None:
    """Return the name of the backend that would answer; None for this machine."""
    chosen = (document["arm"], document["model"])
    same = (c for c in document["candidates"] if (c["arm"], c["model"]) == chosen)
    return next((c["machine"] for c in same), None)


def signal_rows(document: Explanation) -> list[tuple[str, ...]]:
    """Format the rows below :data:`SIGNAL_HEAD`."""
    return [
        (
            s["name"],
            _YES[s["holds"]],
            sanitize(_format_value(s["value"])),
            sanitize(s["test"]),
            "" if s["distance"] is None else number_text(s["distance"]),
            sanitize(s["detail"]),
        )
        for s in document["signals"]
    ]


def rule_rows(document: Explanation) -> list[tuple[str, ...]]:
    """Format the rows below :data:`RULE_HEAD`."""
    return [
        (sanitize(r["name"]), str(r["priority"]), _YES[r["matched"]], sanitize(r["failed"] or ""))
        for r in document["rules"]
    ]


def candidate_rows(document: Explanation) -> list[tuple[str, ...]]:
    """Format the rows below :data:`CANDIDATE_HEAD`; none if there is nothing to compare."""
    candidates = document["candidates"]
    if len(candidates) == 1 and candidates[0]["joules"] is None:
        return []
    return [_format_candidate(candidate, document) for candidate in candidates]


def joules_sources(document: Explanation) -> list[str]:
    """Format the sources of the candidates' predicted joules, one line each."""
    known = [c["joules"]["source"] for c in document["candidates"] if c["joules"]]
    return [f"joules from {s}" if s else "joules of unknown source" for s in dict.fromkeys(known)]


def _format_candidate(candidate: dict[str, Any], document: Explanation) -> tuple[str, ...]:
    joules, accuracy = candidate["joules"], candidate["accuracy"]
    spent = ["unknown", "", "", ""]
    if joules is not None:
        total = energy_text(joules["total"], joules["uncertainty"], "estimate", spread=True)
        phases = (joules[phase] for phase in ("load", "prefill", "decode"))
        spent = [marked(total), *(about_joules(p) if p is not None else "unknown" for p in phases)]
    right = ("unknown", "")
    if accuracy is not None and accuracy["n"] == 0:
        right = (f"{accuracy['p']:.2f}", accuracy["source"])
    elif accuracy is not None:
        bound = f"at least {accuracy['low']:.2f}, {100 * accuracy['confidence']:g} %"
        right = (f"{accuracy['p']:.2f} ({bound})", str(accuracy["n"]))
    arm, model, failed = candidate["arm"], candidate["model"], candidate["failed"]
    chosen = arm == document["arm"]
    taken = chosen and model == document["model"]
    outcome = failed or ("taken" if taken else "")
    if taken and failed:
        outcome = f"taken by `otherwise`: {failed}"
    if document["cascade"] is not None:
        outcome = "first" if chosen else "if the arms before it are not confident enough"
        for step in document["cascade"].get("agreements", ()):
            if not chosen and arm in step["arms"][1:]:
                outcome = f"to compare its answer with that of {step['arms'][0]}"
                break
    if any(other["machine"] for other in document["candidates"]):
        model += f" ({candidate['machine'] or THIS_MACHINE})"
    return (arm, model, *right, *spent, outcome)


def _format_need(need: dict[str, Any]) -> str:
    """Format ``a larger model: large instead of small +0.21 (gains 0.30, loses 0.09; n=456)``."""
    what = {"reasoning": "reasoning", "larger_model": "a larger model"}[need["need"]]
    return (
        f"{what}: {need['other']} instead of {need['base']} {need['gain']:+.2f} "
        f"(gains {need['gained']:.2f}, loses {need['lost']:.2f}; n={need['n']:,})"
    )


def _format_prediction(document: Explanation) -> str:
    predicted, margin = document["predicted"], document["margin_joules"]
    known = []
    if predicted["joules"] is not None:
        known.append(about_joules(predicted["joules"]))
    if predicted["accuracy"] is not None:
        known.append(f"accuracy {predicted['accuracy']:.2f}")
    if margin is not None:
        more = "more" if margin >= 0 else "less"
        known.append(f"the next candidate would take {about_joules(abs(margin))} {more}")
    if known:
        return ", ".join(known)
    if document["cascade"] is not None and any(c["joules"] for c in document["candidates"]):
        return "for each arm, below: how far the cascade goes is not known in advance"
    return "uncalibrated: no fit of joules or accuracy"


def _format_cascade(cascade: dict[str, Any] | None) -> str:
    if cascade is None:
        return ""
    names = " -> ".join(_format_steps(cascade))
    joules = cascade["max_joules"]
    most = f", at most {number_text(joules)} J" if joules is not None else ""
    hops = cascade["max_hops"]
    fewer = f", at most {hops} of them" if hops < len(cascade["arms"]) else ""
    return f"{names}, accepted at {cascade['accept_at']:g} or more{fewer}{most}"


def _format_steps(cascade: dict[str, Any]) -> Iterator[str]:
    """Yield ``quick``, or ``quick and tiny if they agree (0.8 or more)`` for each step."""
    steps = {name: step for step in cascade.get("agreements", ()) for name in step["arms"]}
    for arm in (arm["arm"] for arm in cascade["arms"]):
        step = steps.get(arm)
        if step is None:
            yield arm
        elif len(step["arms"]) == 1:
            yield f"{arm} if all its votes agree ({_format_odds(step)})"
        elif arm == step["arms"][0]:
            yield f"{' and '.join(step['arms'])} if they agree ({_format_odds(step)})"


def _format_odds(step: dict[str, Any]) -> str:
    """Format ``0.7 or more; agreed answers are right 81 % [72, 88] of the time, n=90``."""
    required, odds = f"{step['accept_at']:g} or more", step["odds"]
    if odds is None:
        return f"{required}; uncalibrated"
    least = "" if odds["known"] else "at least "
    never = ""
    if odds["at_most"] < step["accept_at"]:
        best = f", {100 * odds['at_most']:.1f} % at the best margins"
        never = f"{best if odds['at_most'] > odds['agreed'] else ''}, so never accepted"
    return (
        f"{required}; agreed answers are right {least}{100 * odds['agreed']:.0f} % "
        f"[{100 * odds['low']:.0f}, {100 * odds['high']:.0f}] of the time, n={odds['n']:,}{never}"
    )


def _format_budgets(document: Explanation) -> str:
    turn = document["budget"] or {"joules": None, "tokens": None, "seconds": None}
    amounts = ((turn["joules"], "J"), (turn["tokens"], "tokens"), (turn["seconds"], "s"))
    limits = [f"{number_text(amount)} {unit}" for amount, unit in amounts if amount is not None]
    parts = [f"{' or '.join(limits)} per turn, then it answers with what it has"] if limits else []
    parts += [
        f"{number_text(b['joules'])} J per {b['period']}, then {b['when_exceeded']}"
        for b in document["period_budgets"]
    ]
    return "; ".join(parts)


def _format_fallbacks(fallbacks: dict[str, Any]) -> str:
    usual = {"load_failed": None, "context_overflow": "truncate_thought", "no_answer": "keep"}
    changed = {key: value for key, value in fallbacks.items() if value != usual[key]}
    return ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in changed.items())


def _format_shadow(shadow: dict[str, Any] | None) -> str:
    if shadow is None:
        return ""
    if shadow["arm"] is None:
        return f"{shadow['policy']}: could not decide: {shadow['why']}"
    what = f"{shadow['rule']} -> {shadow['arm']}: {shadow['model']}, {shadow['reasoning']}"
    return f"{shadow['policy']}: {what}"


def _format_value(value: float | str | None) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else number_text(value)


_OF_NEED = ("need", "base", "other", "gained", "lost", "gain", "n")

_CONFIDENCE = 0.9
"""Confidence of the accuracy bound that is shown, unless an objective asks for another."""


def explain(query: Query, policy: Policy, runtime: Runtime[Any]) -> Explanation:
    """Explain the decision for a query as plain JSON values, see :func:`decide_for_show`."""
    return _build_document(query, decide_for_show(query, policy, runtime), policy, runtime)


def explain_choice(
    query: Query, choice: Choice, runtime: Runtime[Any], policy_name: str | None = None
) -> Explanation:
    """Explain a decision that was made already, as plain JSON values.

    Signals that the decision did not need are left out. Without the name or path of the policy that
    decided, it is the one of config.yaml. EtuiError if it or its fit cannot be read any more.
    """
    decision = choice.decision
    if choice.predictor is not None:
        decision = _add_predictions(decision, query, choice.predictor, runtime.catalogue.models)
    policy = None
    if decision.policy is not None:
        name = policy_name or runtime.config.policy
        policy = load_policy(name, runtime.config, runtime.catalogue.models)
    return _build_document(query, decision, policy, runtime)


def _build_document(
    query: Query, decision: Decision, policy: Policy | None, runtime: Runtime[Any]
) -> Explanation:
    arm = decision.arm
    on_disk = runtime.find_available()
    fit: Explanation | None = None
    needs: list[dict[str, Any]] = []
    heads = None if policy is None else runtime.load_fit(policy)
    if policy is not None and heads is not None:
        kept, config = runtime.log_cache, runtime.config
        fit = build_fit_document(read_health(config, policy, heads.model, on_disk, kept))
        needs = [  # what the question needs beyond each base arm
            {name: getattr(need, name) for name in _OF_NEED}
            for need in heads.needs(query)
            if need.base in policy.arms and need.other in policy.arms
        ]
    planned = policy.arms.get(arm.name) if policy is not None else None
    return {
        "query": query.text,
        **decision.trace(),
        "policy_file": None if policy is None else str(policy.path),
        "reasoning": arm.reasoning,
        "think_tokens": arm.think_tokens if arm.reasoning != "direct" else None,
        "votes": arm.votes if arm.reasoning == "vote" else None,
        "max_tokens": arm.max_tokens,
        "speculate": arm.speculate,
        "loop_guard": runtime.config.loop_guard if arm.loop_guard is None else arm.loop_guard,
        "on_disk": on_disk(arm.model),
        "models": [
            {"model": m, "on_disk": on_disk(m)}
            for m in ((arm.model,) if planned is None else planned.models)
        ],
        "period_budgets": [
            {"period": b.period, "joules": b.joules, "when_exceeded": b.when_exceeded}
            for b in (() if policy is None else policy.period_budgets)
        ],
        "needs": needs,
        "fit": fit,
    }


def decide_for_show(query: Query, policy: Policy, runtime: Runtime[Any]) -> Decision:
    """Decide with every signal evaluated and every candidate predicted, for display.

    If no model of the policy is on this machine, decide as if all of them were. EtuiError if the
    policy selects no arm, or its fit is damaged.
    """
    known = collect_knowledge(policy, runtime, read_host(runtime.config))
    try:
        choice = decide_query(query, policy, knowledge=known, every_signal=True)
    except ModelUnavailable:
        known = replace(known, available=lambda model: True)
        choice = decide_query(query, policy, knowledge=known, every_signal=True)
    choice = add_shadow_decision(choice, query, policy, runtime, known)
    return _add_predictions(choice.decision, query, known.predictor, runtime.catalogue.models)


def _add_predictions(
    decision: Decision, query: Query, predictor: Predictor, models: Mapping[str, ModelSpec]
) -> Decision:
    """Add the predictions of each arm, also if no rule needed them."""
    arms = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
    candidates = decision.candidates or [
        Candidate(arm, None, None, None, find_place(models, arm.model).backend) for arm in arms
    ]

    def predict(candidate: Candidate) -> Candidate:
        arm = candidate.arm
        joules = candidate.joules or predictor.joules(arm, query)
        seconds = joules.seconds if joules is not None else predictor.duration(arm, query)
        accuracy = candidate.accuracy or predictor.accuracy(arm, query, _CONFIDENCE)
        return replace(candidate, joules=joules, accuracy=accuracy, seconds=seconds)

    return replace(decision, candidates=tuple(map(predict, candidates)))
