"""What a model may call: which tools there are, which of them may run, and what they returned."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etui.chat import Query
from etui.errors import EtuiError
from etui.text import one_line, sanitize
from etui.tools.builtin import CALCULATE, READ_FILE, RefusedError, calculate, read_file
from etui.tools.servers import Listing, McpServer, ToolFailed, ToolTimedOut
from etui.turn.record import ToolStatus

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.config.schema import ToolsEntry

Permission = Literal["allow", "ask", "deny"]
Consent = Literal["once", "chat", "always", "no", "never"]
"""What a user says to a call: now, in this chat, from now on; not now, never again."""

_MOST_NAME = 64
_MOST_DESCRIPTION = 1_000
_MOST_SCHEMA = 8_000
_MOST_DEPTH = 32
_MOST_TOOLS = 64
"""A model reads all of them with each question."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as a model sees it."""

    name: str  # `calculate`, or `weather__forecast` for a server's
    description: str
    parameters: str  # JSON schema of its arguments, as text
    server: str | None = None  # Name of its server; None for one of etui's own
    own_name: str = ""  # Its name there


Ask = Callable[[Tool, str], Consent]
"""Ask the user whether a tool may run with some arguments."""


class Toolbox:
    """The tools of config.yaml; used by one turn at a time.

    Args:
        ask: Asks the user; None refuses what is not allowed, because there is no one to ask.
        remember: Stores a permission that outlives the program.

    Attributes:
        problems: Why tools of config.yaml are missing, by the name of their server or their own;
            and why a permission could not be written there.
        listings: What the servers offer.
        most_calls, most_joules: Limits of one turn.
    """

    def __init__(
        self,
        config: Config,
        ask: Ask | None = None,
        remember: Callable[[str, Permission], None] = lambda _name, _permission: None,
    ) -> None:
        entry = _read_entry(config)
        self.ask = ask
        self.problems: dict[str, str] = {}
        self.listings: dict[str, Listing] = {}
        self.most_calls, self.most_joules = entry.calls, entry.joules
        self._entry = entry
        self._folder = Path(entry.folder or os.devnull).expanduser()
        self._remember = remember
        self._permissions: dict[str, Permission] = dict(config.tool_permissions)
        self._servers = {name: McpServer(name, each) for name, each in entry.servers.items()}
        self._tools: dict[str, Tool] = {}
        self._in_chat: set[tuple[str | None, Tool]] = set()

    def open(self, cancelled: Callable[[], bool] = lambda: False) -> tuple[Tool, ...]:
        """Start the servers that do not run, and return all tools.

        A server that fails is left out, and :attr:`problems` says why.
        """
        found = dict(self._own_tools())
        for name, listing in self._list(cancelled).items():
            for each in listing.tools:
                tool = _read_tool(name, each)
                if tool is None or tool.name in found or len(found) >= _MOST_TOOLS:
                    self.problems.setdefault(name, f"left out: {one_line(str(each['name']))[:60]}")
                else:
                    found[tool.name] = tool
        self._tools = found
        return tuple(found.values())

    def offer(self, query: Query, cancelled: Callable[[], bool] = lambda: False) -> Query:
        """Return a query whose model may call the tools that are not forbidden."""
        tools = [tool for tool in self.open(cancelled) if self.permission(tool.name) != "deny"]
        if not tools:
            return query
        written = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": json.loads(tool.parameters),
                },
            }
            for tool in tools
        ]
        text = json.dumps(written, ensure_ascii=False)
        return replace(query, options=replace(query.options, tools=text))

    def permission(self, name: str) -> Permission:
        """Return the permission of config.yaml: of the name, else of the first pattern for it."""
        if name in self._permissions:
            return self._permissions[name]
        matching = (p for pattern, p in self._permissions.items() if fnmatchcase(name, pattern))
        return next(matching, "ask")

    def refuse(self, name: str, arguments: str, chat_id: str | None) -> str:
        """Return why a call may not run; empty if it may. It may ask the user, and wait for it."""
        tool = self._tools.get(name)
        if tool is None:
            return f"there is no tool {one_line(name)[:_MOST_NAME]}"
        permission = self.permission(name)
        if permission == "allow" or (permission == "ask" and (chat_id, tool) in self._in_chat):
            return ""
        if permission == "deny":
            return "the settings forbid it"
        if self.ask is None:
            return "there is no terminal to ask at, and the settings do not allow it"
        said = self.ask(tool, arguments)
        if said == "chat":
            self._in_chat.add((chat_id, tool))
        elif said in ("always", "never"):
            self._permissions[name] = "allow" if said == "always" else "deny"
            try:
                self._remember(name, self._permissions[name])
            except EtuiError as error:  # it holds until the program ends
                self.problems["config.yaml"] = sanitize(error.what)
        return "" if said in ("once", "chat", "always") else "the user refused it"

    def run(
        self, name: str, arguments: str, cancelled: Callable[[], bool]
    ) -> tuple[ToolStatus, str]:
        """Run a call that may run; return how it ended, and a text for the model.

        The text has no control characters, and at most the characters of the settings.
        """
        tool = self._tools[name]
        status: ToolStatus = "done"
        left_out = 0
        try:
            given = json.loads(arguments or "{}")
            if not isinstance(given, dict):
                raise RefusedError("the arguments are not a JSON object")
            if tool.server is None:
                text = self._run_own(name, given)
            else:
                text, left_out = self._servers[tool.server].call(tool.own_name, given, cancelled)
        except ToolTimedOut as error:
            status, text = "timeout", error.what
        except (RefusedError, ToolFailed, ValueError, RecursionError) as error:
            status, text = "failed", f"{error}"
        most = self._entry.result_characters
        text, left_out = sanitize(text[:most]), left_out + max(0, len(text) - most)
        if left_out:
            text += f"\n[cut: {left_out:,} characters left out]"
        return status, text if status == "done" else f"error: {text}"

    def close(self) -> None:
        """End the servers."""
        if self._servers:
            with ThreadPoolExecutor(len(self._servers)) as pool:
                list(pool.map(McpServer.close, self._servers.values()))

    def _own_tools(self) -> Mapping[str, Tool]:
        own = {"calculate": CALCULATE}
        if self._folder.is_dir():
            own["read_file"] = READ_FILE
        elif self._entry.folder is not None:
            self.problems["read_file"] = f"there is no folder {one_line(str(self._folder))}"
        return {
            name: Tool(name, str(each["description"]), json.dumps(each["parameters"]))
            for name, each in own.items()
        }

    def _run_own(self, name: str, given: dict[str, Any]) -> str:
        key = "path" if name == "read_file" else "expression"
        if set(given) != {key} or not isinstance(given[key], str):
            raise RefusedError(f"the only argument is {key}, a text")
        if name == "calculate":
            return calculate(given[key])
        return read_file(self._folder, given[key])

    def _list(self, cancelled: Callable[[], bool]) -> dict[str, Listing]:
        if self._servers:
            from etui.extras import require_extra

            require_extra("tools", "an MCP server in config.yaml")

        def list_one(server: McpServer) -> Listing | EtuiError:
            try:
                return server.list(cancelled)
            except EtuiError as error:
                return error

        self.listings = {}
        for name in self._servers:
            self.problems.pop(name, None)
        with ThreadPoolExecutor(max(1, len(self._servers))) as pool:
            found = list(pool.map(list_one, self._servers.values()))
        for name, each in zip(self._servers, found, strict=True):
            if isinstance(each, Listing):
                self.listings[name] = each
            else:
                self.problems[name] = sanitize(each.what)
        return self.listings


def _read_entry(config: Config) -> ToolsEntry:
    if config.tools is not None:
        return config.tools
    from etui.config.schema import ToolsEntry  # pydantic takes 100 ms to import

    return ToolsEntry()


def _read_tool(server: str, found: Mapping[str, Any]) -> Tool | None:
    """Read what a server says of a tool; None if a model cannot be shown it."""
    own_name = str(found["name"])
    name = f"{server}__{_NOT_IN_NAMES.sub('_', own_name)}"
    if not own_name or len(name) > _MOST_NAME or _is_deep(found["parameters"]):
        return None
    text = json.dumps(found["parameters"])
    if len(text) > _MOST_SCHEMA:
        return None
    description = one_line(str(found["description"]))[:_MOST_DESCRIPTION]
    return Tool(name, description, text, server, own_name)


def _is_deep(document: Any, levels: int = _MOST_DEPTH) -> bool:
    """Return whether more objects and lists are nested than that."""
    if not isinstance(document, dict | list):
        return False
    inner = document.values() if isinstance(document, dict) else document
    return levels == 0 or any(_is_deep(each, levels - 1) for each in inner)


def remember_permission(config: Config, name: str, permission: Permission) -> None:
    """Write a permission to config.yaml, and leave the rest of the file as it is.

    Raises:
        EtuiError: The file cannot be written, or its style does not allow it.
    """
    from etui.config.config import edit_settings
    from etui.yaml.edit import insert_entry, remove_entry

    def edit(text: str) -> str:
        text = remove_entry(text, "tool_permissions", name)
        return insert_entry(text, "tool_permissions", name, [permission])

    edit_settings(config, edit, f"tool_permissions: {{{name}: {permission}}}")
