"""How much of a fit's gain is reached with the labels of audits alone, and how biased they are.

Run ``python -m benchmarks.routing --audits outcomes.csv --data MMLU [--seeds 5]``. The table says
which of two arms is right on each question. An audit knows only whether both answers are the same:
both right agree, one right and one wrong do not, and both wrong agree with a stated probability,
since the table has no letters. Each fit is judged on the fold of questions that it has not seen.

The gain of a fit is its APGR minus 0.5, that of a random choice, and the share that audits reach is
their gain over that of

* ``of_truth``: true labels of the same audited questions, which says what the labels are worth;
* ``of_all``: true labels of all questions outside the fold, which says what audits are worth.

Both are the ratio of the mean gains of several seeds (folds, questions that are audited, agreement
of wrong answers, trees), with the standard error of that ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance
from etui.learning.graded import Graded, assign_folds
from etui.learning.labels import (
    AUDIT_ACCURACY,
    SAME_MISTAKE,
    AgreementModel,
    LabelledQuestion,
    build_label_table,
    compute_bias,
    estimate_agreement,
    label_audit,
    model_questions,
)
from etui.learning.policy_replay import FOLDS, cross_fit
from etui.learning.predictor import AccuracyPredictor
from etui.routing.text_measures import QuestionText, format_question

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats

ORIGIN = Provenance(
    fitted_at="2026-01-01T00:00:00Z", source=("table",), data_sha256="", n=1, excluded=0, etui="0"
)

RANDOM = 0.5
"""APGR of a random choice."""

LABELS = {
    "audits": "labels of agreement alone",
    "truth": "true labels of the same questions",
    "all": "true labels of all other questions",
}


@dataclass(frozen=True, slots=True)
class Bias:
    """Labels by agreement against the truth, on one table.

    Attributes:
        right: Share of questions that the audited arm gets right.
        agrees: Share of questions on which it agrees with the audit arm.
        formula: The difference that :func:`compute_bias` states.
        corrected: Accuracy of the arm that the agreement model estimates.
    """

    right: float
    agrees: float
    formula: float
    corrected: float


def draw_agreement(correct: Flags, same_mistake: float, seed: int) -> Flags:
    """Draw whether the answers of two arms agree, from whether each is right."""
    first, second = correct[:, 0], correct[:, 1]
    same = np.random.default_rng(seed).random(len(correct)) < same_mistake
    return np.where(first | second, first & second, same)


def measure_apgr(correct: Flags, gain: Floats) -> float:
    """Area under the recovered share of the gap, when questions go up by their predicted gain."""
    order = np.argsort(-gain, kind="stable")
    weak, strong = correct[:, 0].astype(float), correct[:, 1].astype(float)
    steps = np.concatenate([[weak.sum()], weak.sum() + np.cumsum((strong - weak)[order])])
    recovered = (steps - weak.sum()) / (strong.sum() - weak.sum())
    return float(((recovered[:-1] + recovered[1:]) / 2).mean())


def predict_gain(graded: Graded, questions: tuple[QuestionText, ...], seed: int) -> Floats:
    """Fit a table and predict what the second arm gains over the first on other questions."""
    from etui.arm import Arm
    from etui.chat import Query

    heads = AccuracyPredictor(fit_accuracy(graded, ORIGIN, seed=seed))
    arms = [Arm(name=name, model="any") for name in graded.arms]
    gains = []
    for question in questions:
        query = Query(format_question(question))
        low, high = (heads.accuracy(arm, query, 0.9) for arm in arms)
        assert low is not None
        assert high is not None
        gains.append(high.p - low.p)
    return np.asarray(gains)


def measure_bias(correct: Flags, same_mistake: float, seed: int = 0) -> Bias:
    """Compare labels by agreement with the truth."""
    agrees = draw_agreement(correct, same_mistake, seed)
    first, second = correct[:, 0], correct[:, 1]
    formula = compute_bias(
        float((~first & ~second).mean()), float((first & ~second).mean()), same_mistake
    )
    model = estimate_agreement(int(agrees.sum()), len(agrees), float(second.mean()), same_mistake)
    return Bias(float(first.mean()), float(agrees.mean()), formula, model.arm)


def build_audited(graded: Graded, agrees: Flags, model: AgreementModel) -> Graded:
    """Build the table of audits: the questions, and what agreement says of both arms."""
    arm, audit_arm = graded.arms
    models = model_questions(graded.questions, agrees.tolist(), model)
    return build_label_table(
        [
            LabelledQuestion(
                question,
                label_audit(each, arm, audit_arm, bool(same), predicted=models is not None),
                subject,
            )
            for question, same, subject, each in zip(
                graded.questions,
                agrees,
                graded.subjects,
                models or [model] * len(graded),
                strict=True,
            )
        ]
    )


@dataclass(frozen=True, slots=True)
class Share:
    """A ratio of two mean gains, and its standard error over the seeds; None for one seed."""

    value: float
    error: float | None


def compute_share(gains: Sequence[float], of: Sequence[float]) -> Share:
    """Compute the ratio of the means of two gains of the same seeds, with its standard error."""
    ratio = float(np.sum(gains) / np.sum(of))
    if len(gains) < 2:
        return Share(ratio, None)
    rest = np.asarray(gains) - ratio * np.asarray(of)
    return Share(ratio, float(rest.std(ddof=1) / math.sqrt(len(gains)) / abs(np.mean(of))))


def simulate(
    graded: Graded,
    *,
    share: float = 0.05,
    same_mistake: float = SAME_MISTAKE,
    hide_subjects: bool = True,
    every: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Fit audits of a share of the table, and true labels, and judge both on held-out questions.

    Args:
        graded: The table: the audited arm and the audit arm, with texts.
        share: Share of the whole table that is audited.
        same_mistake: Probability that two wrong answers are the same, in the draw of agreement.
        hide_subjects: Whether the questions have no subject, like those of a chat.
        every: Whether true labels of all questions outside the fold are fitted too.
        seed: Seed of folds and draws.

    Returns:
        The gain of each kind of labels: APGR minus that of a random choice.
    """
    rng = np.random.default_rng(seed)
    fold = assign_folds(graded, FOLDS, seed)
    agrees = draw_agreement(graded.correct, same_mistake, seed + 1)
    gains = {name: np.zeros(len(graded)) for name in ("audits", "truth")}
    for at in range(FOLDS):
        held = fold == at
        inside = np.flatnonzero(~held)
        drawn = np.zeros(len(graded), dtype=bool)
        count = min(len(inside), round(share * len(graded)))
        drawn[rng.choice(inside, count, replace=False)] = True
        some = graded.take(drawn)
        if hide_subjects:
            some = replace(some, subjects=("",) * len(some))
        found = agrees[drawn]
        # The audit arm's accuracy is not known from audits alone.
        model = estimate_agreement(int(found.sum()), len(found), AUDIT_ACCURACY)
        asked = tuple(q for q, out in zip(graded.questions, held, strict=True) if out)
        for name, table in (("audits", build_audited(some, found, model)), ("truth", some)):
            gains[name][held] = predict_gain(table, asked, seed)
    if every:  # by the same folds
        p = cross_fit(graded, routers=("joint",), hide_subjects=hide_subjects, seed=seed)["joint"]
        gains["all"] = p[:, 1] - p[:, 0]
    return {
        name: float(
            np.mean([measure_apgr(graded.correct[fold == at], gain[fold == at])
                     for at in range(FOLDS)])
        ) - RANDOM
        for name, gain in gains.items()
    }  # fmt: skip


def summarise(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return mean and standard error of each gain, and the shares that audits reach."""
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    shares = {
        f"of_{name}": asdict(compute_share(columns["audits"], columns[name]))
        for name in columns
        if name != "audits"
    }
    means = {
        name: {
            "apgr": RANDOM + float(np.mean(found)),
            "error": float(np.std(found, ddof=1) / math.sqrt(len(found))) if found[1:] else None,
        }
        for name, found in columns.items()
    }
    return {"seeds": len(runs), "gains": means, "reached": shares}


def simulate_file(
    path: Path, data: Path | None, share: float, seeds: int, ladder: str | None = None
) -> dict[str, Any]:
    """Measure the bias on a table of two arms of MMLU's test questions, and simulate audits.

    Args:
        path: Table of outcomes.
        data: Folder of MMLU's files.
        share: Share that is audited.
        seeds: Number of simulations.
        ladder: Accuracies of two simulated arms that answer in place of those of the table, as
            ``0.65,0.78``; None keeps those.

    Raises:
        SystemExit: There are no texts, or not two arms.
    """
    from benchmarks.ladder import make_ladder
    from etui.learning.outcomes import read_table, read_texts

    if data is None:
        raise SystemExit("--audits needs the texts of the questions: --data DIR")
    if seeds < 1:
        raise SystemExit(f"--seeds is at least 1, not {seeds}")
    graded = read_table(path, read_texts(data, "test"), complete=True).graded
    if ladder is not None:
        graded = make_ladder(graded, [float(part) for part in ladder.split(",")], 0)
    if len(graded.arms) != 2:
        raise SystemExit(f"--audits needs two arms, not {len(graded.arms)}; the audit arm is last")
    runs = [simulate(graded, share=share, seed=seed) for seed in range(seeds)]
    return {
        "questions": len(graded),
        "share": share,
        "same_mistake": SAME_MISTAKE,
        "bias": {c: asdict(measure_bias(graded.correct, c)) for c in (0.2, 0.35, 0.5)},
        **summarise(runs),
        "runs": runs,
    }


def format_simulation(found: dict[str, Any]) -> Iterator[str]:
    """Write the result of :func:`simulate_file` in a few lines."""
    audited = round(found["share"] * found["questions"])
    yield f"{found['questions']:,} questions, {audited} audited, {found['seeds']} seeds"
    for name, each in found["gains"].items():
        yield f"APGR of {LABELS[name]:38} {each['apgr']:.3f}{_format_error(each['error'])}"
    for name, each in found["reached"].items():
        what = LABELS[name.removeprefix("of_")]
        yield f"share of the gain of {what:29} {100 * each['value']:.0f} %" + _format_error(
            each["error"], 100
        )


def _format_error(error: float | None, factor: float = 1.0) -> str:
    if error is None:
        return ""
    return f" (standard error {factor * error:.{0 if factor > 1 else 3}f})"
