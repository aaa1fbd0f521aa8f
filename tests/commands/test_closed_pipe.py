"""A reader that leaves early: ``tl-modules ... | head -1``."""

import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a full device")
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [(">/dev/full", 1, "tl-modules: Cannot write to standard output"), (">&-", 0, "")],
)
def test_an_output_that_cannot_be_written(acts, tmp_path, redirection, status, said, unbuffered):
    acts.save(tmp_path / "acts.safetensors")
    words = ["discover", "acts.safetensors", "--out", "m.safetensors", "-k", "2", "--no-progress"]
    python = [sys.executable, *(["-u"] if unbuffered else [])]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *python, "-c", RUN, *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == status
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == (1 if said else 0)
