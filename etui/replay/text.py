"""Format the document of a replay as text."""

from __future__ import annotations

from collections.abc import Iterator

from etui.replay.documents import (
    AtHull,
    JudgedPolicy,
    ReplayDocument,
    RouterChoice,
    RouterEnergy,
    Spread,
)
from etui.text import count_cells, format_table
from etui.units import significant


def replay_lines(document: ReplayDocument) -> Iterator[str]:
    """Yield tables of single arms, routers, policies, and the best router at fixed budgets."""
    yield _format_head(document)
    yield ""
    yield from _format_arms(document)
    routers = document["routers"]
    if routers:
        yield ""
        yield from _format_routers(document)
    if (energy := document["energy"]) is not None:
        yield ""
        yield from _format_budgets(energy, document)
    for name, policy in document["policies"].items():
        yield ""
        yield from _format_policy(name, policy, document)
    for note in document.get("notes", ()):
        yield f"note: {note}"


def _format_head(document: ReplayDocument) -> str:
    arms = ", ".join(document["arms"])
    costs = f"joules ({', '.join(document['kinds'])})" if document["kinds"] else "stated costs"
    return f"{document['n']:,} questions; arms {arms}; {costs}; intervals at 95 %"


def _format_arms(document: ReplayDocument) -> Iterator[str]:
    unit = document["unit"]
    corners = {corner["arm"] for corner in document["hull"]}
    rows = [
        (
            name,
            _percent_text(arm["accuracy"]),
            _range_text(arm["accuracy_interval"]),
            _number_text(arm["cost"]),
            _number_text(arm["cost_per_correct"]),
            "on the hull" if name in corners else "below a mixture",
        )
        for name, arm in document["arms"].items()
    ]
    oracle = document["oracle"]
    cost_per_right = oracle["cost"] / oracle["accuracy"] if oracle["accuracy"] else None
    rows.append(
        (
            "oracle",
            _percent_text(oracle["accuracy"]),
            "",
            _number_text(oracle["cost"]),
            _number_text(cost_per_right),
            "",
        )
    )
    repeated = oracle["reproducible"]
    if repeated is not None:
        cost_per_right = repeated["cost"] / repeated["accuracy"] if repeated["accuracy"] else None
        rows.append(
            (
                "oracle, judged on the second run",
                _percent_text(repeated["accuracy"]),
                "",
                _number_text(repeated["cost"]),
                _number_text(cost_per_right),
                "",
            )
        )
    head = ("ARM", "RIGHT", "95 %", unit.upper(), f"{unit.upper()}/RIGHT", "")
    yield from format_table(rows, header=head, align="<>", measure=count_cells)


def _format_routers(document: ReplayDocument) -> Iterator[str]:
    if document["apgr"] is None:
        yield (
            f"no arm is more accurate than the cheapest, {document['weak']}: "
            "a router cannot gain anything"
        )
        return
    head = ("ROUTER", "APGR", "95 %", "CPT50", "CPT80", "CPT95", "ECE")
    random = document["random"]
    rows = [
        (
            "random",
            "0.500",
            "",
            *(f"{cost:.3f}" for cost in (random["cpt50"], random["cpt80"], random["cpt95"])),
            "",
        )
    ]
    for name, router in document["routers"].items():
        interval = router.get("apgr_interval")
        rows.append(
            (
                name,
                f"{router['apgr']:.3f}",
                _share_range_text(interval),
                *map(_share_text, (router["cpt50"], router["cpt80"], router["cpt95"])),
                _calibration_text(list(router["ece"].values())),
            )
        )
    area = document["oracle"]["apgr"]
    rows.append(("oracle", f"{area:.3f}", "", "", "", "", ""))
    yield from format_table(rows, header=head, align="<>", measure=count_cells)
    two = len(document["arms"]) == 2
    what = f"share of questions that go to {document['strong']}" if two else "normalised cost"
    yield (
        f"PGR from {document['weak']} (0) to {document['strong']} (1); CPT: least {what} "
        "to reach it; no question is in its own training fold"
    )


def _format_budgets(energy: RouterEnergy, document: ReplayDocument) -> Iterator[str]:
    unit = document["unit"]
    head = ("AT", unit.upper(), "RIGHT", "MIXTURE", "DIFFERENCE", "95 %", "SAVED AT EQUAL ACCURACY")
    points: list[tuple[str, RouterChoice]] = [
        (_name_place(place), place) for place in energy["at_hull"]
    ]
    points += [(f"{point['share']:.0%} of the way", point) for point in energy["at_budget"]]
    rows = [
        (
            name,
            _number_text(point["cost"]),
            _percent_text(point["accuracy"]),
            _percent_text(point["mixture_accuracy"]),
            _points_text(point["difference"]["value"]),
            _points_range_text(point["difference"]),
            _saved_text(point["saved"]),
        )
        for name, point in points
    ]
    yield (
        f"router {document['router']} against the random mixture of the hull at equal cost, at the "
        "hull's corners, the geometric middles between them, and parts of the way:"
    )
    yield from format_table(rows, header=head, align="<>", measure=count_cells)


def _name_place(place: AtHull) -> str:
    """Return ``small`` for a corner of the hull, ``small..large`` for a middle."""
    return "..".join(place["arms"])


def _format_policy(name: str, policy: JudgedPolicy, document: ReplayDocument) -> Iterator[str]:
    difference = policy["difference"]
    yield (
        f"policy {name}: {_percent_text(policy['accuracy'])} right at "
        f"{_number_text(policy['cost'])} {document['unit']} per question"
    )
    yield (
        f"  random mixture of equal cost: {_percent_text(policy['mixture_accuracy'])}; "
        f"difference {_points_text(difference['value'])} {_points_range_text(difference)}"
    )
    yield f"  saved at equal accuracy: {_saved_text(policy['saved'])}"
    shares = ", ".join(f"{arm} {share:.0%}" for arm, share in policy["shares"].items() if share)
    yield f"  answered by: {shares}; {policy['mean_hops']:.2f} hops per question"
    rules = ", ".join(f"{rule} {count:,}" for rule, count in policy["rules"].items())
    yield f"  rules: {rules}"
    for arm, test in policy["mcnemar"].items():
        yield (
            f"  against {arm}: only the policy is right {test['only_this']:,}, only {arm} "
            f"{test['only_arm']:,}, p = {test['p_value']:.2g} (McNemar)"
        )
    for note in policy["notes"]:
        yield f"  note: {note}"


def _calibration_text(errors: list[float]) -> str:
    """Format the calibration error of each arm; of more than three the least and the largest."""
    if len(errors) > 3:
        return f"{min(errors):.3f}..{max(errors):.3f}"
    return ", ".join(f"{error:.3f}" for error in errors)


def _percent_text(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range_text(ends: list[float]) -> str:
    return f"{100 * ends[0]:.1f}..{100 * ends[1]:.1f}"


def _share_range_text(ends: list[float | None] | None) -> str:
    low, high = ends or (None, None)
    return "" if low is None or high is None else f"{low:.3f}..{high:.3f}"


def _points_text(difference: float) -> str:
    return f"{100 * difference:+z.2f} pp"


def _points_range_text(interval: Spread) -> str:
    return f"[{_end_text(interval['low'], '+z.2f')}, {_end_text(interval['high'], '+z.2f')}]"


def _saved_text(saved: Spread | None) -> str:
    if saved is None:
        return "no mixture is as accurate"
    ends = f"[{_end_text(saved['low'], 'z.0f')}, {_end_text(saved['high'], 'z.0f')}]"
    return f"{100 * saved['value']:z.0f} % {ends}"


def _end_text(end: float | None, form: str) -> str:
    """Format one end of an interval in percent; an infinite end is ``open``."""
    return "open" if end is None else format(100 * end, form)


def _number_text(value: float | None) -> str:
    return "none right" if value is None else significant(value, 4)


def _share_text(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"
