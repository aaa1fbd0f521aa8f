"""IterD as published, with nothing clever: each candidate's L comes from the whole matrix."""

import numpy as np


def plain_value(matrix, samples, units, n_modules):
    """L as the search sees it: empty blocks are left out of the harmonic mean."""
    total, sizes = 0.0, []
    for k in range(n_modules):
        block = matrix[samples == k][:, units == k]
        if block.size:
            total += block.sum()
            sizes.append(block.size)
    if not sizes:
        return 0.0
    return total / sum(sizes) * (len(sizes) / sum(1 / size for size in sizes))


def plain_iterd(matrix, n_modules, samples, units, unit_orders, sample_orders, min_gain=1e-8):
    """Run as many rounds as there are orders; returns the labels and L after each round."""
    matrix = matrix.astype(np.float64)
    samples, units = samples.copy(), units.copy()
    history = []
    for unit_order, sample_order in zip(unit_orders, sample_orders, strict=True):
        for labels, order in ((units, unit_order), (samples, sample_order)):
            for item in order:
                here = labels[item]
                current = plain_value(matrix, samples, units, n_modules)
                best, best_value = here, -np.inf
                for label in range(n_modules):
                    if label == here:
                        continue
                    labels[item] = label
                    value = plain_value(matrix, samples, units, n_modules)
                    if value > best_value:
                        best, best_value = label, value
                labels[item] = best if best_value - current > min_gain else here
        history.append(plain_value(matrix, samples, units, n_modules))
    return samples, units, history
