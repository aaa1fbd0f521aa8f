"""Hostile files load or are refused with a ModulesError: never anything else, never much memory."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tl_modules as tlm
from tests.conftest import once
from tests.fuzz import well_made
from tests.fuzz.examples import try_many
from tests.fuzz.high_water import LIMIT, HighWater
from tests.fuzz.targets import TARGETS
from tl_modules.activations.resumable import UnfinishedStore
from tl_modules.saving import files

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads memory figures that Linux keeps")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_mutated_file_loads_or_is_refused(target, tmp_path):
    try_many(target, tmp_path / "here", 3 * target.share)


@once
@linux
@pytest.mark.slow
def test_ten_thousand_mutated_files_load_or_are_refused_and_take_little_memory():
    # Without the checks of types that the tests run with: as users have it.
    words = [sys.executable, "-m", "tests.fuzz.examples", "10000"]
    here = Path(__file__).parents[2]
    run = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-5000:]
    assert sum(map(int, re.findall(r"(\d+) examples", run.stdout))) == 10_000
    assert int(re.search(r"rose by (\d+) MB", run.stdout)[1]) * 1024**2 < LIMIT, run.stdout


def sparse(path, described, name, dtype, shape):
    """A safetensors file of one array that takes no room on the disk."""
    size = int(np.prod(shape, dtype=object)) * int(dtype[1:]) // 8
    tensor = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
    header = {"__metadata__": {"tl_modules": json.dumps(described)}, name: tensor}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)


def claiming(parts, **changes):
    """What a file says of itself, with parts of the header changed."""
    header = parts.header | changes
    return {"kind": parts.kind, "format_version": 2, "sha256": "0" * 64, "header": header}


def units_of(width, span=1):
    return {"names": ["a"], "layers": [0], "widths": [width], "spans": [span], "site": None}


@pytest.fixture
def parts(tmp_path):
    well_made.module_set().save(tmp_path / "modules")
    well_made.matrix().save(tmp_path / "matrix")
    return {name: well_made.parts(tmp_path / name) for name in ("modules", "matrix")}


GB = 10**9


@linux
@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("unit_labels", "I64", (50 * GB // 8,)),
        ("normaliser_quantiles", "F64", (5 * GB // 8, 10)),
        ("no_such_array", "U8", (50 * GB,)),
        ("tl_modules", "U8", (50 * GB,)),
    ],
)
def test_fifty_gigabytes_of_nothing_are_refused_before_anything_is_read(
    name, dtype, shape, parts, tmp_path
):
    sparse(tmp_path / "file", claiming(parts["modules"]), name, dtype, shape)
    with HighWater() as high, pytest.raises(tlm.ModulesError, match="should have"):
        tlm.ModuleSet.load(tmp_path / "file")
    assert high.rise < LIMIT


@linux
def test_a_matrix_larger_than_the_free_memory_is_refused_with_the_remedy(parts, tmp_path):
    samples = {"sample": [0] * 2000}
    described = claiming(parts["matrix"], units=units_of(2**27), samples=samples)
    sparse(tmp_path / "file", described, "values", "F32", (2000, 2**27))
    with (
        HighWater() as high,
        pytest.raises(tlm.ModulesError, match=r"holds 1,073.7 GB; .* keep activations in an Act"),
    ):
        tlm.ActivationMatrix.load(tmp_path / "file")
    assert high.rise < LIMIT


@linux
@pytest.mark.parametrize("units", [units_of(2**28 - 1), units_of(1, 2**28 - 1)])
def test_units_that_the_arrays_do_not_have_are_refused_before_anything_is_made(
    units, parts, tmp_path
):
    found = parts["modules"]
    for kind, loaded in (("ModuleSet", tlm.ModuleSet), ("ActivationMatrix", tlm.ActivationMatrix)):
        found = parts["modules" if kind == "ModuleSet" else "matrix"]
        files.write(tmp_path / "file", kind, found.header | {"units": units}, found.arrays)
        with HighWater() as high, pytest.raises(tlm.ModulesError, match="should have"):
            loaded.load(tmp_path / "file")
        assert high.rise < LIMIT


@linux
@pytest.mark.parametrize("shape", [(5, 2**27), (5 * GB, 10), (2**58, 10)])
def test_a_store_that_claims_more_than_its_chunks_hold_is_refused(shape, tmp_path):
    folder = well_made.write_store(tmp_path / "acts")
    found = well_made.parts(folder / "store.safetensors")
    header = found.header | {"units": units_of(shape[1])}
    header["chunks"] = [header["chunks"][0] | {"n_rows": shape[0]}]
    header["samples"] = {"sample": [0] * 5}
    files.write(folder / "store.safetensors", found.kind, header, {})
    with HighWater() as high, pytest.raises(tlm.ModulesError, match=r"should have|should hold"):
        tlm.ActivationStore(folder)
    assert high.rise < LIMIT


@linux
@pytest.mark.parametrize("n_rows", [5, 5 * GB])
def test_a_chunk_that_is_fifty_gigabytes_of_nothing_is_refused(n_rows, tmp_path):
    folder = well_made.write_store(tmp_path / "acts")
    described = {"descr": "<f2", "fortran_order": False, "shape": (n_rows, 10)}
    with (folder / "chunk-00000.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, described)
        file.truncate(50 * GB)
    with HighWater() as high, pytest.raises(tlm.ModulesError, match="should hold"):
        tlm.ActivationStore(folder)
    assert high.rise < LIMIT


@linux
def test_a_large_matrix_is_read_once_and_not_copied(tmp_path):
    values = np.ones((100, 100_000), dtype=np.float32)  # 40 MB
    tlm.ActivationMatrix.from_arrays(values).save(tmp_path / "acts")
    with HighWater() as high:
        found = tlm.ActivationMatrix.load(tmp_path / "acts")
    # The array, and the pages of the file that were mapped as it was read.
    assert high.rise < 2.5 * values.nbytes
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize(
    "name",
    [
        "../chunk-00000.npy",
        "/etc/passwd",
        "",
        ".",
        "..",
        "a\0b",
        "\ud800",
        "nowhere.npy",
        "x" * 300,
    ],
)
def test_chunks_stay_inside_the_folder(name, tmp_path):
    folder = well_made.write_store(tmp_path / "acts")
    (folder / "chunk-00000.npy").rename(tmp_path / "chunk-00000.npy")
    found = well_made.parts(folder / "store.safetensors")
    found.header["chunks"][0]["name"] = name
    files.write(folder / "store.safetensors", found.kind, found.header, found.arrays)
    with pytest.raises(tlm.ModulesError, match="chunk"):
        tlm.ActivationStore(folder)


def test_a_link_to_a_chunk_elsewhere_is_refused(tmp_path):
    folder = well_made.write_store(tmp_path / "acts")
    (folder / "chunk-00000.npy").rename(tmp_path / "chunk-00000.npy")
    (folder / "chunk-00000.npy").symlink_to(tmp_path / "chunk-00000.npy")
    with pytest.raises(tlm.ModulesError, match="should be a file in the store's own folder"):
        tlm.ActivationStore(folder)
    (tmp_path / "link").symlink_to(well_made.write_store(tmp_path / "other"))
    assert tlm.ActivationStore(tmp_path / "link").shape == (8, 10)  # the folder itself may be one


def test_the_lock_of_a_hostile_folder_empties_no_other_file(tmp_path):
    (tmp_path / "acts").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "acts" / ".lock").symlink_to(tmp_path / "mine")
    with (
        pytest.raises(tlm.ModulesError, match="Cannot write to the folder"),
        UnfinishedStore(tmp_path / "acts", well_made.plan()),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_among_the_files_of_an_unfinished_store_is_refused(tmp_path):
    folder = well_made.write_unfinished(tmp_path / "acts")
    (folder / ".plan.safetensors.0a1b2c3d.part").mkdir()
    with (
        pytest.raises(tlm.ModulesError, match="Cannot write to the folder"),
        UnfinishedStore(folder, well_made.plan()),
    ):
        pass
