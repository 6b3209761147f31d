"""Format an explained decision as text, for the app and the command line alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from etui.routing.places import THIS_MACHINE
from etui.runtime.fit_health_text import format_fit
from etui.text.sanitize import sanitize
from etui.units import ABOUT

if TYPE_CHECKING:
    from etui.routing.trace import (
        AgreementTrace,
        CandidateTrace,
        CascadeTrace,
        FallbackTrace,
        ShadowTrace,
    )
    from etui.runtime.explain import Explanation, NeedFound

SIGNAL_HEAD = ("SIGNAL", "HOLDS", "VALUE", "TEST", "DISTANCE", "DETAIL")
RULE_HEAD = ("RULE", "PRIORITY", "MATCHED", "FIRST CONDITION THAT FAILED")
CANDIDATE_HEAD = (
    "CANDIDATE", "MODEL", "ACCURACY", "N", "JOULES", "LOAD", "PREFILL", "DECODE", "OUTCOME",
)  # fmt: skip

_YES = {True: "yes", False: "no"}


def explained_facts(document: Explanation) -> list[tuple[str, str]]:
    """Format the decision as (label, text) pairs; empty facts are left out.

    Args:
        document: The result of :func:`etui.runtime.explain.explain`.
    """
    thinking = document["think_tokens"]
    method = document["reasoning"] + (f", {thinking} thinking tokens" if thinking else "")
    if document["votes"]:
        method += f", {document['votes']} votes"
    method += f", {document['max_tokens']} answer tokens"
    if document["speculate"] != "off":
        method += f", speculation {document['speculate']}"
    if not document["loop_guard"]:
        method += ", no loop guard"
    machine = find_machine(document)
    missing = f" ({machine})" if machine else ""
    if not document["on_disk"]:
        missing = f" ({machine}, not available)" if machine else " (not on this machine)"
    facts = [
        ("policy", document["policy"]),
        ("rule", document["rule"]),
        ("arm", f"{document['arm']}: {method}"),
        ("model", document["model"] + missing),
        ("why", document["why"]),
        ("cascade", _format_cascade(document["cascade"])),
        ("budget", _format_budgets(document)),
        ("fallbacks", _format_fallbacks(document["fallbacks"])),
        ("shadow", _format_shadow(document["shadow"])),
        ("predicted", _format_prediction(document)),
        *(("notice", notice) for notice in document["notices"]),
        *(("needs", _format_need(need)) for need in document["needs"]),
        *(("fit", line) for line in _list_fit_lines(document)),
    ]
    return [(name, sanitize(text)) for name, text in facts if text]


def _list_fit_lines(document: Explanation) -> Iterator[str]:
    if document["fit"] is not None:
        yield from (line.removeprefix("fit ") for line in format_fit(document["fit"]))


def find_machine(document: Explanation) -> str | None:
    """Return the name of the backend that would answer; None for this machine."""
    for candidate in document["candidates"]:
        if (candidate["arm"], candidate["model"]) == (document["arm"], document["model"]):
            return candidate["machine"]
    return None


def signal_rows(document: Explanation) -> list[tuple[str, ...]]:
    """Format the rows below :data:`SIGNAL_HEAD`."""
    return [
        (
            s["name"],
            _YES[s["holds"]],
            sanitize(_format_value(s["value"])),
            sanitize(s["test"]),
            "" if s["distance"] is None else f"{s['distance']:g}",
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


def _format_candidate(candidate: CandidateTrace, document: Explanation) -> tuple[str, ...]:
    joules, accuracy = candidate["joules"], candidate["accuracy"]
    spent = ["unknown", "", "", ""]
    if joules is not None:
        spread = joules["uncertainty"]
        total = f"{ABOUT}{joules['total']:.3g}"
        if spread is not None:
            total += f" ± {spread:.2g}"
        phases = (joules["load"], joules["prefill"], joules["decode"])
        spent = [total, *("unknown" if part is None else f"{part:.3g}" for part in phases)]
    right = ("unknown", "")
    if accuracy is not None and accuracy["n"] == 0:
        right = (f"{accuracy['p']:.2f}", accuracy["source"])
    elif accuracy is not None:
        bound = f"at least {accuracy['low']:.2f}, {100 * accuracy['confidence']:g} %"
        right = (f"{accuracy['p']:.2f} ({bound})", str(accuracy["n"]))
    chosen = candidate["arm"] == document["arm"]
    taken = chosen and candidate["model"] == document["model"]
    failed = candidate["failed"]
    outcome = failed or ("taken" if taken else "")
    if taken and failed:
        outcome = f"taken by `otherwise`: {failed}"
    if document["cascade"] is not None:
        outcome = "first" if chosen else _format_turn_to_answer(candidate["arm"], document)
    model = candidate["model"]
    if any(other["machine"] for other in document["candidates"]):
        model += f" ({candidate['machine'] or THIS_MACHINE})"
    return (candidate["arm"], model, *right, *spent, outcome)


def _format_turn_to_answer(arm: str, document: Explanation) -> str:
    """Format when an arm of a cascade that is not the first answers."""
    cascade = document["cascade"]
    assert cascade is not None  # only its arms are asked for
    for step in cascade.get("agreements", ()):
        first, *others = step["arms"]
        if arm in others:
            return f"to compare its answer with that of {first}"
    return "if the arms before it are not confident enough"


def _format_need(need: NeedFound) -> str:
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
        known.append(f"{ABOUT}{predicted['joules']:.3g} J")
    if predicted["accuracy"] is not None:
        known.append(f"accuracy {predicted['accuracy']:.2f}")
    if margin is not None:
        more = "more" if margin >= 0 else "less"
        known.append(f"the next candidate would take {ABOUT}{abs(margin):.2g} J {more}")
    if known:
        return ", ".join(known)
    if document["cascade"] is not None and any(c["joules"] for c in document["candidates"]):
        return "for each arm, below: how far the cascade goes is not known in advance"
    return "uncalibrated: no fit of joules or accuracy"


def _format_cascade(cascade: CascadeTrace | None) -> str:
    if cascade is None:
        return ""
    names = " -> ".join(_format_steps(cascade))
    most = f", at most {cascade['max_joules']:g} J" if cascade["max_joules"] is not None else ""
    hops = cascade["max_hops"]
    fewer = f", at most {hops} of them" if hops < len(cascade["arms"]) else ""
    return f"{names}, accepted at {cascade['accept_at']:g} or more{fewer}{most}"


def _format_steps(cascade: CascadeTrace) -> Iterator[str]:
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


def _format_odds(step: AgreementTrace) -> str:
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
    limits = [f"{amount:g} {unit}" for amount, unit in amounts if amount is not None]
    parts = [f"{' or '.join(limits)} per turn, then it answers with what it has"] if limits else []
    parts += [
        f"{b['joules']:g} J per {b['period']}, then {b['when_exceeded']}"
        for b in document["period_budgets"]
    ]
    return "; ".join(parts)


def _format_fallbacks(fallbacks: FallbackTrace) -> str:
    usual = {"load_failed": None, "context_overflow": "truncate_thought", "no_answer": "keep"}
    changed = {key: value for key, value in fallbacks.items() if value != usual[key]}
    return ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in changed.items())


def _format_shadow(shadow: ShadowTrace | None) -> str:
    if shadow is None:
        return ""
    if shadow["arm"] is None:
        return f"{shadow['policy']}: could not decide: {shadow['why']}"
    what = f"{shadow['rule']} -> {shadow['arm']}: {shadow['model']}, {shadow['reasoning']}"
    return f"{shadow['policy']}: {what}"


def _format_value(value: float | str | None) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else f"{value:g}"
