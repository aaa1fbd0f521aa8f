"""From a partition of samples and units to a ``ModuleSet``."""

import numpy as np
from jaxtyping import Bool

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import Normaliser
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.descent import IterDResult
from tl_modules.discovery.products import Products
from tl_modules.discovery.scores import memberships, topic_scores
from tl_modules.discovery.shared_aside import spread
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.columns import warn_renamed


def module_set_of(
    acts: ActivationMatrix | ActivationStore,
    normaliser: Normaliser | None,
    products: Products,
    result: IterDResult,
    n_modules: int,
    *,
    seed: int,
    method: str,
    kept: Bool[np.ndarray, " units"] | None = None,
) -> ModuleSet:
    """Build the modules of a partition, with the scores of their samples and units.

    Args:
        acts: The activations that were partitioned.
        normaliser: What normalised the activations.
        products: The normalised activations of the units that were partitioned.
        result: The partition.
        n_modules: K.
        seed: The seed of the partition.
        method: The method that made the partition.
        kept: Which units were partitioned, if some were set aside; see ``kept_units``.
    """
    unit_sums = products.unit_sums(result.sample_labels, n_modules)
    fit = memberships(unit_sums, result.sample_labels, result.unit_labels)
    whole = np.ones(len(acts.units), dtype=np.bool_) if kept is None else kept
    modules = ModuleSet(
        units=acts.units,
        samples=acts.samples.copy(),
        unit_labels=spread(result.unit_labels, whole, BACKGROUND),
        sample_labels=result.sample_labels,
        n_modules=n_modules,
        objective=result.objective,
        sample_scores=topic_scores(products, result.sample_labels, result.unit_labels, n_modules),
        unit_scores=spread(fit.scores, whole, np.nan),
        unit_runners_up=spread(fit.runners_up, whole, BACKGROUND),
        seed=seed,
        method=method,
        history=result.history,
        converged=result.converged,
        model_name=acts.model_name,
        reading=acts.reading,
        unit_means=acts.unit_means,
        content_means=acts.content_means,
        normaliser=normaliser,
        is_shared=None if kept is None else ~kept,
    )
    warn_renamed({"score": modules.score_column})
    return modules
