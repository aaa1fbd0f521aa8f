"""What a piece of work cost in memory."""

import ctypes
import gc
import sys
import threading

import psutil

_INTERVAL_S = 0.005


class PeakMemory:
    """How far the process's resident memory rose during a block, looked at every 5 ms.

    A lower bound: shorter peaks are missed. Garbage, and memory that the process had freed but
    kept, is handed back to the system first (on Linux with glibc; elsewhere reuse does not count).

    Example::

        with PeakMemory() as peak:
            work()
        print(peak.bytes)
    """

    def __enter__(self) -> "PeakMemory":
        """Begin to look."""
        gc.collect()
        _trim_heap()
        self._process = psutil.Process()
        self._before = self._highest = self._resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._look()
        self._stop.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        """The rise so far."""
        return self._highest - self._before

    def _look(self) -> None:
        self._highest = max(self._highest, self._resident())

    def _resident(self) -> int:
        """The process's own pages: files that it has mapped come and go as the system likes."""
        found = self._process.memory_info()
        return found.rss - getattr(found, "shared", 0)

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._look()


def _trim_heap() -> None:
    """Give freed memory back, so that using it again shows as a rise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
