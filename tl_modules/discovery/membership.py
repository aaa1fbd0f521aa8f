"""Setting aside the units that fit no module."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.discovery.from_activations import discover
from tl_modules.discovery.normalised_input import discovered_on, scored_matrix
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.scores import memberships, topic_scores
from tl_modules.discovery.shared_aside import spread
from tl_modules.errors import ModulesError, check_seed
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked


@checked
def set_aside_background(
    acts: ActivationMatrix,
    modules: ModuleSet,
    *,
    quantile: float = 0.95,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> ModuleSet:
    """Remove the units that fit no module better than chance, to keep only units that belong.

    ``discover`` gives every unit a module, even units that no topic drives. A unit's score is its
    mean on its module's topic minus its largest mean on another topic. Chance scores come from a
    second discovery by the same method, on the matrix with each column permuted independently. No
    topic drives the permuted units, so their scores only show how well labels can fit noise. Units
    whose score is not above the given quantile of the chance scores are set aside.

    Args:
        acts: The activations that the modules were discovered on.
        modules: The modules.
        quantile: Quantile of the chance scores. With 0.95, about one in twenty of the units that no
            topic drives is kept.
        seed: Seed of the permutation and of the second discovery.
        device: Where to compute the second discovery's sums; see ``discover``.
        progress: Show a progress bar for the second discovery.

    Returns:
        The modules without the units that were set aside, whose label is now ``BACKGROUND`` (-1).
        xi, B and L are computed on the smaller blocks. A module may have no units left.

    Raises:
        ModulesError: If the activations or their normalisation are not those of the modules, some
            units are set aside already, ``quantile`` is not between 0 and 1, the seed is not
            valid, or torch lacks the device.
    """
    if not 0 < quantile < 1:
        raise ModulesError(f"quantile should lie between 0 and 1; got {quantile}. 0.95 is usual.")
    check_seed(seed)
    acts = discovered_on(acts, modules)
    shared = None if modules.shared is None else modules.shared.units
    inside = modules.unit_labels != BACKGROUND
    if (~inside).sum() != (0 if shared is None else len(shared)):
        raise ModulesError(
            "The modules should hold all units; "
            f"{len(modules.background)} units were set aside already. Pass the modules as "
            "discovered."
        )
    scored, products = scored_matrix(acts, modules.n_modules)
    matrix = products.matrix
    # Permuting each column keeps every unit's distribution and removes what units share.
    null = replace(
        scored,
        values=np.random.default_rng(seed).permuted(matrix, axis=0),
        samples=scored.samples.drop(columns="category", errors="ignore"),
    )
    method = "topics_first" if modules.method == "topics_first" else "ulcmod"
    chance = discover(
        null,
        modules.n_modules,
        method=method,
        shared=shared,
        seed=seed,
        device=device,
        progress=progress,
    )
    assert chance.unit_scores is not None  # discover() always sets them
    threshold = float(np.quantile(chance.unit_scores[inside], quantile))
    sums = products.unit_sums(np.asarray(modules.sample_labels), modules.n_modules)[inside]
    fit = memberships(sums, modules.sample_labels, modules.unit_labels[inside])
    scores = spread(fit.scores, inside, np.nan)
    kept = scores > threshold  # not the shared units, whose scores are NaN
    partition = (modules.sample_labels, modules.unit_labels[kept], modules.n_modules)
    left = InMemory(matrix[:, kept])
    labels: Int[np.ndarray, " units"] = np.where(kept, modules.unit_labels, BACKGROUND)
    return replace(
        modules,
        unit_labels=labels,
        objective=objective(left.matrix, *partition),
        sample_scores=topic_scores(left, *partition),
        unit_scores=scores,
        topics=None,  # the old topics describe what all units write
        shared_by_all=None,  # and the old effects, what all units do
        verdicts=None,
        verdict_sentence=None,
        scored_labels=None,
    )
