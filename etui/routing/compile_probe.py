"""Compile a probe of a policy file, or a line of its cases file."""

from __future__ import annotations

from etui.chat import Message
from etui.routing.policy import PolicyProbe
from etui.routing.schema.policy_file import CaseEntry, ProbeEntry
from etui.routing.signals.host_state import HostState


def compile_probe(entry: ProbeEntry, line: int, file: str) -> PolicyProbe:
    """Compile a probe or a case."""
    host = entry.host.model_dump() if entry.host is not None else {}
    messages = tuple(Message(each.role, each.content) for each in entry.messages or ())
    system = messages[0].content if messages and messages[0].role == "system" else None
    case = entry if isinstance(entry, CaseEntry) else None
    return PolicyProbe(
        query=messages[-1].content if entry.query is None else entry.query,
        rule=entry.rule,
        not_rule=entry.not_rule,
        arm=entry.arm,
        not_arm=entry.not_arm,
        signals=dict(entry.signals or {}),
        metadata=tuple((entry.metadata or {}).items()),
        host=HostState(**host),
        file=file,
        line=line,
        system=system,
        history=messages[0 if system is None else 1 : -1],
        is_case=case is not None,
        id=(case.id or "") if case is not None else "",
        tags=case.tags if case is not None else (),
        group=(case.group or "") if case is not None else "",
    )
