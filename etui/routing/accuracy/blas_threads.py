"""One thread for the linear algebra of small matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Fits within it run on one thread: on small matrices threads wait for each other, 10x slower.

    What is to be limited must be loaded first: each library brings its own pool of threads.
    """
    import importlib

    from threadpoolctl import threadpool_limits

    for name in ("scipy.linalg", "scipy.optimize", "sklearn.ensemble", "sklearn.linear_model"):
        importlib.import_module(name)

    with threadpool_limits(1):
        yield
