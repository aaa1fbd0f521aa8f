"""Measuring the memory that a piece of work takes."""

import ctypes
import gc
import sys
import threading

import psutil

_INTERVAL_S = 0.005


class PeakMemory:
    """Measures how far the process's resident memory rises during a ``with`` block.

    Memory is sampled every 5 ms, so the result is a lower bound: shorter peaks are missed. Before
    the block, garbage is collected, and memory that the process had freed but kept is returned to
    the system. The latter works on Linux with glibc; elsewhere, reused memory is not counted.

    Example::

        with PeakMemory() as peak:
            work()
        print(peak.bytes)
    """

    def __enter__(self) -> "PeakMemory":
        """Start sampling."""
        gc.collect()
        _trim_heap()
        self._process = psutil.Process()
        self._before = self._highest = self._resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._sample()
        self._stop.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        """The rise so far, in bytes."""
        return self._highest - self._before

    def _sample(self) -> None:
        self._highest = max(self._highest, self._resident())

    def _resident(self) -> int:
        """The size of the process's own pages, without those of mapped files.

        The system loads and drops pages of mapped files on its own.
        """
        info = self._process.memory_info()
        return info.rss - getattr(info, "shared", 0)

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._sample()


def _trim_heap() -> None:
    """Return freed memory to the system, so that its reuse counts as a rise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
