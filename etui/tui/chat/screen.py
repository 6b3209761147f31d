"""The chat screen: questions, streaming answers and their energy cost."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen

from etui import units
from etui.config.config import Config
from etui.log.records import ChatRecord
from etui.runtime.routes import Route, with_route
from etui.text import sanitize
from etui.tui._work import faults_shown, in_thread, place_notices, start, warn
from etui.tui.chat._composer import Composer
from etui.tui.chat._conversation import (
    Asking,
    Conversation,
    continuation_route,
    refuse_continuation,
)
from etui.tui.chat._prompt import Prompt
from etui.tui.chat._title_row import TitleRow
from etui.tui.chat._transcript import Transcript
from etui.tui.chat._turn_queue import TurnQueue
from etui.tui.chat._turn_view import TurnAction, TurnView
from etui.tui.commands import (
    Command,
    CopyRequested,
    RouteRequested,
    SettingChosen,
    build_commands,
)
from etui.tui.modals import TextModal, ask_line
from etui.tui.pacing import QUIET, USUAL
from etui.tui.power.feed import PowerFeed
from etui.tui.power.panel import PowerPanel
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.lines import SettledLayout
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.runtime.routes import Direction
    from etui.tui.chat._chat_list import ChatsLeft, ExportFormat


_MOST_PANEL_PERCENT = 60  # Of the screen, so that the answers stay readable


class ChatScreen(SettledLayout):
    """The transcript, the power panel and the prompt."""

    AUTO_FOCUS = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop"),
        Binding("ctrl+n", "new_chat", "New", id="chat.new", priority=True),
        Binding("ctrl+o", "chats", "Chats", id="chat.chats", priority=True),
        Binding("ctrl+f", "find", "Find", id="chat.find", priority=True),
        Binding("ctrl+g", "toggle_net", "Gross or net", id="chat.net", show=False, priority=True),
        Binding("shift+tab", "choose_turn", "Pick Q&A", id="chat.answers", key_display="⇧tab",
                tooltip="Select an answer, last first"),
        Binding("ctrl+t", "toggle_thinking", "Show thinking", id="chat.thought", show=False),
        Binding("f12", "toggle_quiet", "Refresh less often", id="chat.quiet", show=False),
        Binding("f9", "system_prompt", "System prompt", id="chat.system", show=False),
        Binding("delete", "withdraw", "Withdraw", id="chat.withdraw", key_display="del",
                priority=True),
        Binding("left_square_bracket", "zoom(-1)", "Less time", id="power.less", show=False,
                key_display="["),
        Binding("right_square_bracket", "zoom(1)", "More time", id="power.more", show=False,
                key_display="]"),
        Binding("left_curly_bracket", "widen(4)", "Wider panel", id="power.wider", show=False,
                key_display="{"),
        Binding("right_curly_bracket", "widen(-4)", "Narrower panel", id="power.narrower",
                show=False, key_display="}"),
        Binding("pageup", "page(-1)", "Scroll up", id="chat.up", show=False, priority=True),
        Binding("pagedown", "page(1)", "Scroll down", id="chat.down", show=False, priority=True),
    ]  # fmt: skip

    HELP = "## Chat"

    def __init__(self, config: Config, route: Route, power: PowerFeed | None = None) -> None:
        super().__init__()
        self._config = config
        self._default_route = route  # Of chats without one of their own
        self._transcript = Transcript()
        self._panel = PowerPanel(power or PowerFeed())
        self._prompt = Prompt()
        self._title = TitleRow()
        self.queue = TurnQueue(
            self, config, route, self._transcript, self._panel, self._prompt, self._title
        )
        self._composer = Composer(self, config, self._prompt, self.queue)
        self.queue.on_ended = self._composer.refresh

    def on_mount(self) -> None:
        self.queue.start()
        if (columns := self._config.panel_columns) is not None:
            self._set_panel_columns(columns)
        self.screen_layout_refresh_signal.subscribe(self, self._place_notices, immediate=True)

    def _place_notices(self, _screen: Screen[object]) -> None:
        place_notices(self, self._prompt, self._transcript.find_bar)

    def attach(self, services: Services, chat: ChatRecord | None = None) -> None:
        if chat is None:
            self.queue.attach(services)
        else:
            self._open_first(services, chat)

    @work(exclusive=True, group="chats")
    async def _open_first(self, services: Services, chat: ChatRecord) -> None:
        """Show an earlier chat; questions that were sent meanwhile belong to it."""
        with faults_shown(self):
            await self._load(services, chat)
        self.queue.attach(services)
        self._composer.refresh()

    def take_route(self, route: Route) -> None:
        """Answer the next questions by this route, and keep it with the chat."""
        self.queue.take_route(route)
        self._composer.refresh()
        conversation = self.queue.conversation
        chat = with_route(conversation.chat, route)
        self.queue.conversation = replace(conversation, chat=chat)
        if conversation.records:
            start(self, self.queue.save_chat, "chat")

    async def _restore_route(self, services: Services) -> None:
        """Use and keep the route of the chat that was opened; say once what of it is gone."""
        conversation, route = self.queue.conversation, self._default_route
        if (chosen := conversation.route) is not None:
            route, gone = await in_thread(lambda: services.restore_route(chosen))
            if gone:
                warn(self, f"{gone} of this chat is gone", f"{route.description} answers")
            chat = with_route(conversation.named, route)
            self.queue.conversation = replace(conversation, chat=chat)
            await in_thread(lambda: services.chats.save(chat))
        if route != self.queue.route:
            self.queue.take_route(route)
            self._composer.refresh()
            self.post_message(RouteRequested(route, restored=True))

    def on_text_area_changed(self) -> None:
        self.queue.note_typing()
        if self.queue.waiting:
            self.refresh_bindings()  # Del withdraws a question only while the prompt is empty

    def compose(self) -> ComposeResult:
        yield self._title
        with Container(id="body"):
            yield self._panel
            yield self._transcript
        yield self._panel.status
        yield self._prompt.menu
        yield self._prompt
        yield KeyFooter()

    def commands(self) -> list[Command]:
        """Return the commands of this screen; those on an answer act on the last one."""
        actions: tuple[tuple[TurnAction, str, str], ...] = (
            ("copy", "copy", "Copy the last answer"),
            ("continue", "continue", "Go on with the last answer, if it was cut off"),
            ("code", "copy code", "Copy a code block of the last answer; again: the next one"),
            ("details", "details", "Where the numbers of the last answer come from"),
            ("good", "good", "Say that the last answer is good, or take that back"),
            ("bad", "bad", "Say that the last answer is bad, or take that back"),
            ("edit", "edit the question", "Change the last question and send it again"),
            ("smaller", "ask again, smaller", "By the next smaller model or way to answer"),
            ("larger", "ask again, larger", "By the next larger model or way to answer"),
            ("compare", "compare two", "Two answers of the last question side by side; keep one"),
            ("prompt", "save the question as a prompt", "Ask it again by /NAME, in any chat"),
        )
        span = "The graph covers 30 s, 2 min, 10 min or 1 h"
        return build_commands(
            ("chat: new", "Start a chat without the answers so far", self.action_new_chat),
            ("chat: open …", "Search, resume, rename and delete chats", self.action_chats),
            ("chat: find …", "Words in this chat", self.action_find),
            ("chat: rename", "Give this chat another name", self.action_rename),
            ("chat: system prompt", "Edit what the model reads first", self.action_system_prompt),
            ("chat: withdraw the last question", "Take a waiting question out of the queue",
             self.action_withdraw),
            ("tools", "Which tools the model may call; turn them on or off", self.action_tools),
            ("export: this chat as Markdown", "Write a file for reading",
             partial(self.action_export, "markdown")),
            ("export: this chat as JSON", "Write a file with all figures",
             partial(self.action_export, "json")),
            ("answer: stop", "Stop the running answer, and keep its text", self.action_stop),
            ("branch: previous", "The version of an edited question before this one",
             partial(self.action_branch, -1)),
            ("branch: next", "The version of an edited question after this one",
             partial(self.action_branch, 1)),
            *((f"answer: {name}", text, partial(self.action_request, action))
              for action, name, text in actions),
            ("energy: gross or net", "Include idle power, or subtract it", self.action_toggle_net),
            ("power: show more time", span, partial(self.action_zoom, 1)),
            ("power: show less time", span, partial(self.action_zoom, -1)),
            ("power: wider panel", "Kept for later", partial(self.action_widen, 4)),
            ("power: narrower panel", "Kept for later", partial(self.action_widen, -4)),
            ("power: pause or go on", "Stop the graph where it is", self._panel.action_pause),
            ("energy: quiet mode", "Redraw less often, to use less power",
             self.action_toggle_quiet),
        )  # fmt: skip

    async def on_prompt_sent(self, sent: Prompt.Sent) -> None:
        await self._composer.send(sent)

    def on_prompt_command_entered(self) -> None:
        self._composer.enter_command()

    def on_prompt_drafted(self) -> None:
        self._composer.note_draft()

    async def on_turn_view_action_requested(self, request: TurnView.ActionRequested) -> None:
        record, action = request.view.record, request.action
        if record is not None and action in ("before", "after"):
            # Here and in no worker: two steps at once would both rebuild the chat.
            await self._step_branch(record.turn_id, -1 if action == "before" else 1)
        else:
            self._act_on(request.view, action)

    def action_stop(self) -> None:
        """End what was begun last: a search, the focus on an answer, an edit, the answer."""
        if self._transcript.finding:
            (self._transcript.end_find() or self._prompt).focus(scroll_visible=False)
        elif isinstance(self.focused, TurnView | PowerPanel):
            self._prompt.focus()
        elif self._prompt.editing is not None and not self.queue.busy:
            self._prompt.end_edit()
        else:
            self.queue.stop()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "withdraw":
            return (
                self.focused is self._prompt and not self._prompt.text and bool(self.queue.waiting)
            )
        return super().check_action(action, parameters)

    def action_find(self) -> None:
        self._transcript.action_find()

    async def on_transcript_found_elsewhere(self, found: Transcript.FoundElsewhere) -> None:
        if self._check_idle():
            await self._switch_branch(found.turn_id)
            self.notify("found on another branch: < and > go back")
            await self._transcript.find(0)

    def on_screen_suspend(self) -> None:
        if self.app.current_mode != self.app.DEFAULT_MODE and self._transcript.finding:
            self._transcript.end_find()
            self._prompt.focus()

    def action_withdraw(self) -> None:
        if waiting := self.queue.waiting:
            self._withdraw(waiting[-1])

    def action_choose_turn(self) -> None:
        turns = self._transcript.turns
        before = turns[: turns.index(self.focused)] if self.focused in turns else turns
        if before:
            before[-1].focus()

    def action_toggle_thinking(self) -> None:
        if turns := self._transcript.turns:
            turns[-1].action_toggle_thinking()

    def action_toggle_net(self) -> None:
        net = self._panel.toggle_net()
        self.notify("net: without idle power" if net else "gross: idle power included")

    def action_zoom(self, steps: int) -> None:
        self._panel.zoom(steps)

    def action_widen(self, columns: int) -> None:
        from etui.config.schema import LEAST_PANEL_COLUMNS  # pydantic is not for the first paint

        before = self._panel.outer_size.width
        most = self.size.width * _MOST_PANEL_PERCENT // 100
        width = min(max(before + columns, LEAST_PANEL_COLUMNS), most)
        if before and width >= LEAST_PANEL_COLUMNS:  # it is shown
            self._set_panel_columns(width)
            self.post_message(SettingChosen("panel_columns", width))

    def _set_panel_columns(self, columns: int) -> None:
        self._panel.styles.width = columns
        self._panel.styles.max_width = f"{_MOST_PANEL_PERCENT}%"

    def action_request(self, action: TurnAction) -> None:
        answered = [turn for turn in self._transcript.turns if turn.record is not None]
        if answered:
            self._act_on(answered[-1], action)
        else:
            warn(self, "no answer yet")

    def action_toggle_quiet(self) -> None:
        quiet = self.queue.pace is not QUIET
        self.queue.take_pace(QUIET if quiet else USUAL)
        self.notify(f"quiet mode is {'on' if quiet else 'off'}")

    async def action_page(self, pages: int) -> None:
        await self._transcript.page(pages)

    async def action_new_chat(self) -> None:
        if self._check_idle():
            await self._take_chat(self.queue.conversation.successor())

    @work(exclusive=True, group="chats")
    async def action_chats(self) -> None:
        from etui.tui.chat._chat_list import ChatsScreen  # not needed for the first paint

        if self.queue.services is None:
            warn(self, "the log is not open yet")
            return
        left = await self.app.push_screen_wait(
            ChatsScreen(self._config, self.queue.services.chats, self.queue.services.runner)
        )
        await self._return_from(left)

    @work(exclusive=True, group="chats")
    async def open_chat(self, chat: ChatRecord, turn_id: str) -> None:
        """Show a chat at one of its turns; the current chat stays while an answer is running."""
        if self.queue.conversation.chat.chat_id != chat.chat_id:
            await self.resume(chat)
        conversation = self.queue.conversation
        if conversation.chat.chat_id != chat.chat_id:
            return
        if turn_id in conversation.replaced() and self._check_idle():
            await self._switch_branch(turn_id)
        else:
            await self._transcript.show_turn(turn_id)

    @work(exclusive=True, group="chats")
    async def action_rename(self) -> None:
        before = self.queue.conversation.name
        if name := await ask_line(self, "Name of the chat", before, "Enter saves the name"):
            await self._change(replace(self.queue.conversation.named, name=name))

    @work(exclusive=True, group="chats")
    async def action_system_prompt(self) -> None:
        text = await self.app.push_screen_wait(
            TextModal(
                "System prompt of this chat",
                self.queue.conversation.chat.system or "",
                "The model reads this first. Ctrl+S saves, Esc cancels; empty for none.",
            )
        )
        if text is not None:
            await self._change(replace(self.queue.conversation.named, system=text or None))

    @work(exclusive=True, group="tools")
    async def action_tools(self) -> None:
        from etui.tui.chat._dialogs import ToolsModal  # not needed for the first paint

        if self.queue.services is None or self.queue.busy:
            warn(self, "wait until the answer has ended")
            return
        box = self.queue.services.runner.tools
        with faults_shown(self):
            if not box.listings:
                self.notify("starting the servers of tools …")
            tools = await in_thread(box.open)
            modal = ToolsModal(box, tools, on=self.queue.tools_on)
            on = await self.app.push_screen_wait(modal)
            if on is not None:
                self.queue.turn_tools(on)
                self.notify(f"tools are {'on' if on else 'off'}")

    @work(exclusive=True, group="export")
    async def action_export(self, form: ExportFormat) -> None:
        from etui.tui.chat._chat_list import export_chat  # not needed for the first paint

        chat, records = self.queue.conversation.named, self.queue.conversation.records
        with faults_shown(self):
            path = await in_thread(lambda: export_chat(self._config, chat, records, form))
            self.notify(sanitize(f"written to {path}"), markup=False)

    async def action_branch(self, step: int) -> None:
        conversation = self.queue.conversation
        places = conversation.places()
        forks = [each.turn_id for each in conversation.current if each.turn_id in places]
        await self._step_branch(forks[-1] if forks else None, step)

    async def _step_branch(self, turn_id: str | None, step: int) -> None:
        conversation = self.queue.conversation
        target = None if turn_id is None else conversation.beside(turn_id, step)
        if target is None:
            self.notify(f"no branch {'before' if step < 0 else 'after'} this one")
        elif self._check_idle():
            await self._switch_branch(target)

    async def _switch_branch(self, turn_id: str) -> None:
        """Make the newest branch below a turn the current one, and remember that."""
        conversation = self.queue.conversation.switched(turn_id)
        self.queue.conversation = conversation
        await self._show_branch()
        await self._transcript.show_turn(turn_id)
        await self._change(conversation.named)

    async def _show_branch(self) -> None:
        await self._transcript.show(self.queue.conversation.current)
        self.queue.show_branches()

    async def _return_from(self, left: ChatsLeft | None) -> None:
        if left is None:
            return
        current_id = self.queue.conversation.chat.chat_id
        for chat in left.renamed:
            if chat.chat_id == current_id:
                self.queue.conversation = replace(self.queue.conversation, chat=chat)
        if left.resume is not None and left.resume.chat_id != current_id:
            await self.resume(left.resume)
        if left.resume is not None:
            conversation = self.queue.conversation
            if (
                left.branch is not None
                and conversation.chat.chat_id == left.resume.chat_id
                and self._check_idle()
            ):
                await self._switch_branch(left.branch)
        elif current_id in left.deleted and self._check_idle():
            await self._take_chat(self.queue.conversation.successor())

    async def resume(self, chat: ChatRecord) -> None:
        if (services := self.queue.services) is not None and self._check_idle():
            with faults_shown(self):
                await self._load(services, chat)

    async def _load(self, services: Services, chat: ChatRecord) -> None:
        records = await in_thread(lambda: services.chats.turns(chat.chat_id))
        ids = [record.turn_id for record in records]
        self._transcript.mark(grades=await in_thread(lambda: services.chats.grades(ids)))
        sent = self.queue.take_back()
        await self._take_chat(Conversation(chat, tuple(records)))
        await self._restore_route(services)
        for asking in sent:
            await self.queue.ask(asking)

    async def _take_chat(self, conversation: Conversation) -> None:
        self.queue.conversation = conversation
        self._transcript.end_find()
        records = conversation.records
        self._panel.show_chat(records)
        self._prompt.remember([record.query for record in records])
        await self._show_branch()
        self._prompt.focus()

    async def _change(self, chat: ChatRecord) -> None:
        """Store a new name or system prompt; a chat without turns is saved once it has a name."""
        self.queue.conversation = replace(self.queue.conversation, chat=chat)
        services = self.queue.services
        if services is not None and (self.queue.conversation.records or chat.name):
            with faults_shown(self):
                await in_thread(lambda: services.chats.save(chat))

    def _check_idle(self) -> bool:
        if not self.queue.is_empty:
            warn(self, "an answer is running: stop it with Esc first")
            return False
        return True

    def _withdraw(self, view: TurnView) -> None:
        self.queue.withdraw(view)
        self.notify("question withdrawn: ↑ in the prompt brings it back")

    @work(exclusive=True, group="details", exit_on_error=False)
    async def _show_details(self, record: TurnRecord) -> None:
        # Neither is needed for the first paint.
        from etui.log.prices import read_cost_facts
        from etui.tui.chat._dialogs import DetailsModal

        with faults_shown(self):
            costs = await in_thread(lambda: read_cost_facts(self._config, record))
            self.app.push_screen(DetailsModal(record, costs))

    def _act_on(self, view: TurnView, action: TurnAction) -> None:
        record = view.record
        match action:
            case "withdraw":
                self._withdraw(view)
            case "copy" if record is not None and record.answer.strip():
                self.post_message(CopyRequested("the answer", record.answer))
            case "details" if record is not None:
                self._show_details(record)
            case "code":
                self._copy_code(view)
            case "edit" if view.ended or record is not None:
                self._prompt.revise(view.asking, record.turn_id if record is not None else None)
            case "smaller" | "larger" if record is not None:
                self._ask_again(record, action)
            case "good" | "bad" if record is not None and record.answer.strip():
                self._grade_answer(view, record.turn_id, action == "good")
            case "compare" if record is not None:
                self._compare(record.turn_id)
            case "prompt" if record is not None:
                self._save_prompt(record)
            case "continue" if record is not None:
                self._continue_answer(record)
            case _ if view.ended or view.queued:
                warn(self, "no answer yet")
            case _:
                warn(self, "the answer is still being written: Esc stops it")

    def _copy_code(self, view: TurnView) -> None:
        found = view.next_code()
        if found is None:
            warn(self, "no code block in this answer")
            return
        number, count, block = found
        facts = [block.language, units.count_text(len(block.code.splitlines()), "line")]
        what = f"code block {number} of {count} ({', '.join(filter(None, facts))})"
        self.post_message(CopyRequested(what, block.code))

    @work(exclusive=True, group="compare", exit_on_error=False)
    async def _compare(self, turn_id: str) -> None:
        """Show two answers of a question side by side, and continue with the one that is kept."""
        from etui.tui.chat._dialogs import ComparisonScreen  # not needed for the first paint

        answers = self.queue.conversation.answers(turn_id)
        if len(answers) < 2:
            warn(self, "there is one answer: - or + asks another arm, then s compares")
            return
        kept = await self.app.push_screen_wait(ComparisonScreen(answers, turn_id))
        if kept in {each.turn_id for each in self.queue.conversation.current}:
            await self._transcript.show_turn(str(kept))
        elif kept is not None and self._check_idle():
            await self._switch_branch(kept)

    @work(exclusive=True, group="prompt", exit_on_error=False)
    async def _save_prompt(self, record: TurnRecord) -> None:
        from etui.prompts.library import save_prompt

        words = re.findall(r"[a-z0-9]+", record.query.casefold())
        how = "Its name after the slash. Enter saves; {{word}} in its file asks for a value."
        name = await ask_line(self, "Save the question as a prompt", "-".join(words[:3]), how)
        if name:
            with faults_shown(self):
                path = await in_thread(lambda: save_prompt(self._config, name, record.query))
                self.notify(sanitize(f"/{name} asks it again · {path}"), markup=False)

    @work(exclusive=True, group="grade", exit_on_error=False)
    async def _grade_answer(self, view: TurnView, turn_id: str, good: bool) -> None:
        """Store what the user says of an answer; the same again takes it back."""
        services = self.queue.services
        if services is None:
            return
        said = None if view.good is good else good
        with faults_shown(self):
            await in_thread(lambda: services.chats.grade(turn_id, said))
            self._transcript.mark(grades={turn_id: said})

    @work(exclusive=True, group="again", exit_on_error=False)
    async def _continue_answer(self, record: TurnRecord) -> None:
        why_not = refuse_continuation(record)
        if why_not:
            self.notify(why_not, severity="warning")
            return
        self._prompt.focus()
        route = continuation_route(record, self.queue.route)
        asking = replace(Asking.from_record(record), route=route, continues=record.turn_id)
        await self.queue.ask(asking)

    @work(exclusive=True, group="again", exit_on_error=False)
    async def _ask_again(self, record: TurnRecord, direction: Direction) -> None:
        if (services := self.queue.services) is None:
            return
        with faults_shown(self):
            runner, before = services.runner, self.queue.route
            route = await in_thread(lambda: runner.other_route(record, before, direction))
            if route is None:
                text = f"no arm on this machine is {direction} than {record.arm}"
                self.notify(sanitize(text), markup=False)
                return
            self._prompt.focus()
            again = replace(Asking.from_record(record), route=route, replaces=record.turn_id)
            await self.queue.ask(again)
