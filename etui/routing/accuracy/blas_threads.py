"""Limit linear algebra on small matrices to one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the enclosed fits to one thread, which on small matrices is 10x as fast as several.

    Each library brings its own thread pool, and only pools of loaded libraries can be limited.
    """
    import importlib

    from threadpoolctl import threadpool_limits

    for name in ("scipy.linalg", "scipy.optimize", "sklearn.ensemble", "sklearn.linear_model"):
        importlib.import_module(name)

    with threadpool_limits(1):
        yield
