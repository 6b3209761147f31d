"""Load a model in a process of its own before the first load in this one.

llama.cpp aborts the whole process on some damaged files (``GGML_ASSERT``, a division by zero), and
no check of the header finds all of them. ``python -m etui.engine.trial FILE [ADAPTER]...`` loads a
file on the CPU, decodes a few tokens and exits; a crash ends only that process.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import ModelUnavailable
from etui.models.files import is_known_good, name_record, read_record, write_record

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.spec import ModelSpec

TRIAL_SECONDS = 600.0
"""Maximum time of a trial: a very large model on a slow disk."""

CRASH_ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "GGML_VK_VISIBLE_DEVICES": "",
}
"""Environment of a process in which llama.cpp may crash: else ggml starts a debugger for its stack
dump, and wakes a GPU, whose driver may fail for reasons that have nothing to do with the file."""

_CONTEXT_TOKENS = 64
_BATCH_TOKENS = 2
_TEXT = "One two three."
_REASON_CHARACTERS = 200
_WINDOWS_CRASHES, _WINDOWS_CTRL_C = 0xC0000000, 0xC000013A  # NTSTATUS


def try_model(spec: ModelSpec, path: Path, config: Config) -> None:
    """Load the model of a file once in a child process, and remember that this went well.

    Nothing is done for a file whose sha256 etui itself names, and for one that was tried before and
    has not changed since: the trial takes as long as a load.

    Raises:
        ModelUnavailable: llama.cpp crashed, or did not end in ``TRIAL_SECONDS``.
    """
    if is_known_good(spec):
        return
    files = {spec.name: path, **{name_record(each): each.path for each in spec.adapters}}
    records = {name: read_record(name, config.models_dir) for name in files}
    known = {name: record for name, record in records.items()
             if record is not None and record.describes(files[name])}  # fmt: skip
    if len(known) == len(files) and all(record.tried for record in known.values()):
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", "etui.engine.trial", *map(str, files.values())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal must not look like a crash
            timeout=TRIAL_SECONDS,
            env={**os.environ, **CRASH_ENVIRONMENT},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refuse(path, f"did not end in {TRIAL_SECONDS:g} s") from None
    except OSError:
        return  # no process can be started; the load itself says what is missing
    if crash := name_crash(done.returncode):
        reason = _find_reason(done.stderr.decode("utf-8", "replace"))
        raise _refuse(path, f"crashed with {crash}{reason}")
    for name, record in known.items() if done.returncode == 0 else ():
        write_record(name, config.models_dir, replace(record, tried=True))
    # Any other code: llama.cpp refused the file, and does so again with a message.


def name_crash(code: int) -> str:
    """Name what ended a process, by its exit code: ``SIGABRT``; empty if it ended by itself.

    Windows has no signals: its codes of crashes begin at 0xC0000000, and one of them is Ctrl-C.
    """
    if code >= _WINDOWS_CRASHES and code != _WINDOWS_CTRL_C:
        return f"code {code:#X}"
    if code >= 0:
        return ""
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _find_reason(log: str) -> str:
    """Return the failed assertion in the last words of llama.cpp, without its source path."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    found = next((line for line in lines if "GGML_ASSERT" in line), lines[-1] if lines else "")
    text = re.split(r"[/\\]", found)[-1]
    return f": {text[:_REASON_CHARACTERS]}" if found else ""


def _refuse(path: Path, why: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{path.name} cannot be used: llama.cpp {why} in a trial load",
        "the file is damaged, or needs a newer llama-cpp-python: use another model, or download "
        "this one again",
    )


def forbid_core_dump() -> None:
    """Let a crash of this process, which is expected, leave no file."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load(path: Path, adapters: Sequence[Path]) -> None:
    """Load a file with its adapters and decode a few tokens, a batch and a single one."""
    from etui.config.config import find_folders
    from etui.engine.context import Context, ContextOptions
    from etui.engine.library import Library
    from etui.engine.model import Model
    from etui.models.spec import Adapter

    library = Library(Path(os.devnull) / "no-log", find_folders().engines_dir)
    model = Model(library, path)
    model.add_adapters([Adapter(each) for each in adapters])
    # Several threads wait for each other where other programs run.
    options = ContextOptions(_CONTEXT_TOKENS, threads=1, sequences=1, batch_tokens=_BATCH_TOKENS)
    context = Context(library, model, options)
    tokens = model.tokenize(_TEXT, bos=True)[:_BATCH_TOKENS] or [0]
    for start, queued in ((0, tokens), (len(tokens), tokens[-1:])):
        context.batch.clear()
        row = context.batch.add(0, queued, start, with_logits=True)
        context.decode()
        model.piece(int(context.logits(row).argmax()))


def main() -> None:
    """Try the file of a model and those of its adapters, which the command line names."""
    forbid_core_dump()
    path, *adapters = map(Path, sys.argv[1:])
    _load(path, adapters)
    os._exit(0)  # the work is done: freeing the memory can wait for the system


if __name__ == "__main__":
    main()
