"""The method ``topics_first`` finds planted modules and topics of any size."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tl_modules.discovery.topics_first import expected_labels, kmeans_labels, topic_labels


def planted(sample_counts, unit_counts, *, effect=1.5, seed=0):
    """Noise plus ``effect`` in the diagonal blocks; the samples' and the units' true labels."""
    generator = np.random.default_rng(seed)
    samples = np.repeat(np.arange(len(sample_counts)), sample_counts)
    units = np.repeat(np.arange(len(unit_counts)), unit_counts)
    noise = generator.normal(size=(len(samples), len(units)))
    values = noise + effect * (samples[:, None] == units)
    return tlm.ActivationMatrix.from_arrays(values), samples, units


def discovered(acts, n_modules=4, **options):
    return tlm.discover(acts, n_modules, method="topics_first", progress=False, **options)


@pytest.mark.parametrize(
    ("sample_counts", "unit_counts"),
    [((20,) * 4, (50,) * 4), ((20,) * 4, (160, 20, 10, 10)), ((60, 6, 6, 6), (50,) * 4)],
    ids=["equal", "unequal modules", "unequal topics"],
)
def test_planted_modules_and_topics_are_found_whatever_their_sizes(sample_counts, unit_counts):
    acts, samples, units = planted(sample_counts, unit_counts)
    modules = discovered(acts)
    assert adjusted_rand_score(samples, modules.sample_labels) > 0.95
    assert adjusted_rand_score(units, modules.unit_labels) > 0.85


def test_it_beats_the_papers_objective_where_sizes_differ():
    acts, _, units = planted((60, 6, 6, 6), (50,) * 4)
    paper = tlm.discover(acts, 4, method="ulcmod", progress=False)
    ours = adjusted_rand_score(units, discovered(acts).unit_labels)
    assert ours > adjusted_rand_score(units, paper.unit_labels) + 0.2


def test_noisy_means_of_rare_topics_do_not_attract_units():
    """A unit without a topic has its highest mean most often on the topic with fewest samples."""
    generator = np.random.default_rng(0)
    topics = np.repeat([0, 1, 2], [90, 90, 4])
    values = generator.normal(size=(len(topics), 4000))
    values[:, :200] += 0.3 * (topics == 0)[:, None]
    sums = np.stack([values[topics == k].sum(axis=0) for k in range(3)], axis=1)
    highest = np.bincount((sums / [90, 90, 4]).argmax(axis=1), minlength=3)
    expected = np.bincount(expected_labels(sums, topics, float((values**2).sum())), minlength=3)
    assert highest[2] > 1600
    assert expected[2] < 0.7 * highest[2]


def test_without_noise_the_highest_mean_decides():
    sums = np.array([[4.0, 1.0], [2.0, 3.0]])
    topics = np.array([0, 0, 1])
    labels = expected_labels(sums, topics, float(2 * (4 + 1) + 1 + 9))
    assert labels.tolist() == [0, 1]


def test_topics_without_samples_get_no_units():
    sums = np.array([[4.0, 0.0, -1.0], [-2.0, 0.0, -1.0]])
    assert expected_labels(sums, np.array([0, 0, 2]), 20.0).tolist() == [0, 2]


def test_a_set_remembers_its_method(tmp_path):
    acts, _, _ = planted((10,) * 3, (20,) * 3)
    modules = discovered(acts, 3)
    modules.save(tmp_path / "modules.safetensors")
    assert tlm.ModuleSet.load(tmp_path / "modules.safetensors").method == "topics_first"


def test_it_is_the_default_unless_an_option_of_the_descent_is_passed():
    acts, _, _ = planted((10,) * 3, (20,) * 3)
    assert tlm.discover(acts, 3, progress=False).method == "topics_first"
    for option in ({"n_starts": 1}, {"n_kicks": 1}, {"max_rounds": 5}):
        assert tlm.discover(acts, 3, progress=False, **option).method == "ulcmod"


def test_long_samples_do_not_draw_a_topic_of_their_own():
    """Topics are directions: samples that show theirs ten times as strongly stay in it."""
    generator = np.random.default_rng(0)
    topics = np.repeat([0, 1, 2], 20)
    strength = np.where(np.arange(60) % 20 < 4, 20.0, 2.0)[:, None]
    signal = strength * (topics[:, None] == np.repeat([0, 1, 2], 40))
    points = np.linalg.svd(signal + generator.normal(size=(60, 120)) - signal.mean(axis=0))
    coordinates = (points[0] * points[1])[:, :16]
    by_length = kmeans_labels(coordinates[:, :2], 3, 0)
    assert adjusted_rand_score(topics, topic_labels(coordinates, 3, 0)) > 0.95
    assert adjusted_rand_score(topics, by_length) < 0.8


def test_its_objective_is_that_of_its_partition():
    acts, _, _ = planted((10,) * 3, (20,) * 3)
    modules = discovered(acts, 3)
    scored = acts.zscore().values
    own = tlm.objective(scored, modules.sample_labels, modules.unit_labels, 3)
    assert pytest.approx(own.L) == modules.objective.L


@pytest.mark.parametrize("option", [{"n_starts": 1}, {"n_kicks": 1}, {"max_rounds": 9}])
def test_options_of_the_descent_are_refused(option):
    acts, _, _ = planted((10,) * 3, (20,) * 3)
    with pytest.raises(tlm.ModulesError, match="method='ulcmod' only"):
        discovered(acts, 3, **option)


@pytest.mark.parametrize("n_modules", [2, 19, 24])
def test_any_valid_k_gives_as_many_labels(n_modules):
    acts, _, _ = planted((6,) * 4, (10,) * 4)
    modules = discovered(acts, n_modules)
    assert modules.n_modules == n_modules
    assert set(modules.unit_labels) <= set(range(n_modules))


def test_equal_samples_leave_modules_empty_without_a_warning():
    values = np.kron(np.eye(2), np.ones((5, 4)))
    modules = discovered(tlm.ActivationMatrix.from_arrays(values), 3)
    assert sorted(len(set(labels)) for labels in (modules.sample_labels, modules.unit_labels)) == [
        2,
        2,
    ]
