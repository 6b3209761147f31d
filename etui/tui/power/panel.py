"""The power panel: the running answer, watts over time and by channel, spent energy, models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from etui import units
from etui.energy import devices
from etui.log.daily_energy import EnergySum, sum_by_period
from etui.plots.braille import Graph
from etui.plots.power_history import TOTAL
from etui.text import SEPARATOR, fit_cells, sanitize
from etui.tui.pacing import QUIET, USUAL, Pace
from etui.tui.power import energy_text
from etui.tui.power._widgets import ChannelTable
from etui.tui.power.channel_rows import build_rows, name_channels
from etui.tui.power.feed import PowerFeed, Stage, TimeWindow, mark_stage
from etui.tui.services import BudgetState, SpendingTotals
from etui.tui.widgets.lines import Heading, Line, TitledLines, count_rows
from etui.tui.widgets.power_graph import PowerGraph

if TYPE_CHECKING:
    from etui.energy.types import Energy
    from etui.events import Loaded
    from etui.tui.chat.progress import TurnProgress
    from etui.tui.open_services import LiveMeter
    from etui.turn.record import TurnRecord


_MOST_GRAPH_ROWS, _GRAPH_ROWS, _LEAST_GRAPH_ROWS = 8, 6, 5

_FIXED_ROWS, _AIRY_ROWS = 9, 5
"""Rows of the panel beside graph, channels and lines; rows of its gaps and of its last line."""


@dataclass(frozen=True, slots=True)
class PanelPlan:
    """How the panel uses its height."""

    graph_rows: int = _GRAPH_ROWS
    columns: int = 1  # Channels side by side
    airy: bool = True  # Whether there are gaps between the parts
    left_rows: int = 0  # Rows that are left for more


def plan_panel(height: int, channels: int, lines: int) -> PanelPlan:
    """Divide the height of the panel, so that all of it is seen without scrolling if it can be.

    Where it is short, first the gaps go, then the channels are folded into two columns, then the
    graph shrinks. ``lines`` counts the rows that come and go, as those of budgets.
    """
    left = height - _FIXED_ROWS - lines
    for columns, airy in ((1, True), (1, False), (2, False)):
        rows = left - -(-channels // columns) - (_AIRY_ROWS if airy else 0)
        if rows >= _GRAPH_ROWS:
            graph = min(rows, _MOST_GRAPH_ROWS)
            return PanelPlan(graph, columns, airy, rows - graph)
    return PanelPlan(max(_LEAST_GRAPH_ROWS, left - -(-channels // 2)), 2, airy=False)


NOTHING_READ = "no power sensor can be read; `etui doctor` shows why"
NO_MODEL = "no model in memory"
_MOST_LOADED, _LEAST_MODELS = 3, 4
"""Models in memory that are named, and least rows for the bars of the week's models."""

_WORDS_FROM = 70  # Cells of the status line from which its numbers have a word

_USUAL_ZOOM = 1
_LOADED = "IN MEMORY  "
_USUAL_LINES = 5  # Four of the table of joules, one of the models in memory
_GRAPH_NS, _TABLE_NS = 500_000_000, 1_000_000_000
"""Time between two drawings of the graph and of the numbers: faster ones cannot be read."""

_PHASE_STYLES = {
    "prefill": "$text-primary",
    "thinking": "$text-accent",
    "answer": "$text-success",
    "axis": "",
}


class PowerPanel(VerticalScroll):
    """The side panel; on a narrow screen ``status`` shows its most important facts in one line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p,space", "pause", "Pause the graph", id="power.pause"),
        Binding("s", "parts", "What today went into", id="power.parts"),
    ]
    HELP = "## Power panel"

    def __init__(self, feed: PowerFeed) -> None:
        self._feed = feed
        self._residents: dict[str, str] = {}
        self._loading = ""
        self._answering = ""
        self._pace = USUAL
        self._net = False
        self._answer = energy_text.AnswerEnergy()
        self._recent = energy_text.RecentTokens()
        self._phases = energy_text.PhaseJoules()
        self._records: Sequence[TurnRecord] = ()
        self._spending: SpendingTotals | None = None
        self._problem = ""
        self._shows_parts = False
        self._shared_names: set[str] = set()
        self.budgets: tuple[BudgetState, ...] = ()
        self._window = TimeWindow(feed, _USUAL_ZOOM)
        self._vitals_due_ns = self._graph_due_ns = self._table_due_ns = 0
        self._plan = PanelPlan()
        self._answer_heading = Heading("THIS ANSWER", classes="heading")
        self._facts = Line("–", classes="facts")
        self._bars = Static("", markup=False, classes="bars")
        self._power_heading = Heading("POWER", classes="heading gap")
        self._nothing = Line(classes="unmeasured")
        self._graph = PowerGraph()
        self._table = ChannelTable(cursor=False)
        self._spent = TitledLines(classes="spent gap")
        self._budget_lines = {p: Line(classes="budget") for p in ("turn", "hour", "day")}
        self._by_model = TitledLines(classes="by-model gap")
        self._model = Line(classes="model gap")
        self._shared = Line(classes="unmeasured")
        self._app = Line(classes="app gap")
        self.status = Line(classes="power-status")
        answer = self._answer_heading, self._facts, self._bars
        power = self._power_heading, self._nothing, self._graph, self._table
        spent = self._spent, *self._budget_lines.values(), self._by_model
        super().__init__(*answer, *power, *spent, self._model, self._shared, self._app)

    def on_mount(self) -> None:
        self._nothing.display = self._by_model.display = self._shared.display = False
        for line in self._budget_lines.values():
            line.display = False
        self._show_models()
        self._show_totals()

    def on_resize(self, event: events.Resize) -> None:
        self._adopt_plan()
        self._draw_now()
        self.call_after_refresh(self._show_answer)  # its lines have their new width only then
        self.call_after_refresh(self._show_totals)
        self.call_after_refresh(self._show_models)

    @property
    def residents(self) -> frozenset[str]:
        return frozenset(self._residents)

    @property
    def answering(self) -> str:
        """Name of the model that answers, or that answered last; else of one in memory."""
        return self._answering or next(reversed(self._residents), "")

    def show_power(self, meter: LiveMeter, stage: Stage, *, draw: bool = True) -> None:
        now_ns = time.monotonic_ns()
        channels = len(self._feed.powers)
        self._feed.add(now_ns, meter.latest(), mark_stage(stage))
        if now_ns >= self._vitals_due_ns:
            self._vitals_due_ns = now_ns + _TABLE_NS
            self._feed.vitals = meter.vitals()
            self._show_app()
        if len(self._feed.powers) != channels:
            self._adopt_plan()
        if draw:
            self.draw(now_ns)

    def show_stage(self, stage: Stage) -> None:
        """Mark a new stage in the graph, even one that ends at once."""
        self._feed.history.note(mark_stage(stage))

    def show_turn(self, meter: LiveMeter, progress: TurnProgress, now_ns: int) -> Energy:
        """Show the joules of the running answer since its start, and return it."""
        energy = meter.energy(progress.energy_start_ns or now_ns, now_ns)
        tokens = progress.output_tokens
        recent = self._recent.since(now_ns, tokens)
        speed = recent[1] / (now_ns - recent[0]) * 1e9 if recent is not None else None
        phases: dict[str, float] = {}
        if energy.joules is not None:
            phases = self._phases.look(mark_stage(progress.stage), energy.joules)
        self._answer = energy_text.AnswerEnergy(energy, tokens, speed, phases, running=True)
        self._show_answer()
        return energy

    def show_record(self, record: TurnRecord) -> None:
        self._answering = record.model
        self._answer = energy_text.answer_of_record(record)
        self._phases = energy_text.PhaseJoules()
        self._show_answer()

    def end_turn(self) -> None:
        """Keep what is shown of an answer that has ended, with or without a record."""
        if self._answer.running:
            self._answer = replace(self._answer, running=False)
            self._phases = energy_text.PhaseJoules()
            self._show_answer()

    def show_answering(self, model: str) -> None:
        self._answering = model
        self._shared_names.clear()
        self._shared.display = False
        self._show_status()

    def show_chat(self, records: Sequence[TurnRecord]) -> None:
        self._records = records
        if not self._answer.running:
            last = records[-1] if records else None
            self._answer = (
                energy_text.answer_of_record(last) if last else energy_text.AnswerEnergy()
            )
            self._answering = last.model if last else ""
            self._show_answer()
        self._show_totals()

    def show_spending(self, spending: SpendingTotals | None, problem: str = "") -> None:
        """Show the totals of the day and the budgets; for None show ``problem`` instead."""
        self._problem = problem
        if spending is not None:
            self._spending, self.budgets = spending, spending.budgets
        self._show_totals()

    def action_parts(self) -> None:
        self._shows_parts = not self._shows_parts
        self._show_totals()

    def toggle_net(self) -> bool:
        self._net = not self._net
        self._show_totals()
        self._show_answer()
        return self._net

    def zoom(self, steps: int) -> None:
        self._window.zoom(steps)
        self._draw_now()

    def action_pause(self) -> None:
        self._window.pause()
        self._draw_now()

    def show_pace(self, pace: Pace) -> None:
        self._pace = pace
        self._vitals_due_ns = 0

    def show_loading(self, model: str) -> None:
        self._loading = model
        self._show_models()

    def show_loaded(self, loaded: Loaded) -> None:
        experts = f", experts of {loaded.cpu_moe} in RAM" if loaded.cpu_moe else ""
        where = f" ({loaded.gpu_layers} on GPU{experts})" if loaded.gpu_layers else ""
        self._residents.pop(loaded.model, None)
        self._residents[loaded.model] = f"{units.bytes_text(loaded.size_bytes)}{where}"
        self._loading = ""
        self._show_models()

    def show_unloaded(self, model: str) -> None:
        self._residents.pop(model, None)
        self._show_models()

    def show_no_model(self) -> None:
        self._residents.clear()
        self._loading = ""
        self._show_models()

    def _adopt_plan(self) -> None:
        if not self.size.height:  # Before its first size a plan would only be drawn to be undone
            return
        width = max(1, self._facts.content_size.width)
        texts = (self._spent, self._model, self._shared, *self._budget_lines.values())
        lines = sum(count_rows(str(each.content), width) for each in texts if each.display)
        self._plan = plan_panel(self.size.height, len(self._feed.powers), lines - _USUAL_LINES)
        self._graph.styles.height = self._plan.graph_rows
        self.set_class(not self._plan.airy, "-tight")
        self._show_by_model(width)

    def _show_by_model(self, width: int) -> None:
        """Show bars of the week's models where rows are left for them."""
        rows, spending, bars = self._plan.left_rows - 2, self._spending, list[str]()
        if rows >= _LEAST_MODELS and spending is not None and spending.daily is not None:
            from etui.tui.power.spent_text import model_bars  # not needed for the first paint

            bars = model_bars(spending.daily, None, width)[:rows]
        self._by_model.display = bool(bars)
        self._by_model.set_text("\n".join(["JOULES BY MODEL, since Mon+idling", *bars]))

    def _draw_now(self) -> None:
        self._graph_due_ns = self._table_due_ns = 0
        self.draw(time.monotonic_ns())

    def draw(self, now_ns: int) -> None:
        tick_ns = int(self._pace.tick_seconds * 1e9)
        if now_ns >= self._graph_due_ns:
            self._graph_due_ns = now_ns + max(_GRAPH_NS, tick_ns)
            self._show_status()
            if self.size.height:
                self._draw_graph()
        if now_ns >= self._table_due_ns and self.size.height:
            self._table_due_ns = now_ns + max(_TABLE_NS, tick_ns)
            rows = tuple(row for row in build_rows(self._window.states()) if row.state is not None)
            self._table.styles.height = -(-len(rows) // self._plan.columns)
            self._table.show(rows, self._window, columns=self._plan.columns)
            self._show_power_heading()

    def _show_power_heading(self) -> None:
        states = self._window.states()
        watts = devices.total_watts([state.power for state in states])
        now = "" if self._feed.history.newest_ns is None else units.UNMEASURED
        if watts is not None:
            now = units.of_limit_text(
                watts, devices.total_limit_watts(states), devices.total_kind(states)
            )
        span = self._window.span_text if states else ""
        self._power_heading.show(f"POWER  {now}", "paused" if self._window.is_held else span)

    def _draw_graph(self) -> None:
        states = self._window.states()
        powers = [state.power for state in states]
        read = self._feed.history.newest_ns is not None
        self._nothing.display = read and not powers
        self._graph.display = bool(powers)
        if not powers:
            self._nothing.set_text(NOTHING_READ)
        limit = devices.total_limit_watts(states)
        buckets = self._window.buckets(TOTAL, self._graph.values)
        self._graph.show(Graph(buckets, limit, devices.total_idle_watts(states)))

    def _show_app(self) -> None:
        quiet = f"{SEPARATOR}quiet mode" if self._pace is QUIET else ""
        share = self._feed.vitals.app_share
        if share is not None:
            self._app.set_text(f"this screen takes {units.percent_text(share)} of one core{quiet}")
        self._show_shared()

    def _show_shared(self) -> None:
        """Say once whose joules are counted too, while others use what is measured."""
        states = self._feed.states()
        named = zip(name_channels(states), states, strict=True)
        found = [name for name, state in named if state.power.in_total and state.device.shared]
        if not self._shared_names.issuperset(found):  # it stays until the next answer
            self._shared_names.update(found)
            names = ", ".join(sorted(self._shared_names))
            text = f"! {names} shared with other programs"
            self._shared.set_text(fit_cells(text, max(20, self._facts.content_size.width)))
            self._shared.display = True
            self._adopt_plan()

    def _show_answer(self) -> None:
        answer, width = self._answer, max(1, self._facts.content_size.width)
        heading = "THIS ANSWER" if answer.running else "LAST ANSWER"
        if answer.energy is not None:
            heading += ", without idle" if self._net else ", idle included"
        elif not answer.running:
            heading = "NO ANSWER YET"
        badge = f"{units.ABOUT} estimated" if answer.is_estimate else answer.kind or ""
        self._answer_heading.show(heading, badge)
        unknown = "its joules will be shown here" if answer.energy is None else "–"
        self._facts.set_text(energy_text.facts_line(answer, width, net=self._net) or unknown)
        runs = energy_text.phase_line(answer, width)
        bars = Content.assemble(*((text, _PHASE_STYLES.get(ink, "")) for text, ink in runs))
        if str(bars) != str(self._bars.content):
            grows = bool(runs) != bool(str(self._bars.content))
            self._bars.update(bars, layout=grows or self._bars.size.height > 1)
        self._bars.display = bool(runs)
        self._show_status()

    def _show_totals(self) -> None:
        width, spending = max(1, self._facts.content_size.width), self._spending
        chat = "chat, net" if self._net else "chat answers"
        rows = [(chat, energy_text.sum_chat(self._records, net=self._net))]
        daily, today = (None, None) if spending is None else (spending.daily, spending.today)
        if daily is not None and today is not None:
            sums = sum_by_period(daily, today)
            rows.append(("today+idling", sums["day"]))
            if self._shows_parts:
                from etui.tui.power.spent_text import part_rows  # not needed for the first paint

                rows += part_rows(daily, today)
            rows.append(("since Mon+idling", sums["week"]))
        elif not self._problem:
            rows += [("today+idling", EnergySum()), ("since Mon+idling", EnergySum())]
        lines = energy_text.sum_lines("SPENT", [(*row, "") for row in rows], width)
        missing = max(found.unmeasured for _, found in rows)
        lines += [f"{missing:,} unmeasured, not counted"] if missing else []
        lines += wrap(self._problem, width)
        self._spent.set_text("\n".join(lines))
        for period, line in self._budget_lines.items():
            budget = next((b for b in self.budgets if b.period == period), None)
            line.display = budget is not None
            if budget is not None:
                bar = energy_text.budget_bar(budget, width)
                line.set_text(bar or f"{period} {energy_text.budget_text(budget)}")
                line.set_class(energy_text.spent_share(budget) >= 1, "-over")
        self._adopt_plan()
        self._show_status()

    def _show_models(self) -> None:
        width = (self._facts.content_size.width or 80) - len(_LOADED)
        held = [f"loading {self._loading} …"] if self._loading else []
        held += [f"{name} {detail}" for name, detail in reversed(self._residents.items())]
        shown = [fit_cells(sanitize(text), width) for text in held or ["none"]][:_MOST_LOADED]
        if len(held) > len(shown):
            shown.append(f"and {len(held) - len(shown)} more")
        self._model.set_text(_LOADED + f"\n{' ' * len(_LOADED)}".join(shown))
        self._adopt_plan()
        self._show_status()

    def _show_status(self) -> None:
        width = self.status.content_size.width
        if not width:
            return
        states = self._feed.states()
        watts = devices.total_watts([state.power for state in states])
        now_ns = self._feed.history.newest_ns or 0
        history = self._feed.history.buckets(TOTAL, now_ns, 1.0, 24).means
        top = devices.total_limit_watts(states) or max(
            (w for w in history if w is not None), default=1.0
        )
        budget = energy_text.tightest_budget(self.budgets)
        last, now = ("answer ", "now ") if width >= _WORDS_FROM else ("", "")
        joules = self._answer.joules_word(net=self._net)
        facts = energy_text.StatusFacts(
            joules=f"{last}{joules}" if joules else "",
            per_token=self._answer.per_token_text(net=self._net),
            watts=now + units.short_watts_text(watts, devices.total_kind(states)) if states else "",
            history=history,
            top_watts=top or 1.0,
            model=sanitize(f"loading {self._loading}" if self._loading else self.answering)
            or NO_MODEL,
            budget=""
            if budget is None
            else units.whole_percent_text(energy_text.spent_share(budget)),
        )
        self.status.set_text(energy_text.status_line(facts, width))
