"""Format the grades of the user and the audits of an answer as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui import units
from etui.text.tables import one_line
from etui.text.timestamps import local_time

if TYPE_CHECKING:
    from etui.log.records import AuditRecord


def format_grade(good: bool) -> str:
    """Return the word for a grade: ``good`` or ``bad``."""
    return "good" if good else "bad"


def format_agreement(audit: AuditRecord) -> str:
    """Return what the comparison of an audit gave: ``agrees``, ``differs`` or why there is none."""
    if audit.agrees is None:
        return audit.why or "not compared"
    return "agrees" if audit.agrees else "differs"


def format_audit(audit: AuditRecord) -> str:
    """Format an audit in one line: when, by which arm, its result and its joules."""
    energy = units.energy_text(audit.joules, audit.uncertainty, audit.kind)
    load = f" and {units.energy_text(audit.load_joules)} of loading" if audit.load_joules else ""
    return (
        f"audit {local_time(audit.created_at)}: {one_line(audit.arm)} ({one_line(audit.model)}) "
        f"{one_line(format_agreement(audit))}, {energy}{load}"
    )
