from collections import Counter

import numpy as np
import pytest

import tl_modules as tlm
from tl_modules.interventions.strata import Strata
from tl_modules.units import Units


@pytest.fixture
def units():
    """A module of 300 of 3 x 1,000 units, and a value for each."""
    whole = Units.whole(("a", "b", "c"), (0, 1, 2), (1000, 1000, 1000))
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.permutation(3000)[:300])
    return whole.select(chosen), generator.lognormal(sigma=2.0, size=3000)


def strata_of(units, values, kind, exclude=None):
    if kind == "layer":
        return Strata.by_layer(units, exclude)
    return Strata.matched(units, values, exclude)


@pytest.mark.parametrize("kind", ["layer", "matched"])
def test_a_control_has_the_modules_count_in_every_layer(units, kind):
    module, values = units
    control = strata_of(module, values, kind).draw(module, np.random.default_rng(1))
    assert control.counts().tolist() == module.counts().tolist()
    assert len(set(control.flat())) == 300


def test_a_matched_control_has_similar_values(units):
    module, values = units
    control = Strata.matched(module, values).draw(module, np.random.default_rng(1))
    for hook in range(3):
        ours, theirs = (
            np.sort(values[s.flat()[s.hook == hook]]).round(12) for s in (module, control)
        )
        assert np.abs(np.log(ours / theirs)).max() < 1.2  # of values from e**-6 to e**6
    random = Strata.by_layer(module).draw(module, np.random.default_rng(1))
    gap = [
        abs(np.log(values[s.flat()]).mean() - np.log(values[module.flat()]).mean())
        for s in (control, random)
    ]
    assert gap[0] < 0.05
    assert gap[0] < gap[1]


@pytest.mark.parametrize("kind", ["layer", "matched"])
def test_every_unit_of_a_layer_is_drawn_equally_often_the_modules_own_too(kind):
    whole = Units.whole(("a",), (0,), (10,))
    module = whole.select(np.arange(5))
    strata = strata_of(module, np.arange(10.0), kind)
    generator = np.random.default_rng(0)
    drawn = Counter(
        unit for _ in range(2000) for unit in strata.draw(module, generator).flat().tolist()
    )
    # 1,000 times each, with a standard deviation of 22.
    assert sorted(drawn) == list(range(10))
    assert max(abs(count - 1000) for count in drawn.values()) < 100


def test_a_stratum_gives_as_many_as_the_module_has_there():
    whole = Units.whole(("a",), (0,), (100,))
    values = np.random.default_rng(0).permutation(100).astype(float)
    highest = np.argsort(-values)[:6]
    module = whole.select(np.sort(highest))
    strata = Strata.matched(module, values)
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        seen |= set(values[strata.draw(module, generator).flat()])
    assert seen == set(range(92, 100))  # the stratum of the eight highest


def test_controls_differ_and_their_seed_gives_them_again(units):
    module, values = units
    strata = Strata.matched(module, values)
    one, again, other = (
        strata.draw(module, np.random.default_rng(seed)).flat().tolist() for seed in (1, 1, 2)
    )
    assert one == again
    assert len(set(one) & set(other)) < 200


def test_a_module_of_all_units_is_its_only_control():
    whole = Units.whole(("a", "b"), (0, 1), (10, 10))
    control = Strata.by_layer(whole).draw(whole, np.random.default_rng(0))
    assert control.flat().tolist() == list(range(20))


@pytest.mark.parametrize("kind", ["layer", "matched"])
def test_excluded_units_are_never_drawn(units, kind):
    module, values = units
    exclude = module.complement().select(np.arange(0, 2700, 2))
    strata = strata_of(module, values, kind, exclude)
    control = strata.draw(module, np.random.default_rng(0))
    assert len(control) == 300
    assert not set(control.flat()) & set(exclude.flat())


def test_units_can_be_taken_from_units():
    whole = Units.whole(("a", "b"), (0, 1), (3, 3))
    rest = whole.select(np.array([0, 2, 5])).without(whole.select(np.array([2, 3])))
    assert rest.flat().tolist() == [0, 5]
    assert whole.select(np.array([1, 4])).complement().flat().tolist() == [0, 2, 3, 5]
    assert isinstance(rest, tlm.Units)
