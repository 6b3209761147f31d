"""The chat screen: questions, streaming answers and their energy cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen

from etui.config.config import Config
from etui.errors import EtuiError
from etui.log.records import ChatRecord
from etui.runtime.routes import Route
from etui.text import sanitize
from etui.tui.chat.answer_actions import AnswerActions
from etui.tui.chat.chat_switch import ChatSwitch
from etui.tui.chat.composer import Composer
from etui.tui.chat.conversation import Conversation, new_chat
from etui.tui.chat.messages import (
    BudgetConfirm,
    ModelLoaded,
    ModelUnloaded,
    TurnEnded,
    TurnUpdated,
    WarmUpUpdated,
)
from etui.tui.chat.prompt import Prompt
from etui.tui.chat.title_row import TitleRow
from etui.tui.chat.transcript import Transcript
from etui.tui.chat.turn_queue import TurnQueue
from etui.tui.chat.turn_view import TurnAction, TurnView
from etui.tui.commands import Command
from etui.tui.modals import TextModal
from etui.tui.notices import notify_error, place_notices
from etui.tui.pacing import QUIET, USUAL
from etui.tui.power.feed import PowerFeed
from etui.tui.power.panel import PowerPanel
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.settled_layout import SettledLayout

if TYPE_CHECKING:
    from etui.tui.chat.export import ExportFormat


def chat_commands(screen: ChatScreen) -> list[Command]:
    """List the commands of the chat screen; those on an answer act on the last one."""
    act = screen.act_on_last
    return [
        Command("chat: new", "Start a chat without the answers so far", screen.action_new_chat),
        Command("chat: open …", "Search, resume, rename and delete chats", screen.action_chats),
        Command("chat: rename", "Give this chat another name", screen.action_rename),
        Command("chat: system prompt", "Edit what the model reads first",
                screen.action_system_prompt),
        Command("export: this chat as Markdown", "Write a file for reading",
                lambda: screen.action_export("markdown")),
        Command("export: this chat as JSON", "Write a file with all figures",
                lambda: screen.action_export("json")),
        Command("answer: stop", "Stop the running answer, and keep its text", screen.action_stop),
        Command("chat: withdraw the last question", "Take a waiting question out of the queue",
                screen.action_withdraw),
        Command("answer: copy", "Copy the last answer", lambda: act("copy")),
        Command("answer: continue", "Go on with the last answer, if it was cut off",
                lambda: act("continue")),
        Command("answer: branch before", "Show the branch before this one at its last fork",
                lambda: screen.call_later(screen.step_at_last_fork, -1)),
        Command("answer: branch after", "Show the branch after this one at its last fork",
                lambda: screen.call_later(screen.step_at_last_fork, 1)),
        Command("answer: copy code", "Copy the next code block of the last answer",
                lambda: act("code")),
        Command("answer: details", "Where the numbers of the last answer come from",
                lambda: act("details")),
        Command("answer: good", "Say that the last answer is good, or take that back",
                lambda: act("good")),
        Command("answer: bad", "Say that the last answer is bad, or take that back",
                lambda: act("bad")),
        Command("answer: edit the question", "Change the last question and send it again",
                lambda: act("edit")),
        Command("answer: ask again, smaller", "Ask the next smaller arm, and compare the costs",
                lambda: act("smaller")),
        Command("answer: ask again, larger", "Ask the next larger arm, and compare the costs",
                lambda: act("larger")),
        Command("energy: gross or net", "Include idle power, or subtract it",
                screen.action_toggle_net),
        Command("power: show more time", "The graph covers 30 s, 2 min, 10 min or 1 h",
                lambda: screen.action_zoom(1)),
        Command("power: show less time", "The graph covers 30 s, 2 min, 10 min or 1 h",
                lambda: screen.action_zoom(-1)),
        Command("power: pause or go on", "Stop the graph where it is",
                screen.pause_graph),
        Command("energy: quiet mode", "Redraw less often, to use less power",
                screen.action_toggle_quiet),
    ]  # fmt: skip


class ChatScreen(SettledLayout):
    """The transcript, the power panel and the prompt."""

    AUTO_FOCUS = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop"),
        Binding("ctrl+n", "new_chat", "New", id="chat.new", priority=True),
        Binding("ctrl+o", "chats", "Chats", id="chat.chats", priority=True),
        Binding("ctrl+g", "toggle_net", "Gross or net", id="chat.net", show=False, priority=True),
        Binding("shift+tab", "choose_turn", "Answers", id="chat.answers", key_display="⇧tab"),
        Binding("ctrl+t", "toggle_thinking", "Thinking", id="chat.thought", show=False),
        Binding("f12", "toggle_quiet", "Quiet mode", id="chat.quiet", show=False),
        Binding("f9", "system_prompt", "System prompt", id="chat.system", show=False),
        Binding("delete", "withdraw", "Withdraw", id="chat.withdraw", key_display="del",
                priority=True),
        Binding("left_square_bracket", "zoom(-1)", "Less time", id="power.less", show=False,
                key_display="["),
        Binding("right_square_bracket", "zoom(1)", "More time", id="power.more", show=False,
                key_display="]"),
        Binding("pageup", "page(-1)", "Scroll up", id="chat.up", show=False, priority=True),
        Binding("pagedown", "page(1)", "Scroll down", id="chat.down", show=False, priority=True),
    ]  # fmt: skip

    HELP = "## Chat"

    def __init__(self, config: Config, route: Route, power: PowerFeed | None = None) -> None:
        super().__init__()
        self._config = config
        self._transcript = Transcript()
        self._panel = PowerPanel(power or PowerFeed())
        self._prompt = Prompt()
        self._title = TitleRow()
        self._queue = TurnQueue(
            self, config, route, self._transcript, self._panel, self._prompt, self._title
        )
        self._composer = Composer(self, config, self._prompt, self._queue)
        self._answers = AnswerActions(self, self._prompt, self._queue, self._transcript)
        self._switch = ChatSwitch(self, self._queue, self._transcript, self._panel, self._prompt)

    @property
    def conversation(self) -> Conversation:
        """The chat that is shown."""
        return self._queue.conversation

    @property
    def busy(self) -> bool:
        """Whether an answer is running."""
        return self._queue.busy

    def on_mount(self) -> None:
        """Show the route, start the redraw timer, and keep notices off the prompt."""
        self._queue.start()
        self.screen_layout_refresh_signal.subscribe(self, self._place_notices, immediate=True)

    def _place_notices(self, _screen: Screen[object]) -> None:
        place_notices(self, self._prompt.region.y)

    def attach(self, services: Services, chat: ChatRecord | None = None) -> None:
        """Use these services for the questions, first opening an earlier chat if one is given."""
        if chat is None:
            self._queue.attach(services)
        else:
            self._open_first(services, chat)

    @work(exclusive=True, group="chats")
    async def _open_first(self, services: Services, chat: ChatRecord) -> None:
        """Show an earlier chat; questions that were sent meanwhile belong to it."""
        try:
            records = await asyncio.to_thread(services.chats.turns, chat.chat_id)
        except EtuiError as error:
            notify_error(self, error.what, error.fix)
        else:
            sent = self._queue.take_back()
            await self._switch.take_chat(Conversation(chat, tuple(records)))
            for asking in sent:
                await self._queue.ask(asking)
        self._queue.attach(services)
        self._composer.refresh()

    def take_route(self, route: Route) -> None:
        """Use this route for the next questions."""
        self._queue.take_route(route)
        self._composer.refresh()

    def stop_answer(self) -> None:
        """Stop the running answer, and keep its text."""
        self._queue.stop()

    def leave(self) -> None:
        """Stop the running answer and exit once it is in the log."""
        self._queue.leave()

    async def on_turn_updated(self, news: TurnUpdated) -> None:
        """Show what happened in the running turn."""
        await self._queue.take_turn_fact(news.fact)
        if isinstance(news.fact, TurnEnded):
            self._composer.refresh()

    def on_warm_up_updated(self, news: WarmUpUpdated) -> None:
        """Show how loading a model ahead proceeds."""
        self._queue.take_warm_up_fact(news.fact)

    def on_budget_confirm(self, request: BudgetConfirm) -> None:
        """Ask whether to exceed a budget."""
        self._queue.confirm_budget(request)

    def on_model_loaded(self, news: ModelLoaded) -> None:
        """Show the loaded model."""
        self._panel.show_loaded(news.loaded)

    def on_model_unloaded(self, news: ModelUnloaded) -> None:
        """Remove the unloaded model from the panel."""
        self._panel.show_unloaded(news.model)

    def on_text_area_changed(self) -> None:
        """Draw answers less often while the user types."""
        self._queue.note_typing()
        if self._queue.waiting:
            self.refresh_bindings()  # Del withdraws a question only while the prompt is empty

    def compose(self) -> ComposeResult:
        """Lay out the transcript, the power panel, the prompt and the footer."""
        yield self._title
        with Container(id="body"):
            yield self._panel
            yield self._transcript
        yield self._panel.status
        yield self._prompt.menu
        yield self._prompt
        yield KeyFooter()

    def commands(self) -> list[Command]:
        """Return the palette commands of the chat screen."""
        return chat_commands(self)

    async def on_prompt_sent(self, sent: Prompt.Sent) -> None:
        """Queue the question."""
        await self._composer.send(sent)

    def on_prompt_command_entered(self) -> None:
        """Run the command."""
        self._composer.enter_command()

    def on_prompt_menu_picked(self) -> None:
        """Take the clicked item as Enter does."""
        self._prompt.action_send()

    def on_prompt_drafted(self) -> None:
        """Follow what is typed."""
        self._composer.note_draft()

    async def on_turn_view_action_requested(self, request: TurnView.ActionRequested) -> None:
        """Carry out the action on the answer that asked for it."""
        self._answers.act_on(request.view, request.action)

    async def on_turn_view_branch_wanted(self, request: TurnView.BranchWanted) -> None:
        """Show the branch before or after the one of this turn."""
        record = request.view.record
        await self._switch.step_branch(None if record is None else record.turn_id, request.step)

    def action_stop(self) -> None:
        """Return from an answer to the prompt; from there, end the edit or stop the answer."""
        if isinstance(self.focused, TurnView | PowerPanel):
            self._prompt.focus()
        elif self._prompt.editing is not None and not self.busy:
            self._prompt.end_edit()
        else:
            self._queue.stop()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave Del to the prompt unless it is empty and a question waits."""
        if action == "withdraw":
            return (
                self.focused is self._prompt and not self._prompt.text and bool(self._queue.waiting)
            )
        return super().check_action(action, parameters)

    def action_withdraw(self) -> None:
        """Withdraw the question that was sent last, if it still waits."""
        if waiting := self._queue.waiting:
            self._answers.withdraw(waiting[-1])

    def action_choose_turn(self) -> None:
        """Focus the answer before the focused one, or the last one."""
        turns = self._transcript.turns
        before = turns[: turns.index(self.focused)] if self.focused in turns else turns
        if before:
            before[-1].focus()

    def action_toggle_thinking(self) -> None:
        """Fold or unfold the thinking of the last answer."""
        if turns := self._transcript.turns:
            turns[-1].action_toggle_thinking()

    def action_toggle_net(self) -> None:
        """Switch the panel between gross and net joules."""
        net = self._panel.toggle_net()
        self.notify("net: idle power is subtracted" if net else "gross: idle power is included")

    def action_zoom(self, steps: int) -> None:
        """Show more or less time in the graph of power."""
        self._panel.zoom(steps)

    def pause_graph(self) -> None:
        """Stop the graph of power where it is, or go on."""
        self._panel.action_pause()

    async def step_at_last_fork(self, step: int) -> None:
        """Show another branch at the last turn that has several."""
        await self._switch.step_at_last_fork(step)

    def act_on_last(self, action: TurnAction) -> None:
        """Carry out an action on the last answer."""
        self._answers.act_on_last(self._transcript.turns, action)

    def action_toggle_quiet(self) -> None:
        """Switch between quiet mode, which redraws less often, and the usual pace."""
        quiet = self._queue.pace is not QUIET
        self._queue.take_pace(QUIET if quiet else USUAL)
        self.notify(f"quiet mode is {'on' if quiet else 'off'}")

    async def action_page(self, pages: int) -> None:
        """Scroll the transcript by pages, wherever the focus is."""
        await self._transcript.page(pages)

    async def action_new_chat(self) -> None:
        """Start a chat without the answers so far; keep the system prompt."""
        if self._switch.check_idle():
            await self._switch.take_chat(new_chat(self._queue.conversation.chat.system))

    @work(exclusive=True, group="chats")
    async def action_chats(self) -> None:
        """Show the list of chats, and apply its result."""
        from etui.tui.chat.chat_list import ChatsScreen  # not needed for the first paint

        if self._queue.services is None:
            self.notify("the log is not open yet", severity="warning")
            return
        left = await self.app.push_screen_wait(
            ChatsScreen(self._config, self._queue.services.chats, self._queue.services.runner)
        )
        await self._switch.return_from(left)

    @work(exclusive=True, group="chats")
    async def open_chat(self, chat: ChatRecord, turn_id: str) -> None:
        """Show a chat at one of its turns; the current chat stays while an answer is running."""
        if self._queue.conversation.chat.chat_id != chat.chat_id:
            await self._switch.resume(chat)
        conversation = self._queue.conversation
        if conversation.chat.chat_id != chat.chat_id:
            return
        if turn_id in conversation.replaced() and self._switch.check_idle():
            await self._switch.switch_branch(turn_id)
        else:
            await self._transcript.show_turn(turn_id)

    @work(exclusive=True, group="chats")
    async def action_rename(self) -> None:
        """Rename this chat."""
        name = await self.app.push_screen_wait(
            TextModal(
                "Name of the chat",
                self._queue.conversation.name,
                "Enter saves the name",
                one_line=True,
            )
        )
        if name:
            await self._switch.change(replace(self._queue.conversation.named, name=name))

    @work(exclusive=True, group="chats")
    async def action_system_prompt(self) -> None:
        """Change the system prompt of this chat."""
        text = await self.app.push_screen_wait(
            TextModal(
                "System prompt of this chat",
                self._queue.conversation.chat.system or "",
                "The model reads this first. Ctrl+S saves, Esc cancels; empty for none.",
            )
        )
        if text is not None:
            await self._switch.change(replace(self._queue.conversation.named, system=text or None))

    @work(exclusive=True, group="export")
    async def action_export(self, form: ExportFormat) -> None:
        """Write this chat to a file."""
        from etui.tui.chat.export import export_chat  # not needed for the first paint

        chat, records = self._queue.conversation.named, self._queue.conversation.records
        try:
            path = await asyncio.to_thread(export_chat, self._config, chat, records, form)
        except EtuiError as error:
            notify_error(self, error.what, error.fix)
        else:
            self.notify(sanitize(f"written to {path}"), markup=False)
