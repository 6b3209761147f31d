"""Make the plan of a run from a design and from what the command line says of its questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui.bench.config import BenchPart, NamedText
from etui.bench.plan import RunPlan, RunRequest, make_design_plan
from etui.design.load import Design, ModelChoice, check_design, find_design, resolve_design
from etui.errors import UsageError
from etui.yaml.load import read_text
from etui.yaml.named_files import NamedFile

if TYPE_CHECKING:
    from etui.design.schema import DesignFile
    from etui.runtime.runtime import Runtime
    from etui.yaml.load import Located


@dataclass(frozen=True, slots=True)
class DesignRequest:
    """What the command line asks of a design; None or empty leaves it to the design.

    Attributes:
        data, limit, per_subject, subjects, seed, part: As in
            :class:`etui.bench.plan.RunRequest`.
    """

    name: str
    models: Sequence[str] = ()  # `ROLE=NAME` for each role with another model
    data: str | None = None
    limit: int | None = None
    per_subject: int | None = None
    subjects: tuple[str, ...] = ()
    seed: int | None = None
    part: BenchPart | None = None


def plan_design(
    request: DesignRequest, runtime: Runtime[Any], say: Callable[[str], None]
) -> tuple[Design, RunPlan]:
    """Make the plan of a design.

    Raises:
        UsageError: A name does not exist, or options cannot be combined.
        InvalidFile: The design or the data are invalid.
        ModelUnavailable: No model of a role is on this machine.
        DownloadFailed: The data are not on this machine and cannot be downloaded.
    """
    place = find_design(request.name, runtime.config)
    text = read_text(place.path)
    known = runtime.catalogue.models
    located = check_design(text, str(place.path), known)
    overrides = parse_roles(request.models)
    choice = ModelChoice(known, runtime.find_available(), overrides)
    design = resolve_design(located, place.name, choice)
    ask = RunRequest(
        suite=_find_suite(design.suite, place),
        split=design.split,
        data=request.data,
        format=design.format,
        shots=design.shots,
        seed=design.seed if request.seed is None else request.seed,
        limit=request.limit,
        per_subject=request.per_subject,
        subjects=request.subjects,
        part=request.part,
    )
    arms = {name: arm.arm for name, arm in design.arms.items()}
    noted = NamedText(place.name, text)
    try:
        plan = make_design_plan(ask, arms, noted, design.block, runtime.config, say)
    except UsageError as error:
        raise _locate(error, located) from error
    return design, plan


def parse_roles(options: Sequence[str]) -> dict[str, str]:
    """Parse ``ROLE=NAME`` of each ``--model``.

    Raises:
        UsageError: One has another form, or a role is named twice.
    """
    found: dict[str, str] = {}
    for option in options:
        role, separator, name = option.partition("=")
        if not separator or not role.strip() or not name.strip():
            raise UsageError(
                f"--model {option} names no role of the design",
                "write --model ROLE=NAME, such as --model small=smollm2-135m",
            )
        if role.strip() in found:
            raise UsageError(f"--model names the role {role.strip()} twice", "pass it once")
        found[role.strip()] = name.strip()
    return found


def _find_suite(suite: str, place: NamedFile) -> str:
    """Return the path of a suite beside its design; any other suite as it is named."""
    beside = place.path.parent / Path(suite).expanduser()
    return str(beside) if beside.is_file() else suite


def _locate(error: UsageError, located: Located[DesignFile]) -> UsageError:
    """Name the place of a suite that does not exist, and of shots that it does not have."""
    if error.what.startswith("unknown suite"):
        mark = located.where(("questions", "suite"))
    elif error.what.startswith("--shots"):
        mark = located.where(("questions", "shots"))
    else:
        return error
    place = f"{located.file}:{mark.line}:{mark.column}"
    return UsageError(f"{place}: {error.what}", error.fix)
