"""Compare with the golden files; ``ETUI_REDRAW=1 pytest tests/contract`` writes them again."""

from __future__ import annotations

import json
import os
from difflib import unified_diff
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"
REDRAW = os.environ.get("ETUI_REDRAW") in ("1", "numbers")
HOW = "`ETUI_REDRAW=1 pytest tests/contract` writes the golden files; read the diff before a commit"


def check(name: str, text: str) -> None:
    """Compare a text with its golden file, or write the file.

    Args:
        name: Path of the file below ``golden/``.
        text: What etui gives today.
    """
    path = GOLDEN / name
    if REDRAW:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        return
    assert path.is_file(), f"there is no golden file {name}; {HOW}"
    golden = path.read_text(encoding="utf-8")
    changed = "\n".join(unified_diff(golden.splitlines(), text.splitlines(), lineterm="", n=1))
    assert text == golden, f"{name} has changed; {HOW}\n{changed[:4000]}"


def check_json(name: str, document: Any) -> None:
    """Compare a JSON document with its golden file; the order of keys counts."""
    check(name, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
