"""Imported once by the process that tests fork others from."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun has it

import tests.activations.slow_collection  # noqa: F401 - for tests/activations/test_resume.py
from tests.runtime.ranks import NAMES

exec(NAMES)
