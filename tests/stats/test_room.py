"""The room of statistics uses nothing of etui."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import etui.stats

MODULES = [found.name for found in pkgutil.iter_modules(etui.stats.__path__, "etui.stats.")]


def test_the_room_has_modules() -> None:
    assert "etui.stats.arrays" in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_no_other_room(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "print(*[m for m in sys.modules if m.startswith('etui.') and 'etui.stats' not in m])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
