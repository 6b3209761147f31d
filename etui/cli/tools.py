"""``etui tools``: what a model may call, and what the servers of config.yaml offer."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import click

from etui.cli.output import find_width, json_option, print_result, table_lines
from etui.config.config import load_config
from etui.errors import ExitCode
from etui.text import fit_cells, one_line
from etui.tools.toolbox import Toolbox


@click.command()
@json_option
def tools(as_json: bool) -> int:
    """List the tools that a model may call.

    `etui ask --tools` and `/tools` in the app offer them: etui's own, and those of the MCP servers
    in config.yaml, which are started for it. Prompts and resources of servers are listed too.

    \b
    tools:
      folder: ~/notes                # read_file reads below it
      servers:
        weather: {command: [uvx, weather-mcp]}
        search: {url: http://127.0.0.1:8000/mcp}
    tool_permissions: {calculate: allow, "weather__*": allow}
    """  # noqa: D301
    config = load_config()
    box = Toolbox(config)
    try:
        found = box.open()
    finally:
        box.close()
    document: dict[str, Any] = {
        "tools": [
            {
                "name": each.name,
                "server": each.server,
                "permission": box.permission(each.name),
                "description": each.description,
            }
            for each in found
        ],
        **{
            kind: [
                {"server": name, "name": each["name"], "description": each["description"]}
                for name, listing in box.listings.items()
                for each in getattr(listing, kind)
            ]
            for kind in ("prompts", "resources")
        },
        "problems": box.problems,
    }
    rows = [
        (each["name"], each["permission"], one_line(each["description"]))
        for each in document["tools"]
    ]
    lines = table_lines(("TOOL", "PERMISSION", "WHAT IT DOES"), rows)
    if (width := find_width()) is not None:
        lines = [fit_cells(line, width) for line in lines]
    for kind in ("prompts", "resources"):
        for each in document[kind]:
            lines.append(f"{kind[:-1]} of {each['server']}: {one_line(each['name'])}")
    lines += [f"{name}: {problem}" for name, problem in box.problems.items()]
    print_result(document, lines, as_json)
    if not box.problems:
        for pattern in config.tool_permissions:
            if not any(fnmatchcase(each.name, pattern) for each in found):
                click.echo(f"tool_permissions: no tool is called {pattern!r}", err=True)
    return ExitCode.FAILED if box.problems else ExitCode.DONE
