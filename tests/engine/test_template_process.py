"""The process that renders chat templates: reused, replaced, and gone with its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from etui.engine import template_process, template_sandbox
from etui.engine.template_process import TemplateFailed, TemplateProcess
from etui.engine.template_sandbox import LimitExceeded
from etui.errors import EngineFailed

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DEADLINE_SECONDS = 120.0


@pytest.fixture
def process() -> Iterator[TemplateProcess]:
    process = TemplateProcess(seconds=0.5)
    yield process
    process.close()


def test_one_process_renders_all_templates(process):
    assert process.pid is None
    assert process.render("{{ a }}!", {"a": "x"}) == "x!"
    first = process.pid
    assert first is not None
    assert process.render("{{ a }}?", {"a": "y"}) == "y?"
    assert process.render("{{ a }}!", {"a": "\ud800\n\u2028\U0010ffff"}) == (
        "\ud800\n\u2028\U0010ffff!"
    )
    with pytest.raises(TemplateFailed) as caught:
        process.render("{{ a.b.c }}", {})
    assert caught.value.kind == "UndefinedError"
    assert process.pid == first


def test_a_template_that_runs_too_long_is_killed_and_the_next_one_is_not(process):
    process.start()
    first = process.pid
    with pytest.raises(LimitExceeded, match=r"it ran for more than 0\.5 s"):
        process.render(ENDLESS, {})
    assert process.pid is None
    assert process.render("{{ a }}", {"a": "x"}) == "x"
    assert process.pid not in (None, first)


def test_a_process_that_does_not_run_is_given_up(process, monkeypatch):
    process.compile("{{ a }}")
    monkeypatch.setattr(template_process, "WALL_SECONDS", 0.1)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(LimitExceeded, match=r"it ran for more than 0\.1 s"):
        process.render("{{ a }}", {"a": "x"})


def test_memory_is_watched_where_the_kernel_does_not_limit_it(monkeypatch):
    monkeypatch.setattr(template_process, "_INTERPRETER_BYTES", 0)
    process = TemplateProcess(seconds=3600)
    try:
        process.start()
        process._memory_bytes = 1_000_000  # the kernel knows another limit
        with pytest.raises(LimitExceeded, match="it took more than 1 MB of memory"):
            process.render(ENDLESS, {})
    finally:
        process.close()


def test_a_process_that_was_killed_is_started_again(process):
    assert process.render("{{ a }}", {"a": "x"}) == "x"
    assert process.pid is not None
    child = psutil.Process(process.pid)
    child.kill()
    child.wait(DEADLINE_SECONDS)
    assert process.render("{{ a }}", {"a": "y"}) == "y"


def test_an_interrupt_leaves_no_reply_for_the_next_request(process, monkeypatch):
    def interrupted(_stream: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(template_process, "read_message", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.render("{{ a }}", {"a": "old"})
    assert process.render("{{ a }}", {"a": "new"}) == "new"


def test_a_process_that_cannot_start_is_an_error_with_a_fix(process, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineFailed, match="could not be started"):
        process.compile("{{ a }}")


def test_a_process_that_fails_at_once_is_no_fault_of_the_template(process, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "jinja2.py").write_text("raise SystemExit(3)")
    with pytest.raises(EngineFailed, match="for chat templates exited with code 3"):
        process.compile("{{ a }}")


def test_the_process_imports_little():
    code = (
        "import runpy, sys; names = runpy.run_path(sys.argv[1]); names['_build_environment']();"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'etui', 'psutil', 'numpy', 'pydantic', 'llama_cpp', 'subprocess', 'multiprocessing'}))"
    )
    script = str(template_sandbox.__file__)
    command = [sys.executable, "-P", "-c", code, script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_module_in_the_users_folder_is_not_imported(process, tmp_path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert process.render("{{ a }}", {"a": "x"}) == "x"


PARENT = f"""
import sys
from etui.engine.template_process import TemplateProcess

process = TemplateProcess(seconds=1.0)
process.render("{{{{ a }}}}", {{"a": "x"}})
print(process.pid, flush=True)
if sys.argv[1] == "busy":
    process.render({ENDLESS!r}, {{}})
else:
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has pidfd_open")
@pytest.mark.parametrize("state", ["busy", "idle"])
def test_the_process_dies_with_its_parent(state):
    command = [sys.executable, "-c", PARENT, state]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            ended, _, _ = select.select([child], [], [], DEADLINE_SECONDS)
            assert ended
        finally:
            os.close(child)
