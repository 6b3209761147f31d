"""``etui policy replay``: evaluate a policy or a router on existing answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.cli.output import (
    count_progress,
    json_option,
    load_context,
    print_result,
    print_table,
    require_writable,
    table_lines,
    write_output,
)
from etui.cli.param_types import WholeNumber, flag, number_option, path_option, text_option
from etui.cli.policy_fit import (
    data_option,
    outcomes_option,
    policies_argument,
    runs_option,
    split_names,
    split_option,
)
from etui.cli.streams import control_stream
from etui.errors import UsageError
from etui.extras import require_extra
from etui.routing.library import load_policy
from etui.units import significant

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.learning.graded import Graded
    from etui.learning.judge import Document, ReplayTable
    from etui.learning.predictor import AccuracyPredictor
    from etui.models.catalogue import Catalogue
    from etui.routing.policy import Policy
    from etui.stats.arrays import Floats


def replay_lines(document: Document) -> Iterator[str]:
    """Yield tables of single arms, routers, policies, and the best router at fixed budgets."""
    arms = ", ".join(document["arms"])
    costs = f"joules ({', '.join(document['kinds'])})" if document["kinds"] else "stated costs"
    yield f"{document['n']:,} questions; arms {arms}; {costs}; intervals at 95 %"
    yield ""
    yield from _format_arms(document)
    if document["routers"]:
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


def _format_arms(document: Document) -> Iterator[str]:
    corners = {corner["arm"] for corner in document["hull"]}
    rows = [
        (
            name,
            _percent_text(arm["accuracy"]),
            f"{100 * arm['accuracy_interval'][0]:.1f}..{100 * arm['accuracy_interval'][1]:.1f}",
            _number_text(arm["cost"]),
            _number_text(arm["cost_per_correct"]),
            "on the hull" if name in corners else "below a mixture",
        )
        for name, arm in document["arms"].items()
    ]
    oracle = document["oracle"]
    found = {"oracle": oracle, "oracle, judged on the second run": oracle["reproducible"]}
    for name, each in found.items():
        if each is not None:
            right, cost = each["accuracy"], each["cost"]
            per_right = _number_text(cost / right if right else None)
            rows.append((name, _percent_text(right), "", _number_text(cost), per_right, ""))
    unit = document["unit"].upper()
    yield from table_lines(("ARM", "RIGHT", "95 %", unit, f"{unit}/RIGHT", ""), rows, align="<>")


def _format_routers(document: Document) -> Iterator[str]:
    weak, strong = document["weak"], document["strong"]
    if document["apgr"] is None:
        yield f"no arm is more accurate than the cheapest, {weak}: a router cannot gain anything"
        return
    rows = [
        (name, f"{known['apgr']:.3f}", *[""] * 3, *map(_share_text, _costs(known)), "")
        for name, known in (
            ("random", document["random"]),
            ("mixture of the hull", document["mixture"]),
        )
    ]
    for name, router in document["routers"].items():
        (low, high), gain = router["apgr_interval"], router["over_mixture"]
        rows.append(
            (
                name,
                f"{router['apgr']:.3f}",
                _range_text(low, high, ".3f"),
                f"{gain['value']:+z.3f}",
                _range_text(gain["low"], gain["high"], "+z.3f"),
                *map(_share_text, _costs(router)),
                _calibration_text(list(router["ece"].values())),
            )
        )
    rows.append(("oracle", f"{document['oracle']['apgr']:.3f}", *[""] * 7))
    yield from table_lines(
        ("ROUTER", "APGR", "95 %", "OVER MIXTURE", "95 %", "CPT50", "CPT80", "CPT95", "ECE"),
        rows,
        align="<>",
    )
    two = len(document["arms"]) == 2
    what = f"share of questions that go to {strong}" if two else "normalised cost"
    yield (
        f"PGR from {weak} (0) to {strong} (1); CPT: least {what} "
        "to reach it; no question is in its own training fold"
    )
    yield f"random: between {weak} and {strong}; a router pays off by what it is over the mixture"


def _range_text(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f"{low:{form}}..{high:{form}}"


def _costs(router: Document) -> tuple[float | None, ...]:
    return router["cpt50"], router["cpt80"], router["cpt95"]


def _share_text(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"


def _format_budgets(energy: Document, document: Document) -> Iterator[str]:
    """Format the router at corners of the hull, in their middles (``a..b``), and at shares."""
    points: list[tuple[str, Document]] = [
        ("..".join(place["arms"]), place) for place in energy["at_hull"]
    ]
    points += [(f"{point['share']:.0%} of the way", point) for point in energy["at_budget"]]
    rows = [
        (
            name,
            _number_text(point["cost"]),
            _percent_text(point["accuracy"]),
            _percent_text(point["mixture_accuracy"]),
            f"{100 * point['difference']['value']:+z.2f} pp",
            _ends_text(point["difference"], "+z.2f"),
            _saved_text(point["saved"]),
        )
        for name, point in points
    ]
    yield (
        f"router {document['router']} against the random mixture of the hull at equal cost, at the "
        "hull's corners, the geometric middles between them, and parts of the way:"
    )
    head = ("RIGHT", "MIXTURE", "DIFFERENCE", "95 %", "SAVED AT EQUAL ACCURACY")
    yield from table_lines(("AT", document["unit"].upper(), *head), rows, align="<>")


def _format_policy(name: str, policy: Document, document: Document) -> Iterator[str]:
    difference = policy["difference"]
    yield (
        f"policy {name}: {_percent_text(policy['accuracy'])} right at "
        f"{_number_text(policy['cost'])} {document['unit']} per question"
    )
    yield (
        f"  random mixture of equal cost: {_percent_text(policy['mixture_accuracy'])}; difference "
        f"{100 * difference['value']:+z.2f} pp {_ends_text(difference, '+z.2f')}"
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


def _number_text(value: float | None) -> str:
    return "none right" if value is None else significant(value, 4)


def _saved_text(saved: Document | None) -> str:
    if saved is None:
        return "no mixture is as accurate"
    return f"{100 * saved['value']:z.0f} % {_ends_text(saved, 'z.0f')}"


def _ends_text(interval: Document, form: str) -> str:
    """Format the ends of an interval in percent; an infinite end is ``open``."""
    ends = (interval["low"], interval["high"])
    low, high = ("open" if end is None else format(100 * end, form) for end in ends)
    return f"[{low}, {high}]"


_SVG_FIX = "choose another file with --svg"

_STATED_COSTS = (
    "stated costs are charged once for each arm that answers: the votes and probes of an arm count "
    "only if its cost includes them"
)


@click.command()
@policies_argument
@outcomes_option
@text_option(
    "--costs",
    metavar="ARM=N,...",
    help="Cost of a question on each arm, if the table has none; default=N for the others.",
)
@text_option("--arms", metavar="ARM,...", help="Judge routers over these arms only.")
@runs_option
@flag("--log", "of_log", help="Replay the questions of the log (default).")
@data_option
@split_option
@number_option(
    WholeNumber(0, 2**32 - 1),
    "--seed",
    metavar=None,
    default=0,
    help="Random seed of folds and resampling.",
)
@flag(
    "--as-fitted",
    help="Use the saved fit of the policy, made on other questions, instead of folds of these.",
)
@path_option("--svg", metavar="FILE", help="Draw accuracy against cost into FILE.")
@flag("--hide-subjects", help="Judge routers by the words of a question only, as in a chat.")
@json_option
def replay(
    names: Sequence[str],
    outcomes: Path | None,
    costs: str | None,
    arms: str | None,
    runs: Sequence[str],
    of_log: bool,
    data: Path | None,
    split: str,
    seed: int,
    as_fitted: bool,
    svg: Path | None,
    hide_subjects: bool,
    as_json: bool,
) -> None:
    """Evaluate a policy on existing answers, without running a model.

    On the log, shows which questions would be answered differently. On bench runs or a table of
    outcomes, shows the policy's accuracy and cost, compared with a random mixture of its arms and
    with the cheapest arm that is right. Accuracy predictions are fitted on folds of the same
    answers that exclude the questions being judged or, with --as-fitted, taken from
    `etui policy fit`. Without POLICY, a router is fitted and judged on such folds.
    """
    config, catalogue, _ = load_context()
    given = {"--outcomes": outcomes is not None, "--runs": bool(runs), "--log": of_log}
    sources = [name for name, is_given in given.items() if is_given]
    if len(sources) > 1:
        raise UsageError(f"{' and '.join(sources)} exclude each other", "pass only one of them")
    policies, folders = split_names(names, runs, config)
    if not outcomes and not folders:
        if costs or arms or svg or data or as_fitted or hide_subjects:
            raise UsageError(
                "--costs, --arms, --data, --svg, --as-fitted and --hide-subjects need --outcomes "
                "or --runs",
                "add one of these, or leave the options out",
            )
        _replay_log(policies or [config.policy], config, catalogue, as_json=as_json)
        return
    require_extra("learn", "a replay of graded answers")
    loaded = [load_policy(name, config, catalogue.models) for name in policies]
    if svg is not None:
        require_extra("figures", "--svg")
        require_writable(svg, _SVG_FIX)
    if loaded and (arms or hide_subjects):
        raise UsageError(
            "--arms and --hide-subjects are for the routers of a replay without a policy",
            "leave out the policy, or the option: a policy has its own arms and never sees a "
            "subject",
        )
    choose = partial(_choose_arms, policies=loaded, chosen=arms)
    if outcomes is not None:
        table, notes = _read_outcomes(outcomes, costs, data, split, choose)
    else:
        table, notes = _read_runs(folders, costs, data, config, choose)
    if as_fitted and not loaded:
        raise UsageError("--as-fitted needs a policy", "name the policy whose fit to use")
    heads = {policy.name: _load_heads(policy, config) for policy in loaded if as_fitted}
    if hide_subjects and not table.graded.questions:
        raise UsageError(
            "--hide-subjects needs the texts of the questions", "pass their folder with --data"
        )
    from etui.learning.judge import judge
    from etui.learning.policy_replay import cross_fit, replay_policy

    show = _ignore if as_json else _show_progress
    routers = {}
    if not loaded:
        routers = cross_fit(table.graded, hide_subjects=hide_subjects, seed=seed, say=show)
    label = "measured joules of the runs, mean" if table.unit else "stated cost"
    routed = [
        replay_policy(
            policy,
            table.graded,
            table.cost,
            label=label,
            heads=heads.get(policy.name),
            seed=seed,
            say=show,
        )
        for policy in loaded
    ]
    show("")
    document = judge(table, routers, routed, seed)
    document["notes"] = [*notes, *_list_vote_notes(loaded, table)]
    if svg is not None:
        from etui.learning.figure import replay_svg

        write_output(svg, replay_svg(document), _SVG_FIX)
    print_result(document, replay_lines(document), as_json)


_ChooseArms = Callable[[Sequence[str]], "tuple[Sequence[str], list[str]]"]


def _read_outcomes(
    path: Path, costs: str | None, data: Path | None, split: str, choose: _ChooseArms
) -> tuple[ReplayTable, list[str]]:
    from etui.learning.judge import ReplayTable
    from etui.learning.outcomes import read_table, read_texts

    texts = read_texts(data, split) if data is not None else None
    found = read_table(path, texts)
    judged, notes = choose(found.graded.arms)
    table, left_out = found.of_arms(judged).keep_complete()
    graded = table.graded
    if len(graded.arms) < 2:
        raise UsageError(f"{path} has only one arm: nothing to choose", "use two or more arms")
    if not len(graded):
        raise UsageError(
            f"no question of {path} was answered by every arm",
            "leave out the arms with few answers",
        )
    notes.append(_STATED_COSTS)
    if costs is None and table.cost is None:
        example = ",".join(f"{arm}={10**at}" for at, arm in enumerate(graded.arms))
        raise UsageError("a table of outcomes has no costs", f"pass them: --costs {example}")
    if costs is not None and table.cost is not None:
        notes.append("--costs replaces the costs of the table for the arms that it names")
    cost = _state_costs(costs, found.graded.arms, graded, table.cost)
    if left_out:
        notes.append(f"left out: {left_out:,} questions that not every arm answered")
    if texts is None:
        notes.append("without --data there are no texts: only subjects are used")
    return ReplayTable(graded, cost), notes


def _read_runs(
    folders: Sequence[Path],
    costs: str | None,
    data: Path | None,
    config: Config,
    choose: _ChooseArms,
) -> tuple[ReplayTable, list[str]]:
    from etui.bench.graded_runs import read_runs
    from etui.learning.judge import ReplayTable

    found = read_runs(folders, config, data)
    judged, left = choose(found.graded.arms)
    graded = found.graded.of_arms(judged)
    repeats = None if found.repeats is None else found.repeats.of_arms(judged)
    notes = [*found.notes, *left]
    if len(graded.arms) < 2:
        raise UsageError("the runs have only one arm: nothing to choose", "add runs of other arms")
    if costs is not None:
        notes.append(_STATED_COSTS)
        votes = [name for name, facts in graded.facts.items() if facts.reasoning == "vote"]
        if votes:
            notes.append(f"every vote of {', '.join(votes)} has to be in its stated cost")
        stated = _state_costs(costs, found.graded.arms, graded, graded.joules)
        return ReplayTable(graded, stated, repeats=repeats), notes
    if graded.joules is None:
        raise UsageError(
            "the joules of these runs were not measured", "pass the costs: --costs ARM=N,..."
        )
    return ReplayTable(graded, graded.joules, "J", found.kinds, repeats), notes


def _state_costs(
    costs: str | None, named: Sequence[str], graded: Graded, own: Floats | None
) -> Floats:
    """Return the cost of every question on every judged arm: stated, else that of its answer."""
    import numpy as np

    from etui.learning.outcomes import COSTS_FIX, read_costs

    stated = {} if costs is None else read_costs(costs, named, graded.arms)
    missing = [arm for arm in graded.arms if arm not in stated]
    if own is None and missing:
        raise UsageError(f"--costs: no cost for {', '.join(missing)}", COSTS_FIX)
    found = np.empty(graded.correct.shape) if own is None else own.copy()
    for arm, cost in stated.items():
        found[:, graded.arms.index(arm)] = cost
    return found


def _choose_arms(
    arms: Sequence[str], policies: Sequence[Policy], chosen: str | None
) -> tuple[Sequence[str], list[str]]:
    """Choose the arms to judge: those named, those of the policies, else all; also returns notes.

    A policy is compared with a mixture of its own arms: others would be a choice that it lacks.
    """
    if chosen is not None:
        from etui.learning.outcomes import read_arms

        return read_arms(chosen, arms), []
    own = [arm for arm in arms if any(arm in policy.arms for policy in policies)]
    if len(own) < 2:
        return arms, []
    others = [arm for arm in arms if arm not in own]
    return own, [f"not arms of the policy, left out: {', '.join(others)}"] if others else []


def _list_vote_notes(policies: Sequence[Policy], table: ReplayTable) -> Iterator[str]:
    """Yield which arms of the policies vote, and what their stated costs have to include."""
    if table.unit:  # measured joules have every vote
        return
    for policy in policies:
        arms = [policy.arms[name].arm for name in table.graded.arms if name in policy.arms]
        votes = [f"{arm.name} ({arm.votes})" for arm in arms if arm.reasoning == "vote"]
        if votes:
            named = ", ".join(votes)
            yield f"arms of {policy.name} that vote, each with all its votes in its cost: {named}"


def _load_heads(policy: Policy, config: Config) -> AccuracyPredictor:
    from etui.learning.predictor import load_accuracy

    heads = load_accuracy(policy, config)
    fix = f"run `etui policy fit {policy.name}` on other questions, or leave --as-fitted out"
    if heads is None:
        raise UsageError(f"policy {policy.name!r} has no saved fit", fix)
    if policy.arms.keys().isdisjoint(heads.model.arms):
        raise UsageError(
            f"the saved fit of policy {policy.name!r} has none of its arms: it is of "
            f"{', '.join(heads.model.arms)}",
            fix,
        )
    return heads


def _replay_log(
    policies: Sequence[str], config: Config, catalogue: Catalogue, *, as_json: bool
) -> None:
    from etui.learning.log_replay import build_turns_document, move_rows, replayed_lines
    from etui.runtime.replay import replay_log
    from etui.runtime.runtime import open_runtime

    if len(policies) > 1:
        raise UsageError("the log is replayed with one policy at a time", "name only one")
    policy = load_policy(policies[0], config, catalogue.models)
    with open_runtime(config) as runtime, count_progress("replaying turns") as report:
        document = build_turns_document(policy.name, replay_log(policy, runtime, report=report))
    print_result(document, replayed_lines(document), as_json)
    if not as_json and (moves := move_rows(document)):
        click.echo()
        print_table(("FROM", "TO", "QUESTIONS"), moves)


def _show_progress(text: str) -> None:
    """Overwrite one progress line on stderr, on a terminal only; an empty text erases it."""
    if sys.stderr.isatty():
        line = f"\r{text:<20}" if text else "\r" + " " * 20 + "\r"
        click.echo(line, file=control_stream(err=True), nl=False)


def _ignore(text: str) -> None:
    pass
