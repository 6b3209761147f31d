"""The meter's heavy libraries are not loaded before a source needs them."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_meter_loads_no_driver_and_no_front_end():
    code = (
        "import sys, etui.energy.discovery, etui.energy.recorder, etui.energy.scopes;"
        "print([m for m in ('pynvml', 'numpy', 'psutil', 'textual', 'llama_cpp', 'amdsmi')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
