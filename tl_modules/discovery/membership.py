"""How well each unit fits its module, and which units fit none."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import check_same_kind
from tl_modules.discovery.from_activations import discover
from tl_modules.discovery.normalised_input import scored_matrix
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.scores import membership_scores, topic_scores
from tl_modules.errors import ModulesError, check_seed
from tl_modules.modules.module_set import BACKGROUND, ModuleSet
from tl_modules.runtime.arguments import checked


@checked
def set_aside_background(
    acts: ActivationMatrix,
    modules: ModuleSet,
    *,
    quantile: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> ModuleSet:
    """Take the units that fit no module better than chance out of the modules.

    A unit's score is its mean z on its own topic minus its best mean on another topic. Chance is
    the same discovery on a matrix whose columns are permuted independently: its units are driven
    by no topic, and what scores they reach come from choosing labels to fit noise. Units that do
    not score above the given quantile of those are set aside.

    Args:
        acts: The activations that the modules were discovered on.
        modules: The modules.
        quantile: Of the permuted units' scores; 0.95 keeps about one unit in twenty by chance.
        seed: Seeds the permutation and its discovery.
        progress: Show a progress bar over that discovery.

    Returns:
        The modules without those units, whose label is now ``BACKGROUND`` (-1); xi, B and L are
        those of the smaller blocks. A module may be left without units.

    Raises:
        ModulesError: If the activations are not those of the modules, or ``quantile`` is not
            between 0 and 1, the seed cannot be, or the activations were normalised otherwise.
    """
    if not 0 < quantile < 1:
        raise ModulesError(f"quantile should lie between 0 and 1; got {quantile}.")
    check_seed(seed)
    if not acts.units.same_hooks(modules.units) or len(acts.samples) != len(modules.samples):
        raise ModulesError(
            f"acts should be what the modules were discovered on, {len(modules.samples)} samples x "
            f"{len(modules.units)} units; got {acts.values.shape}."
        )
    if len(modules.background):
        raise ModulesError(
            f"{len(modules.background)} units of these modules were set aside already. Pass the "
            "modules as discovered."
        )
    if modules.normaliser is not None:
        if acts.normaliser is None:
            acts = acts.normalise(modules.normaliser.name, like=modules.normaliser)
        else:
            check_same_kind(acts.normaliser, modules.normaliser)
    scored, products = scored_matrix(acts, modules.n_modules)
    matrix = products.matrix
    null = replace(scored, values=np.random.default_rng(seed).permuted(matrix, axis=0))
    chance = discover(null, modules.n_modules, seed=seed, progress=progress)
    assert chance.unit_scores is not None  # discover() always sets them
    threshold = float(np.quantile(chance.unit_scores, quantile))
    sums = products.unit_sums(np.asarray(modules.sample_labels), modules.n_modules)
    scores = membership_scores(sums, modules.sample_labels, modules.unit_labels)
    kept = scores > threshold
    partition = (modules.sample_labels, modules.unit_labels[kept], modules.n_modules)
    inside = InMemory(matrix[:, kept])
    labels: Int[np.ndarray, " units"] = np.where(kept, modules.unit_labels, BACKGROUND)
    return replace(
        modules,
        unit_labels=labels,
        objective=objective(inside.matrix, *partition),
        sample_scores=topic_scores(inside, *partition),
        unit_scores=scores,
        topics=None,  # they say what all units write
    )
