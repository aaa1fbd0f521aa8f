from dataclasses import replace

import numpy as np
import pytest

import tl_modules as tlm
from benchmarks.truth.checks import true_module
from benchmarks.truth.files import FOLDER
from benchmarks.truth.loading import load
from tests.conftest import long_once
from tl_modules.causal.shared_by_all import is_shared_by_all

LOW_CONTROLS = np.linspace(0.0, 1.0, 57).reshape(19, 3)


def called(effects, *, spread=0.02, own=0, controls=LOW_CONTROLS, first_only=False):
    """The rule on a target's effects, whose resamples differ by so much."""
    effects = np.asarray(effects, dtype=float)
    noise = np.random.default_rng(0).normal(0, spread, (400, len(effects)))
    runs = np.vstack([effects, controls[:, : len(effects)]])
    return is_shared_by_all(runs, effects + noise, own, 1e-9, first_only=first_only)


def test_a_target_that_harms_every_category_alike_is_shared():
    assert called([4.5, 5.0, 6.2])
    assert called([4.5, 5.0, 3.6])
    assert not called([4.5, 5.0, 2.0])  # less than half of the own
    assert called([4.5, 5.0, 2.0], own=2)  # the own category is harmed least
    assert not called([4.5, 5.0, 2.0], own=None)  # compared with the largest
    assert not called([4.5, 5.0, 3.6], spread=1.0)  # the prompts disagree
    assert not called([4.5])  # a single category


def test_random_units_harm_every_category_too():
    assert not called([0.6, 0.6, 0.6])
    harmful = np.full((5, 3), 9.0)
    assert called([4.5, 5.0, 4.8], controls=np.vstack([LOW_CONTROLS[:15], harmful[:4]]))
    five = np.vstack([LOW_CONTROLS[:14], harmful])
    assert not called([4.5, 5.0, 4.8], controls=five)
    assert called([4.5, 5.0, 4.8], controls=np.vstack([five, LOW_CONTROLS]))  # five of 38
    # A control that does much harm to some categories only does not count.
    one_sided = np.vstack([LOW_CONTROLS[:14], harmful * [1, 1, 0]])
    assert called([4.5, 5.0, 4.8], controls=one_sided)
    # How many controls ran may hang on them: then the first 19 decide.
    both = np.vstack([five, LOW_CONTROLS])
    assert not called([4.5, 5.0, 4.8], controls=both, first_only=True)
    assert called([4.5, 5.0, 4.8], controls=LOW_CONTROLS[:3])
    assert not called([4.5, 5.0, 4.8], controls=LOW_CONTROLS[:2])  # too few to say so


def test_a_random_target_passes_the_test_against_controls_in_one_case_of_four():
    generator = np.random.default_rng(0)
    passed = [
        called(5 + effects[0], controls=5 + effects[1:], spread=0.0)
        for effects in generator.normal(0, 0.5, (2000, 20, 3))
    ]
    assert 0.22 < np.mean(passed) < 0.28


def test_a_harmless_target_and_a_category_of_one_prompt_are_not_shared():
    assert not called([-1.0, -1.0, -1.0], controls=LOW_CONTROLS - 9)
    # Above half of its own effect and above its controls, and no category is harmed.
    assert not called([-10.0, -1.0, -1.0], own=0, controls=LOW_CONTROLS - 99)
    resampled = np.ones((50, 3))
    resampled[:, 1] = np.nan
    runs = np.vstack([np.full((1, 3), 9.0), LOW_CONTROLS])
    assert not is_shared_by_all(runs, resampled, 0, 0.0, first_only=False)


@long_once
@pytest.mark.slow
@pytest.mark.parametrize("name", ["fewshared", "shared"])
def test_shared_units_are_called_so_and_owned_ones_are_not(name):
    truth = load(FOLDER / f"{name}-0.safetensors")
    acts = tlm.collect(truth.model, truth.prompts(20, 0), batch_size=64, progress=False)
    masks = [truth.owners == task for task in range(truth.n_tasks)]
    masks.append(truth.owners < 0)
    targets = [
        replace(true_module(truth, acts, min(task, 4), mask), label=task)
        for task, mask in enumerate(masks)
    ]
    table = tlm.module_effects(
        truth.model, targets, truth.prompts(6, 1), n_controls=19, batch_size=600, progress=False
    )
    found = table.drop_duplicates("module")["shared_by_all"].tolist()
    assert found == [False] * truth.n_tasks + [True]


def test_keeping_a_module_alone_does_not_show_it(model, modules, prompts):
    options = {"n_controls": 19, "progress": False}
    table = tlm.module_effects(model, modules, prompts, keep_only=True, **options)
    assert not table["shared_by_all"].any()
