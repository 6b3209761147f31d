"""The verdict and its figures as JSON."""

from __future__ import annotations

import json
from typing import Any

from etui.codec import to_document
from etui.design.analysis.analysis import DesignAnalysis, PartAnalysis
from etui.design.analysis.strategies import Strategy

VERSION = 1


def verdict_json(analysis: DesignAnalysis, title: str) -> str:
    """Format the verdict as JSON: every sentence with its figures, and all figures behind them."""
    config = analysis.config
    document = {
        "version": VERSION,
        "run_id": config.run_id,
        "design": None if config.design is None else config.design.name,
        "title": title,
        "suite": config.suite,
        "split": config.split,
        "complete": analysis.is_complete,
        "confidence_percent": 95,
        "parts": [_describe_part(part) for part in analysis.parts],
        "limits": list(analysis.limits),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _describe_part(part: PartAnalysis) -> dict[str, Any]:
    paired = part.paired
    return {
        "machine": part.machine or None,
        "questions": len(paired),
        "questions_left_out": paired.questions_dropped,
        "answers_left_out": paired.answers_dropped,
        "energy_kind": part.kind,
        "headline": part.verdict.headline,
        "statements": [
            {**to_document(one), "claim": one.is_claim} for one in part.verdict.statements
        ],
        "arms": _name_strategies(to_document(part.arms)),
        "multiples": _name_strategies(to_document(part.multiples)),
        "leads": _name_strategies(to_document(part.leads)),
        "routers": {
            "why_not": part.replay.why_not or None,
            "reference": _name(part.replay.reference),
            "routed": to_document(part.replay.routed),
        },
        "curves": to_document(part.curves),
    }


def _name(strategy: Strategy | None) -> str | None:
    return None if strategy is None else strategy.arm


def _name_strategies(value: Any) -> Any:
    """Put the name of an arm in place of its description."""
    if isinstance(value, dict):
        if value.keys() == {"arm", "role", "model", "reasoning", "way"}:
            return value["arm"]
        return {key: _name_strategies(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_name_strategies(inner) for inner in value]
    return value
