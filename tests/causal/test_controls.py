import numpy as np
import pytest

import tl_modules as tlm
from tl_modules.causal.controls import layer_matched_control, matched_control
from tl_modules.units import Units


@pytest.fixture
def units():
    """A module of 300 of 3 x 1,000 units, and a value for each."""
    whole = Units.whole(("a", "b", "c"), (0, 1, 2), (1000, 1000, 1000))
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.permutation(3000)[:300])
    return whole.select(chosen), generator.lognormal(sigma=2.0, size=3000)


def test_a_matched_control_has_the_modules_layers_and_like_values(units):
    module, values = units
    control = matched_control(module, values, np.random.default_rng(1))
    assert control.counts().tolist() == module.counts().tolist()
    assert not set(control.flat()) & set(module.flat())
    assert len(set(control.flat())) == 300
    for hook in range(3):
        ours = np.sort(values[module.flat()[module.hook == hook]])
        theirs = np.sort(values[control.flat()[control.hook == hook]])
        # The smallest and the largest have no equals.
        assert np.abs(np.log(ours / theirs))[5:-5].max() < 0.5
    random = layer_matched_control(module, np.random.default_rng(1))
    gap = [
        abs(np.log(values[s.flat()]).mean() - np.log(values[module.flat()]).mean())
        for s in (control, random)
    ]
    assert gap[0] < 0.02
    assert gap[0] < gap[1]


def test_matched_controls_differ_and_their_seed_gives_them_again(units):
    module, values = units
    one, again, other = (
        matched_control(module, values, np.random.default_rng(seed)).flat().tolist()
        for seed in (1, 1, 2)
    )
    assert one == again
    assert len(set(one) & set(other)) < 200


def test_a_layer_without_enough_others_gives_all_it_has():
    whole = Units.whole(("a",), (0,), (10,))
    module = whole.select(np.arange(7))
    control = matched_control(module, np.arange(10.0), np.random.default_rng(0))
    assert control.flat().tolist() == [7, 8, 9]
    none = matched_control(whole, np.arange(10.0), np.random.default_rng(0))
    assert len(none) == 0


@pytest.mark.parametrize("draw", [layer_matched_control, "matched"])
def test_excluded_units_are_never_drawn(units, draw):
    module, values = units
    exclude = module.complement().select(np.arange(0, 2700, 2))
    generator = np.random.default_rng(0)
    if draw == "matched":
        control = matched_control(module, values, generator, exclude)
    else:
        control = draw(module, generator, exclude)
    assert len(control) == 300
    assert not set(control.flat()) & set(exclude.flat())


def test_units_can_be_taken_from_units():
    whole = Units.whole(("a", "b"), (0, 1), (3, 3))
    rest = whole.select(np.array([0, 2, 5])).without(whole.select(np.array([2, 3])))
    assert rest.flat().tolist() == [0, 5]
    assert whole.select(np.array([1, 4])).complement().flat().tolist() == [0, 2, 3, 5]
    assert isinstance(rest, tlm.Units)
