"""Holding Python's garbage collector while a commit becomes documents and desired values.

Used by :mod:`reconciler.spec.loader` and :mod:`reconciler.state.resolve`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Hold the garbage collector: thousands of new, acyclic objects would be scanned over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
