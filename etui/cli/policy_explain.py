"""``etui policy explain``: which arm would answer a question, and everything behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from etui.cli.policy_common import load, print_json, print_table
from etui.errors import ModelUnavailable
from etui.visible import visible

if TYPE_CHECKING:
    from etui.config import Config
    from etui.models import Catalogue
    from etui.query import Query
    from etui.routing.decision import Decision
    from etui.routing.outlook import Outlook
    from etui.routing.policy import Policy

_CONFIDENCE = 0.9
"""Of the bound shown beside an accuracy where no objective asks for another."""


@click.command()
@click.argument("query")
@click.option("--policy", "name", metavar="NAME|FILE", help="Default: the policy of config.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(query: str, name: str | None, as_json: bool) -> None:
    """Say which arm would answer, and why.

    It shows every signal with its value and its distance from where it would change, every rule
    that was tried, and what each candidate is expected to spend and to get right.

    Nothing is loaded, so it works before any model is on this machine.
    """
    from etui.cli.question import read_question
    from etui.query import Query
    from etui.routing.policies import find_policy, load_policy

    query = read_question(query, None, is_terminal=True)
    config, catalogue, here = load()
    chosen = name or config.policy
    place = find_policy(chosen, config)
    loaded = load_policy(chosen, config, catalogue.models)
    decision = _decided(Query(query), loaded, config, catalogue, here)
    arm = decision.arm
    document = {
        "query": query,
        **decision.trace(),
        "policy_file": str(place.path),
        "reasoning": arm.reasoning,
        "think_tokens": arm.think_tokens if arm.reasoning != "direct" else None,
        "votes": arm.votes if arm.reasoning == "vote" else None,
        "max_tokens": arm.max_tokens,
        "on_disk": here(arm.model),
        "models": [{"model": m, "on_disk": here(m)} for m in loaded.arms[arm.name].models],
        "period_budgets": [
            {"period": b.period, "joules": b.joules, "when_exceeded": b.when_exceeded}
            for b in loaded.period_budgets
        ],
    }
    if as_json:
        print_json(document)
    else:
        _print_explained(document)
    if not document["on_disk"]:
        model = arm.model
        click.echo(f"{model} is not on this machine; run `etui models pull {model}`", err=True)


def _decided(
    query: Query,
    policy: Policy,
    config: Config,
    catalogue: Catalogue,
    here: Callable[[str], bool],
) -> Decision:
    """The decision with every signal, its candidates, and what a shadow would have done."""
    from etui.host import read_host
    from etui.neighbours import read_neighbours
    from etui.outlook import outlook_of
    from etui.routing.decide import decide
    from etui.routing.shadow import with_shadow

    host = read_host(config)
    outlook = outlook_of(policy, config, catalogue, host.resident)
    neighbours = read_neighbours(policy, config)
    available = here

    def decision() -> Decision:
        return decide(
            query,
            policy,
            available=available,
            host=host,
            outlook=outlook,
            neighbours=neighbours,
            every_signal=True,
        )

    try:
        decided = decision()
    except ModelUnavailable:
        available = _anything
        decided = decision()
    decided = with_shadow(
        decided,
        policy,
        query,
        config,
        catalogue.models,
        available=available,
        host=host,
        look_ahead=lambda other: (
            outlook_of(other, config, catalogue, host.resident),
            read_neighbours(other, config),
        ),
    )
    return _with_predictions(decided, query, outlook)


def _with_predictions(decision: Decision, query: Query, outlook: Outlook) -> Decision:
    """The decision with what is known of each arm, also where no rule asked for it."""
    from etui.routing.plan import Candidate

    arms = decision.cascade.arms if decision.cascade is not None else (decision.arm,)
    candidates = decision.candidates or [Candidate(arm, None, None, None) for arm in arms]
    known = (
        replace(
            candidate,
            joules=candidate.joules or outlook.joules(candidate.arm, query),
            accuracy=candidate.accuracy or outlook.accuracy(candidate.arm, query, _CONFIDENCE),
        )
        for candidate in candidates
    )
    return replace(decision, candidates=tuple(known))


def _anything(_: str) -> bool:
    """As if every model were on this machine."""
    return True


def _print_explained(document: Mapping[str, Any]) -> None:
    thinking = document["think_tokens"]
    way = document["reasoning"] + (f", {thinking} tokens of thought" if thinking else "")
    if document["votes"]:
        way += f", {document['votes']} votes"
    here = "" if document["on_disk"] else " (not on this machine)"
    lines = [
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
    ]
    for label, text in lines:
        if text:
            click.echo(f"{label:<10} {visible(text)}")
    _print_candidates(document)
    if document["signals"]:
        click.echo()
        print_table(
            ("SIGNAL", "HOLDS", "VALUE", "ASKS FOR", "AWAY", "FOUND"),
            [
                (
                    s["name"],
                    _YES[s["holds"]],
                    _value(s["value"]),
                    s["test"],
                    "" if s["distance"] is None else f"{s['distance']:g}",
                    visible(s["detail"]),
                )
                for s in document["signals"]
            ],
        )
    click.echo()
    print_table(
        ("RULE", "PRIORITY", "MATCHED", "FIRST CONDITION THAT FAILED"),
        [
            (r["name"], str(r["priority"]), _YES[r["matched"]], visible(r["failed"] or ""))
            for r in document["rules"]
        ],
    )


_YES = {True: "yes", False: "no"}


def _print_candidates(document: Mapping[str, Any]) -> None:
    candidates: Sequence[Mapping[str, Any]] = document["candidates"]
    if len(candidates) == 1 and candidates[0]["joules"] is None:
        return
    click.echo()
    head = ("CANDIDATE", "MODEL", "RIGHT", "N", "JOULES", "LOAD", "PREFILL", "DECODE", "OUTCOME")
    print_table(head, [_candidate_row(candidate, document) for candidate in candidates])
    for source in dict.fromkeys(c["joules"]["source"] for c in candidates if c["joules"]):
        click.echo(f"joules by {source}" if source else "joules of unknown source")


def _candidate_row(candidate: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[str, ...]:
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


def _predicted_text(document: Mapping[str, Any]) -> str:
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


def _cascade_text(cascade: Mapping[str, Any] | None) -> str:
    if cascade is None:
        return ""
    names = " -> ".join(arm["arm"] for arm in cascade["arms"])
    most = f", at most {cascade['max_joules']:g} J" if cascade["max_joules"] is not None else ""
    hops = cascade["max_hops"]
    fewer = f", at most {hops} of them" if hops < len(cascade["arms"]) else ""
    return f"{names}, accepted from {cascade['accept_at']:g}{fewer}{most}"


def _budget_text(document: Mapping[str, Any]) -> str:
    turn = document["budget"] or {}
    units = {"joules": "J", "tokens": "tokens", "seconds": "s"}
    limits = [f"{turn[key]:g} {unit}" for key, unit in units.items() if turn.get(key) is not None]
    told = [f"a turn {' or '.join(limits)}, then it answers with what it has"] if limits else []
    told += [
        f"{b['period']} {b['joules']:g} J, then {b['when_exceeded']}"
        for b in document["period_budgets"]
    ]
    return "; ".join(told)


def _fallback_text(fallbacks: Mapping[str, Any]) -> str:
    usual = {"load_failed": None, "context_overflow": "truncate_thought", "no_answer": "keep"}
    changed = {key: value for key, value in fallbacks.items() if value != usual[key]}
    return ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in changed.items())


def _shadow_text(shadow: Mapping[str, Any] | None) -> str:
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
