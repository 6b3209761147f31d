"""A fake NVIDIA driver library, compiled, and a driver with any library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etui.energy.sources.nvml import NvmlSource


class OpenDriver(NvmlSource):
    """An open driver with this library and these (channel, handle) pairs."""

    library: Any = None
    handles: Any = ()

    def __init__(self, library: Any, handles: Any) -> None:
        self.library, self.handles = library, handles


SOURCE = Path(__file__).with_name("fake_nvml.c")


def compile_fake_nvml(folder: Path) -> Path:
    """Put a ``libnvidia-ml.so.1`` that plays a power curve (see fake_nvml.c) into a folder.

    Skips the test where there is no C compiler or no Linux.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the fake driver library needs a C compiler on Linux")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder
