import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import unequal
from tl_modules.evaluation.comparison import split_by_category
from tl_modules.interpret.own_samples import own_activations


@pytest.fixture
def frame():
    """Eight samples; two prompts stand there twice, one of them under two categories."""
    prompts = ["a", "b", "a", "c", "d", "e", "f", "e"]
    return pd.DataFrame({"prompt": prompts, "category": list("xyxyxyxx")})


@pytest.fixture
def acts(frame):
    values = np.random.default_rng(0).gamma(1.0, size=(8, 12)).astype(np.float32)
    values[2], values[7] = values[0], values[5]  # equal prompts, equal activations
    return tlm.ActivationMatrix.from_arrays(values, samples=frame)


@unequal
@pytest.mark.parametrize("rows", [[1, 2, 3, 5, 6], [7, 0, 4, 3], [0, 2, 5, 7]])
def test_the_own_samples_are_found_in_their_order(acts, rows):
    modules = tlm.discover(acts.select(rows), 2)
    found = own_activations(modules, acts)
    np.testing.assert_array_equal(found.values, acts.values[rows])
    assert found.samples.equals(acts.samples.iloc[rows].reset_index(drop=True))


def test_the_own_samples_are_found_in_a_store(acts, tmp_path):
    with tlm.ActivationStore.create(tmp_path / "acts", acts.units, dtype="float32") as writer:
        writer.add(acts.values, acts.samples)
    modules = tlm.discover(acts.select([6, 1, 3]), 2)
    found = own_activations(modules, tlm.ActivationStore(tmp_path / "acts"))
    np.testing.assert_array_equal(found.values, acts.values[[6, 1, 3]])


def test_as_many_samples_are_taken_as_they_are(acts):
    assert own_activations(tlm.discover(acts, 2), acts) is acts


def test_a_sample_that_is_not_there_is_refused(acts, frame):
    modules = tlm.discover(acts.select([1, 3, 4]), 2)
    others = tlm.ActivationMatrix.from_arrays(
        acts.values, samples=frame.assign(prompt=list("abaxdefe"))
    )
    with pytest.raises(tlm.ModulesError, match="sample 1 is missing"):
        own_activations(modules, others)


def test_samples_alike_but_for_their_activations_are_refused(acts, frame):
    """Which of the two the modules were discovered on cannot be told."""
    values = acts.values.copy()
    values[2] += 1
    differ = tlm.ActivationMatrix.from_arrays(values, samples=frame)
    modules = tlm.discover(differ.select([2, 3, 4]), 2)
    with pytest.raises(
        tlm.ModulesError, match="its samples 0 and 2 differ in their activations alone"
    ):
        own_activations(modules, differ)
    both = tlm.discover(differ.select([0, 2, 4]), 2)  # both are meant: no doubt
    np.testing.assert_array_equal(own_activations(both, differ).values, values[[0, 2, 4]])


@pytest.mark.parametrize("seed", range(3))
def test_a_page_of_modules_of_a_part_takes_the_whole_matrix(acts, seed, tmp_path):
    """Its figures are those of the part alone."""
    pytest.importorskip("plotly", reason="figures need the extra 'viz'")
    train, _ = split_by_category(acts, test_share=0.3, seed=seed)
    modules = tlm.discover(train, 2)
    for name, given in (("whole", acts), ("part", train)):
        tlm.write_report(tmp_path / f"{name}.html", modules, acts=given, progress=False)
    whole, part = ((tmp_path / f"{name}.html").read_bytes() for name in ("whole", "part"))
    assert b'data-figure="data-activations"' in whole
    assert whole == part
