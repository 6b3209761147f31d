"""Process of a command on a node: the command itself, which ends when the node's process does.

Run as ``python -m etui.cluster.command_child WORDS``. Its standard input is a pipe of the node: at
its end, which is also that of a killed node, the command is interrupted as by Ctrl-C.
"""

from __future__ import annotations

import _thread
import os
import runpy
import signal
import sys
import threading

_GRACE_SECONDS = 20.0


def main() -> None:
    """Run ``etui`` with the words of the command line."""
    # A node that a shell started in the background ignores Ctrl-C, and so would its command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_node, args=(sys.stdin.fileno(),), daemon=True).start()
    sys.argv[0] = "etui"
    runpy.run_module("etui", run_name="__main__", alter_sys=True)


def _end_with_node(stdin: int) -> None:
    while os.read(stdin, 1 << 16):
        pass
    if sys.platform == "win32":
        _thread.interrupt_main()  # there os.kill ends the process at once
    else:
        os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(_GRACE_SECONDS)
    os._exit(130)


if __name__ == "__main__":
    main()
