"""The ``--axis`` options: parsed, and checked against the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from etui.errors import UsageError
from etui.sweep.axes.axis_values import describe_values, parse_value, refuse_value
from etui.sweep.axes.grid import SettingGrid, build_grid
from etui.sweep.axes.machine_facts import MachineFacts, PowerRange, SweptModel
from etui.sweep.setting import AXES, Axis, AxisName, Value
from etui.text.suggest import did_you_mean, suggest

_EXAMPLE = "write it as in --axis threads=1,2,4"
_SHOWN = 40


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Parse axes such as ``threads=1,2,4``.

    Returns:
        The axes, in the order given.

    Raises:
        UsageError: An axis does not exist (the nearest name is suggested) or is given twice, has no
            values, one twice, or one of another type; the message says what is allowed.
    """
    axes: list[Axis] = []
    for text in texts:
        axis = _parse_axis(text)
        if any(axis.name == other.name for other in axes):
            raise UsageError(f"--axis {axis.name} is given twice", "give all its values in one")
        axes.append(axis)
    return tuple(axes)


def _parse_axis(text: str) -> Axis:
    name, equals, listed = (part.strip() for part in text.partition("="))
    shown = name[:_SHOWN] if name.isprintable() else repr(name[:_SHOWN])
    if not name:
        raise UsageError(f"--axis {text[:_SHOWN]!r} names no axis", _EXAMPLE)
    axis = cast(AxisName, name.casefold().replace("-", "_"))
    if axis not in AXES:
        near = did_you_mean(name.replace("-", "_"), AXES, listed=0)
        raise UsageError(
            f"--axis {shown}: there is no such axis{near}", f"the axes are {', '.join(AXES)}"
        )
    pieces = [piece.strip() for piece in listed.split(",")]
    if not equals or pieces == [""]:
        raise UsageError(f"--axis {axis} has no values", f"it takes {describe_values(axis)}")
    if "" in pieces:
        raise UsageError(f"--axis {axis} has an empty value", _EXAMPLE)
    values = tuple(parse_value(axis, piece) for piece in pieces)
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise UsageError(f"--axis {axis}: {twice} is given twice", "give each value once")
    return Axis(axis, values)


def check_axes(axes: Sequence[Axis], facts: MachineFacts) -> tuple[Axis, ...]:
    """Check that this machine and its models can have every value of the axes.

    A value that only some of the compared models can have is allowed: the combinations with the
    others are left out of the grid.

    Raises:
        UsageError: No model can have a value, a model is not on this machine, two axes contradict
            each other or one has no effect, or the grid has one combination only, or too many.
    """
    models = _check_models(axes, facts)
    _check_together({axis.name: axis for axis in axes}, facts)
    for axis in axes:
        for value in () if axis.name == "model" else axis.values:
            reasons = [refuse_value(axis.name, value, model, facts) for model in models]
            if reasons[0] is not None and None not in reasons:
                raise UsageError(f"--axis {axis.name}={value}: {reasons[0][0]}", reasons[0][1])
    grid = build_grid(axes, facts)
    if len(grid.settings) < 2:
        raise _refuse_single(axes, grid)
    return tuple(axes)


def _check_models(axes: Sequence[Axis], facts: MachineFacts) -> tuple[SweptModel, ...]:
    """Return the models that are compared."""
    axis = next((axis for axis in axes if axis.name == "model"), None)
    names: tuple[Value, ...] = (facts.model,) if axis is None else axis.values
    for name in map(str, names):
        if name in facts.models:
            continue
        if name in facts.known_models:
            raise UsageError(
                f"--axis model={name}: its file is not on this machine, or cannot be used",
                f"pull it with `etui models pull {name}`; `etui models info {name}` says more",
            )
        near = suggest(name.lower(), facts.known_models, most=3, cutoff=0.5, quoted=False)
        raise UsageError(
            f"--axis model: no model is called {name!r}",
            f"{near} `etui models list` shows all of them, `etui models pull NAME` downloads "
            "one".lstrip(),
        )
    return tuple(facts.models[str(name)] for name in names)


def _check_together(axes: dict[AxisName, Axis], facts: MachineFacts) -> None:
    """Refuse axes that contradict each other, and those that change nothing."""
    if "threads" in axes and "decode_threads" in axes:
        raise UsageError(
            "--axis threads sets the threads of decode, and so does --axis decode_threads",
            "give decode_threads and prefill_threads, or threads alone",
        )
    decode, prefill = facts.current["decode_threads"], facts.current["prefill_threads"]
    if "threads" in axes and "prefill_threads" not in axes and decode != prefill:
        raise UsageError(
            f"{facts.model} has {decode} threads for decode and {prefill} for prefill now, which "
            "--axis threads would set to the same number",
            "give decode_threads and prefill_threads instead",
        )
    methods: tuple[Value, ...] = (facts.current["speculate"],)
    if "speculate" in axes:
        methods = axes["speculate"].values
    if "draft_tokens" in axes and set(methods) == {"off"}:
        raise UsageError(
            "--axis draft_tokens has no effect with speculate=off",
            "add --axis speculate=off,lookup",
        )
    if facts.shape.reads_letters and {"decode_threads", "draft_tokens"} & axes.keys():
        raise UsageError(
            "a choice readout decodes nothing, so that decode_threads and draft_tokens have no "
            "effect",
            "give prefill_threads or batch_tokens",
        )
    if "power_limit" in axes and facts.power is not None and facts.power.watts is None:
        raise _refuse_current_limits(facts.power)


def _refuse_current_limits(power: PowerRange) -> UsageError:
    now = [f"{watts:g} W" for watts in power.current if watts is not None]
    if len(now) < 2:
        return UsageError(
            "the power limit of now cannot be read, so it could not be restored",
            "leave out this axis",
        )
    return UsageError(
        f"the power limits of {', '.join(power.labels)} differ now: {', '.join(now)}",
        "set them to one value first: the baseline has one limit for all devices",
    )


def _refuse_single(axes: Sequence[Axis], grid: SettingGrid) -> UsageError:
    what = "there is only one combination"
    if grid.settings and grid.settings[0].values:
        what += f", {grid.settings[0].key}, which is in use now"
    if grid.notes:
        what += f" ({'; '.join(grid.notes)})"
    if not axes:
        return UsageError(what, "give an axis with other values, such as --axis threads=1,2")
    first = axes[0].name
    return UsageError(what, f"give another value of {first}: it takes {describe_values(first)}")
