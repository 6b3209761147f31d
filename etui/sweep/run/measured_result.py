"""The result of the blocks and the answers that a sweep has so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from etui.sweep.analysis.analysis import analyse
from etui.sweep.blocks import Block
from etui.sweep.machine.accuracy import SettingAnswer, group_by_numbers
from etui.sweep.race.design import list_remaining
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
        config: Its configuration.
        blocks: The blocks so far.
        answers: The answers so far.
    """
    grouped = group_answers(answers, config.questions)
    measured_as = group_by_numbers(list_remaining(config.design, blocks)) if grouped else None
    result = analyse(config.design, blocks, grouped or None, measured_as)
    if not config.questions or not result.is_complete:
        return result
    asked = list_asked(config.design, blocks)
    return replace(result, is_complete=all(setting.key in grouped for setting in asked))


def list_asked(design: SweepDesign, blocks: Sequence[Block]) -> tuple[Setting, ...]:
    """List the settings whose accuracy is measured: those left, each kind of numbers once."""
    left = list_remaining(design, blocks)
    measured = set(group_by_numbers(left).values())
    return tuple(setting for setting in left if setting.key in measured)


def group_answers(answers: Sequence[SettingAnswer], questions: int) -> dict[str, list[bool]]:
    """Group answers by setting, in the order of the questions.

    A setting whose questions are not all answered is left out, because only equal questions can be
    compared.

    Args:
        answers: In any order.
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
