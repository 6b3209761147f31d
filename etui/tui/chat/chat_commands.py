"""The palette commands of the chat screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.tui.commands import Command

if TYPE_CHECKING:
    from etui.tui.chat.screen import ChatScreen


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
