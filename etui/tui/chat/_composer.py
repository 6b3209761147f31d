"""Between the prompt and the queue: commands, paths, saved prompts, attachments, the forecast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.markup import escape
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError
from etui.prompts.attachments import (
    Attachment,
    Part,
    describe_excess,
    find_mentions,
    find_open_mention,
    fit_attachments,
    join,
    list_pictures,
)
from etui.prompts.library import PromptLibrary, SavedPrompt, complete_path, load_prompts
from etui.routing.decision import PredictedJoules
from etui.routing.text_measures import estimate_tokens
from etui.runtime.forecast import Forecast
from etui.runtime.routes import Route
from etui.text import SEPARATOR, sanitize
from etui.tui._work import notify_error, start
from etui.tui.chat._conversation import Asking, Conversation
from etui.tui.chat._prompt import (
    Draft,
    FileReader,
    MenuEntry,
    Prompt,
    build_entries,
    find_near,
    is_command,
    match_entries,
    resolve,
    rest_of,
)
from etui.tui.chat._turn_queue import TurnQueue
from etui.tui.commands import list_commands
from etui.tui.modals import BoxModal
from etui.tui.services import Services


class LiveForecast:
    """Forecasts the newest draft in a thread, and shows the result."""

    def __init__(self, screen: Screen[None], show: Callable[[str], object]) -> None:
        self._screen = screen
        self._show = show
        self._wanted: Callable[[], str] | None = None
        self._running = False

    def want(self, estimate: str, forecast: Callable[[], str] | None) -> None:
        """Show an estimate, and then what ``forecast`` returns; None shows the estimate alone."""
        self._wanted = forecast
        self._show(estimate)
        if forecast is not None and not self._running:
            self._running = True
            start(self._screen, self._run, "forecast")

    async def _run(self) -> None:
        done: Callable[[], str] | None = None
        try:
            while (wanted := self._wanted) is not None and wanted is not done:
                line = await asyncio.to_thread(wanted)
                done = wanted
                if wanted is self._wanted:
                    self._show(line)
        finally:
            self._running = False


def estimate_line(draft: Draft) -> str:
    """Return the tokens of a draft, estimated at once, until they are counted."""
    tokens = estimate_tokens(draft.text) + sum(estimate_tokens(p.text) for p in draft.pastes)
    return escape(units.short_tokens_text(tokens, exact=False)) if draft.text else ""


def forecast_line(
    services: Services,
    conversation: Conversation,
    route: Route,
    draft: Draft,
    asking: Asking,
    read: FileReader,
) -> str:
    """Read the files of a draft and forecast it, as markup: ``12 tokens · ≈9 J``; it blocks.

    With several arms each is named. A file that cannot be attached comes first, and a question
    that does not fit says by how much.
    """
    attachments, problems = resolve(draft, read)
    asking = replace(
        asking, text=join(draft.text, attachments), pictures=list_pictures(attachments)
    )
    texts = [draft.text, *(each.block() for each in attachments)]
    parts = [sanitize(problem.what) for problem in problems[:1]]
    try:
        forecast = services.runner.forecast(conversation.query(asking), route, texts)
    except EtuiError as error:
        return escape(SEPARATOR.join([*parts, sanitize(error.what)]))
    except Exception as error:  # noqa: BLE001 - a forecast that fails must not end the app
        return escape(SEPARATOR.join([*parts, f"no forecast: {type(error).__name__}"]))
    if asking.pictures and not forecast.picture_tokens:
        parts.append(sanitize(f"{forecast.model} cannot see pictures"))
    parts.append(units.short_tokens_text(forecast.tokens, exact=forecast.exact))
    if not forecast.fits and forecast.context_tokens is not None:
        parts.append(f"context {units.short_count_text(forecast.context_tokens)}: too long")
        return escape(SEPARATOR.join(parts))
    known = [(arm.arm, arm.predicted) for arm in forecast.arms if arm.predicted is not None]
    for name, predicted in known:
        joules = _format_predicted(predicted)
        parts.append(joules if len(known) == 1 else f"{sanitize(name)} {joules}")
    if known and not any(predicted.calibrated for _, predicted in known):
        parts.append("not calibrated")
    return escape(SEPARATOR.join(parts))


def _format_predicted(predicted: PredictedJoules) -> str:
    """Format ``≈8-60 J``, or ``≈8-60 J + ≈12 J load`` if the model is not in memory."""
    if predicted.range is None:
        return units.about_joules(predicted.total)
    text = units.joules_between_text(*predicted.range)
    return f"{text} + {units.about_joules(predicted.load)} load" if predicted.load else text


_PARTS: tuple[tuple[Part, str], ...] = (
    ("head", "the beginning"),
    ("tail", "the end"),
    ("ends", "both ends, without the middle"),
)


class PartModal(BoxModal[Part]):
    """Dialog for a text that is too long: its result is the part to send, None to send nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Do not send", id="part.leave"),
    ]

    def __init__(self, what: str) -> None:
        parts = OptionList(*(Option(words, id=part) for part, words in _PARTS), markup=False)
        super().__init__(what, "Send a part of it?", parts)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(_PARTS[event.option_index][0])


class VariablesModal(BoxModal[Mapping[str, str]]):
    """Dialog for the values of a saved prompt; its result is a value for each variable."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "take", "Send", id="variables.take", priority=True),
        Binding("escape", "dismiss", "Cancel", id="variables.leave", priority=True),
    ]

    def __init__(self, name: str, variables: tuple[str, ...]) -> None:
        help_text = "Enter goes on; after the last one it sends. @ attaches a file."
        self._inputs = {variable: Input(compact=True) for variable in variables}
        fields: list[Widget] = []
        for variable, field in self._inputs.items():
            fields += [Static(variable, markup=False, classes="variable"), field]
        super().__init__(f"/{name}", help_text, VerticalScroll(*fields, classes="details"))

    def on_mount(self) -> None:
        next(iter(self._inputs.values())).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go to the next line; after the last one, accept."""
        fields = list(self._inputs.values())
        at = fields.index(event.input)
        if at + 1 < len(fields):
            fields[at + 1].focus()
        else:
            self.action_take()

    def action_take(self) -> None:
        """Close the dialog with the values; go to the first line that is empty, if one is."""
        for field in self._inputs.values():
            if not field.value.strip():
                field.focus()
                return
        self.dismiss({name: field.value.strip() for name, field in self._inputs.items()})


_SURELY_SHORT_CHARACTERS = 2_000
"""A question of fewer characters without attachments is sent without counting it."""


class Composer:
    """Makes questions of what is typed."""

    def __init__(
        self, screen: Screen[None], config: Config, prompt: Prompt, queue: TurnQueue
    ) -> None:
        self._screen = screen
        self._config = config
        self._prompt = prompt
        self._queue = queue
        self._sending = asyncio.Lock()
        self._forecast = LiveForecast(screen, partial(setattr, prompt, "border_subtitle"))
        self._read = FileReader()
        self._problem = ""
        self._library: PromptLibrary | None = None
        self._entries: tuple[MenuEntry, ...] = ()
        self._seen = ("", "")

    def note_draft(self) -> None:
        prompt = self._prompt
        seen = (prompt.text, prompt.before_cursor)
        if seen == self._seen:
            return
        has_changed = seen[0] != self._seen[0]
        self._seen = seen
        self._offer()
        if has_changed:
            self.refresh()

    def refresh(self) -> None:
        prompt, services = self._prompt, self._queue.services
        draft = prompt.draft
        if services is None or not draft.text or is_command(prompt.text):
            self._forecast.want("", None)
            return
        edited = prompt.edited or Asking("")
        route = edited.route if edited.prompt is not None else None
        asking = Asking("", replaces=prompt.editing or None, system=edited.system)
        job = partial(
            forecast_line,
            services,
            self._queue.conversation,
            route or self._queue.route,
            draft,
            asking,
            self._read,
        )
        self._forecast.want(estimate_line(draft), job)

    def _offer(self) -> None:
        menu, text = self._prompt.menu, self._prompt.text
        if not menu.is_mounted:
            return
        if is_command(text):
            self._offer_commands(text)
            return
        self._library = None
        found = find_open_mention(self._prompt.before_cursor)
        if found is None:
            menu.close()
        else:
            start(
                self._screen,
                partial(self._offer_paths, self._seen, found[1]),
                "paths",
                exclusive=True,
            )

    def _offer_commands(self, text: str) -> None:
        if self._library is None:
            # A few small files, read once for each slash: the list must not lag behind the keys.
            self._library = load_prompts(self._config)
            problem = next(map(str, self._library.problems), "")
            if problem and problem != self._problem:  # once, and not for each slash
                notify_error(self._screen, problem, "fix the file; the other prompts work")
            self._problem = problem
            commands = list_commands(self._screen, self._screen.app)
            self._entries = build_entries(commands, self._library.prompts)
        self._prompt.menu.offer(match_entries(text, self._entries))

    async def _offer_paths(self, seen: tuple[str, str], fragment: str) -> None:
        paths = await asyncio.to_thread(complete_path, fragment)
        if seen == self._seen and self._prompt.has_focus:
            self._prompt.menu.offer([MenuEntry(path) for path in paths])

    def enter_command(self) -> None:
        """Run the highlighted command or saved prompt; name the nearest ones of an unknown one."""
        prompt = self._prompt
        text = prompt.text.strip()
        if self._library is None:
            self._offer_commands(text)
        entries = match_entries(text, self._entries)
        entry = prompt.menu.chosen
        if entry not in entries:  # there is no list, or it is of an earlier text
            entry = entries[0] if entries else None
        if entry is None:
            self._refuse_command(text)
            return
        rest = rest_of(text) if entry.prompt is not None else ""
        prompt.menu.close()
        prompt.text = ""
        if entry.prompt is not None:
            start(self._screen, partial(self._use_prompt, entry.prompt, rest), "saved")
        elif entry.run is not None:
            self._screen.app.call_later(entry.run)

    def _refuse_command(self, text: str) -> None:
        near = find_near(text, self._entries)
        first = text.split()[0][:60]
        fix = f"did you mean {', '.join('/' + name for name in near)}? " if near else ""
        notify_error(
            self._screen,
            f"there is no command {first}",
            f"{fix}To send it as a question, begin with //",
        )

    async def _use_prompt(self, saved: SavedPrompt, rest: str) -> None:
        values: dict[str, str] = {}
        missing = saved.variables
        if rest and len(missing) == 1:
            values, missing, rest = {missing[0]: rest}, (), ""
        if missing:
            given = await self._screen.app.push_screen_wait(VariablesModal(saved.name, missing))
            if given is None:
                self._prompt.text = f"/{saved.name} {rest}".strip()
                return
            values |= given
        filled = saved.filled(values)
        text = "\n\n".join(part for part in (filled.text, rest) if part)
        await self._send(Draft(text), Asking("", prompt=filled.name, system=filled.system))

    async def send(self, sent: Prompt.Sent) -> None:
        """Queue a question, after its files were read and counted in a thread."""
        asking = Asking("", replaces=sent.replaces)
        if sent.edited is not None:
            asking = replace(
                asking,
                route=sent.edited.route if sent.edited.prompt is not None else None,
                prompt=sent.edited.prompt,
                system=sent.edited.system,
            )
        draft = sent.draft
        short = len(draft.text) <= _SURELY_SHORT_CHARACTERS and not draft.pastes
        plain = short and asking.prompt is None and not find_mentions(draft.text)
        if plain and not self._sending.locked():
            await self._queue.ask(replace(asking, text=draft.text))
        else:
            start(self._screen, partial(self._send, draft, asking), "send")

    async def _send(self, draft: Draft, asking: Asking) -> None:
        async with self._sending:
            if asking.prompt is not None and asking.route is None:
                asking = await asyncio.to_thread(self._with_arm, asking)
            attachments, problems = await asyncio.to_thread(resolve, draft, self._read)
            if problems:
                self._put_back(draft, asking)
                notify_error(self._screen, problems[0].what, problems[0].fix)
                return
            text = draft.text
            asking = replace(
                asking, text=join(text, attachments), pictures=list_pictures(attachments)
            )
            forecast = await self._count(asking, text, attachments)
            if forecast is not None:
                attachments = tuple(  # the first part of a forecast is the text
                    replace(each, tokens=count.tokens, exact=count.exact)
                    for each, count in zip(attachments, forecast.parts[1:], strict=True)
                )
                if not forecast.fits:
                    kept = await self._fit(text, attachments, forecast)
                    if kept is None:
                        self._put_back(draft, asking)
                        return
                    attachments = kept
                asking = replace(asking, text=join(text, attachments), counted=attachments)
            await self._queue.ask(asking)

    def _with_arm(self, asking: Asking) -> Asking:
        saved = load_prompts(self._config).prompts.get(asking.prompt or "")
        if saved is None or saved.arm is None:
            return asking
        return replace(asking, route=Route(self._queue.route.policy, arm=saved.arm))

    async def _count(
        self, asking: Asking, text: str, attachments: tuple[Attachment, ...]
    ) -> Forecast | None:
        """Count the tokens; None if that is not possible: the turn itself then says why."""
        services = self._queue.services
        if services is None:
            return None
        query = self._queue.conversation.query(asking)
        parts = [text, *(each.block() for each in attachments)]
        route = asking.route or self._queue.route
        try:
            return await asyncio.to_thread(services.runner.forecast, query, route, parts)
        except EtuiError:
            return None

    async def _fit(
        self, text: str, attachments: tuple[Attachment, ...], forecast: Forecast
    ) -> tuple[Attachment, ...] | None:
        """Offer to take a part; None if nothing is to be sent."""
        services = self._queue.services
        assert services is not None
        assert forecast.context_tokens is not None
        assert forecast.room_tokens is not None
        what = describe_excess(
            attachments,
            forecast.tokens,
            forecast.context_tokens,
            forecast.model,
            exact=forecast.exact,
        )
        if not attachments or forecast.parts[0].tokens > forecast.room_tokens:
            notify_error(self._screen, what, "shorten it, or choose a model with more context")
            return None
        part = await self._screen.app.push_screen_wait(PartModal(what))
        if part is None:
            return None
        runner, model, room = services.runner, forecast.model, forecast.room_tokens
        kept = await asyncio.to_thread(
            fit_attachments,
            text,
            attachments,
            part,
            room,
            lambda piece: runner.count_tokens(piece, model),
        )
        return tuple(replace(each, exact=forecast.exact) for each in kept)

    def _put_back(self, draft: Draft, asking: Asking) -> None:
        self._prompt.put_back(replace(asking, text=join(draft.text, draft.pastes)))
