"""``etui tools``: what a model may call, and what the servers of config.yaml offer."""

from __future__ import annotations

from typing import Any

import click

from etui.cli.output import json_option, print_result, table_lines


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
    from etui.config.config import load_config
    from etui.errors import ExitCode
    from etui.text import one_line
    from etui.tools.toolbox import Toolbox

    box = Toolbox(load_config())
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
        (each["name"], each["permission"], one_line(each["description"])[:60])
        for each in document["tools"]
    ]
    lines = table_lines(("TOOL", "PERMISSION", "WHAT IT DOES"), rows)
    for kind in ("prompts", "resources"):
        for each in document[kind]:
            lines.append(f"{kind[:-1]} of {each['server']}: {one_line(each['name'])}")
    lines += [f"{name}: {problem}" for name, problem in box.problems.items()]
    print_result(document, lines, as_json)
    return ExitCode.FAILED if box.problems else ExitCode.DONE
