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


def published_iterd(matrix, n_modules, samples, units, unit_orders, sample_orders, min_gain=1e-8):
    """The published loop's bookkeeping: block sums and sizes are kept, L is recomputed from them.

    For each item its activation is summed over each label's members of the other kind; each
    candidate label then costs a few operations on vectors of K. ``benchmarks/iterd.py`` times it.
    """
    samples, units = samples.copy(), units.copy()
    history = []
    for unit_order, sample_order in zip(unit_orders, sample_orders, strict=True):
        published_sweep(matrix.T, units, samples, unit_order, n_modules, min_gain)
        value = published_sweep(matrix, samples, units, sample_order, n_modules, min_gain)
        history.append(value)
    return samples, units, history


def published_sweep(matrix, labels, others, order, n_modules, min_gain=1e-8):
    """Visit the items of ``order``; ``matrix`` has one row an item. Changes labels; returns L."""
    own = np.bincount(labels, minlength=n_modules)
    other = np.bincount(others, minlength=n_modules)
    members = [others == k for k in range(n_modules)]
    blocks = np.array(
        [matrix[labels == k][:, members[k]].sum(dtype=np.float64) for k in range(n_modules)]
    )
    current = value_of(blocks, own * other)
    for item in order:
        here = labels[item]
        drive = np.array([matrix[item, member].sum(dtype=np.float64) for member in members])
        best, best_value = here, -np.inf
        for label in range(n_modules):
            if label == here:
                continue
            sums, counts = blocks.copy(), own.copy()
            sums[here] -= drive[here]
            sums[label] += drive[label]
            counts[here] -= 1
            counts[label] += 1
            value = value_of(sums, counts * other)
            if value > best_value:
                best, best_value = label, value
        if best_value - current > min_gain:
            blocks[here] -= drive[here]
            blocks[best] += drive[best]
            own[here] -= 1
            own[best] += 1
            labels[item] = best
            current = best_value
    return current


def value_of(sums, sizes):
    """L from the blocks' sums and sizes, empty blocks left out."""
    full = sizes[sizes > 0]
    return sums.sum() / full.sum() * (len(full) / (1.0 / full).sum()) if len(full) else 0.0
