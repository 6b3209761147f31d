"""Format one model: its facts, what is expected of it, and its curve."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from etui import units
from etui.curves.operating_curve import OperatingCurve
from etui.curves.prediction import MachineFacts, Prediction, joules_text, speed_text
from etui.curves.text import age_text, doubt_text, draw_curve, kind_line, points_text, r2_text
from etui.engine.chat_formats import choose_format
from etui.log.model_usage import Spent
from etui.log.text import format_failed, format_spent
from etui.models.found import TITLES
from etui.models.recommend import FIT_TEXTS
from etui.models.spec import describe_sources
from etui.models.tuned import TunedUse, describe_use
from etui.runtime import keep_warm
from etui.sweep.folder import REPORT
from etui.text import local_time, sanitize
from etui.tui.measurements import SweepResult
from etui.tui.models._cards import Cards, ModelCard
from etui.tui.widgets.tables import TableColumn
from etui.turn.record import LoadRecord, UnloadRecord

_STATES = {
    "absent": "not on disk",
    "unchecked": "on disk",
    "refused": "refused",
    "checked": "on disk, verified",
}

_SOURCES = {"calibration": "measured", "log": "from the log"}

COLUMNS = (
    TableColumn("name", "MODEL", 0, most=40, least=22, sorts=False),
    TableColumn("state", "STATE", 3, most=20, sorts=False),
    TableColumn("size", "SIZE", 1, most=10, right=True, sorts=False),
    TableColumn("fits", "FITS IN", 2, most=10, sorts=False),
    TableColumn("speed", "TOK/S", 5, most=10, right=True, sorts=False),
    TableColumn("joules", "J/TOKEN", 6, most=10, right=True, sorts=False),
    TableColumn("good_for", "GOOD FOR", 4, most=60, least=16, sorts=False),
    TableColumn("curve", "CALIBRATED", 7, most=40, least=12, sorts=False),
)

CHOOSER_COLUMNS = tuple(c for c in COLUMNS if c.key not in ("state", "curve"))
"""Without a model, all of them are not on disk and uncalibrated."""

RECOMMENDED = "★"


def model_texts(card: ModelCard, cards: Cards, *, resident: bool) -> dict[str, str]:
    """Return the text of each column of one row, by key, safe for the terminal."""
    mark = f" {RECOMMENDED}" if card.spec.name == cards.recommended else ""
    found = card.forecast
    texts = {
        "name": f"{card.spec.name}{mark}",
        "state": state_text(card, resident=resident),
        "size": units.bytes_text(card.file_bytes),
        "fits": "remote" if card.spec.backend is not None else FIT_TEXTS[card.fit],
        "speed": _format_cell(found.tokens_per_second, found.speed_source),
        "joules": _format_cell(found.joules_per_token, found.joules_source),
        "good_for": card.spec.good_for or _here_text(card),
        "curve": curve_cell(card.curve),
    }
    return {key: sanitize(text) for key, text in texts.items()}


def _here_text(card: ModelCard) -> str:
    """Say that another program has the model; empty for one of etui, or that cannot be used."""
    if card.found is None or card.found.problem:
        return ""
    return f"already here ({TITLES[card.found.program]}), used in place"


def _format_cell(value: float | None, source: str) -> str:
    """Format ``33``, ``≈18`` where it was predicted, or a dash."""
    if value is None:
        return "–"
    return f"{'' if source in ('curve', 'log') else units.ABOUT}{units.significant(value, 2)}"


def state_text(card: ModelCard, *, resident: bool) -> str:
    if card.spec.backend is not None:
        return f"on {card.spec.backend}"
    if card.found is not None:
        return f"in {TITLES[card.found.program]}" if not card.found.problem else "not usable"
    if card.fault:
        return "damaged"
    if card.state == "absent" and card.kept_bytes:
        return "partly pulled"
    return "in memory" if resident and card.has_file else _STATES[card.state]


def curve_cell(curve: OperatingCurve | None, now: datetime | None = None) -> str:
    """Describe what the cost of tokens is known by: ``measured 3 d ago, R² 0.991``."""
    if curve is None:
        return "no"
    source = _SOURCES.get(curve.source, curve.source)
    return f"{source} {age_text(curve.created_at, now)}, R² {r2_text(curve.decode.r2)}"


_LEAST_PLOT = 24
_LABEL = 10  # Width of the labels of facts, in cells
_LEAST_WRAPPED = 24
_PLOT_MARGIN = 8  # Width of the axis to the left of the plot, in cells


def expected_lines(found: Prediction, machine: MachineFacts) -> Iterator[str]:
    """Yield the speed and the joules to expect."""
    yield f"expected  {speed_text(found.forecast, machine, on_gpu=found.fit == 'gpu')}"
    yield f"          {joules_text(found.forecast, machine)}"


def fits_text(card: ModelCard, cards: Cards) -> str:
    """Format the needed and the free memory: ``needs 1.3 GB, 18 GB free``."""
    need = card.need_bytes
    if need is None:
        return units.UNKNOWN
    free, where = cards.machine.ram_bytes, ""
    if card.fit == "gpu":
        free, where = cards.machine.gpu_bytes, " on the GPU"
    is_known = card.need is not None or card.spec.kv_bytes_per_token is not None
    about = "" if is_known else "about "
    text = f"needs {about}{units.bytes_text(need)}, {units.bytes_text(free)} free{where}"
    return f"too large: {text}" if card.fit == "too large" else text


def fact_lines(
    card: ModelCard, cards: Cards, *, resident: bool, running: Sequence[str] = ()
) -> Iterator[str]:
    spec, gguf = card.spec, card.gguf
    yield spec.name
    yield spec.size
    if spec.good_for:
        yield f"good for  {spec.good_for}"
    if spec.licence:
        yield f"licence   {spec.licence}"
    yield ""
    if running:
        yield from running
        yield ""
    if card.tuned is not None:
        yield from _tuned_lines(card.tuned)
    if card.sweep is not None:
        yield from _sweep_lines(card, card.sweep)
    if card.fault:
        yield f"✗ {card.fault}"
        yield (
            f"→ press p to pull {spec.name} again"
            if card.spec.sources
            else "→ put a valid file there"
        )
        yield ""
    yield f"state     {state_text(card, resident=resident)}"
    if card.found is not None:
        problem = card.found.problem
        yield (
            f"          it {problem}" if problem else "          p uses it there, nothing is copied"
        )
    if spec.backend is not None:
        yield f"          as {spec.remote_name or spec.name}; nothing to pull or to load here"
    if card.kept_bytes:
        yield f"          {units.bytes_text(card.kept_bytes)} downloaded: p resumes"
    if card.has_file:
        yield f"          {card.path}"
    else:
        yield from (f"source    {source}" for source in describe_sources(spec))
    yield f"memory    {fits_text(card, cards)}"
    if spec.backend is None:
        yield from expected_lines(card.prediction, cards.machine)
    if cards.machine.gpu_bytes is not None:
        yield (
            f"          free: {units.bytes_text(cards.machine.ram_bytes)} of RAM, "
            f"{units.bytes_text(cards.machine.gpu_bytes)} on the GPU with the most free"
        )
    if gguf is not None and card.need is not None:
        yield f"network   {gguf.architecture}, {units.count_text(gguf.layers, 'layer')}"
        if gguf.experts:
            active = f"{gguf.active_parameters / 1e6:,.0f} M active"
            yield f"          {active}: {gguf.experts_used} of {gguf.experts} experts"
        trained = units.tokens_text(gguf.context_tokens)
        yield f"context   at most {spec.context:,} tokens here, trained for {trained}"
        yield f"KV cache  {units.bytes_text(card.need.kv_bytes)} when full ({spec.kv_type})"
        yield f"chats     {'template in the file' if gguf.chat_template else 'plain text'}"
    form = choose_format(spec, gguf.chat_template if gguf is not None else None)
    if form.thought is not None:
        yield f"thinking  {form.thought.open.strip()} … {form.thought.close}"
    if form.tools:
        yield f"tools     {form.tools}"
    if form.note:
        yield f"note      {form.note}"
    yield from (f"adapter   {adapter}" for adapter in spec.adapters)
    if spec.mmproj is not None:
        yield f"pictures  read by {spec.mmproj.name}"
    if spec.own is not None:
        values = {
            key: value for key, value in asdict(spec.own.sampling).items() if value is not None
        }
        words = [f"{key} {value:g}" for key, value in values.items() if key != "thinking"]
        words += ["a system prompt"] if spec.own.system else []
        yield f"yours     {', '.join(words)} (e changes them)"
    if spec.draft is not None or spec.speculate is not None:
        drafter = f", drafts from {spec.draft}" if spec.draft is not None else ""
        yield f"speculate {spec.speculate or 'off'}{drafter}"
    yield from _usage_lines(card)
    if card.idle is not None:
        yield from _idle_lines(card.idle)
    if card.loads:
        yield ""
        yield "Last loads"
        yield from (_format_load(load) for load in card.loads)


def describe_no_match(words: str) -> str:
    """Say that no model has the words of the filter, and which keys help."""
    if not words:
        return ""
    return sanitize(f"No model here has {words!r}: enter searches the hub for it, esc shows all")


def choice_lines(card: ModelCard, cards: Cards) -> Iterator[str]:
    """Yield what a choice of a model depends on, and where its file comes from."""
    yield f"{card.spec.name}: {card.spec.size}"
    if card.found is not None:
        here = f"{units.bytes_text(card.file_bytes)} in {TITLES[card.found.program]}"
        yield f"here      {here}, p uses it in place: nothing is copied or changed"
    if card.spec.backend is None:
        yield from expected_lines(card.prediction, cards.machine)
    yield f"memory    {fits_text(card, cards)}"
    if card.kept_bytes:
        yield f"kept      {units.bytes_text(card.kept_bytes)} downloaded: p resumes"
    yield from (f"source    {source}" for source in describe_sources(card.spec))


def wrap_facts(lines: Iterable[str], width: int) -> Iterator[str]:
    """Wrap long lines so that their rest is below their text, and not below their labels."""
    for line in lines:
        label, text = line[:_LABEL], line[_LABEL:]
        is_fact = label.endswith(" ") and bool(text)
        if not is_fact or len(line) <= width or width < _LEAST_WRAPPED:
            yield line
            continue
        if text.startswith("/"):  # a path is divided between two folders
            text = text.replace("/", "/ ")
        for part in textwrap.wrap(text, width - _LABEL, break_on_hyphens=False):
            yield label + (part.replace("/ ", "/") if text.startswith("/ ") else part)
            label = " " * _LABEL


def curve_lines(card: ModelCard, width: int, height: int) -> Iterator[str]:
    curve = card.curve
    if curve is None:
        yield "Joules by token count: not calibrated"
        yield "" if card.has_file else "p  pulls the file first"
        yield "c  calibrates: token costs, for forecasts (minutes)"
        yield "C  does it more roughly, in less time"
        yield "s  sweeps: finds its settings of fewest joules"
        return
    yield f"Joules by token count, {points_text(curve)}, {age_text(curve.created_at)}"
    yield curve.conditions.machine
    yield from draw_curve(curve, max(_LEAST_PLOT, width - _PLOT_MARGIN), height)
    shown_kind = curve.kind if curve.kind == "estimate" else None
    for name, phase, token in (
        ("prefill", curve.prefill, "prompt token"),
        ("decode", curve.decode, "output token"),
    ):
        yield (
            f"{name:<8} {units.marked(units.per_text(phase.slope, token, shown_kind))}"
            f" + {units.short_energy_text(phase.e0, shown_kind)}, R² {r2_text(phase.r2)}"
        )
    if curve.held_out_mape is not None:
        yield f"turns off the grid: {units.percent_text(curve.held_out_mape)} mean error"
    yield kind_line(curve)
    if doubt := doubt_text(curve):
        yield f"! {doubt}"


def _tuned_lines(use: TunedUse) -> Iterator[str]:
    first, *others = describe_use(use)
    yield f"tuned     {first}"
    yield from (f"          {line}" for line in others)
    yield "          R goes back to models.yaml"


def _sweep_lines(card: ModelCard, sweep: SweepResult) -> Iterator[str]:
    is_applied = card.tuned is not None and card.tuned.settings.sweep == sweep.id
    state = ", applied" if is_applied else "" if sweep.is_complete else ", stopped: s resumes it"
    yield f"sweep     {local_time(sweep.created)[:16]}{state}"
    if not is_applied:
        yield f"          {sweep.verdict}"
    if card.can_apply:
        yield "          a applies the best setting"
    if sweep.has_report:
        yield f"          report: {Path(sweep.folder, REPORT)}"


def _idle_lines(idle: keep_warm.ModelIdle) -> Iterator[str]:
    """Yield the cost of keeping a model warm, and the idle power after its last unload."""
    if idle.load is not None:
        yield f"loading   {keep_warm.load_text(idle)}"
    if idle.loaded_watts is not None or idle.cold_watts is not None:
        loaded = keep_warm.power_text(idle.loaded_watts, idle.loaded_kind)
        cold = keep_warm.power_text(idle.cold_watts, idle.cold_kind)
        yield f"idling    {loaded} with it in memory, {cold} without (cold)"
    if idle.choice.break_even is not None:
        yield f"          break-even {keep_warm.break_even_text(idle)}"
    yield f"kept      in memory after an answer: {keep_warm.keep_text(idle)}"
    if idle.last_unload is not None:
        yield f"unload    {keep_warm.unload_text(idle.last_unload)}"


def _usage_lines(card: ModelCard) -> Iterator[str]:
    """Yield what was spent with the model, its answers, and when it was used last."""
    usage = card.usage
    if usage is None:
        yield "used      never here"
        return
    yield f"spent     for {' and '.join(usage.uses)}: {format_spent(usage.total)}"
    failed = format_failed(usage.uses.get("answers", Spent()))
    yield f"answers   {usage.answers:,}{failed}{_per_token_text(card)}"
    yield f"used      last on {local_time(usage.last_used)[:16]}"


def _per_token_text(card: ModelCard) -> str:
    """Write the joules of an output token, an estimate only where no turn has a reading."""
    total = card.total
    if total is None:
        return ""
    is_estimate = total.joules is None and total.estimated_joules is not None
    kind = units.ESTIMATE if is_estimate else None
    text = units.marked(units.per_text(total.joules_per_token, "output token", kind))
    return f", {text}, prompts included"


def _format_load(load: LoadRecord | UnloadRecord) -> str:
    what = "loaded" if isinstance(load, LoadRecord) else "unloaded"
    energy = units.marked(units.energy_text(load.joules, load.uncertainty, load.kind))
    seconds = units.seconds_text(load.seconds)
    return f"{local_time(load.created_at)[5:16]}  {what:<8} {seconds}, {energy}"
