"""Modules and cores beside the model's heads, MLP layers and residual stream, in one table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

import pandas as pd

from tl_modules.activations.reference import Reference, collect_references
from tl_modules.causal.controls import ControlKind
from tl_modules.causal.effect_numbers import EffectNumbers
from tl_modules.causal.experiment import Experiment, Outcome, run_experiment
from tl_modules.causal.metrics import MetricName
from tl_modules.causal.model_components import (
    COMPONENTS,
    Component,
    ModelComponent,
    beside_others,
    check_components,
    components_of,
    site_of,
)
from tl_modules.causal.options import Options
from tl_modules.causal.own_categories import sample_labels
from tl_modules.causal.trials import seed_keys
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import Method
from tl_modules.interventions.target import as_targets, units_on_one_site
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.models.sites import is_named
from tl_modules.modules.module import Module
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import Remedy, checked
from tl_modules.tables.p_values import corrected_within
from tl_modules.tables.prompt_frames import labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.text import text_column
from tl_modules.units import Units

Cores = Annotated[ModuleSet | None, Remedy("Pass causal_cores(...).cores.")]

_CORE = 2
"""Tells the seeds of a core's controls from those of its module's."""


@checked
@measures
def with_components(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    modules: Module | Iterable[Module],
    prompts: Prompts,
    *,
    cores: Cores = None,
    components: Sequence[Component] = COMPONENTS,
    metric: MetricName = "loss",
    loss_on: LossOn = "prompt",
    separator: str | None = None,
    method: Method = "mean",
    reference_prompts: Prompts | None = None,
    factor: float | None = None,
    positions: Touched = "content",
    n_controls: int = 19,
    controls: ControlKind = "layer",
    exclude: Units | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Ablate or patch modules, cores, heads, MLP layers and the residual stream alike.

    Every row is measured on the same prompts, with the same metric, method and positions, and takes
    its means from the same prompts. The rows of modules are those of ``module_effects`` with this
    reference and number of controls.

    What a row is held against depends on its kind, since a control should be as wide:

    - module, core: ``n_controls`` random sets of units, as in ``module_effects``.
    - head: all other heads of the model. They show how large a head's effect is among heads. They
      are no random sets, and some head always comes first, so that there is no p-value.
    - MLP layer: all other MLP layers, and the same holds.
    - residual stream: nothing, and the columns are missing. It holds all that is written below it,
      so that no other part of the model is its like. Read it as the most that can be lost there:
      patched at every token, it is the other run itself, whatever the layer.

    A p-value of a module or a core is at least ``1 / (1 + n_controls)``.

    Args:
        model: The model.
        modules: A ``ModuleSet``, some modules of one, or one.
        prompts: Strings, or a frame with ``prompt`` and ``category``; see ``module_effects``.
        cores: The modules' cores, ``causal_cores(...).cores``.
        components: Some of ``"head"`` (``hook_z``), ``"mlp"`` (``mlp.hook_post``) and ``"resid"``
            (``hook_resid_post``). All of the model's are measured.
        metric: See ``module_effects``.
        loss_on: See ``module_effects``.
        separator: See ``module_effects``.
        method: See ``module_effects``. With ``"patch"``, each row is activation patching at all
            positions, as TransformerLens' ``get_act_patch_attn_head_out_all_pos`` does it.
        reference_prompts: Prompts whose means ablation puts in, in all rows; by default
            ``prompts``. Modules of a site of your own keep the means that they hold.
        factor: What ``"scale"`` multiplies by.
        positions: See ``module_effects``.
        n_controls: Controls of each module and core.
        controls: The property that they share with the module or the core.
        exclude: Units to leave out of modules, cores and their controls.
        batch_size: Rows of a forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        seed: Seeds controls and bootstrap.
        progress: Show progress bars.

    Returns:
        One row per part and category: ``kind`` (``"module"``, ``"core"`` or one of
        ``components``), ``label``, ``layer``, ``head`` and ``hook_name`` (missing where there is
        none), ``n_units`` (the numbers per token that are changed: neurons, or dimensions of a head
        or of the stream), the columns of ``module_effects``, and ``rank``. ``selectivity`` is the
        effect on the row's category minus the mean effect on the others. ``rank`` is the row's
        place by ``effect`` (not by its size: one below 0 comes last) among all rows of its kind and
        category: 1 for the largest, the same number for equal ones, missing for the residual
        stream. ``p_value``, ``selectivity_p_value`` and their corrections are those of modules and
        cores, and missing for the model's own parts. Corrected p-values count the rows of one kind.

    Raises:
        ModulesError: If a component is unknown, the model lacks its hook points, or as in
            ``module_effects``.

    Example::

        table = tlm.with_components(model, modules, prompts, cores=found.cores)
        tlm.plots.plot_components(table, category="math")
    """
    kinds = check_components(components)
    options = Options(
        metric=metric,
        loss_on=loss_on,
        separator=separator,
        method=method,
        reference=None,
        factor=factor,
        positions=positions,
        keep_only=False,
        n_controls=n_controls,
        controls=controls,
        exclude=exclude,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=seed,
        progress=progress,
    )
    listed = as_targets(modules)
    whole = listed if cores is None else [*listed, *cores]
    site = units_on_one_site(whole)[0].site
    for each in whole:
        each.check_model(model)
    parts = components_of(model, kinds)
    frame = labelled(prompt_frame(prompts), *sample_labels(whole))
    source = frame if reference_prompts is None else reference_prompts
    of_modules, of_parts = _references(model, source, [site, site_of(kinds)], options)
    options = replace(options, reference=of_modules)
    parts = [replace(part, reference=of_parts) for part in parts]
    keys = seed_keys(listed, seed)
    keys += [[seed, core.label, _CORE] for core in whole[len(listed) :]]
    keys += seed_keys(parts, seed)
    # One experiment, so that the model runs once without an intervention.
    found = run_experiment(model, [*whole, *parts], frame, options, keys=keys)
    ours, theirs = found.outcomes[: len(whole)], found.outcomes[len(whole) :]
    tables = [
        *_of_modules(found, zip(whole, ours, strict=True), len(listed), options),
        *_of_components(found, zip(parts, beside_others(parts, theirs), strict=True), options),
    ]
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(positions=options.touched, metric=metric, method=method)
    table = table.assign(**options.loss_column)
    table = corrected_within(_ranked(_typed(table)), "p_value", "kind")
    return corrected_within(table, "selectivity_p_value", "kind")


def _references(
    model: HookedModel, prompts: Prompts, sites: Sequence[str | None], options: Options
) -> list[Reference | None]:
    """What ablation puts in at each site; None where the method or the site has none to collect."""
    if options.method in ("zero", "patch", "scale"):
        return [None] * len(sites)
    named = list(dict.fromkeys(site for site in sites if site is not None and is_named(site)))
    # Only other methods read values by position or at single tokens, which take memory.
    kept = {"n_tokens": 1, "n_positions": 1} if options.method == "mean" else {}
    found = collect_references(
        *(model, prompts, named),
        batch_size=options.batch_size,
        max_tokens=options.max_tokens,
        seed=options.seed,
        progress=options.progress,
        **kept,
    )
    by_site = dict(zip(named, found, strict=True))
    return [None if site is None else by_site.get(site) for site in sites]


def _of_modules(
    found: Experiment,
    ours: Iterable[tuple[Module, Outcome]],
    n_modules: int,
    options: Options,
) -> Iterator[pd.DataFrame]:
    """The rows of modules and then of cores."""
    for number, (module, outcome) in enumerate(ours):
        kind = "module" if number < n_modules else "core"
        row = {"kind": kind, "label": f"{kind} {module.label}", "layer": None, "head": None}
        row |= {"hook_name": None, "n_units": _width(module.units, options.exclude)}
        yield _rows(found, outcome, row, options.controls, options.seed)


def _of_components(
    found: Experiment,
    theirs: Iterable[tuple[ModelComponent, tuple[Outcome, str]]],
    options: Options,
) -> Iterator[pd.DataFrame]:
    """The rows of heads, layers and the residual stream."""
    for part, (outcome, controls) in theirs:
        row = {"kind": part.kind, "label": part.label, "layer": part.layer, "head": part.head}
        row |= {"hook_name": part.hook_name, "n_units": _width(part.units, None)}
        table = _rows(found, outcome, row, controls, options.seed)
        # A place among all others of its kind is no test: the column ``rank`` has it.
        yield table.assign(p_value=float("nan"), selectivity_p_value=float("nan"))


def _rows(
    experiment: Experiment, outcome: Outcome, row: dict[str, Any], controls: str, seed: int
) -> pd.DataFrame:
    """One part's rows: what it is, its effects, and what they are held against."""
    numbers = EffectNumbers.of(experiment, outcome, seed, keep_only=False, n_targets=None)
    table = numbers.table_of_each()
    held = {"controls": controls, "n_controls": len(outcome.rises) - 1}
    first = pd.DataFrame([row] * len(table), columns=list(row), dtype=object)
    return pd.concat([first, table.assign(**held)], axis=1)


def _width(units: Units, exclude: Units | None) -> int:
    """How many numbers per token a change of these units changes."""
    return len((units if exclude is None else units.without(exclude)).coordinates())


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """With each part's place by effect, among its kind within the category."""
    ranks = table.groupby(["kind", "category"], sort=False)["effect"].rank("min", ascending=False)
    ranks = ranks.mask(table["kind"] == "resid").astype("Int64")
    return table.assign(rank=ranks)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """With texts as text and counts as whole numbers, also where some are missing."""
    texts = {name: text_column(table[name]) for name in ("kind", "label", "hook_name")}
    counts = {name: table[name].astype("Int64") for name in ("layer", "head")}
    return table.assign(**texts, **counts, n_units=table["n_units"].astype("int64"))
