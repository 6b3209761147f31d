"""Compare models side by side: by curves at the same lengths, by answers to the same questions.

A difference is claimed only where an interval at 95 % of paired measurements excludes none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from etui.bench.compare import Comparison, System, compare, list_differences, list_obstacles
from etui.bench.config import RunConfig, parse_run_config
from etui.bench.cost import Cost, add_half_widths, build_figure, compute_cost
from etui.bench.folder import read_run
from etui.bench.sample import Sample
from etui.bench.summary import group_by_system
from etui.config.config import Config
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve, PhaseCurve, Speed
from etui.curves.operating_curve import list_differences as list_changes
from etui.curves.prediction import CONTEXT_TOKENS
from etui.engine.offload import needs
from etui.errors import EtuiError, UsageError
from etui.log.filters import TurnFilter
from etui.log.past_answers import read_speed
from etui.log.queries import LogReader
from etui.models.files import content_sha256, may_be_content, model_path
from etui.models.gguf import check_gguf
from etui.models.spec import ModelSpec
from etui.runtime.measure_memory import find_curve_here
from etui.stats.bootstrap import ratio, resample_sums
from etui.stats.small_samples import estimate_means
from etui.stats.tests import Interval, holm, wilson

_RUNS_SQL = "SELECT folder, config FROM runs ORDER BY status <> 'complete', created_at DESC"
_ASKED = (
    *("suite", "split", "data_sha256", "format", "format_version", "grading", "shots", "seed"),
    "prefix_reuse",
)


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What is known of one model; None where it was not measured."""

    name: str
    quantisation: str | None = None
    parameters: int | None = None
    file_bytes: int | None = None  # Of all its files on disk; None if it is not there
    memory_bytes: int | None = None  # Estimated, with its whole context
    speed_from: str = ""  # `curve` or `log`: of its last turns; empty without either
    speed: Speed = field(default_factory=Speed)
    kind: str | None = None  # How the joules of its curve are known
    joules_per_token: Interval | None = None
    """Decoded behind 512 tokens; the interval is that of a turn, the meter's error included."""
    joules_per_prompt_token: Interval | None = None  # In an empty context
    accuracy: Interval | None = None  # On the questions of the run
    cost: Cost | None = None
    correct_per_joule: Interval | None = None


@dataclass(frozen=True, slots=True)
class Contrast:
    """One figure of a second model divided by that of a first, from pairs of measurements."""

    first: str
    second: str
    figure: str
    basis: str  # `curves` or `bench`
    pairs: int  # Lengths or questions
    ratio: Interval
    shown: bool  # Whether the interval excludes that both are equal


@dataclass(frozen=True, slots=True)
class Missing:
    """What was not measured, and the command that does it."""

    models: tuple[str, ...]
    what: str
    command: str


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Several models side by side; each is compared with the first."""

    models: tuple[ModelFigures, ...]
    run: str  # Suite and format of the questions; empty without common ones
    contrasts: tuple[Contrast, ...]
    accuracies: tuple[Comparison, ...]
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What was found of one model."""

    spec: ModelSpec
    sha256: str | None
    curve: OperatingCurve | None
    figures: ModelFigures
    system: System | None = None
    candidates: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Questions and settings of a run -> its folder and the arm with the model, the newest."""


def compare_models(specs: Sequence[ModelSpec], config: Config, log: LogReader) -> ModelComparison:
    """Compare models by what was measured of them on this machine.

    UsageError if there are fewer than two.
    """
    if len(specs) < 2:
        raise UsageError("name two models or more", "`etui models list` shows all of them")
    found, notes = [_find(spec, config, log) for spec in specs], list[str]()
    _find_runs(found, log)
    _read_systems(found, notes)
    curves = [one.curve for one in found if one.curve is not None]
    systems = [one.system for one in found if one.system is not None]
    contrasts = [each for two in curves[1:] for each in _compare_curves(curves[0], two, notes)]
    contrasts += [each for two in systems[1:] for each in _compare_answers(systems[0], two)]
    compared = [compare(systems[0], other) for other in systems[1:]]
    adjusted = holm([one.p_value for one in compared])
    notes += list_differences(systems) if compared else []
    return ModelComparison(
        tuple(_add_answers(one) for one in found),
        f"{systems[0].run.suite} {systems[0].run.format}" if systems else "",
        tuple(contrasts),
        tuple(replace(one, p_holm=p) for one, p in zip(compared, adjusted, strict=True)),
        tuple(_list_missing(found)),
        tuple(dict.fromkeys(notes)),
    )


def _find(spec: ModelSpec, config: Config, log: LogReader) -> _Found:
    """Find the facts, the curve and the speed of a model."""
    sha256 = content_sha256(spec, config)
    figures, path = ModelFigures(spec.name), model_path(spec, config)
    if spec.backend is None and path.is_file():
        with suppress(EtuiError):  # a damaged file is missing, as below
            gguf = check_gguf(path)
            memory = needs(gguf, spec.context, spec.kv_type).total_bytes
            figures = ModelFigures(
                spec.name, gguf.quantisation, gguf.parameters, gguf.size_bytes, memory
            )
    if (curve := find_curve_here(log, spec, config)) is not None:
        price = curve.decode.slope + curve.decode.bend * CONTEXT_TOKENS
        figures = replace(
            figures,
            speed_from="curve",
            speed=curve.speed,
            kind=curve.kind,
            joules_per_token=_around(price, curve, curve.decode, "decode_joules"),
            joules_per_prompt_token=_around(
                curve.prefill.slope, curve, curve.prefill, "prefill_joules"
            ),
        )
    elif (past := read_speed(log, spec.name, sha256, machine_name())) is not None:
        cost, last = log.price(spec.name, sha256), log.list_turns(TurnFilter(spec.name), limit=1)
        each = None if cost is None else Interval(cost.joules_per_token, None, None, None)
        kind = last[0].kind if last else None
        figures = replace(figures, speed_from="log", speed=past, kind=kind, joules_per_token=each)
    return _Found(spec, sha256, curve, figures)


def _around(price: float, curve: OperatingCurve, phase: PhaseCurve, name: str) -> Interval:
    """Return a price with the half width of a turn's prediction and of the meter."""
    joules = [value for point in curve.points if (value := getattr(point, name)) > 0]
    share = phase.band
    if not phase.proportional:
        if not joules:
            return Interval(price, None, None, None)
        share *= len(joules) / math.fsum(joules)
    half = price * math.hypot(share, curve.meter_share)
    return Interval(price, max(0.0, price - half), price + half, "student")


def _compare_curves(
    one: OperatingCurve, two: OperatingCurve, notes: list[str]
) -> Iterator[Contrast]:
    """Compare two curves at the measured turns of the same tokens."""
    names = f"the curves of {one.model} and {two.model}"
    if changed := "; ".join(list_changes(two.conditions, one.conditions)):
        notes.append(f"{names} were measured under other conditions: {changed}")
    # Errors of two meter readings may go in opposite directions.
    meter = min(1.0, one.meter_share + two.meter_share)
    for figure, name in (("J/token", "decode_joules"), ("J/prompt token", "prefill_joules")):
        ours, theirs = (_average_points(curve, name) for curve in (one, two))
        logs = [math.log(theirs[key] / ours[key]) for key in ours if key in theirs]
        if len(logs) < 2:
            notes.append(f"{names} have too few lengths in common for {figure}")
            continue
        mean = estimate_means([np.asarray(logs)], seed=0)[0]
        low, high = (math.exp(mean.mean if end is None else end) for end in (mean.low, mean.high))
        found = Interval(math.exp(mean.mean), low * (1 - meter), high * (1 + meter), mean.method)
        shown = _excludes_equal(found)
        yield Contrast(one.model, two.model, figure, "curves", len(logs), found, shown)


def _excludes_equal(ratio: Interval) -> bool:
    return ratio.low is not None and ratio.high is not None and not ratio.low <= 1 <= ratio.high


def _average_points(curve: OperatingCurve, name: str) -> dict[tuple[int, int, int], float]:
    """Average the joules of a phase by the tokens of the turn."""
    by_tokens: dict[tuple[int, int, int], list[float]] = {}
    for point in curve.points:
        if (joules := getattr(point, name)) > 0:
            key = (point.computed_tokens, point.cached_tokens, point.output_tokens)
            by_tokens.setdefault(key, []).append(joules)
    return {key: math.fsum(values) / len(values) for key, values in by_tokens.items()}


def _find_runs(found: Sequence[_Found], log: LogReader) -> None:
    """Find the runs in the log in which a model answered, with the file that it has now."""
    for folder, text in log.select(_RUNS_SQL):
        try:
            run = parse_run_config(json.loads(text))
        except ValueError:  # of an older etui
            continue
        hashes = {model.name: model.sha256 for model in run.models}
        for arm, settings in () if run.routed else run.arms.items():
            for one in found:
                then = hashes.get(one.spec.name)
                is_same = then is None or may_be_content(one.sha256, one.spec, then)
                if settings.get("model") == one.spec.name and is_same:
                    one.candidates.setdefault(_build_key(run, settings), (folder, arm))


def _build_key(run: RunConfig, settings: Any) -> str:
    """Build a text that is equal for two arms that differ in the model alone."""
    own = {name: value for name, value in settings.items() if name not in ("name", "model")}
    asked = [getattr(run, name) for name in _ASKED]
    return json.dumps([asked, dict(run.asked), own], sort_keys=True)


def _read_systems(found: Sequence[_Found], notes: list[str]) -> None:
    """Read the answers to the questions that most of the models have in common."""
    keys = [key for one in found for key in one.candidates]
    for key in sorted(dict.fromkeys(keys), key=lambda key: -keys.count(key)):
        first: System | None = None
        for one in (one for one in found if key in one.candidates):
            folder, arm = one.candidates[key]
            try:
                recorded = read_run(Path(folder))
            except EtuiError as error:
                notes.append(error.what)
                continue
            samples = group_by_system(recorded.samples, recorded.config).get(arm, [])
            system = System(one.spec.name, arm, recorded.config, samples)
            if samples and not (first and list_obstacles(first, system)):
                one.system, first = system, first or system
        if first is not None:
            return


def _add_answers(one: _Found) -> ModelFigures:
    """Add the accuracy and the cost of its answers."""
    if one.system is None:
        return one.figures
    samples = one.system.samples
    cost = compute_cost(samples, one.system.run.seed)
    per = None if cost is None else cost.per_correct
    return replace(
        one.figures,
        accuracy=wilson(sum(sample.correct for sample in samples), len(samples)),
        cost=cost,
        correct_per_joule=None
        if per is None
        else Interval(1 / per.value, _invert(per.high), _invert(per.low), "bootstrap"),
    )


def _invert(value: float | None) -> float | None:
    return 1 / value if value else None


def _count_steps(sample: Sample) -> float | None:
    """Return the decoded tokens behind the first, as tok/s counts them; None without any."""
    return float(sample.tokens.output - 1) if sample.tokens.output > 1 else None


_Value = Callable[["Sample"], float | None]
_ANSWERS: tuple[tuple[str, _Value, _Value], ...] = (
    ("J/question", lambda one: one.joules, lambda _: 1.0),
    ("right answers per joule", lambda one: float(one.correct), lambda one: one.joules),
    ("J/token", lambda one: one.decode_joules, _count_steps),
    ("decode tok/s", _count_steps, lambda one: one.decode_seconds),
)
"""Figure -> what is summed over the answers above and below the line."""


def _compare_answers(first: System, second: System) -> Iterator[Contrast]:
    """Compare the figures of answers to the same questions by the paired bootstrap."""
    answers = list(zip(first.samples, second.samples, strict=True))
    for figure, above, below in _ANSWERS:
        rows = [([of(sample) for sample in both for of in (above, below)], both)
                for both in answers]  # fmt: skip
        rows = [row for row in rows if None not in row[0]]
        columns: Any = [values for values, _ in rows]
        totals = [math.fsum(column) for column in zip(*columns, strict=True)]
        if len(rows) < 2 or min(totals) <= 0:
            continue
        subjects = [both[0].subject for _, both in rows]
        off: float | None = 0.0
        for side in zip(*(both for _, both in rows), strict=True) if "tok/s" not in figure else ():
            kinds = {one.kind for one in side}
            width = add_half_widths([one.uncertainty for one in side], subjects, kinds)
            joules = math.fsum(one.joules or 0.0 for one in side)
            off = None if width is None or off is None else off + width / joules
        if off is None:  # without the error of the meter there is no interval
            continue
        sums = resample_sums(columns, subjects, first.run.seed)
        value = totals[2] / totals[3] / (totals[0] / totals[1])
        drawn = ratio(sums[:, 2] * sums[:, 1], sums[:, 3] * sums[:, 0])
        found = build_figure(value, drawn, value * off)
        interval = Interval(value, found.low, found.high, "bootstrap")
        shown = _excludes_equal(interval)
        yield Contrast(first.label, second.label, figure, "bench", len(rows), interval, shown)


def _list_missing(found: Sequence[_Found]) -> Iterator[Missing]:
    for one in (one for one in found if one.spec.backend is None):
        name = one.spec.name
        if one.figures.file_bytes is None:
            yield Missing((name,), "its file is not on this machine", f"etui models pull {name}")
        if one.curve is None:
            what = "no curve of this file on this machine"
            yield Missing((name,), what, f"etui calibrate {name}")
    without = tuple(one.spec.name for one in found if one.system is None)
    if without:
        models = " ".join(f"-m {one.spec.name}" for one in found)
        what = "no bench run with the same questions"
        yield Missing(without, what, f"etui bench --suite mmlu -n 200 {models}")
