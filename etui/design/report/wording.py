"""Texts that explain the report, on the page and in Markdown."""

from __future__ import annotations

NOTHING_PAIRED = (
    "No question has been answered by every arm yet: the first block is unfinished. Resume the run "
    "with etui bench --resume; any complete block makes a report."
)

PLANE_NOTE = (
    "The line is what a random choice between the arms at its ends reaches; an arm below it is not "
    "worth its joules on these questions."
)

TABLE_NOTE = (
    "Intervals are at 95 %. J/token is the joules of a question divided by its thinking and answer "
    "tokens, the energy per token of arXiv 2603.20224; a direct answer has few tokens and the same "
    "prompt, so that its J/token is high. J/correct divides by right answers only."
)

MULTIPLES_NOTE = (
    "Every arm against a direct answer on the same questions, resampled in pairs. A filled mark "
    "differs after correction for the other arms of its model; an empty one is not a claim."
)

GROUPS_NOTE = (
    "Accuracy of thinking minus that of the direct answer of the same model, in points. Tests are "
    "adjusted for every arm and every group or subject that was looked at (Holm); * marks what "
    'remains. "Same in all" tests whether the effect is equal in all groups. Subjects with too '
    "few questions to show anything are not tested; pictures of them show noise."
)

CURVES_NOTE = (
    "Points are means of repeated turns with 95 % intervals. The solid line is the fitted curve "
    "with the band of a single turn; the dashed line leaves out the terms of the context, so that "
    "the gap between both is the nonlinear part. Both axes of length are logarithmic."
)

ROUTER_NOTE = (
    "Replayed over the answers of this run against the direct answer of the largest model. Routers "
    "are fitted on other questions than those they are judged on; intervals do not cover fitting "
    "them again. Both oracles know the outcomes and are bounds, not routers."
)

INTERVALS_NOTE = (
    "Paired figures use the questions that every arm answered; blocks are balanced over subjects, "
    "so that any number of complete blocks is a stratified sample. Intervals are at 95 %, from "
    "4,000 resamples within subjects that draw all arms of a question together; differences of "
    "accuracies take the wider of that and an adjusted interval for paired shares (Bonett and "
    "Price 2012). Errors of counters are added to ratios; the scale error of an estimate cancels "
    "in them and is not added. A claim needs an interval that excludes no difference and, where "
    "there is a test, a p-value below 0.05 after Holm's correction. Thinking pays if it gets more "
    "right than the best random choice between direct answers for the same joules, or than the "
    "most accurate direct answer if all of them cost less."
)


def answered_by_text(arms: int) -> str:
    """Return ``answered by its arm`` or ``answered by all 16 arms``."""
    return "answered by its arm" if arms == 1 else f"answered by all {arms:,} arms"
