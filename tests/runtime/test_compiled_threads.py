"""Compiled code leaves torch's number of threads as it is."""

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, torch
torch.set_num_threads(1)
assert torch.get_num_threads() == 1
import tl_modules as tlm
values = np.random.default_rng(0).gamma(1.0, size=(40, 300)).astype(np.float32)
acts = tlm.ActivationMatrix.from_arrays(values)
{work}
print(torch.get_num_threads())
"""
WORK = {
    "in memory": "tlm.discover(acts, 3, progress=False)",
    "store": """
with tlm.ActivationStore.create("acts", acts.units) as writer:
    writer.add(values)
tlm.discover(tlm.ActivationStore("acts"), 3, progress=False)""",
}


@pytest.mark.parametrize("work", WORK)
def test_torch_keeps_its_number_of_threads(work, tmp_path):
    program = PROGRAM.format(work=WORK[work])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"
