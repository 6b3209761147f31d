"""Serve other programs from the app: run ``etui serve`` in a separate process, read its lines.

The server has an engine of its own, so the app's models are unloaded and questions are refused
while it runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from etui.codec import from_document
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode
from etui.runtime.serve_facts import ServeFacts, format_books
from etui.tui.command_run import build_environment, follow_command
from etui.tui.jobs import JobEnded, JobProgress
from etui.tui.services import TurnRunner

_STOP_SECONDS = 30.0
"""How long a stopped server may take: it ends running answers and saves every turn."""

_REFUSAL = "the server answers other programs"

PostFact = Callable[[ServeFacts | JobProgress], object]


def command() -> list[str]:
    """Return the command line of the server."""
    return [sys.executable, "-m", "etui", "serve", "--jsonl"]


def run_server(
    runner: TurnRunner, config: Config, post: PostFact, stopped: Callable[[], bool]
) -> JobEnded:
    """Serve until the server is stopped.

    Args:
        runner: Unloads its models and refuses questions meanwhile.
        stopped: Returns whether to stop it.

    Raises:
        EtuiError: An answer is running, or the server failed.
    """
    last: ServeFacts | None = None

    def see(line: bytes) -> None:
        nonlocal last
        facts = parse_line(line)
        if facts is not None:
            last = facts
            post(facts)

    with runner.at_rest(_REFUSAL) as leaving:
        post(JobProgress("starting the server …"))
        end = follow_command(
            command(),
            build_environment(config),
            see,
            lambda: stopped() or leaving(),
            lambda: post(JobProgress("stopping the server …")),
            _STOP_SECONDS,
        )
    if end.code != ExitCode.DONE:
        raise EtuiError(end.what or f"the server ended with exit code {end.code}", end.fix)
    answered = "" if last is None else f": {format_books(last)}"
    return JobEnded(f"the server has stopped{answered}")


def parse_line(line: bytes) -> ServeFacts | None:
    """Parse a line of ``etui serve --jsonl``; None if it is no state of the server."""
    try:
        document = json.loads(line)
        if not isinstance(document, dict) or document.get("event") not in ("status", "end"):
            return None
        return from_document(ServeFacts, document, extra="ignore")
    except ValueError:
        return None
