import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.discovery import start
from tl_modules.discovery.balanced_kmeans import balanced_kmeans
from tl_modules.discovery.descent import descend
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.start import START_KINDS, start_labels, start_points


def test_planted_modules_are_found_whatever_the_units_scales(planted):
    matrix, samples, units = planted
    scales = np.random.default_rng(0).uniform(0.1, 50, size=matrix.shape[1])
    found = tlm.discover(tlm.ActivationMatrix.from_arrays(matrix * scales + scales), 4)
    assert adjusted_rand_score(units, found.unit_labels) == 1.0
    assert adjusted_rand_score(samples, found.sample_labels) == 1.0
    assert found.converged


def test_scores_are_the_mean_zscores_over_the_own_module(planted):
    acts = tlm.ActivationMatrix.from_arrays(planted[0])
    found = tlm.discover(acts, 4)
    scored = acts.zscore().values
    for sample in (0, 17, 59):
        own = found.unit_labels == found.sample_labels[sample]
        assert found.sample_scores[sample] == pytest.approx(scored[sample, own].mean(), rel=1e-9)
    assert found.objective == tlm.objective(scored, found.sample_labels, found.unit_labels, 4)


def test_more_starts_never_end_lower(planted):
    acts = tlm.ActivationMatrix.from_arrays(planted[0][:, ::3])
    one, four = (tlm.discover(acts, 5, n_starts=n) for n in (1, 4))
    assert four.objective.L >= one.objective.L
    assert four.starts["kind"].tolist() == ["kmeans", "random", "spectral", "kmeans"]
    assert four.starts["seed"].tolist() == [0, 1, 2, 3]
    assert four.starts["L"].max() == four.objective.L
    assert four.starts["L"][0] == one.objective.L


def test_a_start_is_the_restart_of_the_highest_objective():
    given = start_points(InMemory(planted_matrix(80, 200, 6, seed=4, strength=0.4)[0]), seed=0)
    generator = np.random.default_rng(0)
    tried = [
        descend(given.some, 6, balanced_kmeans(given.points, 6, generator), max_rounds=10, seed=0)
        for _ in range(10)
    ]
    values = [result.history[-1] for result in tried]
    assert max(values) > 1.001 * min(values)
    found = start_labels(given, "kmeans", 6, seed=0)
    assert found.tolist() == tried[int(np.argmax(values))].sample_labels.tolist()


def test_one_sample_is_refused():
    acts = tlm.ActivationMatrix.from_arrays(np.ones((1, 5)))
    with pytest.raises(tlm.ModulesError, match="at least 2 samples; got 1"):
        tlm.discover(acts, 2)


def test_too_many_modules_are_refused_with_the_most_there_can_be(planted):
    acts = tlm.ActivationMatrix.from_arrays(planted[0])
    with pytest.raises(tlm.ModulesError, match="= 60; got 61"):
        tlm.discover(acts, 61)


def test_more_modules_than_groups_leave_one_empty_and_an_objective_of_zero(planted):
    acts = tlm.ActivationMatrix.from_arrays(np.exp(0.3 * planted[0][:, ::2]))
    found = tlm.discover(acts, 5, method="ulcmod")
    sizes = np.array([module.n_units * len(module.samples) for module in found])
    assert found.objective.L == 0
    assert (sizes == 0).sum() == 1
    assert found.history[-1] > 0  # what the search maximises leaves the empty one out
    assert len(found.to_frame()) == 5


def test_kicks_never_end_lower_and_find_a_higher_objective_on_hard_data():
    from tests.planted import planted_matrix

    acts = tlm.ActivationMatrix.from_arrays(planted_matrix(80, 200, 6, seed=4, strength=0.3)[0])
    once, again = (tlm.discover(acts, 6, n_kicks=n).objective.L for n in (0, 0))
    assert once == again
    few, many = (tlm.discover(acts, 6, n_kicks=n).objective.L for n in (5, 60))
    assert once <= few <= many
    assert many > once
    assert many == tlm.discover(acts, 6, n_kicks=60).objective.L


def test_a_negative_number_of_kicks_is_refused(planted):
    with pytest.raises(tlm.ModulesError, match="n_kicks should be at least 0; got -1"):
        tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4, n_kicks=-1)


def test_starts_at_once_give_what_they_give_in_turn(planted):
    acts = tlm.ActivationMatrix.from_arrays(planted[0][:, ::3])
    in_turn, at_once = (tlm.discover(acts, 5, n_starts=5, n_jobs=jobs) for jobs in (1, 3))
    assert in_turn.starts.equals(at_once.starts)
    assert in_turn.unit_labels.tolist() == at_once.unit_labels.tolist()


@pytest.mark.parametrize("kind", START_KINDS)
def test_every_kind_of_start_leads_to_strong_planted_blocks(planted, kind):
    products = InMemory(planted[0])
    labels = start_labels(start_points(products, 0), kind, 4, seed=0)
    assert sorted(set(labels)) == [0, 1, 2, 3]
    found = descend(products, 4, labels, max_rounds=50, seed=0)
    assert adjusted_rand_score(planted[2], found.unit_labels) > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rounds": 0}, "max_rounds should be at least 1; got 0"),
        ({"n_jobs": 0}, "n_jobs should be at least 1; got 0"),
        ({"n_jobs": -1}, "n_jobs should be at least 1; got -1"),
    ],
)
def test_options_that_cannot_be_are_refused(planted, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4, **options)


def test_spectral_starts_of_many_samples_cluster_some(monkeypatch):
    matrix, samples, _ = planted_matrix(300, 80, 3, seed=0, strength=2.0)
    monkeypatch.setattr(start, "N_SPECTRAL", 60)
    given = start_points(InMemory(matrix), 0)
    assert adjusted_rand_score(samples, start_labels(given, "spectral", 3, seed=0)) > 0.95


def of_categories(*counts):
    """A planted matrix whose samples have so many prompts of each category."""
    names = [f"c{k}" for k, count in enumerate(counts) for _ in range(count)]
    frame = pd.DataFrame({"prompt": names, "category": names})
    values = np.random.default_rng(0).normal(size=(len(names), 30))
    return tlm.ActivationMatrix.from_arrays(values, samples=frame)


def test_unequal_categories_are_warned_of_with_the_papers_objective():
    with pytest.warns(UserWarning, match="'c0' has 13 prompts and 'c1' has 6.*topics_first"):
        tlm.discover(of_categories(13, 6), 2, method="ulcmod", progress=False)


def test_categories_up_to_twice_as_large_are_not_warned_of():
    tlm.discover(of_categories(12, 6), 2, method="ulcmod", progress=False)


def test_topics_first_does_not_warn_of_unequal_categories():
    tlm.discover(of_categories(20, 5), 2, method="topics_first", progress=False)
