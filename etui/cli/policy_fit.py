"""``etui policy fit``: learn from graded answers how accurate each arm is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui import __version__
from etui.cli.output import (
    json_option,
    load_context,
    print_notes,
    print_result,
    require_writable,
    table_lines,
    write_output,
)
from etui.cli.param_types import (
    TEXT,
    WholeNumber,
    choice_option,
    flag,
    number_option,
    path_option,
    text_option,
)
from etui.config.config import Config
from etui.errors import UsageError
from etui.extras import require_extra
from etui.measure.folder import CONFIG
from etui.routing.library import load_policy
from etui.routing.policy import Policy, list_agreements, list_priors
from etui.units import count_text, percent_text

if TYPE_CHECKING:
    from etui.learning.fitted_file import AgreementHead, ConfidenceCurve, FittedModel
    from etui.learning.graded import Graded
    from etui.learning.labels import PairAgreement
    from etui.models.catalogue import Catalogue


def split_names(
    names: Sequence[str], runs: Sequence[str], config: Config
) -> tuple[list[str], list[Path]]:
    """Split arguments into names of policies and folders of runs.

    With ``--runs A``, further runs may follow as plain arguments.
    """
    from etui.bench.folder import find_run, runs_dir

    policies: list[str] = []
    further: list[str] = []
    for name in names:
        places = (Path(name), runs_dir(config) / name)
        is_run = bool(runs) and any((place / CONFIG).is_file() for place in places)
        (further if is_run else policies).append(name)
    return policies, [find_run(run, config) for run in (*runs, *further)]


policies_argument = click.argument("names", type=TEXT, nargs=-1, metavar="[POLICY]")

outcomes_option = path_option(
    "--outcomes",
    metavar="FILE",
    help="CSV file with the columns subject,row,ARM,ARM...; 1 where the arm was right. Costs in "
    "ARM:cost.",
)

runs_option = text_option("--runs", multiple=True, metavar="RUN", help="Bench run; repeatable.")

data_option = path_option(
    "--data", metavar="DIR", help="Folder of MMLU's files, for the texts of the questions."
)

split_option = choice_option(
    ["test", "val", "dev"],
    "--split",
    default="test",
    show_default=True,
    help="Split of MMLU that the rows of --outcomes refer to.",
)


@click.command()
@policies_argument
@outcomes_option
@runs_option
@flag(
    "--log",
    "from_log",
    help="Graded turns and audits of the log; alone, or added to --outcomes or --runs.",
)
@data_option
@split_option
@path_option(
    "--exclude-test",
    metavar="DIR",
    help="Exclude questions that are also in the test files of this folder.",
)
@path_option(
    "--output", metavar="FILE", help="Output file. Default: NAME.fitted.json next to the policy."
)
@number_option(
    WholeNumber(0, 2**32 - 1), "--seed", metavar=None, default=0, help="Random seed of the folds."
)
@json_option
def fit(
    names: Sequence[str],
    outcomes: Path | None,
    runs: Sequence[str],
    from_log: bool,
    data: Path | None,
    split: str,
    exclude_test: Path | None,
    output: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Learn from graded answers how likely each arm is to be right.

    The answers come from bench runs, a table of outcomes, or the log; arms are matched by name. In
    the log count what `etui logs grade` and the app say of an answer, and, less, the audits of the
    policy. The result is saved next to the policy as NAME.fitted.json; the policy's objectives and
    cascades use it from then on.
    """
    from etui.learning.predictor import get_fitted_path
    from etui.runtime.fit_health import build_fit_document, list_never_accepted, measure_health

    require_extra("learn", "`etui policy fit`")
    from etui.learning.fit import fit_accuracy
    from etui.learning.fitted_file import format_fitted

    config, catalogue, _ = load_context()
    policies, folders = split_names(names, runs, config)
    given = (outcomes is not None) + bool(folders)
    if given > 1 or not (given or from_log):
        raise UsageError(
            "graded answers are missing: pass either --outcomes FILE or --runs RUN, or --log",
            "create a run with `etui bench --arms A,B --policy NAME`",
        )
    if len(policies) > 1:
        raise UsageError(f"{len(policies)} policies were given", "fit one policy at a time")
    policy = _load_policy(policies, output, config, catalogue)
    if output is None:
        assert policy is not None  # without --output there is a policy, the default one at least
        output = get_fitted_path(policy, config)
    require_writable(output, _OUTPUT_FIX, make_folder=True)
    answers = _read_answers(outcomes, folders, data, split, config) if given else None
    if from_log:
        answers = _add_log(answers, policy, config)
    assert answers is not None  # one of the three was given
    graded, notes = answers.graded, answers.notes
    if policy is not None:
        graded, arm_notes = _select_arms(policy, graded)
        notes += arm_notes
    before = graded.question_count
    if exclude_test is not None:
        from etui.learning.outcomes import drop_questions, read_texts

        if not graded.questions:
            raise UsageError(
                "--exclude-test needs the texts of the questions", "pass their folder with --data"
            )
        graded = drop_questions(graded, read_texts(exclude_test, "test").values())
    agreements = list_agreements(policy) if policy is not None else None
    provenance = _build_provenance(graded, answers, before)
    model = fit_accuracy(graded, provenance, seed=seed, agreements=agreements)
    notes += list_uniform_notes(graded)
    notes += list_agreement_notes(agreements, model)
    if policy is not None:
        health = build_fit_document(measure_health(model, policy, None))
        notes += list_never_accepted(health)
    write_output(output, format_fitted(model), _OUTPUT_FIX, make_folder=True)
    print_result(_build_document(output, model, notes), _format_fit(output, model), as_json)
    if not as_json:
        print_notes(notes)


def _build_document(path: Path, model: FittedModel, notes: Sequence[str]) -> dict[str, Any]:
    """Build the document of ``etui policy fit --json``; ``notes`` say what the answers lacked."""
    return {
        "file": str(path),
        "provenance": model.provenance.model_dump(),
        "arms": {
            name: {
                **head.model_dump(include={"model", "reasoning", "n", "rate"}),
                "bands": len(head.rates),
                **head.quality.model_dump(),
                "curves": [
                    curve.model_dump(include={"of", "kind", "n", "ece"}) for curve in head.curves
                ],
            }
            for name, head in model.arms.items()
        },
        "needs": [
            need.model_dump(include={"need", "base", "other", "n", "auc"}) for need in model.needs
        ],
        "agreements": [
            head.model_dump(include={"arms", "n", "known", "agreed", "apart"})
            | {"curve": None if head.curve is None else head.curve.of}
            for head in model.agreements
        ],
        "notes": list(notes),
    }


def _format_fit(path: Path, model: FittedModel) -> Iterator[str]:
    origin = model.provenance
    excluded = f", {origin.excluded} excluded that are also in test" if origin.excluded else ""
    yield f"{path}: {origin.n:,} questions of {', '.join(origin.source)}{excluded}"
    yield ""
    rows = [
        (
            name,
            head.model or "any",
            f"{100 * head.rate:.1f} %",
            f"{head.quality.brier:.3f}",
            f"{head.quality.brier_rate:.3f}",
            f"{head.quality.ece:.3f}",
            "" if head.quality.auc is None else f"{head.quality.auc:.3f}",
            ", ".join(map(_curve_text, head.curves)) or "no confidence",
        )
        for name, head in model.arms.items()
    ]
    head = ("ARM", "MODEL", "RIGHT", "BRIER", "BRIER OF RATE", "ECE", "AUC", "AFTER AN ANSWER")
    yield from table_lines(head, rows)
    if model.needs:
        yield ""
        needs = [
            (
                need.need.replace("_", " "),
                need.base,
                need.other,
                "unknown" if need.auc is None else f"{need.auc:.3f}",
            )
            for need in model.needs
        ]
        yield from table_lines(("NEEDS", "BASE", "OTHER", "AUC"), needs)
    if model.agreements:
        yield ""
        yield from table_lines(
            ("AGREE", "QUESTIONS", "SAME ANSWER", "RIGHT IF THE SAME", "RIGHT IF NOT", "CURVE"),
            [_format_agreement(agreement) for agreement in model.agreements],
        )
    yield ""
    yield (
        "Brier, ECE and AUC: five-fold cross-validation; BRIER OF RATE: if only the overall rate "
        "were predicted"
    )


def _curve_text(curve: ConfidenceCurve) -> str:
    return f"{curve.kind} of {curve.of}, ECE {curve.ece:.3f}"


def _format_agreement(head: AgreementHead) -> tuple[str, ...]:
    """Format a row: how often the arms agree, and how often they are right then and else.

    Shares of right and wrong alone are the least that they can be, and say so.
    """
    least = "" if head.known else "at least "
    same = f"{100 * head.agreed.n / head.n:.1f} %" if head.known else "unknown"
    alone = zip(head.arms, head.apart, strict=True)
    apart = ", ".join(f"{arm} {least}{100 * share.p:.0f} %" for arm, share in alone)
    return (
        " and ".join(head.arms) if len(head.arms) > 1 else f"the votes of {head.arms[0]}",
        f"{head.n:,}",
        same,
        f"{least}{100 * head.agreed.p:.1f} % "
        f"[{100 * head.agreed.low:.1f}, {100 * head.agreed.high:.1f}]",
        apart,
        _curve_text(head.curve) if head.curve else "none",
    )


def list_uniform_notes(graded: Graded) -> Iterator[str]:
    """Yield a note for each arm whose labels are all the same, so that only a rate is fitted."""
    for at, arm in enumerate(graded.arms):
        right = graded.correct[graded.label_weights[:, at] > 0, at]
        if len(right) and right.all() == right.any():
            word, answers = "right" if right.all() else "wrong", count_text(len(right), "answer")
            yield f"every answer of {arm} is {word} ({answers}): no question differs"


def list_agreement_notes(
    agreements: Sequence[tuple[str, ...]] | None, model: FittedModel
) -> Iterator[str]:
    """Yield what the answers do not say about the steps of several answers of a policy."""
    if any(not head.known for head in model.agreements):
        yield (
            "these outcomes have only right and wrong, so whether two wrong answers are the same "
            "is not known: the shares of `agree` are the least that they can be; bench runs have "
            "the answers"
        )
    fitted = {head.arms for head in model.agreements}
    for arms in agreements or ():
        if arms not in fitted:
            yield f"agree of {', '.join(arms)} is not fitted: not all of it was answered"


_OUTPUT_FIX = "choose another file with --output"


@dataclass(frozen=True, slots=True)
class _Answers:
    """Graded answers, with their sources and suites, the SHA-256 of their data, and notes."""

    graded: Graded
    sources: tuple[str, ...]
    suites: tuple[str, ...]
    sha256: str
    notes: list[str]


def _add_log(answers: _Answers | None, policy: Policy | None, config: Config) -> _Answers:
    """Return the labels of the log, joined to the answers of a run or a table."""
    from hashlib import sha256

    from etui.learning.labels import collect_labels, join_tables
    from etui.log.labels import read_labelled
    from etui.log.queries import LogReader

    with LogReader(config) as log:
        turns = read_labelled(log)
    known = {}
    if answers is not None:
        table = answers.graded
        known = {arm: table.compute_rate(at) for at, arm in enumerate(table.arms)}
    name = None if policy is None else policy.name
    arms, priors = (None, {}) if policy is None else (set(policy.arms), list_priors(policy))
    found = collect_labels(turns, name, known, arms, priors=priors)
    if not found.questions:
        whose = "the log has no graded turn" + ("" if name is None else f" of policy {name!r}")
        raise UsageError(
            whose,
            "grade answers with `etui logs grade ID good|bad`, or `v` and `x` in the app, or set "
            "`audit` in the policy",
        )
    notes = [
        f"of the log: {count_text(found.grades, 'grade')}, {count_text(found.audits, 'audit')}"
    ]
    if found.left_out:
        turns_text = count_text(found.left_out, "turn")
        notes.append(
            f"left out: {turns_text} of arms that are not in the policy, or had another model"
        )
    notes += dict.fromkeys(_say_audit_accuracy(pair) for pair in found.pairs)
    for pair in found.pairs:
        if pair.agreed in (0, pair.compared):
            verb = "agrees" if pair.agreed else "differs"
            audits = count_text(pair.compared, "audit")
            notes.append(f"every audit of {pair.arm} {verb} ({audits}): no question differs")
    if answers is None:
        return _Answers(found.table(), ("log",), (), found.sha256, notes)
    joined = sha256(f"{answers.sha256} {found.sha256}".encode()).hexdigest()
    if not answers.graded.questions:
        raise UsageError(
            "--log needs the texts of the other questions too", "pass their folder with --data"
        )
    return replace(
        answers,
        graded=join_tables(answers.graded, found.table()),
        sources=(*answers.sources, "log"),
        sha256=joined,
        notes=answers.notes + notes,
    )


def _say_audit_accuracy(pair: PairAgreement) -> str:
    """Write which accuracy of the audit arm the labels of a pair rest on, and how to better it."""
    from etui.learning.labels import LEAST_GRADES

    arm, share = pair.audit_arm, percent_text(pair.model.audit)
    better = f"grade {LEAST_GRADES} of its answers or add --runs"
    match pair.basis:
        case "answers":
            return f"{arm} is right on {share} of the other answers of the fit"
        case "grades":
            return f"{arm} is right on {share}, by the grades of its answers"
        case "prior":
            return f"{arm} is taken to be right on {share}, the `prior` of the policy: {better}"
        case "assumed":
            return (
                f"how often {arm} is right is unknown and taken as {share}: "
                f"{better}, or state it as `prior` of the objective"
            )


def _read_answers(
    outcomes: Path | None, folders: Sequence[Path], data: Path | None, split: str, config: Config
) -> _Answers:
    if outcomes is not None:
        from etui.learning.outcomes import read_table, read_texts

        texts = read_texts(data, split) if data is not None else None
        table = read_table(outcomes, texts)
        graded, sha256 = table.graded, table.sha256
        notes = (
            []
            if texts is not None
            else ["without --data there are no texts: every question gets the overall rate"]
        )
        suites = (f"mmlu {split}",) if texts is not None else ()
        return _Answers(graded, (outcomes.name,), suites, sha256, notes)
    from etui.bench.graded_runs import read_runs

    found = read_runs(folders, config, data)
    suites = (f"{found.suite} {found.split}",)
    return _Answers(found.graded, found.sources, suites, found.data_sha256, list(found.notes))


def _load_policy(
    names: Sequence[str], output: Path | None, config: Config, catalogue: Catalogue
) -> Policy | None:
    """Load the named policy, or the default one; None if only --output was given."""
    if not names and output is not None:
        return None
    return load_policy(names[0] if names else config.policy, config, catalogue.models)


def _select_arms(policy: Policy, graded: Graded) -> tuple[Graded, list[str]]:
    """Keep the answers of the policy's arms, with the arms' settings in the policy; and notes."""
    from etui.learning.graded import ArmFacts

    shared = [arm for arm in graded.arms if arm in policy.arms]
    if not shared:
        raise UsageError(
            f"none of {', '.join(graded.arms)} is an arm of policy {policy.name!r}",
            f"its arms: {', '.join(policy.arms)}; or pass only --output to fit every column",
        )
    facts = {}
    for name in shared:
        plan = policy.arms[name]
        stated = ArmFacts(None, plan.arm.reasoning, None, plan.asked)
        facts[name] = graded.facts.get(name, stated)
    unused = [arm for arm in graded.arms if arm not in shared]
    missing = [arm for arm in policy.arms if arm not in shared]
    notes = []
    if unused:
        notes.append(f"not arms of the policy, ignored: {', '.join(unused)}")
    if missing:
        notes.append(f"arms without graded answers: {', '.join(missing)}")
    return replace(graded.of_arms(shared), facts=facts), notes


def _build_provenance(graded: Graded, answers: _Answers, before: int) -> Any:
    from datetime import UTC, datetime

    from etui.learning.fitted_file import Provenance

    if not len(graded):
        raise UsageError("every question is also in the test files", "use other answers")
    return Provenance(
        fitted_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        source=answers.sources,
        suites=answers.suites,
        data_sha256=answers.sha256,
        n=graded.question_count,
        excluded=before - graded.question_count,
        etui=__version__,
    )
