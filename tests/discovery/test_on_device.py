"""Sums by torch are those of the compiled loops, and lead to the same modules."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.discovery import on_device
from tl_modules.discovery.on_device import OnDevice
from tl_modules.discovery.products import InMemory, Products

CPU = torch.device("cpu")


@pytest.fixture
def pair(monkeypatch):
    """The same float32 matrix for the compiled loops and for torch, in several blocks."""
    monkeypatch.setattr(on_device, "_BLOCK_BYTES", 8 * 301 * 7)
    values = np.random.default_rng(0).normal(size=(40, 301)).astype(np.float32)
    in_memory = InMemory(values)
    return in_memory, OnDevice(in_memory, 5, CPU)


def within_bound(sums, others, magnitudes, n_values):
    """Whether sums differ by no more than the docstring of ``OnDevice`` says."""
    return (np.abs(sums - others) <= n_values * 2.0**-52 * magnitudes).all()


def test_sums_differ_by_no_more_than_the_stated_bound(pair):
    in_memory, on = pair
    assert isinstance(on, Products)
    generator = np.random.default_rng(1)
    samples, units = generator.integers(5, size=40), generator.integers(5, size=301)
    sizes = InMemory(np.abs(in_memory.matrix))
    one, other = (products.unit_sums(samples, 5) for products in (in_memory, on))
    assert within_bound(one, other, sizes.unit_sums(samples, 5), 40)
    one, other = (products.sample_sums(units, 5) for products in (in_memory, on))
    assert within_bound(one, other, sizes.sample_sums(units, 5), 301)
    assert on.sum_of_squares() == pytest.approx(in_memory.sum_of_squares(), rel=1e-12)


@pytest.mark.parametrize("n_moved", [0, 1, 20])
def test_sums_brought_up_to_date_are_the_sums_anew(pair, n_moved):
    _, on = pair
    generator = np.random.default_rng(2)
    for length, sums, update in (
        (40, on.unit_sums, on.shift_unit_sums),
        (301, on.sample_sums, on.shift_sample_sums),
    ):
        before = generator.integers(5, size=length)
        after = before.copy()
        moved = np.sort(generator.permutation(length)[:n_moved])
        after[moved] = (after[moved] + generator.integers(1, 5, size=n_moved)) % 5
        shifted = sums(before, 5)
        update(shifted, moved, before, after)
        np.testing.assert_allclose(shifted, sums(after, 5), rtol=1e-12, atol=1e-12)


def test_principal_components_agree(pair):
    in_memory, on = pair
    one, other = (np.abs(products.principal_components(3, 0)) for products in (in_memory, on))
    np.testing.assert_allclose(one, other, atol=1e-3 * one.max())


@pytest.mark.parametrize("options", [{}, {"n_starts": 3, "n_kicks": 2}])
def test_planted_modules_are_those_that_the_cpu_finds(options):
    values, _, units = planted_matrix(60, 400, 4, seed=0, strength=1.5)
    acts = tlm.ActivationMatrix.from_arrays(values.astype(np.float32))
    found, expected = (
        tlm.discover(acts, 4, device=device, progress=False, **options) for device in ("cpu", None)
    )
    assert adjusted_rand_score(units, found.unit_labels) > 0.98
    assert adjusted_rand_score(expected.unit_labels, found.unit_labels) == 1
    assert adjusted_rand_score(expected.sample_labels, found.sample_labels) == 1
    assert pytest.approx(expected.objective.L, rel=1e-9) == found.objective.L


def test_units_can_be_set_aside_on_a_device():
    acts = tlm.ActivationMatrix.from_arrays(planted_matrix(60, 400, 4, seed=0, strength=1.5)[0])
    mask = np.arange(400) < 30
    found = tlm.discover(acts, 4, shared=acts.units.select(mask), device=CPU, progress=False)
    assert (found.unit_labels[:30] == -1).all()
    assert (found.unit_labels[30:] >= 0).all()


@pytest.mark.parametrize("device", ["cuda:77", "meta", "gpu", "cpu:x"])
def test_a_device_that_torch_lacks_is_refused(planted, device):
    acts = tlm.ActivationMatrix.from_arrays(planted[0])
    with pytest.raises(tlm.ModulesError, match=f"that torch has, .* got '{device}' .*Leave device"):
        tlm.discover(acts, 4, device=device)


def test_a_store_is_refused(tmp_path):
    with tlm.ActivationStore.create(tmp_path / "acts", tlm.Units.anonymous(4)) as writer:
        writer.add(np.ones((3, 4), dtype=np.float32))
    with pytest.raises(tlm.ModulesError, match=r"device='cpu' needs an activation matrix; .*store"):
        tlm.discover(tlm.ActivationStore(tmp_path / "acts"), 2, device="cpu")


def test_a_matrix_larger_than_the_devices_memory_is_refused(planted, monkeypatch):
    monkeypatch.setattr(on_device, "_BLOCK_BYTES", 2**60)
    with pytest.raises(tlm.ModulesError, match=r"search on cpu takes about .* GB of its memory; "):
        OnDevice(InMemory(planted[0]), 4, CPU)


def test_values_that_are_not_finite_are_named(planted):
    matrix = planted[0].copy()
    matrix[7, 11] = np.nan
    with pytest.raises(tlm.ModulesError, match="sample 7, unit 11"):
        OnDevice(InMemory(matrix), 4, CPU).unit_sums(np.zeros(60, dtype=np.int64), 4)


@pytest.fixture
def made(monkeypatch):
    """How many matrices were copied to a device."""
    made, original = [], OnDevice.__init__

    def counted(self, *given):
        made.append(given[-1])
        original(self, *given)

    monkeypatch.setattr(OnDevice, "__init__", counted)
    return made


def labelled_planted():
    values, samples, _ = planted_matrix(60, 400, 4, seed=0, strength=1.5)
    frame = pd.DataFrame({"category": [f"c{label}" for label in samples]})
    return tlm.ActivationMatrix.from_arrays(values.astype(np.float32), samples=frame)


FEW = {"n_seeds": 2, "n_halves": 1, "progress": False}
REPEATED = {
    "stability": (lambda acts, on: tlm.stability(acts, 4, device=on, **FEW), 5),
    "stability by ulcmod": (
        lambda acts, on: tlm.stability(acts, 4, method="ulcmod", device=on, **FEW),
        5,
    ),
    "choose_n_modules": (lambda acts, on: tlm.choose_n_modules(acts, [3, 4], device=on, **FEW), 11),
    "compare_methods": (
        lambda acts, on: tlm.compare_methods(
            *tlm.split_by_category(acts),
            [4],
            methods=["topics_first", "iterd", "kmeans"],
            n_seeds=1,
            device=on,
            progress=False,
        ).drop(columns=["seconds", "peak_mb"]),
        8,  # two methods, each on all samples, on two halves, and once to warm up
    ),
}
"""Functions that discover several times, and the number of matrices that they discover in."""


@pytest.mark.parametrize("name", REPEATED)
def test_functions_that_discover_several_times_do_so_on_a_device(name, made):
    call, n_matrices = REPEATED[name]
    acts = labelled_planted()
    expected = call(acts, None)
    assert not made
    pd.testing.assert_frame_equal(call(acts, "cpu"), expected, rtol=1e-6)
    assert made == [CPU] * n_matrices


def test_units_that_fit_no_module_are_found_on_a_device(made):
    acts = labelled_planted()
    modules = tlm.discover(acts, 4, progress=False)
    found, expected = (
        tlm.set_aside_background(acts, modules, device=on, progress=False) for on in (CPU, None)
    )
    assert made == [CPU]
    assert (found.unit_labels == expected.unit_labels).mean() > 0.99


@pytest.mark.parametrize("name", REPEATED)
def test_a_device_that_torch_lacks_is_refused_wherever_one_is_named(name):
    with pytest.raises(tlm.ModulesError, match=r"that torch has, .* got 'cuda:77' .*Leave device="):
        REPEATED[name][0](labelled_planted(), "cuda:77")
