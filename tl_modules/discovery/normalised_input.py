"""Normalised activations as IterD needs them, from a matrix or from a store."""

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import Normaliser
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.descent import check_n_modules
from tl_modules.discovery.products import InMemory, Products
from tl_modules.discovery.streamed import Streamed


def normalised(
    acts: ActivationMatrix | ActivationStore, n_modules: int
) -> tuple[Normaliser | None, Products]:
    """Normalise activations.

    Returns:
        The fitted normaliser, and the normalised activations.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    if isinstance(acts, ActivationStore):
        check_n_modules(n_modules, acts.shape)
        scaler = acts.fit_zscore()
        return scaler, Streamed(acts, scaler)
    scored, products = scored_matrix(acts, n_modules)
    return scored.normaliser, products


def scored_matrix(acts: ActivationMatrix, n_modules: int) -> tuple[ActivationMatrix, InMemory]:
    """Z-score a matrix, unless it is normalised already.

    Returns:
        The normalised matrix, and the same values for IterD.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    scored = acts if acts.normaliser is not None else acts.zscore()
    check_n_modules(n_modules, scored.values.shape)
    return scored, InMemory(scored.values)
