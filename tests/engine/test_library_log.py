"""The log file of llama.cpp: a full disk costs its lines, never an answer."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etui.engine import library as module
from etui.engine.library import Library

INFO, ERROR = 2, 4  # enum ggml_log_level

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture
def full(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Library, list[Any]]]:
    """A library whose log is on a full disk, and the exceptions that nobody could catch."""
    (tmp_path / "llama.log").symlink_to("/dev/full")
    unraised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    yield Library(tmp_path), unraised
    library.api.llama_log_set(library._callback, None)  # the lines are the shared one's again


def test_a_full_disk_costs_the_log_and_no_answer(full):
    library, unraised = full
    library._log(INFO, b"a line\n", None)
    library._log(ERROR, b"out of memory\n", None)
    library._log(ERROR, b"again\n", None)
    library.flush()
    assert library.errors() == "out of memory | again"
    library.close()
    library.close()
    assert unraised == []


def test_lines_that_are_still_unwritten_do_not_fail_the_end(full):
    library, unraised = full
    library._log(INFO, b"a line\n", None)
    library.close()
    assert unraised == []


def test_a_long_log_fails_in_the_middle_of_a_line(full):
    library, unraised = full
    for _ in range(100):
        library._log(INFO, b"x" * 1000 + b"\n", None)
    library.close()
    assert unraised == []


def test_a_library_without_a_log_still_takes_its_callback_back(tmp_path, library, monkeypatch):
    """llama.cpp would call freed memory."""
    monkeypatch.setattr(module, "_open_log", lambda _: None)
    other = Library(tmp_path)
    assert module._address(_current(other)) == module._address(other._callback)
    other.close()
    assert module._address(_current(other)) != module._address(other._callback)
    library.api.llama_log_set(library._callback, None)


def _current(library: Library) -> Any:
    import ctypes

    current, data = library.api.llama_log_callback(), ctypes.c_void_p()
    library.api.llama_log_get(ctypes.byref(current), ctypes.byref(data))
    return current


def test_a_library_is_kept_until_it_is_closed_since_llama_cpp_calls_it(tmp_path, library):
    kept = weakref.ref(Library(tmp_path))
    gc.collect()
    found = kept()
    found.close()
    del found
    gc.collect()
    assert kept() is None
    library.api.llama_log_set(library._callback, None)
