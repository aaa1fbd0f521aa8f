"""Orders in which units are taken into a core: by causal contrast, and by what competes with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from tqdm.auto import tqdm

from tl_modules.activations.collection import collect
from tl_modules.causal.ablation_path import ablation_path
from tl_modules.causal.metrics import Task, make_task
from tl_modules.causal.options import Options
from tl_modules.causal.unit_estimates import Part, estimates_of
from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Ablation
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.sites import is_named
from tl_modules.modules.module import Module
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.prompt_frames import categories_of, is_category

Ranking = Literal["core", "random", "fit", "all units", "t-contrast"]
"""``core``: the module's units, by the contrast of their estimated effects. ``random``: the
module's units in random order. ``fit``: the module's units by ``Module.scores``. ``all units``: all
units of the site by the same contrast as ``core``; along the path, each unit has its part in its
own module's ablation. ``t-contrast``: all units of the site by Welch's t of each prompt's mean
|activation|, own category against the others."""

RANKINGS: tuple[Ranking, ...] = get_args(Ranking)

N_STEPS = 3
"""Gradients on the way from a whole module to an ablated one."""


By = Literal["path", "magnitude", "signed"]
"""``path``: the unit's part in what ablating its whole module does to the loss; see
``ablation_path``. ``magnitude``: the mean size of its estimated effect on a token's loss when it is
ablated alone. ``signed``: that effect on the mean loss, in which rises and falls of tokens
cancel."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What units are ranked by, of the prompts that cores are chosen on."""

    contrasts: dict[str, Float[np.ndarray, " units"]]
    """By category: each unit's estimated effect there minus its mean effect on the others."""

    readings: Float[np.ndarray, "prompts units"] | None
    """How strongly each prompt drives each unit: its mean |activation| over content; None where no
    ranking needs it."""

    categories: Shaped[np.ndarray, " prompts"]
    """Each prompt's category."""

    seed: int
    """Of the random order."""


def ranked(
    ranking: Ranking, module: Module, category: str, evidence: Evidence
) -> Int[np.ndarray, " units"]:
    """The units in the order in which they are taken, as columns of the site.

    Args:
        ranking: One of ``RANKINGS``.
        module: The module.
        category: Its own category.
        evidence: What the order rests on.

    Returns:
        The module's units, or all units of the site.
    """
    return _ORDERS[ranking](module, category, evidence)


def _core(module: Module, category: str, evidence: Evidence) -> Int[np.ndarray, " units"]:
    own = module.units.flat()
    return own[_largest_first(evidence.contrasts[category][own])]


def _random(module: Module, category: str, evidence: Evidence) -> Int[np.ndarray, " units"]:
    del category
    generator = np.random.default_rng([evidence.seed, 7, int(module.label)])
    return generator.permutation(module.units.flat())


def _fit(module: Module, category: str, evidence: Evidence) -> Int[np.ndarray, " units"]:
    del category, evidence
    assert module.scores is not None
    return module.units.flat()[_largest_first(module.scores)]


def _all_units(module: Module, category: str, evidence: Evidence) -> Int[np.ndarray, " units"]:
    del module
    return _largest_first(evidence.contrasts[category])


def _t_contrast(module: Module, category: str, evidence: Evidence) -> Int[np.ndarray, " units"]:
    del module
    assert evidence.readings is not None
    is_own = is_category(evidence.categories, category)
    return _largest_first(welch_t(evidence.readings[is_own], evidence.readings[~is_own]))


def _largest_first(scores: Float[np.ndarray, " units"]) -> Int[np.ndarray, " units"]:
    return np.argsort(-scores, kind="stable")


def welch_t(
    own: Float[np.ndarray, "own units"], others: Float[np.ndarray, "others units"]
) -> Float[np.ndarray, " units"]:
    """Welch's t of each unit between two sets of prompts; 0 for a unit that is constant.

    The localiser of AlKhamissi et al. 2025 (arXiv 2411.02280) ranks a language model's units by it.
    """
    gap = own.mean(axis=0) - others.mean(axis=0)
    variance = sum(values.var(axis=0, ddof=1) / len(values) for values in (own, others))
    return np.divide(gap, np.sqrt(variance), out=np.zeros_like(gap), where=variance > 0)


_ORDERS: dict[Ranking, Callable[[Module, str, Evidence], Int[np.ndarray, " units"]]] = {
    "core": _core,
    "random": _random,
    "fit": _fit,
    "all units": _all_units,
    "t-contrast": _t_contrast,
}


def check_evidence(
    model: HookedModel,
    frame: pd.DataFrame,
    modules: ModuleSet,
    options: Options,
    rankings: Sequence[Ranking],
) -> None:
    """Refuse what the rankings cannot be made of, before the model runs.

    Args:
        model: The model.
        frame: The prompts that choose.
        modules: The modules.
        options: The experiment's options.
        rankings: The rankings.

    Raises:
        ModulesError: If the modules are another model's, the reference has no means of their site,
            ``exclude`` leaves none of their units, or a ranking needs what they do not hold.
    """
    modules.units.check_model(model)
    ablation = Ablation(
        reference=options.reference, exclude=options.exclude, positions=options.positions
    )
    # Means and excluded units that do not fit are refused here.
    if not any(module.in_experiment(ablation).size for module in modules):
        raise ModulesError("exclude should leave a unit of some module; it leaves none.")
    check_rankings(modules, frame, rankings)


def check_rankings(modules: ModuleSet, frame: pd.DataFrame, rankings: Sequence[Ranking]) -> None:
    """Refuse rankings that modules and prompts cannot give.

    Args:
        modules: The modules.
        frame: The prompts that choose.
        rankings: The rankings.

    Raises:
        ModulesError: If a ranking needs what they do not hold.
    """
    if "fit" in rankings and modules.unit_scores is None:
        raise ModulesError(
            "rankings has 'fit', and these modules hold no unit scores. Discover them with "
            "discover(), or leave it out."
        )
    if "t-contrast" not in rankings:
        return
    site = modules.units.site
    if site is None or not is_named(site):
        raise ModulesError(
            "rankings has 't-contrast', which collects the activations of a named site; these "
            "units have none. Leave it out."
        )
    categories = categories_of(frame)
    for name in {str(module.category) for module in modules}:
        n_own = int(is_category(categories, name).sum())
        if min(n_own, len(frame) - n_own) < 2:
            raise ModulesError(
                f"rankings has 't-contrast', which needs two prompts of {name!r} and of the others "
                f"in choosing; there are {n_own} and {len(frame) - n_own}. Add prompts, or "
                "leave it out."
            )


def evidence_of(
    model: HookedModel,
    frame: pd.DataFrame,
    modules: ModuleSet,
    options: Options,
    by: By,
    rankings: Sequence[Ranking],
) -> Evidence:
    """Measure what the rankings need.

    Args:
        model: The model.
        frame: The prompts that choose.
        modules: The modules, which ``check_evidence`` has passed.
        options: The experiment's options.
        by: What the contrasts are of.
        rankings: The rankings that will be asked for.

    Returns:
        The evidence; without readings where no ranking needs them.

    Raises:
        ModulesError: As in ``module_effects``.
    """
    n_rows = options.n_gradient_rows
    sizes = {"batch_size": n_rows, "max_tokens": options.max_tokens}
    task = make_task(
        *(model, frame, "loss", n_rows, options.max_tokens, options.touched),
        loss_on=options.loss_on,
    )
    if by == "path":
        contrasts = _along_the_path(model, frame, modules, options, task)
    else:
        contrasts = _alone(model, frame, options, task, by)
    readings = None
    if "t-contrast" in rankings:
        acts = collect(
            model, frame, units=str(modules.units.site), tokens="content", progress=False, **sizes
        )
        readings = np.asarray(acts.values, dtype=np.float64)
    return Evidence(contrasts, readings, categories_of(frame), options.seed)


def _alone(
    model: HookedModel, frame: pd.DataFrame, options: Options, task: Task, part: Part
) -> dict[str, Float[np.ndarray, " units"]]:
    """By category: the contrast of each unit's estimated effect when it is ablated alone."""
    assert options.reference is not None
    found = estimates_of(
        *(model, frame, options.reference, task),
        of_content=options.positions == "content",
        progress=options.progress,
    )
    return {name: found.contrast(name, part) for name in found.categories}


def _along_the_path(
    model: HookedModel, frame: pd.DataFrame, modules: ModuleSet, options: Options, task: Task
) -> dict[str, Float[np.ndarray, " units"]]:
    """By category: the contrast of each unit's part in what ablating its own module does.

    A unit that is excluded or in no module has no part, and comes last.
    """
    assert options.reference is not None
    categories = categories_of(frame)
    names = list(dict.fromkeys(categories.tolist()))
    found = {name: np.full(len(modules.units), -np.inf) for name in names}
    # What is excluded is not ablated, and so does not move.
    each = [module.units for module in modules]
    if options.exclude is not None:
        each = [units.without(options.exclude) for units in each]
    each = [units for units in each if len(units)]
    total = N_STEPS * len(frame) * len(each)
    with tqdm(total=total, desc="rank", unit="prompt", disable=not options.progress) as bar:
        for units in each:
            parts = ablation_path(
                *(model, task, units, options.reference, bar.update),
                n_steps=N_STEPS,
                of_content=options.positions == "content",
            )
            means = np.stack([parts[is_category(categories, name)].mean(axis=0) for name in names])
            for row, name in enumerate(names):
                others = np.delete(means, row, axis=0).mean(axis=0)
                found[name][units.flat()] = means[row] - others
    return found
