"""How much of a fit's gain is reached with the labels of audits alone, and how biased they are.

Run ``python -m benchmarks.routing --audits outcomes.csv --data MMLU``. The table says which of two
arms is right on each question. An audit knows only whether both answers are the same: both right
agree, one right and one wrong do not, and both wrong agree with a stated probability, since the
table has no letters. Each fit is judged on the fold of questions that it has not seen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etui.routing.accuracy.agreement import (
    AUDIT_ACCURACY,
    SAME_MISTAKE,
    AgreementModel,
    compute_bias,
    estimate_agreement,
)
from etui.routing.accuracy.fit import fit_heads
from etui.routing.accuracy.fitted_file import Provenance
from etui.routing.accuracy.labels import (
    LabelledQuestion,
    build_label_table,
    format_question,
    label_audit,
    model_questions,
)
from etui.routing.accuracy.predictor import AccuracyPredictor
from etui.routing.accuracy.table import Graded, assign_folds
from etui.routing.signals.question_words import QuestionText

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats

ORIGIN = Provenance(
    fitted_at="2026-01-01T00:00:00Z", source=("table",), data_sha256="", n=1, excluded=0, etui="0"
)


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

    heads = AccuracyPredictor(fit_heads(graded, ORIGIN, seed=seed, assess=False))
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


def simulate(
    graded: Graded,
    *,
    share: float = 0.05,
    same_mistake: float = SAME_MISTAKE,
    hide_subjects: bool = True,
    every: bool = True,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit audits of a share of the table, and true labels, and judge both on held-out questions.

    Args:
        graded: The table: the audited arm and the audit arm, with texts.
        share: Share of the whole table that is audited.
        same_mistake: Probability that two wrong answers are the same, in the draw of agreement.
        hide_subjects: Whether the audited questions have no subject, like those of a chat.
        every: Whether true labels of all questions outside the fold are fitted too.
        folds: Number of folds.
        seed: Seed of folds and draws.
    """
    rng = np.random.default_rng(seed)
    fold = assign_folds(graded, folds, seed)
    agrees = draw_agreement(graded.correct, same_mistake, seed + 1)
    names = ("audits", "truth", "all") if every else ("audits", "truth")
    gains = {name: np.zeros(len(graded)) for name in names}
    for at in range(folds):
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
        tables = {"audits": build_audited(some, found, model), "truth": some}
        if every:
            tables["all"] = graded.take(~held)
        for name, table in tables.items():
            gains[name][held] = predict_gain(table, asked, seed)
    apgr = {
        name: float(
            np.mean([measure_apgr(graded.correct[fold == at], gain[fold == at])
                     for at in range(folds)])
        )
        for name, gain in gains.items()
    }  # fmt: skip
    reached = {
        f"of_{name}": (apgr["audits"] - 0.5) / (apgr[name] - 0.5)
        for name in names
        if name != "audits"
    }
    return {"share": share, "same_mistake": same_mistake, "apgr": apgr, "reached": reached}


def simulate_file(path: Path, data: Path | None, share: float, seeds: int) -> dict[str, Any]:
    """Measure the bias on a table of two arms of MMLU's test questions, and simulate audits.

    Raises:
        SystemExit: There are no texts, or not two arms.
    """
    from etui.replay.outcomes import read_outcomes
    from etui.replay.question_texts import read_texts

    if data is None:
        raise SystemExit("--audits needs the texts of the questions: --data DIR")
    graded, _ = read_outcomes(path, read_texts(data, "test"))
    if len(graded.arms) != 2:
        raise SystemExit(f"--audits needs two arms, not {len(graded.arms)}; the audit arm is last")
    return {
        "questions": len(graded),
        "bias": {c: asdict(measure_bias(graded.correct, c)) for c in (0.2, 0.35, 0.5)},
        "runs": [simulate(graded, share=share, seed=seed) for seed in range(seeds)],
    }
