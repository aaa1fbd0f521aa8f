"""The ULCMOD objective in float64, in code that is easy to check (arXiv 2603.17823)."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from tl_modules.errors import ModulesError
from tl_modules.modules.objective import Objective
from tl_modules.runtime.arguments import checked


@checked
def objective(
    matrix: Shaped[np.ndarray, "_samples _units"],
    sample_labels: Int[np.ndarray, " _samples"],
    unit_labels: Int[np.ndarray, " _units"],
    n_modules: int,
) -> Objective:
    """Score a partition by the objective that ``discover`` maximises.

    ``xi`` is the mean activation inside the diagonal blocks: the sum of the matrix over the blocks
    divided by the sum of their sizes. ``B`` is the harmonic mean of the block sizes, 0 if a block
    is empty. ``L = xi * B``.

    Args:
        matrix: Normalised activations, shape ``[samples, units]``.
        sample_labels: Each sample's module, in ``0..n_modules-1``.
        unit_labels: Each unit's module, in ``0..n_modules-1``.
        n_modules: K.

    Returns:
        xi, B and L.

    Raises:
        ModulesError: If a label is out of range or the shapes do not fit.

    >>> eye = np.kron(np.eye(2), np.ones((2, 3)))
    >>> objective(eye, np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1]), 2)
    Objective(xi=1.0, B=6.0, L=6.0)
    """
    return from_blocks(*blocks(matrix, sample_labels, unit_labels, n_modules))


def from_blocks(
    sums: Float[np.ndarray, " modules"], sizes: Int[np.ndarray, " modules"]
) -> Objective:
    """xi, B and L from each diagonal block's sum and size."""
    n_modules = len(sizes)
    xi = float(sums.sum() / sizes.sum()) if sizes.sum() else 0.0
    harmonic = float(n_modules / (1.0 / sizes).sum()) if sizes.all() else 0.0
    return Objective(xi, harmonic, xi * harmonic)


def blocks(
    matrix: Shaped[np.ndarray, "_samples _units"],
    sample_labels: Int[np.ndarray, " _samples"],
    unit_labels: Int[np.ndarray, " _units"],
    n_modules: int,
) -> tuple[Float[np.ndarray, " modules"], Int[np.ndarray, " modules"]]:
    """Each diagonal block's sum and size.

    Raises:
        ModulesError: If a label is out of range or the shapes do not fit.
    """
    if matrix.shape != (len(sample_labels), len(unit_labels)):
        shape = (len(sample_labels), len(unit_labels))
        raise ModulesError(
            f"matrix should have shape {shape}, one row per sample label and one column per unit "
            f"label; got {matrix.shape}. Pass the labels of this matrix."
        )
    for name, labels in (("sample_labels", sample_labels), ("unit_labels", unit_labels)):
        check_labels(name, labels, n_modules)
    sums = np.zeros(n_modules)
    sizes = np.zeros(n_modules, dtype=np.int64)
    for k in range(n_modules):
        block = matrix[np.ix_(sample_labels == k, unit_labels == k)]
        sums[k] = block.sum(dtype=np.float64)
        sizes[k] = block.size
    return sums, sizes


def check_labels(name: str, labels: Int[np.ndarray, " items"], n_modules: int) -> None:
    """Refuse labels outside ``0..n_modules-1``.

    Raises:
        ModulesError: If a label is outside.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_modules:
        raise ModulesError(
            f"{name} should lie in 0..{n_modules - 1}; got {labels.min()} to {labels.max()}. "
            "Number the modules from 0."
        )
