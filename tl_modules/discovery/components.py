"""The samples' principal components, by block Krylov iteration over blocks of units."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Basis = Float[np.ndarray, "samples width"]
Gram = Callable[[Basis], Basis]
"""Multiplies by Z Z', where Z is the matrix with each unit centred; float64."""

_OVERSAMPLING = 8
"""Directions beyond the wanted ones, which make those converge faster."""

_N_PASSES = 4
"""Passes over all units. Few are needed, because they begin where those over some units end."""

_N_PASSES_OVER_SOME = 6

_N_EXACT = 256
"""With this many samples at most, the whole Gram matrix is computed."""

_ROUNDING = 1e-6
"""Variances below this share of the largest are rounding errors of float32, and count as 0."""


def leading_components(
    gram: Gram, gram_of_some: Gram | None, n_samples: int, n_components: int, seed: int
) -> Float[np.ndarray, "samples components"]:
    """Each sample's coordinates on the first principal components.

    Components are the eigenvectors of the samples' Gram matrix. Block Krylov iteration (Musco &
    Musco 2015) finds the first ones in few products with it, and each product reads the matrix
    once. It begins with random directions and some of the units, which are read faster.

    Args:
        gram: Multiplies by the Gram matrix of all units.
        gram_of_some: The same for some of the units; None if there are few.
        n_samples: Number of samples.
        n_components: Number of components.
        seed: Seed of the first directions.

    Returns:
        Coordinates, float64, the largest component first. Signs are arbitrary.
    """
    width = n_components + _OVERSAMPLING
    # The bases of all passes have to be independent, so they need many more samples.
    if n_samples <= max(_N_EXACT, 2 * width * _N_PASSES_OVER_SOME):
        every = np.eye(n_samples)
        basis, variances = _ritz(every, gram(every))
    else:
        basis = np.random.default_rng(seed).normal(size=(n_samples, width))
        if gram_of_some is None:
            basis, variances = _krylov(gram, basis, _N_PASSES_OVER_SOME)
        else:
            basis, _ = _krylov(gram_of_some, basis, _N_PASSES_OVER_SOME)
            basis, variances = _krylov(gram, basis[:, :width], _N_PASSES)
    variances = np.where(variances > _ROUNDING * variances[0], variances, 0.0)
    return (basis * np.sqrt(variances))[:, :n_components]


def _krylov(
    gram: Gram, start: Basis, n_passes: int
) -> tuple[Float[np.ndarray, "samples all"], Float[np.ndarray, " all"]]:
    """Approximate eigenvectors from ``start`` and its images, with their eigenvalues."""
    bases, images = [np.linalg.qr(start)[0]], []
    for number in range(n_passes):
        images.append(gram(bases[-1]))
        if number + 1 < n_passes:
            new = images[-1]
            before = np.hstack(bases)
            for _ in range(2):  # once leaves rounding errors
                new = new - before @ (before.T @ new)
            bases.append(np.linalg.qr(new)[0])
    return _ritz(np.hstack(bases), np.hstack(images))


def _ritz(
    basis: Float[np.ndarray, "samples all"], image: Float[np.ndarray, "samples all"]
) -> tuple[Float[np.ndarray, "samples all"], Float[np.ndarray, " all"]]:
    """The eigenvectors within the span of a basis, the largest eigenvalue first (Rayleigh-Ritz)."""
    small = basis.T @ image
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    return basis @ vectors[:, ::-1], values[::-1]
