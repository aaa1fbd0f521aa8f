"""Merging modules, for example those of one category."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.discovery.normalised_input import discovered_on, scored_matrix
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.scores import memberships, topic_scores
from tl_modules.discovery.shared_aside import spread
from tl_modules.errors import ModulesError
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.call_warnings import warn_user


@checked
def merge_modules(
    acts: ActivationMatrix,
    modules: ModuleSet,
    groups: Literal["category"] | Sequence[Sequence[int]] = "category",
) -> ModuleSet:
    """Merge modules that belong together, for example two of the same category.

    Discovery may divide the prompts of one category between several modules. A module of each
    category is then what a question about that category needs.

    Args:
        acts: The activations that the modules were discovered on.
        modules: The modules.
        groups: ``"category"`` merges the modules of the same own category. Otherwise groups of
            modules' numbers, such as ``[[0, 4], [2, 5, 7]]``; other modules stay as they are.

    Returns:
        The merged modules, each in the place of the first of its group. Scores, xi, B and L are
        computed anew; units in no module have no score. A tie between categories is decided as in
        ``Module.category``, with a warning. Topics have to be found again, and so does what effects
        say of the modules.

    Raises:
        ModulesError: If the activations are not those of the modules, a module has no own category,
            is in two groups or does not exist, or fewer than two modules would be left.

    Example::

        merged = tlm.merge_modules(acts, modules)  # one module per category
        merged = tlm.merge_modules(acts, modules, [[0, 4]])
    """
    scored, in_memory = scored_matrix(discovered_on(acts, modules), modules.n_modules)
    target = _target_numbers(modules, groups)
    n_modules = int(target.max()) + 1
    inside = modules.unit_labels != BACKGROUND
    samples = target[modules.sample_labels]
    units = target[modules.unit_labels[inside]]
    products = InMemory(in_memory.matrix[:, inside])
    fit = memberships(products.unit_sums(samples, n_modules), samples, units)
    return replace(
        modules,
        unit_labels=spread(units, inside, BACKGROUND),
        sample_labels=samples,
        n_modules=n_modules,
        objective=objective(products.matrix, samples, units, n_modules),
        sample_scores=topic_scores(products, samples, units, n_modules),
        unit_scores=spread(fit.scores, inside, np.nan),
        unit_runners_up=spread(fit.runners_up, inside, BACKGROUND),
        normaliser=scored.normaliser,
        history=(),
        converged=False,
        starts=None,
        topics=None,
        shared_by_all=None,
        verdicts=None,
        verdict_sentence=None,
        scored_labels=None,
        own_categories=_own_categories(modules, target),
    )


def _target_numbers(
    modules: ModuleSet, groups: Literal["category"] | Sequence[Sequence[int]]
) -> Int[np.ndarray, " modules"]:
    """The number of the merged module that each module becomes a part of."""
    names: list[object] = [module.label for module in modules]
    if groups == "category":
        names = [module.category for module in modules]
        unnamed = [k for k, name in enumerate(names) if name is None]
        if unnamed:
            raise ModulesError(
                f"groups='category' needs every module's own category; {unnamed} have none. Name "
                "them (modules.with_categories({0: ...})), or pass groups of numbers."
            )
        tied = [module.label for module in modules if module.tied_categories]
        if tied:
            warn_user(
                f"Some modules' own categories are ties, and the first by name is taken: {tied}. "
                "Say which you mean: modules.with_categories({0: ...})."
            )
    else:
        for group in groups:
            members = [modules[k].label for k in group]  # refused if there is no such module
            if any(names[k] != k or members.count(k) > 1 for k in members):
                raise ModulesError(
                    f"Each module should be in one group, once; got {list(groups)!r}. List it once."
                )
            for k in members:
                names[k] = tuple(members)
    merged = list(dict.fromkeys(names))
    if len(merged) < 2:
        raise ModulesError(
            "Merging should leave at least two modules; this would leave one. Merge fewer."
        )
    return np.array([merged.index(name) for name in names])


def _own_categories(
    modules: ModuleSet, target: Int[np.ndarray, " modules"]
) -> tuple[str | None, ...] | None:
    """The categories that the user gave, where all members of a merged module have the same."""
    if modules.own_categories is None:
        return None
    own: list[str | None] = []
    for k in range(int(target.max()) + 1):
        members = [modules[int(at)] for at in np.flatnonzero(target == k)]
        given = any(modules.own_categories[module.label] is not None for module in members)
        same = len({module.category for module in members}) == 1
        own.append(members[0].category if given and same else None)
    return tuple(own)
