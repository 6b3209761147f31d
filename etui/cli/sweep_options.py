"""What the options of ``etui sweep`` ask for, and which of them contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.sweep.config import Goal
    from etui.sweep.plan import SweepRequest

AFTER = ""
"""Value of ``--apply`` without a sweep: apply the one that this command measures."""

_ALLOWED = {
    "resume": {"resume", "apply", "force", "as_json", "jsonl"},
    "apply": {"apply", "goal", "within", "as_json"},
    "revert": {"revert", "as_json"},
    "show": {"show", "as_json"},
    "list": {"list", "as_json"},
}
"""What else may be given with an option that measures nothing new."""

_WHAT = {
    "resume": "a sweep continues with the settings it was started with",
    "apply": "it applies the result of a finished sweep",
    "revert": "it measures nothing",
    "show": "it measures nothing",
    "list": "it measures nothing",
}


def find_mode(given: set[str], applies_a_sweep: bool) -> str:
    """Find what the options ask for: ``measure``, or the name of an option that does other work.

    Raises:
        UsageError: They contradict each other.
    """
    asked: list[str] = [name for name in ("resume", "revert", "show", "list") if name in given]
    if applies_a_sweep:
        asked.insert(0, "apply")
    if len(asked) > 1:
        raise UsageError(
            f"--{asked[0]} and --{asked[1]} cannot be combined", "pass only one of them"
        )
    if not asked:
        return "measure"
    mode = asked[0]
    extra = sorted(given - _ALLOWED[mode])
    if extra:
        raise UsageError(
            f"{_name_option(extra[0])} cannot be used with --{mode}: {_WHAT[mode]}",
            _fix_combination(mode, extra[0]),
        )
    return mode


def _fix_combination(mode: str, extra: str) -> str:
    if mode == "apply" and extra == "model":
        return "to measure a model and apply the result, put --apply last: etui sweep MODEL --apply"
    if mode == "apply" and extra == "resume":
        return "put --apply last: etui sweep --resume SWEEP --apply"
    return "remove it, or start a new sweep" if mode == "resume" else "remove it"


def _name_option(name: str) -> str:
    names = {"model": "MODEL", "axes": "--axis", "as_json": "--json"}
    return names.get(name, f"--{name.replace('_', '-')}")


def build_goal(options: dict[str, Any]) -> Goal:
    """Build the goal that the options ask for."""
    from etui.sweep.config import Goal

    return Goal(options["goal"], options["within"])


def build_request(options: dict[str, Any]) -> SweepRequest:
    """Build the request for a new sweep.

    Raises:
        UsageError: Options are missing, or have no effect.
    """
    from etui.sweep.plan import SweepRequest

    if options["suite"] is None:
        for name in ("data", "limit"):
            if options[name] is not None:
                raise UsageError(
                    f"--{name} has no effect without --suite", "remove it, or add --suite"
                )
    if options["model"] is None and options["arm"] is None:
        fix = "etui sweep MODEL, or --policy NAME --arm NAME"
        if options["policy"] is not None:
            raise UsageError("--policy needs the arm to measure", "add --arm NAME")
        if options["apply"] == AFTER:
            fix = "etui sweep MODEL --apply, or --apply SWEEP for a finished one"
        raise UsageError("no model given", fix)
    if options["model"] is not None and (options["policy"] or options["arm"]):
        raise UsageError("MODEL cannot be combined with --policy or --arm", "pass only one of them")
    data = options["data"]
    given = {
        name: options[option]
        for name, option in (
            ("blocks", "blocks"),
            ("rounds", "rounds"),
            ("window_s", "window"),
            ("cool_down_s", "cool_down"),
            ("cool_down_celsius", "cool_to"),
        )
        if options[option] is not None
    }
    return SweepRequest(
        model=options["model"],
        policy=options["policy"],
        arm=options["arm"],
        axes=options["axes"],
        workload=options["workload"],
        goal=build_goal(options),
        suite=options["suite"],
        data=None if data is None else Path(data).expanduser().absolute(),
        limit=options["limit"],
        cap=options["cap"],
        halving=not options["no_halving"],
        output_tokens=options["output_tokens"],
        seed=options["seed"],
        **given,
    )
