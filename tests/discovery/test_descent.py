import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tests.discovery.oracles import plain_iterd, plain_value, published_iterd
from tests.planted import planted_matrix


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_samples=st.integers(3, 9),
    n_units=st.integers(3, 14),
    n_modules=st.integers(2, 3),
    float32=st.booleans(),
)
def test_moves_equal_the_plain_loop_from_any_start_and_orders(
    seed, n_samples, n_units, n_modules, float32
):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(n_samples, n_units))
    if float32:
        matrix = matrix.astype(np.float32)
    samples = generator.integers(0, n_modules, n_samples)
    units = generator.integers(0, n_modules, n_units)
    unit_orders = np.array([generator.permutation(n_units) for _ in range(3)])
    sample_orders = np.array([generator.permutation(n_samples) for _ in range(3)])

    expected_samples, expected_units, history = plain_iterd(
        matrix, n_modules, samples, units, unit_orders, sample_orders
    )
    found = tlm.iterd(
        matrix,
        n_modules,
        sample_labels=samples,
        unit_labels=units,
        unit_orders=unit_orders,
        sample_orders=sample_orders,
        max_rounds=3,
    )

    assert found.unit_labels.tolist() == expected_units.tolist()
    assert found.sample_labels.tolist() == expected_samples.tolist()
    # Fewer rounds where nothing was left to move.
    assert found.history == pytest.approx(history[: len(found.history)], rel=1e-12)


def test_moves_equal_the_plain_loop_where_labels_start_empty():
    matrix, _, _ = planted_matrix(12, 20, 4, seed=5)
    generator = np.random.default_rng(1)
    samples = generator.integers(0, 2, 12)  # labels 2 and 3 have no member
    units = generator.integers(1, 3, 20)
    orders = [generator.permutation(20)], [generator.permutation(12)]
    expected = plain_iterd(matrix, 4, samples, units, *orders)
    found = tlm.iterd(
        matrix,
        4,
        sample_labels=samples,
        unit_labels=units,
        unit_orders=np.array(orders[0]),
        sample_orders=np.array(orders[1]),
        max_rounds=1,
    )
    assert found.unit_labels.tolist() == expected[1].tolist()
    assert found.sample_labels.tolist() == expected[0].tolist()


def test_the_loop_that_benchmarks_compare_with_makes_the_same_moves():
    matrix = planted_matrix(20, 40, 3, seed=2, strength=0.5)[0]
    generator = np.random.default_rng(3)
    start = generator.integers(0, 3, 20), generator.integers(0, 3, 40)
    orders = (
        np.array([generator.permutation(40) for _ in range(2)]),
        np.array([generator.permutation(20) for _ in range(2)]),
    )
    plain = plain_iterd(matrix, 3, *start, *orders)
    published = published_iterd(matrix, 3, *start, *orders)
    assert published[0].tolist() == plain[0].tolist()
    assert published[1].tolist() == plain[1].tolist()
    assert published[2] == pytest.approx(plain[2], rel=1e-9)


def test_planted_blocks_are_recovered(planted):
    matrix, samples, units = planted
    found = tlm.iterd(matrix, 4, max_rounds=50)
    assert found.converged
    assert adjusted_rand_score(samples, found.sample_labels) == 1.0
    assert adjusted_rand_score(units, found.unit_labels) == 1.0


def test_history_never_falls_and_ends_at_the_objective(planted):
    found = tlm.iterd(planted[0], 4, sample_labels=np.arange(60) % 4, max_rounds=50)
    assert len(found.history) > 1
    assert (np.diff(found.history) >= -1e-9).all()
    assert found.history[-1] == pytest.approx(found.objective.L, rel=1e-12)


def test_convergence_leaves_no_single_move_that_raises_the_objective(planted):
    matrix = planted[0][:20, :30]
    found = tlm.iterd(matrix, 3, max_rounds=100)
    assert found.converged
    here = plain_value(matrix, found.sample_labels, found.unit_labels, 3)
    for labels in (found.sample_labels, found.unit_labels):
        for item in range(len(labels)):
            own = labels[item]
            for label in range(3):
                labels[item] = label
                value = plain_value(matrix, found.sample_labels, found.unit_labels, 3)
                assert value <= here + 1e-7
            labels[item] = own


def test_the_same_seed_gives_the_same_partition_and_another_seed_other_orders(planted):
    matrix = planted_matrix(60, 160, 4, seed=3, strength=0.1)[0]
    first, again, other = (tlm.iterd(matrix, 4, seed=seed) for seed in (1, 1, 2))
    assert first.unit_labels.tolist() == again.unit_labels.tolist()
    assert first.history == again.history
    assert first.unit_labels.tolist() != other.unit_labels.tolist()


def test_units_alone_can_give_the_start(planted):
    matrix, samples, units = planted
    found = tlm.iterd(matrix, 4, unit_labels=units)
    assert adjusted_rand_score(samples, found.sample_labels) == 1.0


def test_start_labels_and_orders_are_not_changed(planted):
    matrix, _, _ = planted
    samples, units = np.arange(60) % 4, np.arange(160) % 4
    tlm.iterd(matrix, 4, sample_labels=samples, unit_labels=units)
    assert samples.tolist() == (np.arange(60) % 4).tolist()
    assert units.tolist() == (np.arange(160) % 4).tolist()


def test_reference_run_is_reached(shared):
    golden = np.load(shared / "reference" / "iterd-golden.npz", allow_pickle=False)
    start = {
        "sample_labels": golden["init_sample_labels"],
        "unit_labels": golden["init_unit_labels"],
    }
    n_modules = int(golden["n_modules"])
    same_orders = tlm.iterd(
        golden["matrix"],
        n_modules,
        unit_orders=golden["unit_orders"],
        sample_orders=golden["sample_orders"],
        max_rounds=5,
        **start,
    )
    final = float(golden["final_L"])
    assert pytest.approx(final, rel=1e-3) == same_orders.objective.L
    converged = tlm.iterd(golden["matrix"], n_modules, max_rounds=200, **start)
    assert converged.converged
    assert final * 0.9995 <= converged.objective.L
    assert (
        pytest.approx(float(golden["init_L"]), rel=1e-6)
        == tlm.objective(
            golden["matrix"], golden["init_sample_labels"], golden["init_unit_labels"], n_modules
        ).L
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_modules": 1}, "n_modules should lie between 2 and min.samples, units. = 60; got 1"),
        ({"n_modules": 61}, "between 2 and min.samples, units. = 60; got 61"),
        ({"max_rounds": 0}, "max_rounds should be at least 1; got 0"),
        (
            {"sample_labels": np.zeros(3, int)},
            r"sample_labels should have shape \(60,\); got \(3,\)",
        ),
        ({"unit_labels": np.full(160, 4)}, "unit_labels should lie in 0..3"),
        ({"unit_orders": np.zeros((1, 160), int)}, "each a permutation of 0..159"),
        ({"sample_orders": np.arange(59)[None]}, "each a permutation of 0..59"),
    ],
)
def test_bad_arguments_are_refused_by_rule_and_value(planted, change, message):
    arguments = {"n_modules": 4} | change
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.iterd(planted[0], **arguments)


def test_values_too_large_to_sum_are_refused():
    with pytest.raises(tlm.ModulesError, match=r"can be summed; its largest magnitude is 1e.308"):
        tlm.iterd(np.full((4, 5), 1e308), 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(planted, bad):
    matrix = planted[0].copy()
    matrix[7, 11] = bad
    with pytest.raises(tlm.ModulesError, match="sample 7, unit 11"):
        tlm.iterd(matrix, 4)
