"""Run ``etui sweep`` on a simulated machine: ``python driver.py sweep tiny --axis ...``.

512 tokens in a batch cost the least. ``SWEEP_HANG_AT=N`` lets visit N write ``hanging`` to stderr
and wait for a line of stdin, so that a test can kill or stop the process in the middle of a block.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etui.cli.main import run
from etui.sweep import workbench
from tests.sweep.fakes import FakeWorkbench
from tests.sweep.run.test_run import price


def hang(number: int) -> None:
    if number == int(os.environ.get("SWEEP_HANG_AT", "0")):
        print("hanging", file=sys.stderr, flush=True)
        # Not one long read: a signal that comes just before it would wait for its end.
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            pass


@contextmanager
def open_bench(*args: Any, **kwargs: Any) -> Iterator[FakeWorkbench]:
    yield FakeWorkbench(price, before=hang)


if __name__ == "__main__":
    workbench.open_workbench = open_bench  # type: ignore[assignment]
    sys.exit(run(sys.argv[1:]))
