"""Normalised activations as IterD needs them, from a matrix or from a store."""

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import Normaliser, check_same_kind
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.descent import check_n_modules
from tl_modules.discovery.products import InMemory, Products
from tl_modules.discovery.streamed import Streamed
from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import ModuleSet


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


def discovered_on(acts: ActivationMatrix, modules: ModuleSet) -> ActivationMatrix:
    """The normalised activations that modules were discovered on.

    Args:
        acts: The activations, normalised or not.
        modules: The modules.

    Raises:
        ModulesError: If these are other activations, or are normalised in another way.
    """
    is_same = acts.units.same_hooks(modules.units) and len(acts.samples) == len(modules.samples)
    if is_same and "prompt" in acts.samples and "prompt" in modules.samples:
        is_same = acts.samples["prompt"].tolist() == modules.samples["prompt"].tolist()
    if not is_same:
        raise ModulesError(
            "acts should be the activations that the modules were discovered on, "
            f"{len(modules.samples)} samples x {len(modules.units)} units; got "
            f"{acts.values.shape}, or other prompts. Pass the matrix that discover was called with."
        )
    if modules.normaliser is not None:
        if acts.normaliser is None:
            acts = acts.normalise(modules.normaliser.name, like=modules.normaliser)
        else:
            check_same_kind(acts.normaliser, modules.normaliser)
    return acts
