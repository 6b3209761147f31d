"""The state of the server as lines of text."""

from __future__ import annotations

from etui.runtime.serve_facts import ServeFacts, format_per_request
from etui.units import energy_text, percent_text, watts_text

_NOT_RUNNING = "the server is not running; the command `server: start` starts it"


def state_lines(facts: ServeFacts | None, progress: str) -> list[tuple[str, str]]:
    """Describe the server as pairs of label and text.

    Args:
        facts: Its newest state; None before the first, and without a server.
        progress: What it is doing if that is not known from its state; empty for nothing.
    """
    if facts is None:
        return [("state", progress or _NOT_RUNNING)]
    state = progress or facts.phase
    if facts.residents:
        state += f" ({', '.join(facts.residents)} in memory)"
    requests = [f"{facts.running:,} running", f"{facts.queued:,} queued", f"{facts.ended:,} done"]
    if facts.failed:
        requests.append(f"{facts.failed:,} failed")
    lines = [
        ("address", facts.url),
        ("state", state),
        ("power", watts_text(facts.watts, facts.kind)),
        ("requests", ", ".join(requests)),
    ]
    if facts.ended:
        lines.append(("energy", format_per_request(facts)))
    total = energy_text(facts.joules, facts.joules_uncertainty, facts.kind)
    if facts.idle_share is not None:
        total += f", {percent_text(facts.idle_share)} of it idle"
    lines.append(("in all", total))
    return lines
