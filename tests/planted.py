"""Matrices with known blocks, and models whose neurons' owners are known."""

import importlib.util

import numpy as np
import pytest


def planted_matrix(n_samples, n_units, n_modules, seed, strength=1.0):
    """Standard normal noise, raised by ``strength`` where sample and unit share a label."""
    generator = np.random.default_rng(seed)
    samples = generator.permutation(np.arange(n_samples) % n_modules)
    units = generator.permutation(np.arange(n_units) % n_modules)
    matrix = generator.normal(size=(n_samples, n_units))
    matrix += strength * (samples[:, None] == units[None, :])
    return matrix, samples, units


def truth_model(shared, name):
    """A trained model whose neurons' owners are known, from beside the project; else skip.

    Returns:
        The model, the owners, the tasks' tables, and ``prompts(tables, counts, seed)``.
    """
    path = shared / "truth" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip("the models of known truth beside the project (../shared/truth) are absent")
    spec = importlib.util.spec_from_file_location("truth_models", path.with_name("truth_models.py"))
    truth = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(truth)
    return *truth.load(path), truth.prompts
