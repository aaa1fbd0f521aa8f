"""P-values against controls: random modules pass as often as the level says, true ones pass."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from benchmarks.calibration.planted import PlantedModel
from tests.conftest import WORDS, long_once, tiny_model
from tests.planted import truth_model

N_RANDOM = 100
KINDS = ("layer", "magnitude", "attribution")


def random_modules_p_values(model, acts, prompts, n_modules, controls, n=N_RANDOM):
    """Selectivity's p-value of modules that hold each unit with a chance of 1 / n_modules."""
    generator = np.random.default_rng(3)
    names = acts.samples["category"].unique()
    means = tlm.discover(acts, 2, progress=False)  # holds mean |activation| too
    found = []
    for at in range(n):
        units = acts.units.select(generator.random(len(acts.units)) < 1 / n_modules)
        samples = acts.samples[acts.samples["category"] == names[at % len(names)]]
        table = tlm.module_effects(
            model,
            tlm.Module(0, units, samples, means=means),
            prompts,
            method="zero",
            controls=controls,
            n_controls=19,
            seed=at,
            batch_size=20 * len(prompts),
            progress=False,
        )
        found.append(table["selectivity_p_value"].iloc[0])
    return np.array(found)


def check_calibrated(p_values):
    """What uniform p-values of 19 controls keep, but for a chance of about one in a thousand."""
    n = len(p_values)
    assert np.mean(p_values <= 0.05) <= 0.05 + 3.4 * np.sqrt(0.05 * 0.95 / n)
    assert abs(p_values.mean() - 0.525) <= 3.4 * 0.288 / np.sqrt(n)


@pytest.fixture(scope="module")
def planted_model():
    return PlantedModel()


@pytest.fixture(scope="module")
def planted_acts(planted_model):
    return tlm.collect(planted_model, planted_model.prompts(6), progress=False)


@long_once
@pytest.mark.slow
@pytest.mark.parametrize(
    ("controls", "n_modules"), [("layer", 2), ("layer", 3), ("magnitude", 2), ("attribution", 2)]
)
def test_random_modules_are_selective_in_five_cases_of_a_hundred(
    planted_model, planted_acts, controls, n_modules
):
    prompts = planted_model.prompts(3, seed=1)
    check_calibrated(
        random_modules_p_values(planted_model, planted_acts, prompts, n_modules, controls)
    )


@pytest.mark.parametrize("controls", KINDS)
def test_true_modules_are_selective(planted_model, planted_acts, controls):
    prompts = planted_model.prompts(3, seed=1)
    means = tlm.discover(planted_acts, 2, progress=False)
    samples = planted_acts.samples
    modules = [
        tlm.Module(
            number,
            planted_acts.units.select(planted_model.owner == number),
            samples[samples["category"] == f"task{number}"],
            means=means,
        )
        for number in range(3)
    ]
    table = tlm.module_effects(
        planted_model,
        modules,
        prompts,
        method="zero",
        controls=controls,
        n_controls=19,
        progress=False,
    )
    assert (table["selectivity_p_value"] == 0.05).all()
    assert (table["selectivity"] > 0).all()


@long_once
@pytest.mark.slow
@pytest.mark.parametrize(("controls", "n_modules"), [("layer", 2), ("attribution", 3)])
def test_random_modules_of_a_trained_model_are_selective_in_five_cases_of_a_hundred(
    shared, controls, n_modules
):
    model, _, tables, prompts_of = truth_model(shared, "hard-0")
    acts = tlm.collect(model, prompts_of(tables, (8,) * 5, 0), batch_size=64, progress=False)
    prompts = prompts_of(tables, (4,) * 5, 1)
    check_calibrated(random_modules_p_values(model, acts, prompts, n_modules, controls, n=60))


def test_a_module_of_whole_layers_equals_its_controls(planted_model, planted_acts):
    """Its controls are the module itself: nothing can be said of it."""
    samples = planted_acts.samples
    of_first = samples[samples["category"] == "task0"]
    module = tlm.Module(0, planted_acts.units, of_first, means=planted_acts)
    prompts, options = planted_model.prompts(2), {"batch_size": 7, "progress": False}
    with pytest.warns(UserWarning, match="Module 0 holds all units that its controls are drawn"):
        table = tlm.module_effects(planted_model, module, prompts, n_controls=19, **options)
    assert (table[["p_value", "selectivity_p_value"]].dropna() == 1).all(axis=None)


@long_once
@pytest.mark.slow
def test_random_modules_drive_a_metric_in_five_cases_of_a_hundred():
    model = tiny_model(d_mlp=24)
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 8)) for _ in range(12)]
    acts = tlm.collect(model, texts[:4], progress=False)
    clean, corrupted = (
        torch.cat([model.to_tokens(text) for text in half]) for half in (texts[4:8], texts[8:])
    )
    found = []
    for seed in range(30):
        labels = generator.integers(3, size=len(acts.units))
        modules = [
            tlm.Module(at, acts.units.select(labels == at), acts.samples, means=acts)
            for at in range(3)
        ]
        graph = tlm.module_graph(
            model,
            clean,
            corrupted,
            lambda logits: logits[:, -1, 5] - logits[:, -1, 9],
            modules,
            n_controls=19,
            seed=seed,
            progress=False,
        )
        found += graph.nodes["p_value"].tolist()
    check_calibrated(np.array(found))
