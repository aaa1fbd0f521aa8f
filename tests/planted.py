"""Matrices with known blocks."""

import numpy as np


def planted_matrix(n_samples, n_units, n_modules, seed, strength=1.0):
    """Standard normal noise, raised by ``strength`` where sample and unit share a label."""
    generator = np.random.default_rng(seed)
    samples = generator.permutation(np.arange(n_samples) % n_modules)
    units = generator.permutation(np.arange(n_units) % n_modules)
    matrix = generator.normal(size=(n_samples, n_units))
    matrix += strength * (samples[:, None] == units[None, :])
    return matrix, samples, units
