"""What a release holds, and that the wheel runs away from the checkout."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from benchmarks.truth.files import shipped
from tests.conftest import once

ROOT = Path(__file__).parents[1]


def run(*words, cwd=ROOT):
    # Their output goes to pytest, which shows it with a failure.
    subprocess.run([*map(str, words)], cwd=cwd, check=True)


def built(root, out):
    run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=root)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return built(ROOT, tmp_path_factory.mktemp("dist"))


def names_in(sdist):
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(release):
    package = ROOT / "tl_modules"
    here = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(release[1]) as archive:
        names = {*archive.namelist()}
    assert {name for name in names if ".dist-info/" not in name} == here
    assert {Path(name).suffix for name in here} == {
        *(".py", ".typed", ".jsonl", ".j2", ".css", ".js"),
    }


def test_the_sdist_holds_the_repository_but_what_ci_runs(release):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone")
    git = ["git", "ls-files"]
    tracked = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {*tracked.split()} - names_in(release[0]) == {".ci/run"}


def test_the_sdist_holds_nothing_that_is_made_in_use(release):
    made = ("__pycache__", ".venv", ".git/", "_build", "out/", "dist/", ".safetensors")
    found = {name for name in names_in(release[0]) if any(part in name for part in made)}
    # The models of known truth are kept in the repository: they take minutes to train.
    assert found == {f"benchmarks/truth/{path.name}" for path in shipped()}


def test_the_sdist_builds_the_same_bytes_elsewhere_and_later(release, tmp_path):
    run("tar", "-xzf", release[0], "-C", tmp_path)
    (root,) = tmp_path.iterdir()
    for path in root.rglob("*"):
        os.utime(path, (2e9, 2e9))
    again = built(root, tmp_path / "dist")
    assert [path.name for path in again] == [path.name for path in release]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in release]


USE = """
import importlib.metadata, pathlib, sys
import tl_modules as tlm

home = pathlib.Path(tlm.__file__).parent
assert home.is_relative_to(sys.prefix), home
heavy = {"transformer_lens", "transformers", "sklearn", "plotly"} & set(sys.modules)
assert not heavy, heavy
assert importlib.metadata.version("tl-modules") == sys.argv[1]
assert (home / "py.typed").is_file()

import numpy as np
from tl_modules.data import load_prompts

assert all(getattr(tlm, name) is not None for name in tlm.__all__)
assert all(len(load_prompts(kind)) for kind in ("abilities", "parallel", "recall", "reasoning"))
values = np.random.default_rng(0).random((12, 8)) + np.kron(np.eye(2), np.ones((6, 4)))
acts = tlm.ActivationMatrix.from_arrays(values)
modules = tlm.discover(acts, 2, progress=False)
acts.save("acts.safetensors")
modules.save_pretrained("shared")
tlm.write_report("report.html", modules, acts=acts)
"""


@once
@pytest.mark.slow
def test_the_wheel_runs_alone_in_a_new_environment(release, tmp_path):
    home, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index"]
    run(*pip, "--no-deps", release[1])
    # What it depends on comes from the tests' environment, by a path file: path files of that
    # environment, such as an editable install's, are not read. The wheel's own folder stays first.
    (packages,) = home.glob("lib/python*/site-packages")
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "others.pth").write_text("\n".join(others))

    run(python, "-I", "-c", USE, release[1].name.split("-")[1], cwd=empty)
    assert "<title>" in (empty / "report.html").read_text()
    assert (empty / "shared" / "README.md").is_file()

    command = home / "bin" / "tl-modules"
    run(command, "--help", cwd=empty)
    run(
        *(command, "discover", "acts.safetensors", "--out", "modules.safetensors", "-k", 2),
        cwd=empty,
    )
    assert (empty / "modules.safetensors").is_file()
