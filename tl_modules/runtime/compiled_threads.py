"""Threads of compiled code beside torch's."""

import sys
from functools import cache


@cache
def start_threads() -> None:
    """Start numba's threads, and leave torch's number of threads as it is.

    Call this before the first parallel function that numba compiled. numba's OpenMP layer sets the
    number of OpenMP threads once, in the thread that starts it. torch reads the same number, so
    that ``torch.set_num_threads`` would be lost.
    """
    from numba import get_num_threads  # slow to import, and only callers that have it need it

    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    get_num_threads()  # starts them
    if torch is not None:
        torch.set_num_threads(before)
