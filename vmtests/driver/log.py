"""What the driver says: one line after the other, each with the time since the start and the kernel
that it concerns. Several kernels are run at a time, each by a thread that tells its name once.
"""

from __future__ import annotations

import threading
import time

_START = time.monotonic()
_lock = threading.Lock()
_context = threading.local()


def speak_for(kernel: str) -> None:
    """What this thread says concerns this kernel."""
    _context.kernel = kernel


def say(text: str) -> None:
    """Says one thing, which may have several lines."""
    kernel = getattr(_context, "kernel", "")
    head = f"{time.monotonic() - _START:6.1f}  {kernel:<7}"
    with _lock:
        for line in text.splitlines() or [""]:
            print(f"{head} {line}".rstrip(), flush=True)
