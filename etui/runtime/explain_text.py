"""A decision and everything behind it, in words: the same in the app and on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.text.sanitize import sanitize

if TYPE_CHECKING:
    from etui.routing.trace import CandidateTrace, CascadeTrace, FallbackTrace, ShadowTrace
    from etui.runtime.explain import Explanation, NeedFound

SIGNAL_HEAD = ("SIGNAL", "HOLDS", "VALUE", "ASKS FOR", "AWAY", "FOUND")
RULE_HEAD = ("RULE", "PRIORITY", "MATCHED", "FIRST CONDITION THAT FAILED")
CANDIDATE_HEAD = (
    "CANDIDATE", "MODEL", "RIGHT", "N", "JOULES", "LOAD", "PREFILL", "DECODE", "OUTCOME",
)  # fmt: skip

_YES = {True: "yes", False: "no"}


def explained_facts(document: Explanation) -> list[tuple[str, str]]:
    """What was decided, a fact a line under its name; facts that say nothing are left out.

    Args:
        document: What :func:`etui.runtime.explain.explanation` gives.
    """
    thinking = document["think_tokens"]
    way = document["reasoning"] + (f", {thinking} tokens of thought" if thinking else "")
    if document["votes"]:
        way += f", {document['votes']} votes"
    here = "" if document["on_disk"] else " (not on this machine)"
    facts = [
        ("policy", document["policy"]),
        ("rule", document["rule"]),
        ("arm", f"{document['arm']}: {way}, {document['max_tokens']} tokens of answer"),
        ("model", document["model"] + here),
        ("why", document["why"]),
        ("cascade", _cascade_text(document["cascade"])),
        ("budget", _budget_text(document)),
        ("fallbacks", _fallback_text(document["fallbacks"])),
        ("shadow", _shadow_text(document["shadow"])),
        ("predicted", _predicted_text(document)),
        *(("needs", _need_text(need)) for need in document["needs"]),
    ]
    return [(name, sanitize(text)) for name, text in facts if text]


def signal_rows(document: Explanation) -> list[tuple[str, ...]]:
    """Rows under :data:`SIGNAL_HEAD`."""
    return [
        (
            s["name"],
            _YES[s["holds"]],
            sanitize(_value(s["value"])),
            sanitize(s["test"]),
            "" if s["distance"] is None else f"{s['distance']:g}",
            sanitize(s["detail"]),
        )
        for s in document["signals"]
    ]


def rule_rows(document: Explanation) -> list[tuple[str, ...]]:
    """Rows under :data:`RULE_HEAD`."""
    return [
        (sanitize(r["name"]), str(r["priority"]), _YES[r["matched"]], sanitize(r["failed"] or ""))
        for r in document["rules"]
    ]


def candidate_rows(document: Explanation) -> list[tuple[str, ...]]:
    """Rows under :data:`CANDIDATE_HEAD`; none where there is nothing to compare."""
    candidates = document["candidates"]
    if len(candidates) == 1 and candidates[0]["joules"] is None:
        return []
    return [_candidate_row(candidate, document) for candidate in candidates]


def joules_sources(document: Explanation) -> list[str]:
    """What the joules of the candidates rest on."""
    known = [c["joules"]["source"] for c in document["candidates"] if c["joules"]]
    return [f"joules by {s}" if s else "joules of unknown source" for s in dict.fromkeys(known)]


def _candidate_row(candidate: CandidateTrace, document: Explanation) -> tuple[str, ...]:
    joules, accuracy = candidate["joules"], candidate["accuracy"]
    spent = ["unknown", "", "", ""]
    if joules is not None:
        spread = joules["uncertainty"]
        total = f"{joules['total']:.3g}" + (f" ± {spread:.2g}" if spread is not None else "")
        spent = [total, *(f"{joules[phase]:.3g}" for phase in ("load", "prefill", "decode"))]
    right = ("unknown", "")
    if accuracy is not None and accuracy["n"] == 0:
        right = (f"{accuracy['p']:.2f}", accuracy["source"])
    elif accuracy is not None:
        bound = f"at least {accuracy['low']:.2f}, {100 * accuracy['confidence']:g} %"
        right = (f"{accuracy['p']:.2f} ({bound})", str(accuracy["n"]))
    taken = candidate["arm"] == document["arm"]
    failed = candidate["failed"]
    outcome = failed or ("taken" if taken else "")
    if taken and failed:
        outcome = f"taken otherwise: {failed}"
    if document["cascade"] is not None:
        outcome = "first" if taken else "if those before are not sure enough"
    return (candidate["arm"], candidate["model"], *right, *spent, outcome)


def _need_text(need: NeedFound) -> str:
    """``a larger model: large instead of small +0.21 (gains 0.30, loses 0.09; n=456)``."""
    what = {"reasoning": "reasoning", "larger_model": "a larger model"}[need["need"]]
    return (
        f"{what}: {need['other']} instead of {need['base']} {need['gain']:+.2f} "
        f"(gains {need['gained']:.2f}, loses {need['lost']:.2f}; n={need['n']:,})"
    )


def _predicted_text(document: Explanation) -> str:
    predicted, margin = document["predicted"], document["margin_joules"]
    known = []
    if predicted["joules"] is not None:
        known.append(f"{predicted['joules']:.3g} J")
    if predicted["accuracy"] is not None:
        known.append(f"right with {predicted['accuracy']:.2f}")
    if margin is not None:
        known.append(f"the next would take {abs(margin):.2g} J {'more' if margin >= 0 else 'less'}")
    if known:
        return ", ".join(known)
    if document["cascade"] is not None and any(c["joules"] for c in document["candidates"]):
        return "by arm, below: how far the cascade goes is not known beforehand"
    return "uncalibrated: no joules and no accuracy were fitted"


def _cascade_text(cascade: CascadeTrace | None) -> str:
    if cascade is None:
        return ""
    names = " -> ".join(arm["arm"] for arm in cascade["arms"])
    most = f", at most {cascade['max_joules']:g} J" if cascade["max_joules"] is not None else ""
    hops = cascade["max_hops"]
    fewer = f", at most {hops} of them" if hops < len(cascade["arms"]) else ""
    return f"{names}, accepted from {cascade['accept_at']:g}{fewer}{most}"


def _budget_text(document: Explanation) -> str:
    turn = document["budget"] or {"joules": None, "tokens": None, "seconds": None}
    amounts = ((turn["joules"], "J"), (turn["tokens"], "tokens"), (turn["seconds"], "s"))
    limits = [f"{amount:g} {unit}" for amount, unit in amounts if amount is not None]
    told = [f"a turn {' or '.join(limits)}, then it answers with what it has"] if limits else []
    told += [
        f"{b['period']} {b['joules']:g} J, then {b['when_exceeded']}"
        for b in document["period_budgets"]
    ]
    return "; ".join(told)


def _fallback_text(fallbacks: FallbackTrace) -> str:
    usual = {"load_failed": None, "context_overflow": "truncate_thought", "no_answer": "keep"}
    changed = {key: value for key, value in fallbacks.items() if value != usual[key]}
    return ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in changed.items())


def _shadow_text(shadow: ShadowTrace | None) -> str:
    if shadow is None:
        return ""
    if shadow["arm"] is None:
        return f"{shadow['policy']}: could not decide: {shadow['why']}"
    what = f"{shadow['rule']} -> {shadow['arm']}: {shadow['model']}, {shadow['reasoning']}"
    return f"{shadow['policy']}: {what}"


def _value(value: float | str | None) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else f"{value:g}"
