"""What a start loads, in a fresh process; ``test_house.py`` checks the imports of the source."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = (
    *("textual", "llama_cpp", "pynvml", "msgspec", "pydantic", "sqlite_utils", "numpy", "yaml"),
    *("huggingface_hub", "jinja2", "psutil", "platformdirs"),
)


def loaded(statement: str, suspects: tuple[str, ...]) -> list[str]:
    """Which of the suspects are in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*[m for m in {suspects!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_the_codec_imports_msgspec_on_its_first_use():
    statement = "import etui.codec, etui.models.files, etui.energy.idle, etui.backends.worker"
    assert loaded(statement, ("msgspec",)) == []


def test_help_imports_click_alone():
    statement = (
        "import contextlib, io\n"
        "from etui.cli.main import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    assert run(['--help']) == 0"
    )
    assert loaded(statement, SLOW) == []


def test_the_help_of_a_command_loads_nothing_that_only_its_work_needs():
    """Completing its options loads as much; any command would take some three times as long."""
    commands = (
        *("ask", "bench", "calibrate", "chat", "curves", "doctor", "engine", "logs", "mcp"),
        *("models", "policy", "power top", "power serve", "power idle", "serve", "stats", "sweep"),
    )
    suspects = (
        *(name for name in SLOW if name != "msgspec"),  # which reads the clients of `serve`
        *("sqlite3", "etui.energy.recorder", "etui.engine.grammar", "etui.log.queries"),
        *("etui.runtime.runtime", "etui.turn.run"),
    )
    statement = (
        "import contextlib, io\n"
        "from etui.cli.main import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    for command in {commands!r}:\n"
        "        assert run([*command.split(), '--help']) == 0"
    )
    assert loaded(statement, suspects) == []


def test_the_app_paints_before_it_imports_what_the_first_screen_does_not_show():
    suspects = (
        "etui.energy.recorder", "etui.log.writer", "etui.runtime.service", "llama_cpp",
        "markdown_it", "pygments", "pydantic", "sqlite3", "etui.models.download", "etui.log.export",
        "etui.tui.chat._chat_list", "etui.tui.models.first_run", "etui.tui.server_screen",
        "etui.tui.help", "etui.tui.route_screen",
    )  # fmt: skip
    assert loaded("import etui.tui.start", suspects) == []


def test_the_name_of_a_shipped_model_is_checked_before_the_app_without_parsing_the_catalogue():
    statement = (
        "from pathlib import Path\n"
        "from etui.cli.chat import _check_names\n"
        "from etui.config.config import Config\n"
        "_check_names(Config(Path('/nowhere'), Path('/nowhere')), None, 'smollm2-135m')"
    )
    assert loaded(statement, ("pydantic", "yaml", "etui.models.catalogue")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="`true`")
def test_a_measured_command_starts_with_the_meter_alone(etui_home):
    """Each import delays the command, and is CPU time beside that of a short one."""
    suspects = (
        "etui.cli.power_top", "etui.cli.power_check", "etui.cli.power_calibrate",
        "etui.cli.power_serve", "etui.cli.serve", "etui.sweep.verdict", "etui.measure.commands",
        "etui.energy.tariff", "statistics", "random", "bz2", "lzma", "msgspec", "pydantic", "yaml",
        "sqlite3", "rich", "asyncio",
    )  # fmt: skip
    statement = "from etui.cli.main import run\nassert run(['power', 'run', '--', 'true']) == 0"
    assert loaded(statement, suspects) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the library's name on Linux")
def test_the_bindings_of_a_driver_that_is_not_there_are_not_loaded():
    statement = (
        "import ctypes\n"
        "def refuse(*args, **options): raise OSError\n"
        "ctypes.CDLL = refuse\n"
        "from etui.energy.sources.nvml import NvmlSource\n"
        "assert 'not found' in NvmlSource().failure"
    )
    assert loaded(statement, ("pynvml",)) == []
