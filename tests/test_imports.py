"""What a room may import: proven in a fresh process, where nothing is loaded yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("textual", "llama_cpp", "pynvml")
SLOW = (*HEAVY, "msgspec", "pydantic", "sqlite_utils", "numpy", "yaml", "huggingface_hub", "jinja2")


def loaded(statement: str, suspects: tuple[str, ...]) -> list[str]:
    """Which of the suspects are in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*[m for m in {suspects!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "etui.turn.run",
        "etui.units",
        "etui.runtime.choose",
        "etui.reasoning.answer",
        "etui.routing.decide",
        "etui.routing.library",
        "etui.energy.recorder",
        "etui.models.gguf",
        "etui.models.catalogue",
        "etui.log.writer",
        "etui.turn.text",
        "etui.text.tables",
        "etui.text.suggest",
        "etui.text.timestamps",
        "etui.plots.terminal",
        "etui.plots.style",
    ],
)
def test_pure_rooms_import_no_screen_no_engine_and_no_driver(module):
    assert loaded(f"import {module}", HEAVY) == []


@pytest.mark.parametrize("command", ["ask", "bench", "doctor", "logs", "models", "policy"])
def test_no_command_imports_textual_or_anything_slow_before_it_runs(command):
    statement = f"from etui.cli.main import cli; cli.get_command(None, {command!r})"
    assert loaded(statement, SLOW) == []


def test_the_codec_imports_msgspec_on_its_first_use():
    statement = (
        "import etui.text.codec, etui.models.files, etui.energy.idle_baseline, etui.backends.worker"
    )
    assert loaded(statement, ("msgspec",)) == []


def test_help_imports_click_alone():
    statement = (
        "import contextlib, io\n"
        "from etui.cli.main import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    assert run(['--help']) == 0"
    )
    assert loaded(statement, (*SLOW, "psutil", "platformdirs")) == []


def test_the_answering_half_never_imports_textual():
    statement = (
        "import etui.cli.ask, etui.backends.local, etui.backends.process, etui.backends.worker\n"
        "import etui.runtime.doctor\n"
        "import etui.bench.run.runner, etui.bench.report.files, etui.cli.bench_progress"
    )
    assert loaded(statement, ("textual",)) == []


def test_the_app_paints_before_it_imports_the_meter_and_the_log():
    suspects = ("etui.energy.recorder", "etui.log.writer", "etui.runtime.service", "llama_cpp")
    assert loaded("import etui.tui.start", suspects) == []


def test_the_app_paints_before_it_imports_what_the_first_screen_does_not_show():
    suspects = (
        "markdown_it", "pygments", "pydantic", "sqlite3", "etui.models.download", "etui.log.export",
        "etui.tui.chat.chat_list", "etui.tui.models.first_run", "etui.tui.serving.screen",
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
