"""P-values of values of prompts, of chains of thought, of detectors and of trainings."""

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.calibration.levels import PValues, Simulation, generator_of
from benchmarks.calibration.planted import PlantedModel, random_labels
from tl_modules.evaluation.detectors import compare_detectors
from tl_modules.interpret.label_scores import permutation_p_values
from tl_modules.tables.p_values import sign_flip_p_value
from tl_modules.tables.sequential import StoppingRule
from tl_modules.thoughts.beside_correctness import beside_correctness


def label_scores(n: int, seed: int) -> dict[str, PValues]:
    """Labels' words in prompts, and a module's own prompts, that are drawn apart."""
    generator = generator_of(seed)
    found = []
    for _ in range(n):
        words = generator.poisson(1.0, size=(3, 40)).astype(float)  # of three labels
        own = generator.permutation(np.arange(40) < 10)
        found.append(permutation_p_values(words, own, 199, generator))
    return {"with_labels": np.array(found)}


def signs(n: int, seed: int) -> dict[str, PValues]:
    """Values symmetric around 0: all sign flips, and random ones."""
    generator = generator_of(seed)

    def found(n_values: int) -> PValues:
        values = generator.standard_t(3, size=(n, n_values))
        return np.array(
            [[sign_flip_p_value(row, 199, number)] for number, row in enumerate(values)]
        )

    return {"sign_flip_p, 8 prompts": found(8), "sign_flip_p, 20 prompts": found(20)}


def selectivities(n: int, seed: int) -> dict[str, PValues]:
    """An effects table of noise, with modules and categories of different strengths."""
    generator = generator_of(seed)

    def found(n_categories: int, n_modules: int) -> PValues:
        categories = [f"task{at}" for at in range(n_categories)]
        p_values = []
        for number in range(n):
            table = pd.DataFrame(
                [
                    {"module": at, "category": name, "own": name == categories[at % n_categories]}
                    for at in range(n_modules)
                    for name in categories
                ]
            )
            table["effect"] = generator.gamma(1.0, size=len(table))
            p_values.append([tlm.selectivity(table, seed=number).p_value])
        return np.array(p_values)

    return {
        "selectivity, all 120 permutations": found(5, 5),
        "selectivity, random permutations": found(8, 8),
    }


def rule(n: int, seed: int) -> dict[str, PValues]:
    """Random numbers, and as many controls as the rule asks for: one test, and one of seven."""
    generator = generator_of(seed)

    def found(n_tests: int) -> PValues:
        rule = StoppingRule.for_tests(n_tests)
        exceeds = [generator.random(rule.limit) >= generator.random() for _ in range(n)]
        return np.array([[rule.p_value(each)] for each in exceeds])

    return {"StoppingRule, 1 test": found(1), "StoppingRule, 7 tests": found(7)}


def thoughts(n: int, seed: int) -> dict[str, PValues]:
    """Chains of questions of one to three chains; outcomes depend on the question alone."""
    generator = generator_of(seed)
    questions = np.repeat(np.arange(24), np.tile([1, 2, 3], 8))
    found = []
    for number in range(n):
        values = generator.normal(size=24)[questions] + generator.normal(size=len(questions))
        ease = generator.random(24)
        correct = generator.random(len(questions)) < ease[questions]
        ids = pd.Series(questions)
        table = beside_correctness(values[:, None], correct, ids, 99, number)
        found.append(table["p_value"])
    return {"thoughts.beside_correctness": np.array(found)}


def detectors(n: int, seed: int) -> dict[str, PValues]:
    """Noise that knows nothing of the categories."""
    generator = generator_of(seed)
    units = tlm.Units.whole(("blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"), (0, 1), (10, 10))
    samples = pd.DataFrame({"category": ["with", "without"] * 40})
    found = []
    for number in range(n):
        values = generator.normal(size=(80, 20))
        acts = tlm.ActivationMatrix.from_arrays(values, samples=samples, units=units)
        compared = compare_detectors(acts, "with", n_resamples=2, seed=number, progress=False)
        found.append(compared.table["p_value"])
    return {"compare_detectors": np.array(found)}


def forgetting(n: int, seed: int) -> dict[str, PValues]:
    """Random units are trained; prompts to forget and to retain are of the same categories."""
    generator = generator_of(seed)
    model = PlantedModel(n_layers=1)
    # Otherwise training would change the losses to retain by nothing: neurons have one category.
    prompts = model.prompts(2, n_symbols=3)["prompt"].to_numpy()
    every = tlm.collect(model, prompts.tolist(), progress=False).units
    found = []
    for number in range(n):
        units = every.select(random_labels(len(every), 3, generator) == 0)
        table = tlm.training.forgetting(
            model,
            units,
            prompts[::2].tolist(),
            prompts[1::2].tolist(),
            n_controls=19,
            n_steps=1,
            learning_rate=0.01,
            seed=number,
            progress=False,
        )
        found.append(table["p_value"])
    p_values = np.array(found)
    return {
        f"training.forgetting, {name}": p_values[:, [at]]
        for at, name in enumerate(("forget", "retain", "margin"))
    }


SIMULATIONS = (
    Simulation(label_scores, "labels' words and own prompts are drawn apart", 2000),
    Simulation(signs, "values are symmetric around 0", 5000),
    Simulation(selectivities, "the categories' names are permuted", 2000),
    Simulation(rule, "the module's number is one more control's", 10_000),
    Simulation(thoughts, "outcomes do not depend on the values, given the question", 2000),
    Simulation(detectors, "values are independent of the categories", 600),
    Simulation(forgetting, "the trained units are a random third of each layer", 800),
)
