"""P-values of partitions without a model: matches, layers, nestedness, coverage, hierarchy."""

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.calibration.levels import PValues, Simulation, generator_of
from benchmarks.calibration.planted import module_set, random_labels

N_LAYERS, N_PERMUTATIONS = 6, 19
WIDTH = 1536
"""Units of a layer, as many as a small model has: tests of numbers of units are conservative where
these are small."""


def _matrix(width: int, n_samples: int, generator: np.random.Generator) -> tlm.ActivationMatrix:
    """Normalised noise of a site of six layers; four categories of unequal sizes."""
    units = tlm.Units.whole(
        tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(N_LAYERS)),
        tuple(range(N_LAYERS)),
        (width,) * N_LAYERS,
    )
    names = generator.choice(list("abcd"), size=n_samples, p=[0.4, 0.3, 0.2, 0.1])
    samples = pd.DataFrame({"prompt": [str(at) for at in range(n_samples)], "category": names})
    values = generator.normal(size=(n_samples, len(units)))
    made = tlm.ActivationMatrix.from_arrays(values, samples=samples, units=units)
    return made.normalise("zscore")


def _unequal(n: int, n_modules: int, generator: np.random.Generator) -> np.ndarray:
    """Random labels; the groups' sizes differ, so that few shares are equal."""
    sizes = np.arange(1, n_modules + 1) + n_modules
    return generator.permutation(np.repeat(np.arange(n_modules), -(-n * sizes // sizes.sum()))[:n])


def _set(
    acts: tlm.ActivationMatrix, n_modules: int, generator: np.random.Generator
) -> tlm.ModuleSet:
    units = _unequal(len(acts.units), n_modules, generator)
    return module_set(acts, units, _unequal(len(acts.samples), n_modules, generator), n_modules)


def matches(n: int, seed: int) -> dict[str, PValues]:
    """Two independent partitions of many units, and partitions of units that are noise."""
    generator = generator_of(seed)
    units, profiles = [], []
    wide = _matrix(WIDTH, 8, generator)
    for number in range(n):
        options = {"n_permutations": N_PERMUTATIONS, "seed": number}
        pair = (_set(wide, 4, generator) for _ in range(2))
        units.append(tlm.match_modules(*pair, **options).pairs["p_value"])
        noise = tuple(_matrix(8, 30, generator) for _ in range(2))
        pair = (_set(each, 4, generator) for each in noise)
        found = tlm.match_modules(*pair, profiles=noise, **options)
        profiles.append(found.pairs["p_value"])
    return {
        "match_modules, by units": np.array(units),
        "match_modules, by profiles": np.array(profiles),
    }


def layers(n: int, seed: int) -> dict[str, PValues]:
    """Random units of all layers."""
    generator = generator_of(seed)
    acts, each, depth = _matrix(WIDTH, 8, generator), [], []
    for number in range(n):
        modules = _set(acts, 4, generator)
        each.append(tlm.module_layers(modules)["p_value"])
        depth.append(
            tlm.module_depth(modules, n_draws=N_PERMUTATIONS, seed=number)[
                ["p_value", "evenness_p_value"]
            ]
        )
    both = np.array(depth)
    return {
        "module_layers": np.array(each),
        "module_depth, index": both[..., 0],
        "module_depth, evenness": both[..., 1],
    }


def nested(n: int, seed: int) -> dict[str, PValues]:
    """Two independent partitions of the units, and of the samples."""
    generator = generator_of(seed)
    acts, each, overall = _matrix(400, 2400, generator), [], []
    for number in range(n):
        # Modules of one size: otherwise all of the finer ones lie best in the largest coarser one,
        # whose size is then the overall number, whatever the partition.
        sets = [
            module_set(
                acts,
                random_labels(len(acts.units), n_modules, generator),
                random_labels(len(acts.samples), n_modules, generator),
                n_modules,
            )
            for n_modules in (3, 5)
        ]
        found = tlm.nestedness(sets, n_permutations=N_PERMUTATIONS, seed=number, progress=False)
        each.append(found.table["p_value"])
        overall.append(found.overall["p_value"])
    return {"nestedness, modules": np.array(each), "nestedness, overall": np.array(overall)}


def covered(n: int, seed: int) -> dict[str, PValues]:
    """Samples' modules that do not depend on their categories."""
    generator = generator_of(seed)
    found = []
    for number in range(n):
        acts = _matrix(2, 1200, generator)
        modules = _set(acts, 4, generator)
        result = tlm.coverage(modules, acts, n_permutations=N_PERMUTATIONS, seed=number)
        found.append(result.categories["p_value"])
    return {"coverage": np.array(found)}


def trees(n: int, seed: int) -> dict[str, PValues]:
    """Profiles of independent noise."""
    generator = generator_of(seed)
    found = []
    for number in range(n):
        noise = _matrix(8, 30, generator)
        labels = random_labels(len(noise.units), 6, generator)
        modules = module_set(noise, labels, np.arange(30) % 6, 6)
        tree = tlm.hierarchy(modules, noise, n_permutations=N_PERMUTATIONS, seed=number)
        found.append([tree.p_value])
    return {"hierarchy, cophenetic": np.array(found)}


_INDEPENDENT = "the two partitions are independent"
SIMULATIONS = (
    Simulation(matches, f"{_INDEPENDENT}; profiles are independent noise", 800),
    Simulation(layers, "a module's units are a random set of all layers' units", 500),
    Simulation(nested, _INDEPENDENT, 1200),
    Simulation(covered, "categories are permuted over the samples", 800),
    Simulation(trees, "modules' profiles are independent noise", 2000),
)
