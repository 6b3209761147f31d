"""The list of models, what both screens that have it do with it, and the search of the hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from etui import units
from etui.config.config import Config
from etui.curves.prediction import DecodeForecast, MachineFacts, value_cell
from etui.models.recommend import FIT_TEXTS
from etui.models.spec import describe_sources
from etui.text import join_lines, sanitize
from etui.tui import jobs
from etui.tui._work import faults_shown, in_thread, warn
from etui.tui.jobs import JobBar
from etui.tui.modals import PageModal, confirm
from etui.tui.models._cards import CardReader, Cards, ModelCard
from etui.tui.models._text import curve_lines, expected_lines, fact_lines, model_texts, wrap_facts
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.lines import TitledLines
from etui.tui.widgets.tables import FittedTable, TableColumn, has_words

if TYPE_CHECKING:
    from etui.runtime.search_models import PricedQuantisation, PricedRepository, SearchResult

T = TypeVar("T")
_PLOT_HEIGHT = 10
_LIMIT = 8  # Most repositories: two requests each
_QUESTION_CELLS = 68  # Width of a question on a terminal of 80 columns
_LOCAL = 3  # Most models of the list that are named
_REPOSITORIES = (
    TableColumn("name", "REPOSITORY", 0, most=70, least=24, sorts=False),
    TableColumn("size", "SIZE", 1, most=20, right=True, sorts=False),
    TableColumn("downloads", "DOWNLOADS", 2, most=12, right=True, sorts=False),
    TableColumn("licence", "LICENCE", 3, most=30, least=10, sorts=False),
)
_QUANTISATIONS = (
    TableColumn("label", "QUANTISATION", 0, most=40, least=12, sorts=False),
    TableColumn("size", "SIZE", 1, most=10, right=True, sorts=False),
    TableColumn("fits", "FITS IN", 2, most=10, sorts=False),
    TableColumn("speed", "TOK/S", 3, most=14, right=True, sorts=False),
    TableColumn("joules", "J/TOKEN", 4, most=14, right=True, sorts=False),
    TableColumn("note", "", 5, most=40, least=8, sorts=False),
)


class ModelDetailsModal(PageModal):
    """Shows a model: its facts, every source of its file, and its curve."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Close", id="model.close", key_display="esc"),
        Binding("j", "move(1)", "Down", id="model.down", show=False),
        Binding("k", "move(-1)", "Up", id="model.up", show=False),
        Binding("g", "jump(-1)", "Top", id="model.top", show=False),
        Binding("G", "jump(1)", "End", id="model.end", show=False),
    ]

    def __init__(self, card: ModelCard, cards: Cards, *, resident: bool, problem: str = "") -> None:
        super().__init__("model-page")
        self._problem = Static(sanitize(problem), markup=False, classes="problem")
        self._card = card
        self._cards = cards
        self._resident = resident
        self._text = TitledLines(classes="facts")

    def compose(self) -> ComposeResult:
        with self.page:
            yield self._problem
            yield self._text
        yield KeyFooter()

    def on_mount(self) -> None:
        self._problem.display = bool(self._problem.content)
        self.page.focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        width = self._text.size.width
        lines = wrap_facts(self._lines(width), width)
        self._text.set_text(sanitize("\n".join(lines)))

    def _lines(self, width: int) -> Iterator[str]:
        yield from fact_lines(self._card, self._cards, resident=self._resident)
        if self._card.has_file:
            yield ""
            yield from (f"source    {source}" for source in describe_sources(self._card.spec))
        yield ""
        hint = "Joules by token count: not calibrated; c on the Models screen (F6) does it"
        yield from curve_lines(self._card, width, _PLOT_HEIGHT) if self._card.curve else [hint]


class ModelTable(FittedTable[ModelCard]):
    """One row per model."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Details", id="models.details", show=False),
    ]


class FilterInput(Input):
    """The words that a model must have; Enter searches the hub for them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Search the hub", id="models.search"),
        Binding("down", "app.focus_next", "List", id="models.find_list"),
        Binding("escape", "leave", "Show all", id="models.find_close"),
    ]

    async def action_leave(self) -> None:
        self.value = ""
        await self.action_submit()


class ModelList(Vertical):
    """The table and its filter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", "Find", id="models.find", key_display="/", show=False),
    ]

    @dataclass
    class SearchAsked(Message):
        """The hub is to be searched for some words."""

        words: str

    def __init__(self, columns: Sequence[TableColumn], show: Callable[[], object]) -> None:
        self._show = show  # Called when another model is under the cursor, or none
        self._cards = Cards(())
        self._residents: Collection[str] = ()
        self._filter = FilterInput(
            placeholder="name, size or purpose; enter searches the hub", compact=True, id="find"
        )
        self._filter.display = False
        self._table = ModelTable(columns, self._texts, id="models", margin=1)
        super().__init__(self._filter, self._table, id="model-list")

    @property
    def current(self) -> ModelCard | None:
        return self._table.current

    @property
    def words(self) -> str:
        """The words of the filter; empty while all models are shown."""
        return self._filter.value.strip()

    def show(self, cards: Cards, residents: Collection[str], cursor: str | None = None) -> None:
        """Show the models; the cursor stays on its model."""
        self._cards, self._residents = cards, residents
        self._fill(cursor)

    def action_find(self) -> None:
        self._filter.display = True
        self._fit()
        self._filter.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        changed.stop()
        self._fill()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        submitted.stop()
        self.show_all()
        if words := submitted.value.strip():
            self.post_message(self.SearchAsked(words))

    def show_all(self) -> None:
        self._filter.display = False
        self._filter.value = ""
        self._fit()
        self._table.focus()

    def on_data_table_row_highlighted(self) -> None:
        self._show()

    def on_resize(self) -> None:
        self._fit()
        self._table.move_cursor(row=self._table.cursor_row, animate=False)

    def _fill(self, cursor: str | None = None) -> None:
        current = self.current
        cursor = cursor or (None if current is None else current.spec.name)
        shown = [
            card
            for card in self._cards.models
            if has_words(
                f"{card.spec.name} {card.spec.size} {card.spec.good_for}", self._filter.value
            )
        ]
        names = [card.spec.name for card in shown]
        self._table.show(shown, names.index(cursor) if cursor in names else 0)
        self._fit()
        self._show()

    def _texts(self, card: ModelCard) -> dict[str, str]:
        return model_texts(card, self._cards, resident=card.spec.name in self._residents)

    def _fit(self) -> None:
        """Take the rows that all models need, so that a filter does not move what is below."""
        if self.screen.has_class("-low"):
            self.styles.height = "1fr"  # what is left: the cursor must not be below the screen
        else:
            self.styles.height = len(self._cards.models) + 1 + int(self._filter.display)


class CardsScreen(Screen[T]):
    """A screen with the list of models: it reads their cards, and runs one job at a time."""

    AUTO_FOCUS = "ModelTable"
    READ_AGAIN = "press r to read again"

    def __init__(
        self,
        config: Config,
        backend: Callable[[], Services | None],
        columns: Sequence[TableColumn],
        job: JobBar,
    ) -> None:
        super().__init__()
        self._config = config
        self._backend = backend
        self._reader = CardReader(config, backend)
        self._cards = Cards(())
        self._residents: tuple[str, ...] = ()
        self._problem_text = ""
        self._list = ModelList(columns, self._show_current)
        self._job = job

    def on_unmount(self) -> None:
        self._reader.close()

    def action_stop(self) -> None:
        self._job.stop()

    def action_show_all(self) -> None:
        self._list.show_all()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave out of the footer what cannot be done now, so that a narrow one has room."""
        if action == "show_all":
            return bool(self._list.words) and not self._job.is_running
        return self._job.is_running if action == "stop" else True

    @work(exclusive=True, group="hub")
    async def on_model_list_search_asked(self, asked: ModelList.SearchAsked) -> None:
        if wanted := await ask_hub(self, asked.words, self._backend(), self._cards):
            self._pull(wanted.reference, wanted.prediction.forecast)

    def on_data_table_row_selected(self) -> None:
        if card := self._list.current:
            resident, problem = card.spec.name in self._residents, self._problem_text
            modal = ModelDetailsModal(card, self._cards, resident=resident, problem=problem)
            self.app.push_screen(modal)

    @work(exclusive=True, group="models-read", exit_on_error=False)
    async def action_read(self) -> None:
        with faults_shown(self):
            async for cards in self._reader.read_all(self.READ_AGAIN):
                self._show_cards(cards)

    def _pull(self, name: str, forecast: DecodeForecast) -> None:
        self._job.start(f"pulling {name} …", partial(jobs.pull, name, forecast))

    def _show_cards(self, cards: Cards) -> None:
        raise NotImplementedError

    def _show_current(self) -> None:
        raise NotImplementedError


async def ask_hub(
    node: Screen[Any], words: str, services: Services | None, cards: Cards
) -> PricedQuantisation | None:
    """Search the hub on a screen of its own, from a worker; return what is to be pulled."""
    if services is None:
        warn(node, "etui is still starting", "try again in a moment")
        return None
    shelf, machine = services.shelf, cards.machine
    here = tuple(card.spec.name for card in cards.models if card.has_file and not card.fault)
    screen = HubSearchScreen(words, lambda text, most: shelf.search(text, most, machine), here)
    return await node.app.push_screen_wait(screen)


class _HubTable(FittedTable[T]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Choose", id="hub.choose"),
    ]


class HubSearchScreen(Screen["PricedQuantisation | None"]):
    """Searches the hub for words; the result is what the user chose to pull.

    ``search`` is called in a thread, with the words and the most repositories.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="hub.leave"),
        Binding("slash", "words", "Other words", id="hub.words", key_display="/"),
    ]

    HELP = "## Search of the hub"

    def __init__(
        self, words: str, search: Callable[[str, int], SearchResult], on_disk: tuple[str, ...]
    ) -> None:
        super().__init__()
        self._search_hub = search
        self._on_disk = on_disk
        self._machine = MachineFacts()
        self._words = Input(words, placeholder="words of a model", compact=True, id="hub-words")
        self._status = Static("", markup=False, id="hub-status")
        self._repositories = _HubTable(_REPOSITORIES, _repository_texts, id="repositories")
        self._quantisations = _HubTable(_QUANTISATIONS, quantisation_texts, id="quantisations")
        self._facts = Static("", markup=False)

    def compose(self) -> ComposeResult:
        yield self._words
        yield self._status
        yield self._repositories
        yield self._quantisations
        with VerticalScroll(id="hub-facts"):
            yield self._facts
        yield KeyFooter()

    def on_mount(self) -> None:
        self._set_found(False)
        self._words.focus()
        self._search(self._words.value)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_facts)

    def action_words(self) -> None:
        self._words.focus()

    def action_leave(self) -> None:
        if self.focused is self._quantisations:
            self._repositories.focus()
        else:
            self.dismiss(None)

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        if words := submitted.value.strip():
            self._search(words)

    def on_data_table_row_highlighted(self, news: DataTable.RowHighlighted) -> None:
        if news.data_table is self._repositories:
            self._show_quantisations()
        self._show_facts()

    def on_data_table_row_selected(self, news: DataTable.RowSelected) -> None:
        if news.data_table is self._quantisations:
            self._choose()
        elif self._quantisations.records:
            self._quantisations.focus()

    @work(exclusive=True, group="hub-search", exit_on_error=False)
    async def _search(self, words: str) -> None:
        self._status.update(sanitize(f"searching the hub for {words!r} …"))
        with faults_shown(self, self._status.update):
            found = await in_thread(partial(self._search_hub, words, _LIMIT))
            self._show(found)

    def _show(self, found: SearchResult) -> None:
        self._machine = found.machine
        self._status.update(sanitize("\n".join(result_lines(found, self._on_disk))))
        self._repositories.show(found.repositories)
        self._set_found(bool(found.repositories))
        self._show_quantisations()
        self._show_facts()
        if found.repositories and self._words.value.strip() == found.words:
            self._repositories.focus()

    def _set_found(self, found: bool) -> None:
        for below in (self._repositories, self._quantisations, self.query_one("#hub-facts")):
            below.visible = found

    def _show_quantisations(self) -> None:
        repository = self._repositories.current
        found = () if repository is None else repository.quantisations
        defaults = [number for number, each in enumerate(found) if each.is_default]
        self._quantisations.show(found, next(iter(defaults), 0))

    def _show_facts(self) -> None:
        repository, chosen = self._repositories.current, self._quantisations.current
        lines = () if repository is None else choice_facts(repository, chosen, self._machine)
        text = "\n".join(wrap_facts(lines, self._facts.size.width))
        self._facts.update(sanitize(text))

    @work(exclusive=True, group="question")
    async def _choose(self) -> None:
        repository, chosen = self._repositories.current, self._quantisations.current
        if repository is None or chosen is None:
            return
        if chosen.on_disk:
            warn(self, f"{chosen.label} is on disk already, as {chosen.entry}")
        elif chosen.missing:
            warn(self, f"{repository.name} lacks a part of {chosen.label}: {chosen.missing[0]}")
        else:
            facts = choice_facts(repository, chosen, self._machine)
            details = "\n".join(wrap_facts(facts, _QUESTION_CELLS))
            size = units.bytes_text(chosen.size_bytes)
            if await confirm(self, f"Pull {chosen.reference} ({size})?", details):
                self.dismiss(chosen)


def _repository_texts(found: PricedRepository) -> dict[str, str]:
    downloads, licence = found.downloads, found.licence or "not stated"
    parameters = "unknown" if not found.parameters else _billions(found.parameters)
    if found.active_parameters and found.parameters and found.parameters > found.active_parameters:
        parameters += f", {_billions(found.active_parameters)} active"
    texts = {
        "name": found.name,
        "size": parameters,
        "downloads": "unknown" if downloads is None else units.short_count_text(downloads),
        "licence": f"gated, {licence}" if found.gated else licence,
    }
    return {key: sanitize(text) for key, text in texts.items()}


def _billions(parameters: int) -> str:
    return units.parameters_text(parameters).removesuffix(" parameters")


def quantisation_texts(found: PricedQuantisation) -> dict[str, str]:
    """Return the text of each column of one quantisation, by key, safe for the terminal."""
    forecast = found.prediction.forecast
    notes = (
        (found.on_disk, f"on disk: {found.entry}"),
        (found.missing, "parts are missing"),
        (found.entry, f"listed: {found.entry}"),
        (found.is_default, "the usual one"),
    )
    texts = {
        "label": found.label,
        "size": units.bytes_text(found.size_bytes),
        "fits": FIT_TEXTS[found.prediction.fit],
        "speed": value_cell(forecast.tokens_per_second, forecast.speed_share),
        "joules": value_cell(forecast.joules_per_token, forecast.joules_share),
        "note": next((note for holds, note in notes if holds), ""),
    }
    return {key: sanitize(text) for key, text in texts.items()}


def result_lines(found: SearchResult, on_disk: tuple[str, ...]) -> Iterator[str]:
    """Yield what came of a search, and what there is without the hub."""
    known = sorted(found.local, key=lambda model: not model.on_disk)
    local = [f"{model.name}{' (on disk)' if model.on_disk else ''}" for model in known]
    if found.problem:
        yield f"✗ {join_lines(found.problem)}"
        yield f"→ {join_lines(found.fix)}"
        yield f"on disk: {', '.join(on_disk) or 'no model'}"
    elif not found.repositories:
        yield f"the hub has no GGUF files for {found.words!r}"
    else:
        count = units.count_text(len(found.repositories), "repository", "repositories")
        yield f"{count} for {found.words!r}, the most downloaded first"
    if local:
        more = f" and {len(local) - _LOCAL:,} more" if len(local) > _LOCAL else ""
        yield f"in the list: {', '.join(local[:_LOCAL])}{more}"


def choice_facts(
    repository: PricedRepository, chosen: PricedQuantisation | None, machine: MachineFacts
) -> Iterator[str]:
    """Yield what the choice of a quantisation depends on, with the basis of each prediction."""
    if repository.problem:
        yield f"problem   {join_lines(repository.problem)}"
    if chosen is None:
        return
    found = chosen.prediction
    on_gpu = found.fit == "gpu"
    yield from expected_lines(found, machine)
    free = units.bytes_text(machine.gpu_bytes if on_gpu else machine.ram_bytes)
    about = "" if repository.has_header else "about "
    need = f"needs {about}{units.bytes_text(found.need_bytes)}"
    yield (
        f"memory    {need} with {repository.context_tokens:,} tokens of context, {free} free"
        f"{' on the GPU' if on_gpu else ''}"
    )
    yield f"licence   {repository.licence or 'not stated'}; {repository.page}"
    if repository.gated:
        yield "gated     its owner asks to accept its terms first, and for a token in HF_TOKEN"
