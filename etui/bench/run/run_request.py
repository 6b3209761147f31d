"""What the command line asks of a run, before anything is looked up."""

from __future__ import annotations

from dataclasses import dataclass

from etui.arm import Reasoning, Speculate
from etui.bench.run.arms import ArmOverrides
from etui.bench.store.parts import BenchPart
from etui.errors import UsageError

_NO_OVERRIDES = ArmOverrides()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Request of the command line; None or empty selects the default.

    Attributes:
        models, reasonings: Every pair of them is an arm.
    """

    suite: str
    split: str = "test"
    data: str | None = None
    format: str | None = None
    """One of :data:`FORMATS`; None is the suite's, or ``chat`` if reasoning, arms or a policy are
    asked for."""
    shots: int | None = None
    seed: int = 0
    limit: int | None = None
    per_subject: int | None = None
    subjects: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    reasonings: tuple[Reasoning, ...] = ()
    arms: tuple[str, ...] = ()
    policy: str | None = None  # Decides for each question, unless `arms` selects some of its arms
    overrides: ArmOverrides = _NO_OVERRIDES  # Settings that override those of the arms
    reuse: bool = True  # Whether worked examples are computed once per subject
    speculates: tuple[Speculate, ...] = ()
    """Speculation of the arms; with several, each arm is measured with each of them. Empty leaves
    it to the policy or the model."""
    part: BenchPart | None = None  # Share of the plan that is answered; None is the whole plan

    @property
    def routed(self) -> bool:
        """Whether a policy chooses the arm of each question."""
        return self.policy is not None and not self.arms


def check_request(ask: RunRequest) -> None:
    """Check that the options of a request can be combined.

    Raises:
        UsageError: They cannot.
    """
    if ask.models and (ask.arms or ask.policy):
        raise UsageError(
            "--model cannot be combined with --policy or --arms", "pass only one of them"
        )
    if ask.reasonings and not ask.models:
        raise UsageError("--reasoning needs --model", "add --model, or use --arms")
    if ask.limit is not None and ask.per_subject is not None:
        raise UsageError("--limit and --per-subject cannot be combined", "pass only one of them")
    if ask.routed and (ask.overrides != _NO_OVERRIDES or ask.speculates):
        raise UsageError(
            "options for arms cannot be used with a policy that chooses the arms",
            "change the policy, or select arms with --arms",
        )
    if ask.routed and ask.format not in (None, "chat"):
        raise UsageError(
            f"--format {ask.format} cannot be used with a policy that chooses the arms",
            "use --format chat, or select arms with --arms",
        )
