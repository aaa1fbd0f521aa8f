"""Objects in the wrong place are refused, by every public function and in every argument."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tried(folder, *names):
    """What ``tests.wrong_objects`` prints, run without pytest's type checks."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.wrong_objects", *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return found.stdout.strip().splitlines()


@pytest.mark.parametrize(
    ("names", "least"),
    [
        (["collect", "discover", "discover_baseline"], 250),
        pytest.param([], 3000, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_objects_in_the_wrong_place_end_in_a_refusal(names, least, tmp_path):
    *raw, refused = tried(tmp_path, *names)
    assert raw == []
    assert int(re.fullmatch(r"(\d+) refused", refused)[1]) >= least
