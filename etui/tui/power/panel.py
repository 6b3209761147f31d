"""The power panel: live power, energy of the running answer, and spent energy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from etui import units
from etui.energy.types import Energy
from etui.events import Loaded
from etui.runtime.route import Route
from etui.text.sanitize import sanitize
from etui.text.tables import SEPARATOR
from etui.tui.pacing import QUIET, USUAL, Pace
from etui.tui.power.channel import ChannelMeter, total_watts
from etui.tui.power.feed import PowerFeed
from etui.tui.power.phases import LEGEND, PhaseStrip, Stage, mark_stage
from etui.tui.power.spending_text import budget_text, chat_text, joules_text, today_text
from etui.tui.services import PowerMeter, SpendingTotals, Vitals
from etui.tui.widgets.fact_line import FactLine, Line
from etui.turn.record import TurnEnergy, TurnRecord

_SPENT = ("chat", "today", "turn", "hour", "day")


NOTHING_READ = "no power sensor can be read; `etui doctor` shows why"


class Section(Vertical):
    """A heading and the text below it."""

    def __init__(self, heading: str, name: str) -> None:
        super().__init__(classes=f"wide section {name}")
        self._heading = Line(heading, classes="heading")
        self._body = Line("–", classes="body")

    def compose(self) -> ComposeResult:
        """Lay out the heading and the text."""
        yield self._heading
        yield self._body

    def show(self, body: str) -> None:
        """Show this text."""
        self._body.set_text(body)

    def rename(self, heading: str) -> None:
        """Replace the heading."""
        self._heading.set_text(heading)


class PowerPanel(VerticalScroll, can_focus=False):
    """The side panel; on a narrow screen the style sheet reduces it to one line.

    Args:
        feed: Record of the watts, which every reading is added to.
    """

    HELP = """\
## Power

Watts now, on a scale from 0 to the channel's limit; the dotted line is the idle power. The letters
under the graph show the stage: L load, P prefill, T thinking, A answer. The joules of an answer do
not include loading the model. *Gross* includes idle power, *net* subtracts it.
"""

    def __init__(self, feed: PowerFeed) -> None:
        super().__init__()
        self._feed = feed
        self._meters: dict[str, ChannelMeter] = {}
        self._residents: dict[str, str] = {}
        self._pace = USUAL
        self._net = False
        self._recent = RecentTokens()
        self._vitals = Vitals()
        self._vitals_tick = 0
        self._shown: tuple[str, Energy | TurnEnergy, str] | None = None
        self._records: Sequence[TurnRecord] = ()
        self._fold = Line(classes="fold")
        self._nothing = Line(classes="wide unmeasured")
        self._strip = PhaseStrip()
        self._turn = Section("This answer", "turn")
        self._spent = {name: FactLine(classes=f"wide spent {name}") for name in _SPENT}
        self._spent_heading = Line("Spent", classes="wide heading second")
        self._power = Line("Power now", classes="wide heading")
        self._model = Section("Models", "model")
        self._app = Line(classes="wide app")
        self._watts_text = self._turn_text = self._model_text = ""

    def compose(self) -> ComposeResult:
        """Lay out the one line of narrow screens, and the parts of wide ones."""
        yield self._fold
        yield self._power
        yield self._nothing
        yield Vertical(classes="wide meters")
        yield self._strip
        yield Static(LEGEND, markup=False, classes="wide legend")
        yield self._turn
        yield self._spent_heading
        yield from self._spent.values()
        yield self._model
        yield self._app

    def on_mount(self) -> None:
        """Show the panel before any reading or model."""
        self._strip.add_class("wide")
        self._model.show("no model")
        self._show_totals()

    @property
    def residents(self) -> frozenset[str]:
        """Names of the models in memory."""
        return frozenset(self._residents)

    async def show_power(self, meter: PowerMeter, stage: Stage) -> None:
        """Add the latest reading of every channel, and the current stage."""
        powers = meter.latest()
        self._feed.add(time.monotonic_ns(), powers, mark_stage(stage))
        for power in powers:
            shown = self._meters.get(power.channel.id)
            if shown is None:
                shown = self._meters[power.channel.id] = ChannelMeter(power.channel)
                await self.query_one(".meters").mount(shown)
                shown.show_vitals(self._vitals)
            shown.push(power)
        self._strip.push(stage, self._pace.samples)
        self._watts_text = total_watts(powers)
        several = len([power for power in powers if power.in_total]) > 1
        self._power.set_text(f"Power now: {self._watts_text}" if several else "Power now")
        self._nothing.display = not powers
        if not powers:
            self._nothing.set_text(f"{units.UNMEASURED}: {NOTHING_READ}")
        self._vitals_tick -= 1
        if self._vitals_tick <= 0:
            self._vitals_tick = round(1 / self._pace.tick_seconds)
            self._feed.vitals = meter.vitals()
            self._show_vitals(self._feed.vitals)
        self._show_fold()

    def show_stage(self, stage: Stage) -> None:
        """Mark a new stage under the graph, even one that ends at once."""
        self._strip.note(stage)

    def show_turn(self, meter: PowerMeter, start_ns: int, now_ns: int, output_tokens: int) -> str:
        """Show the joules of the running answer since its start, and return their text."""
        energy = meter.energy(start_ns, now_ns)
        per_token = _per_token(energy, output_tokens, "mean")
        recent = self._recent.since(now_ns, output_tokens)
        if recent is not None and per_token:
            now = _per_token(meter.energy(recent[0], now_ns), recent[1], "now")
            per_token += f"\n{now}" if now else ""
        self._show_joules("This answer", energy, per_token)
        return joules_text(energy, net=False)

    def show_record(self, record: TurnRecord) -> None:
        """Show the joules of the finished answer."""
        per_token = _per_token(record.energy, record.tokens.output, "mean")
        self._show_joules("Last answer", record.energy, per_token)

    def show_chat(self, records: Sequence[TurnRecord]) -> None:
        """Show the energy of the chat so far."""
        self._records = records
        self._show_totals()

    def show_spending(self, spending: SpendingTotals | None, problem: str = "") -> None:
        """Show the totals of the day and the budgets; for None show ``problem`` instead."""
        if spending is None:
            self._spent["today"].show(f"today: {problem}")
            return
        self._spent["today"].show(f"today {today_text(spending.today)}")
        budgets = {budget.period: budget_text(budget) for budget in spending.budgets}
        for period in ("turn", "hour", "day"):
            text = budgets.get(period)
            self._spent[period].show(f"{period} budget {text}" if text else "")

    def toggle_net(self) -> bool:
        """Switch between gross and net joules, and return whether they are net now."""
        self._net = not self._net
        self._show_totals()
        if self._shown is not None:
            self._show_joules(*self._shown)
        return self._net

    def show_pace(self, pace: Pace) -> None:
        """Adopt the pace at which the panel is drawn from now on."""
        self._pace = pace
        self._vitals_tick = 0

    def show_loading(self, model: str) -> None:
        """Show that a model is being loaded."""
        self._show_models(f"loading {model} …")

    def show_loaded(self, loaded: Loaded) -> None:
        """Add a model that is now in memory."""
        layers = loaded.gpu_layers
        where = f"{units.count_text(layers, 'layer')} on the GPU" if layers else "on the CPU"
        took = units.seconds_text((loaded.end_ns - loaded.start_ns) / 1e9)
        size = units.bytes_text(loaded.size_bytes)
        self._residents.pop(loaded.model, None)
        self._residents[loaded.model] = f"{size} {where}, loaded in {took}"
        self._show_models()

    def show_unloaded(self, model: str) -> None:
        """Remove a model that was unloaded."""
        self._residents.pop(model, None)
        self._show_models()

    def show_no_model(self) -> None:
        """Show that no model is in memory."""
        self._residents.clear()
        self._show_models()

    def show_route(self, route: Route) -> None:
        """Show what chooses the next model."""
        chosen_by = f"you: {route.model}" if route.model else f"policy {route.policy}"
        self._model.rename(sanitize(f"Models ({chosen_by})"))

    def _show_vitals(self, vitals: Vitals) -> None:
        self._vitals = vitals
        for shown in self._meters.values():
            shown.show_vitals(vitals)
        quiet = f"{SEPARATOR}quiet mode" if self._pace is QUIET else ""
        if vitals.app_share is not None:
            share = units.percent_text(vitals.app_share)
            self._app.set_text(f"this screen: {share} of one core{quiet}")

    def _show_joules(self, heading: str, energy: Energy | TurnEnergy, per_token: str) -> None:
        self._shown = (heading, energy, per_token)
        joules = joules_text(energy, net=self._net)
        lines = [joules, per_token]
        self._turn.show("\n".join(line for line in lines if line))
        self._turn.rename(f"{heading} ({self._word}, ^g {'gross' if self._net else 'net'})")
        self._turn_text = joules
        self._show_fold()

    def _show_totals(self) -> None:
        self._spent["chat"].show(f"chat {chat_text(self._records, net=self._net)}")
        word = "chat net, rest gross" if self._net else "gross"
        self._spent_heading.set_text(f"Spent ({word})")

    @property
    def _word(self) -> str:
        return "net" if self._net else "gross"

    def _show_models(self, loading: str = "") -> None:
        held = [f"{name}\n{detail}" for name, detail in reversed(self._residents.items())]
        lines = [loading, *held] if loading else held
        self._model.show(sanitize("\n".join(lines) or "no model"))
        self._model_text = sanitize(
            loading or next(reversed(self._residents), "no model in memory")
        )
        self._show_fold()

    def _show_fold(self) -> None:
        watts = f"now {self._watts_text}" if self._watts_text else ""
        parts = (self._turn_text, watts, self._model_text)
        text = SEPARATOR.join(part for part in parts if part)
        self._fold.set_text(text)


def _per_token(energy: Energy | TurnEnergy, output_tokens: int, word: str) -> str:
    if energy.joules is None or not output_tokens:
        return ""
    kind = None if energy.kind is None else str(energy.kind)
    return f"{units.per_token_text(energy.joules / output_tokens, kind)} {word}"


NOW_NS = 2_000_000_000
"""Window that counts as now, ns: long enough for a counter to advance several times."""


@dataclass(slots=True)
class RecentTokens:
    """Recent token counts, as pairs of a time (monotonic, ns) and the tokens by then."""

    looks: deque[tuple[int, int]] = field(default_factory=deque)

    def since(self, now_ns: int, output_tokens: int) -> tuple[int, int] | None:
        """Note the token count, and return the start of the window with the tokens decoded in it.

        None until the window has passed since the first call, and while no token is in it.
        """
        if self.looks and output_tokens < self.looks[-1][1]:
            self.looks.clear()  # another answer
        self.looks.append((now_ns, output_tokens))
        while len(self.looks) > 1 and self.looks[1][0] <= now_ns - NOW_NS:
            self.looks.popleft()
        start_ns, tokens = self.looks[0]
        if start_ns > now_ns - NOW_NS or output_tokens == tokens:
            return None
        return start_ns, output_tokens - tokens
