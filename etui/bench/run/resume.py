"""What a run needs to be resumed: answers, and the same settings as before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etui.bench.store.run_config import RunConfig, differences, plan_differences
from etui.bench.store.run_folder import read_run
from etui.bench.store.sample import Sample
from etui.bench.store.several_machines import undo_join
from etui.errors import Stopped, UsageError


def read_answers(folder: Path) -> tuple[Sample, ...]:
    """Read the answers of a run that ends.

    Raises:
        Stopped: It has none.
    """
    samples = read_run(folder).samples
    if not samples:
        raise Stopped(
            "stopped before the first answer", f"resume with: etui bench --resume {folder}"
        )
    return samples


def refuse_merged(config: RunConfig) -> None:
    """Refuse to resume a run that was merged from others.

    Raises:
        UsageError: It was.
    """
    if config.merged is not None:
        raise UsageError(
            f"run {config.run_id} was merged from {', '.join(config.merged)}, and answers nothing "
            "itself",
            "resume one of these, or answer another part with --part, and merge again",
        )


def refuse_changes(before: RunConfig, now: RunConfig) -> None:
    """Refuse to resume a run with different settings.

    Raises:
        UsageError: The settings differ; the message lists them.
    """
    if before.sha256 != now.sha256:
        _refuse_differences(before.run_id, differences(before, now))


def refuse_other_plan(before: RunConfig, now: RunConfig) -> None:
    """Refuse to resume a run of several machines on one that asks something else.

    Programs and hardware may differ there: each answer names its machine.

    Raises:
        UsageError: The plans differ; the message lists how.
    """
    _refuse_differences(before.run_id, plan_differences(undo_join(before), now))


def _refuse_differences(run_id: str, found: Mapping[str, tuple[Any, Any]]) -> None:
    if not found:
        return
    changes = "; ".join(
        f"{path} was {_format_value(one)} and is now {_format_value(other)}"
        for path, (one, other) in list(found.items())[:6]
    )
    raise UsageError(
        f"run {run_id} was started with different settings: {changes}",
        "restore them, or start a new run",
    )


def _format_value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
