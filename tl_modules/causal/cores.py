"""The smallest part of each module that does what the module does, beside rivals and controls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pandas as pd

from tl_modules.causal.controls import ControlKind, has_magnitudes
from tl_modules.causal.core_rankings import RANKINGS, By, Ranking, check_evidence, evidence_of
from tl_modules.causal.core_sets import (
    choice_of,
    core_sets,
    tested,
    units_of_cores,
)
from tl_modules.causal.core_sizes import check_share, core_sizes
from tl_modules.causal.experiment import run_experiment
from tl_modules.causal.options import Options
from tl_modules.causal.own_categories import warn_own_categories
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.prepared_units import check_exclude
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.modules.module_set import BACKGROUND, ModuleSet
from tl_modules.runtime.arguments import Remedy, checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.labels import quoted
from tl_modules.tables.prompt_frames import categories_of, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units

Untrained = Annotated[
    tuple[HookedModel, ModuleSet],
    Remedy("Pass (twin, discover(collect(twin, prompts), n_modules))."),
]
"""A model that has learned nothing, and the modules that were discovered in it."""

TWIN = "untrained twin"
"""The ranking of ``CausalCores.table`` that has the cores of a model that has learned nothing."""


@dataclass(frozen=True, eq=False, repr=False)
class CausalCores:
    """The core of each module, and what cores of all sizes do, beside rivals and controls."""

    cores: ModuleSet
    """The set with each module reduced to its core; all other units belong to no module. Samples,
    their scores and the objective stay those of the whole modules. Topics have to be found again,
    for their output tokens are of the whole modules."""

    table: pd.DataFrame
    """On the prompts ``testing``, one row per module, ranking and size: ``module``, ``category``,
    ``ranking``, ``n_units``, ``share`` (of the model's units), and in nats per token ``effect`` (on
    the module's own category), ``others`` (the mean effect on the other categories) and
    ``selectivity`` (their difference); ``specificity`` (their ratio); each with a 95 % interval
    over prompts. For ``ranking="core"`` also the controls' mean selectivity,
    ``layer_selectivity``, the smallest, ``layer_selectivity_min``, and the largest,
    ``layer_selectivity_max``; the same of ``magnitude``.
    ``chosen`` marks the core. Rows of the ranking ``untrained twin`` have the numbers and
    categories of the twin's modules, which are others than the model's."""

    choice: pd.DataFrame
    """On the prompts ``choosing``, one row per module and size: ``module``, ``n_units``,
    ``effect``, ``others``, ``selectivity``, ``chosen``."""

    units: pd.DataFrame
    """The cores' units, one row each, highest score first in each module: ``module``, ``category``,
    ``layer``, ``hook_name``, ``unit`` and ``score``, which ranked them."""

    def __repr__(self) -> str:
        """One line."""
        sizes = [module.n_units for module in self.cores]
        return f"CausalCores({len(sizes)} cores of {min(sizes):,} to {max(sizes):,} units)"

    def _repr_html_(self) -> str:
        """For Jupyter: the rows of the cores."""
        return html_table(repr(self), self.table.loc[self.table["chosen"]])


@checked
@measures
def causal_cores(  # noqa: PLR0913 - the options of one search, all by keyword
    model: HookedModel,
    modules: ModuleSet,
    choosing: Prompts,
    testing: Prompts,
    *,
    sizes: Sequence[int | float] | None = None,
    share: float = 0.9,
    rankings: Sequence[Ranking] = RANKINGS,
    by: By = "path",
    reference: HasUnitMeans | None = None,
    loss_on: LossOn = "prompt",
    positions: Touched = "content",
    n_controls: int = 3,
    exclude: Units | None = None,
    untrained: Untrained | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> CausalCores:
    """Find the few units of each module that do most of what the whole module does.

    The prompts ``choosing`` rank each module's units by their parts in what ablating the whole
    module does: the part on the module's own category minus the mean part on the others. The first
    units are then ablated together, at each size of a ladder. The core is the smallest of these
    sets whose selectivity on ``choosing`` reaches ``share`` of the largest. The prompts ``testing``
    then measure cores of all sizes, the same numbers of units that other rankings take first, and
    random controls. So no number of ``table`` has chosen what it measures.

    Args:
        model: The model.
        modules: The modules.
        choosing: A frame with ``prompt`` and ``category``, which ranks units and chooses sizes.
        testing: Another such frame, which measures.
        sizes: Numbers of units, or shares of the model's units; by default ten shares from 0.1 % to
            100 %. Sizes above a module's are left out, and the whole module is added.
        share: Of the largest selectivity, which a core has to reach.
        rankings: What is measured beside the cores; see ``Ranking``.
        by: The score: ``"path"`` as above, or the estimated effect of ablating a unit alone, as
            ``"signed"``, or by its ``"magnitude"``.
        reference: Source of the means that ablation puts in; by default the modules.
        loss_on: The tokens over which the loss is averaged, in choosing and in testing; see
            ``module_effects``. A column ``separator`` is read too.
        positions: See ``module_effects``.
        n_controls: Random sets per kind of control, module and size; those matched by magnitude
            need modules of raw activations. ``module_effects`` tests the cores with as many as it
            takes.
        exclude: Units that are in no core, no rival and no control, beside ``modules.shared``.
        untrained: What ``untrained_twin`` returned, and the modules that were discovered in it. The
            table then has its cores as ``"untrained twin"``: what the method finds in random
            weights.
        batch_size: Rows of a forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        seed: Seeds random units, controls and intervals.
        progress: Show progress bars.

    Returns:
        The cores and the tables.

    Raises:
        ModulesError: If the two frames share a prompt, a module's own category is not in both, a
            ranking lacks what it needs, or as in ``module_effects``.

    Example::

        found = tlm.causal_cores(model, modules, choosing, testing)
        tlm.module_effects(model, found.cores, testing)
    """
    check_share(share)
    check_at_least("n_controls", n_controls, 0)
    left_out = _left_out(modules, exclude)
    options = Options(
        metric="loss",
        loss_on=loss_on,
        separator=None,
        method="mean",
        reference=modules if reference is None else reference,
        factor=None,
        positions=positions,
        keep_only=False,
        n_controls=0,
        controls="layer",
        exclude=left_out,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=seed,
        progress=progress,
    )
    ladder = core_sizes(sizes, len(modules.units))
    chosen_on, tested_on = core_prompts(modules, choosing, testing)
    check_evidence(model, chosen_on, modules, options, rankings)
    warn_own_categories(list(modules), chosen_on, n_controls=1)
    options = options.sized(model, pd.concat([chosen_on, tested_on]))
    of_twin = None
    if untrained is not None:
        twin, twins_modules = _checked_twin(untrained, model, modules)
        of_twin = causal_cores(
            *(twin, twins_modules, chosen_on, tested_on),
            sizes=ladder,
            share=share,
            rankings=(),
            by=by,
            loss_on=loss_on,
            positions=positions,
            n_controls=0,
            exclude=exclude,
            batch_size=batch_size,
            max_tokens=max_tokens,
            seed=seed,
            progress=progress,
        )
    evidence = evidence_of(model, chosen_on, modules, options, by, rankings)
    ordered: list[Ranking] = ["core", *(ranking for ranking in rankings if ranking != "core")]
    sets = core_sets(modules, ordered, ladder, evidence, left_out)
    cores = [each for each in sets if each.ranking == "core"]
    choice = choice_of(run_experiment(model, cores, chosen_on, options), cores, share)
    kinds = _kinds(modules, reference) if n_controls else ()
    table = tested(model, sets, tested_on, replace(options, n_controls=n_controls), kinds)
    picked = choice.loc[choice["chosen"], ["module", "n_units"]]
    table = table.merge(picked.assign(ranking="core", chosen=True), how="left")
    table["chosen"] = table["chosen"].notna()
    table = table.assign(**options.loss_column)
    if of_twin is not None:
        rows = of_twin.table.assign(ranking=TWIN, chosen=False)
        table = pd.concat([table, rows], ignore_index=True)
    chosen = [each for each, is_chosen in zip(cores, choice["chosen"], strict=True) if is_chosen]
    labels = np.full(len(modules.units), BACKGROUND, dtype=modules.unit_labels.dtype)
    for each in chosen:
        labels[each.units.flat()] = each.module
    return CausalCores(
        cores=replace(
            modules,
            unit_labels=labels,
            topics=None,
            shared_by_all=None,
            verdicts=None,
            verdict_sentence=None,
            scored_labels=None,
            holds="cores",
        ),
        table=table,
        choice=choice,
        units=units_of_cores(chosen, evidence),
    )


def _checked_twin(
    untrained: Untrained, model: HookedModel, modules: ModuleSet
) -> tuple[HookedModel, ModuleSet]:
    """The twin and its modules, if they have the model's units."""
    twin, twins_modules = untrained
    if twin is model:
        raise ModulesError(
            "untrained should hold another model than model; it holds the same. Make one with "
            "untrained_twin(model)."
        )
    if not twins_modules.units.same_hooks(modules.units):
        raise ModulesError(
            "untrained should hold modules of the same units as modules; these have other hook "
            "points. Collect the twin's activations with the same options."
        )
    return twin, twins_modules


def _left_out(modules: ModuleSet, exclude: Units | None) -> Units | None:
    """The units to leave out: the user's, and those that all modules share."""
    given = []
    if exclude is not None:
        check_exclude(exclude, modules.units)
        given.append(exclude)
    given += [] if modules.shared is None else [modules.shared.units]
    if not given:
        return None
    left_out = np.unique(np.concatenate([units.flat() for units in given]))
    return modules.units.every().select(left_out)


def _kinds(modules: ModuleSet, reference: HasUnitMeans | None) -> list[ControlKind]:
    """The kinds of control that can be drawn."""
    by_magnitude = has_magnitudes(modules.units, reference, modules)
    return ["layer", "magnitude"] if by_magnitude else ["layer"]


def core_prompts(
    modules: ModuleSet, choosing: Prompts, testing: Prompts
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames of prompts, labelled.

    Args:
        modules: The modules.
        choosing: The prompts that choose.
        testing: The prompts that test.

    Raises:
        ModulesError: If the frames share a prompt, or a module's own category is not in both.
    """
    frames = []
    unnamed = [module.label for module in modules if module.category is None]
    if unnamed:
        raise ModulesError(
            f"modules should have own categories; {unnamed} have none, since their samples have "
            "none. Name them: modules.with_categories({0: ...})."
        )
    own = {str(module.category) for module in modules}
    for name, prompts in (("choosing", choosing), ("testing", testing)):
        frame = labelled(prompt_frame(prompts, name))
        categories = set(categories_of(frame).tolist())
        if not own <= categories or len(categories) < 2:
            raise ModulesError(
                f"{name} should hold prompts of every module's own category, and of another one; "
                f"the modules' are {quoted(own)}, the prompts' are {quoted(categories)}. Add "
                "prompts, or name the own categories: modules.with_categories({0: ...})."
            )
        frames.append(frame)
    both = set(frames[0]["prompt"]) & set(frames[1]["prompt"])
    if both:
        raise ModulesError(
            f"choosing and testing should share no prompt; they share {len(both):,}, the first is "
            f"{min(both)!r:.60}. Split the prompts: a core is measured on prompts that have not "
            "chosen it."
        )
    return frames[0], frames[1]
