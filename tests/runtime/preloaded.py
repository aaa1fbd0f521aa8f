"""Imported once by the process that ``tests.runtime.ranks`` forks."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun has it

from tests.runtime.ranks import NAMES

exec(NAMES)
