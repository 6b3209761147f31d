"""The document of a replay as text."""

from __future__ import annotations

from collections.abc import Iterator

from etui.replay.documents import JudgedPolicy, ReplayDocument, RouterEnergy, Spread
from etui.text.tables import format_table
from etui.units import significant


def replay_lines(document: ReplayDocument) -> Iterator[str]:
    """Tables: single arms, routers, policies, and what the best router does at fixed budgets."""
    yield _head(document)
    yield ""
    yield from _arms(document)
    routers = document["routers"]
    if routers:
        yield ""
        yield from _routers(document)
    if (energy := document["energy"]) is not None:
        yield ""
        yield from _budgets(energy, document)
    for name, policy in document["policies"].items():
        yield ""
        yield from _policy(name, policy, document)
    for note in document.get("notes", ()):
        yield f"note: {note}"


def _head(document: ReplayDocument) -> str:
    arms = ", ".join(document["arms"])
    costs = f"joules ({', '.join(document['kinds'])})" if document["kinds"] else "stated costs"
    return f"{document['n']:,} questions; arms {arms}; {costs}; intervals at 95 %"


def _arms(document: ReplayDocument) -> Iterator[str]:
    unit = document["unit"]
    corners = {corner["arm"] for corner in document["hull"]}
    rows = [
        (
            name,
            _percent(arm["accuracy"]),
            _range(arm["accuracy_interval"]),
            _number(arm["cost"]),
            _number(arm["cost_per_correct"]),
            "on the hull" if name in corners else "below a mixture",
        )
        for name, arm in document["arms"].items()
    ]
    oracle = document["oracle"]
    right = oracle["cost"] / oracle["accuracy"] if oracle["accuracy"] else None
    rows.append(
        ("oracle", _percent(oracle["accuracy"]), "", _number(oracle["cost"]), _number(right), "")
    )
    again = oracle["reproducible"]
    if again is not None:
        right = again["cost"] / again["accuracy"] if again["accuracy"] else None
        rows.append(
            (
                "oracle, judged on the second run",
                _percent(again["accuracy"]),
                "",
                _number(again["cost"]),
                _number(right),
                "",
            )
        )
    head = ("ARM", "RIGHT", "95 %", unit.upper(), f"{unit.upper()}/RIGHT", "")
    yield from format_table(rows, header=head, align="<>")


def _routers(document: ReplayDocument) -> Iterator[str]:
    if document["apgr"] is None:
        yield (
            f"no arm is more accurate than the cheapest, {document['weak']}: "
            "a router has nothing to gain"
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
        ece = ", ".join(f"{value:.3f}" for value in router["ece"].values())
        rows.append(
            (
                name,
                f"{router['apgr']:.3f}",
                _share_range(interval),
                *map(_or_none, (router["cpt50"], router["cpt80"], router["cpt95"])),
                ece,
            )
        )
    area = document["oracle"]["apgr"]
    rows.append(("oracle", f"{area:.3f}", "", "", "", "", ""))
    yield from format_table(rows, header=head, align="<>")
    two = len(document["arms"]) == 2
    what = f"share of questions that go to {document['strong']}" if two else "normalised cost"
    yield (
        f"PGR from {document['weak']} (0) to {document['strong']} (1); CPT: least {what} for it; "
        "no question in its own training fold"
    )


def _budgets(energy: RouterEnergy, document: ReplayDocument) -> Iterator[str]:
    unit = document["unit"]
    head = ("AT", unit.upper(), "RIGHT", "MIXTURE", "DIFFERENCE", "95 %", "SAVED AT EQUAL ACCURACY")
    rows = []
    for point in energy["at_budget"]:
        difference, saved = point["difference"], point["saved"]
        rows.append(
            (
                f"{point['share']:.0%} of the way",
                _number(point["cost"]),
                _percent(point["accuracy"]),
                _percent(point["mixture_accuracy"]),
                _points(difference["value"]),
                _points_range(difference),
                _saved(saved),
            )
        )
    yield f"router {document['router']} against the random mixture that costs as much:"
    yield from format_table(rows, header=head, align="<>")


def _policy(name: str, policy: JudgedPolicy, document: ReplayDocument) -> Iterator[str]:
    difference = policy["difference"]
    yield (
        f"policy {name}: {_percent(policy['accuracy'])} right at {_number(policy['cost'])} "
        f"{document['unit']} a question"
    )
    yield (
        f"  the random mixture that costs as much: {_percent(policy['mixture_accuracy'])}; "
        f"difference {_points(difference['value'])} {_points_range(difference)}"
    )
    yield f"  saved at equal accuracy: {_saved(policy['saved'])}"
    shares = ", ".join(f"{arm} {share:.0%}" for arm, share in policy["shares"].items())
    yield f"  answered by: {shares}; {policy['mean_hops']:.2f} hops a question"
    rules = ", ".join(f"{rule} {count:,}" for rule, count in policy["rules"].items())
    yield f"  rules: {rules}"
    for arm, test in policy["mcnemar"].items():
        yield (
            f"  against {arm}: only the policy right {test['only_this']:,}, only {arm} "
            f"{test['only_arm']:,}, p = {test['p_value']:.2g} (McNemar)"
        )
    for note in policy["notes"]:
        yield f"  note: {note}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(ends: list[float]) -> str:
    return f"{100 * ends[0]:.1f}..{100 * ends[1]:.1f}"


def _share_range(ends: list[float | None] | None) -> str:
    low, high = ends or (None, None)
    return "" if low is None or high is None else f"{low:.3f}..{high:.3f}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f} pp"


def _points_range(interval: Spread) -> str:
    return f"[{_end(interval['low'], '+.2f')}, {_end(interval['high'], '+.2f')}]"


def _saved(saved: Spread | None) -> str:
    if saved is None:
        return "no mixture is as accurate"
    ends = f"[{_end(saved['low'], '.0f')}, {_end(saved['high'], '.0f')}]"
    return f"{100 * saved['value']:.0f} % {ends}"


def _end(end: float | None, form: str) -> str:
    """One end of an interval, in hundredths; open where it lies at infinity."""
    return "open" if end is None else format(100 * end, form)


def _number(value: float | None) -> str:
    return "none right" if value is None else significant(value, 4)


def _or_none(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"
