"""A policy's arm as the baseline of a sweep: its model, speculation, and work of an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import UsageError
from etui.routing.availability import build_unavailable_error, choose_served_arm
from etui.routing.library import load_policy
from etui.runtime.serving import (
    find_model_file,
    models_on_disk,
    read_file_sampling,
    sample_as_asked,
)
from etui.sweep.work_shape import WorkShape
from etui.text.suggest import did_you_mean

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class ArmBaseline:
    """An arm of a policy, on this machine."""

    policy: str
    arm: Arm  # The arm, with the sampling that its model asks for
    spec: ModelSpec  # Its model, with the speculation of the arm and the hash of the file
    path: Path
    shape: WorkShape  # What one answer computes


def read_arm_baseline(policy: str, arm: str, config: Config, catalogue: Catalogue) -> ArmBaseline:
    """Read an arm of a policy with the first of its models that is on this machine.

    Raises:
        UsageError: There is no such policy or arm; the nearest name is suggested.
        InvalidFile: The policy has errors.
        ModelUnavailable: None of the arm's models is on this machine, or its file is damaged.
    """
    loaded = load_policy(policy, config, catalogue.models)
    plan = loaded.arms.get(arm)
    if plan is None:
        raise UsageError(
            f"policy {loaded.name} has no arm {arm!r}{did_you_mean(arm, loaded.arms)}",
            f"`etui policy show {policy}` shows its arms",
        )
    served = choose_served_arm(plan, models_on_disk(config, catalogue))
    if served is None:
        raise build_unavailable_error(loaded.name, [plan])
    spec, path = find_model_file(served, config, catalogue)
    sampled = sample_as_asked(served, spec, lambda: read_file_sampling(path))
    speculate = "off" if served.reasoning == "vote" else served.speculate
    return ArmBaseline(
        loaded.name, sampled, replace(spec, speculate=speculate), path, build_work_shape(served)
    )


def build_work_shape(arm: Arm) -> WorkShape:
    """Build the shape of an arm's answers: what it computes if it uses its whole budget.

    Votes beyond the batch of the arm are decoded after the first ones, as one batch more, which
    costs the same again: they are not measured.
    """
    if arm.reasoning == "direct" and arm.readout == "choices":
        return WorkShape(answer_tokens=0, reads_letters=True)
    return WorkShape(
        think_tokens=0 if arm.reasoning == "direct" else arm.think_tokens,
        answer_tokens=arm.max_tokens,
        sequences=min(arm.votes, arm.batch) if arm.reasoning == "vote" else 1,
    )
