"""The report of a sweep: one HTML file that needs no other."""

from __future__ import annotations

from etui.sweep.report.page import write_report

__all__ = ["write_report"]
