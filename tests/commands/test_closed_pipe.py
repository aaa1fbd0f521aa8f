"""A reader that leaves early: ``tl-modules ... | head -1``."""

import os
import subprocess
import sys

import pytest

from tl_modules.cli import CLOSED_PIPE

RUN = """
import sys
from tl_modules import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def without_reader(words, *, unbuffered=False, close_stderr=False):
    """A command's status, and what it said, where nothing reads its output."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *(["-u"] if unbuffered else []), "-c", RUN, *words],
            stdout=writer,
            stderr=writer if close_stderr else subprocess.PIPE,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
    finally:
        os.close(writer)


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_command_ends_quietly(acts, tmp_path, unbuffered):
    acts.save(tmp_path / "acts.safetensors")
    out = tmp_path / "found.safetensors"
    words = ["discover", str(tmp_path / "acts.safetensors"), "--out", str(out), "-k", "2"]
    done = without_reader([*words, "--no-progress"], unbuffered=unbuffered)
    assert (done.returncode, done.stderr) == (CLOSED_PIPE, "")
    assert out.exists() is not unbuffered  # there the first line that it writes ends it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "close_stderr"), [(["--help"], False), (["discover", "x", "--out", "y"], True)]
)
def test_help_and_refusals_end_quietly(words, close_stderr):
    done = without_reader(words, close_stderr=close_stderr)
    assert done.returncode == CLOSED_PIPE
    assert not done.stderr
