"""The result of the blocks and the answers that a sweep has so far."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from etui.sweep.analysis.analysis import analyse
from etui.sweep.blocks import Block
from etui.sweep.machine.accuracy import SettingAnswer, group_by_numbers
from etui.sweep.race.choice import rank_all
from etui.sweep.result import SweepResult
from etui.sweep.setting import Setting
from etui.sweep.sweep_config import SweepConfig, SweepDesign


def analyse_measured(
    config: SweepConfig,
    blocks: Sequence[Block],
    answers: Sequence[SettingAnswer],
) -> SweepResult:
    """Compute the result of a sweep, finished or not.

    Args:
        answers: The answers so far.
    """
    grouped = group_answers(answers, config.questions)
    measured_as = choose_answering(config.design, blocks, grouped) if grouped else None
    result = analyse(config.design, blocks, grouped or None, measured_as)
    result = replace(result, notes=(*config.notes, *result.notes))
    if not config.questions or not result.is_complete:
        return result
    asked = list_asked(config.design, blocks, grouped)
    return replace(result, is_complete=all(setting.key in grouped for setting in asked))


def list_asked(
    design: SweepDesign, blocks: Sequence[Block], answered: Collection[str] = ()
) -> tuple[Setting, ...]:
    """List the settings whose accuracy is measured, one of each kind of numbers.

    Args:
        answered: Keys of settings that have answered all questions already.
    """
    measured = set(choose_answering(design, blocks, answered).values())
    return tuple(setting for setting in design.settings if setting.key in measured)


def choose_answering(
    design: SweepDesign, blocks: Sequence[Block], answered: Collection[str] = ()
) -> dict[str, str]:
    """Choose which setting answers for those that compute the same numbers.

    It is the baseline for its kind of numbers and the best by the goal for every other, dropped or
    not: the race looks at the goal alone, and a dropped model may be the most accurate one.

    Args:
        answered: Keys of settings that have answered all questions already; they come first.

    Returns:
        Key of every setting that can run -> key of the setting whose answers are used.
    """
    baseline, *_ = design.settings
    ranks = {key: rank for rank, key in enumerate(rank_all(design, blocks))}

    def order(setting: Setting) -> tuple[bool, bool, int]:
        is_baseline = setting.key == baseline.key
        return not is_baseline, setting.key not in answered, ranks[setting.key]

    able = [setting for setting in design.settings if setting.key in ranks]
    return group_by_numbers(sorted(able, key=order))


def group_answers(answers: Sequence[SettingAnswer], questions: int) -> dict[str, list[bool]]:
    """Group answers by setting, in the order of the questions.

    A setting whose questions are not all answered is left out, because only equal questions can be
    compared.

    Args:
        questions: Number of questions of the sweep.
    """
    found: dict[str, dict[int, bool]] = {}
    for answer in answers:
        found.setdefault(answer.setting, {})[answer.number] = answer.correct
    return {
        key: [correct for _, correct in sorted(of.items())]
        for key, of in found.items()
        if len(of) == questions
    }
