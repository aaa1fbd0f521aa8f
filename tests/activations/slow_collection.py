"""A collection that takes a few seconds, for tests that stop it; it imports no model library."""

import os
import time

from tests.toy import Toy
from tl_modules import collect
from tl_modules.activations import chunk_values

PROMPTS = [" ".join(str((k * 7 + j) % 9 + 1) for j in range(k % 11 + 2)) for k in range(120)]


class Slow(Toy):
    """The toy model, with 30 ms for each pass."""

    def forward(self, *args, **kwargs):
        """Wait, then run."""
        time.sleep(0.03)
        return super().forward(*args, **kwargs)


def run(folder, ready=None):
    """Collect into a folder, in chunks of one batch each; set ``ready`` before the first."""
    chunk_values.CHUNK_BYTES, chunk_values.LEAST_PROMPTS = 1, 2
    if ready is not None:
        ready.set()
    collect(Slow(), PROMPTS, store=os.fspath(folder), batch_size=2, progress=False)
