"""Under its null, every kind of p-value in the package is at most 0.05 in about 5 % of cases."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import long_once

ROOT = Path(__file__).resolve().parents[1]

SCALE = 0.4
"""Of the benchmark's numbers of simulations: about 800 tests a kind that tell as much as
independent ones. The share is then between 0.03 and 0.07 in 99 of 100 kinds that are calibrated."""

KINDS = {
    "causal/circuits.py": [
        "circuit_scores, faithfulness",
        "circuit_scores, completeness",
        "circuit_scores, minimality",
        "greedy_circuit, steps",
    ],
    "causal/concepts.py": [
        "concept_effects, auc",
        "concept_effects, lost",
        "concept_effects, harm",
    ],
    "causal/double_dissociation.py": [
        "dissociation, effects",
        "dissociation, P and Q",
        "dissociation, interaction",
    ],
    "causal/effect_numbers.py": [
        f"module_effects, {what}, {of}"
        for of in (
            *("layer", "magnitude", "attribution", "keep_only", "patch", "answer", "sequential"),
            *("Parts", "EigenShift", "LEACE", "LEACE at two hook points"),
            "uncertain labels",
        )
        for what in ("cells", "selectivity")
    ],
    "causal/graph.py": ["module_graph, nodes", "module_graph, edges"],
    "causal/selectivities.py": [
        "selectivity, all 120 permutations",
        "selectivity, random permutations",
    ],
    "causal/steering_numbers.py": [
        f"steering_effects, {what}" for what in ("losses", "score", "lost")
    ],
    "evaluation/detectors.py": ["compare_detectors"],
    "evaluation/matching.py": ["match_modules, by units", "match_modules, by profiles"],
    "interpret/categories_covered.py": ["coverage"],
    "interpret/label_scores.py": ["with_labels"],
    "interpret/depth.py": ["module_layers", "module_depth, index", "module_depth, evenness"],
    "interpret/merge_tree.py": ["hierarchy, cophenetic"],
    "interpret/nesting.py": ["nestedness, modules", "nestedness, overall"],
    "tables/p_values.py": ["sign_flip_p, 8 prompts", "sign_flip_p, 20 prompts"],
    "tables/sequential.py": ["StoppingRule, 1 test", "StoppingRule, 7 tests"],
    "thoughts/beside_correctness.py": ["thoughts.beside_correctness"],
    "training/loss_changes.py": [
        "training.forgetting, forget",
        "training.forgetting, retain",
        "training.forgetting, margin",
    ],
}
"""The kinds of p-value, by the file that computes them."""

FEW = (
    # A simulation trains 20 times and gives one p-value of each kind.
    *KINDS["training/loss_changes.py"],
    # Each of a simulation's 20 erasures takes the eigenvalues of a neurons x neurons matrix.
    "module_effects, selectivity, LEACE at two hook points",
)
"""Kinds of 320 simulations: for 800, they would need more than a minute each. The share of 99 of
100 calibrated ones is then between 0.02 and 0.085."""


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    # In a process of its own: in this one the types of all arguments are checked, so that the
    # simulations would take 15 times as long.
    out = tmp_path_factory.mktemp("levels") / "levels.csv"
    words = [sys.executable, "-m", "benchmarks.calibration", "--no-power", "--scale", str(SCALE)]
    done = subprocess.run(
        [*words, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return pd.read_csv(out).set_index("kind")


@long_once
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds])
def test_five_tests_of_a_hundred_pass_under_the_null(levels, kind):
    level = levels.loc[kind]
    least, low, high = (250, 0.02, 0.085) if kind in FEW else (650, 0.03, 0.07)
    assert level["n_effective"] >= least
    assert low <= level["share"] <= high, level.to_dict()


@long_once
@pytest.mark.slow
def test_every_simulated_kind_is_tested(levels):
    assert sorted(levels.index) == sorted(kind for kinds in KINDS.values() for kind in kinds)


MAKERS = r"(control_p_value|p_value_of|beside_controls|hypergeom\.sf|sign_flip_p_value)\("


def test_every_file_that_computes_p_values_is_simulated():
    package = ROOT / "tl_modules"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(MAKERS, re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL))
    }
    # The first is what the others call: its p-values are theirs. That of the second decides a name
    # and is not shown; tests/causal/test_shared_by_all.py simulates it.
    elsewhere = {"tables/against_controls.py", "causal/shared_by_all.py"}
    assert found - elsewhere <= set(KINDS)
    assert all((package / name).is_file() for name in KINDS)
