"""The effect of ablating each module on each category of prompts, beside matched controls."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.effect_numbers import EffectNumbers
from tl_modules.causal.experiment import Experiment, Outcome, run_experiment
from tl_modules.causal.metrics import MetricName
from tl_modules.causal.options import Options
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.target import Target, as_targets
from tl_modules.models.answers import shown_separators
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
from tl_modules.runtime.arguments import checked
from tl_modules.tables.p_values import benjamini_hochberg, holm
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.tables.uncertain_labels import HasLabelRefits, UncertainLabels
from tl_modules.units import Units


@checked
@measures
def module_effects(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    modules: Target | Iterable[Target],
    prompts: Prompts,
    *,
    labels: HasLabelRefits | None = None,
    metric: MetricName = "loss",
    loss_on: LossOn = "prompt",
    separator: str | None = None,
    method: Method = "mean",
    reference: HasUnitMeans | None = None,
    factor: float | None = None,
    positions: Touched = "content",
    keep_only: bool = False,
    n_controls: int | None = None,
    controls: ControlKind = "layer",
    exclude: Units | None = None,
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Ablate each module, and matched random units, and compare the loss on each category.

    The effect is the rise of the mean next-token loss (nats per token, each prompt counting the
    same). Random units also hit the few neurons that every prompt needs, so that the raw effect is
    no evidence. The evidence is selectivity: the effect on the module's own category minus its mean
    effect on the others. The how-to "Read the effects table" explains the columns and the kinds of
    control.

    Args:
        model: The model that the activations were collected from.
        modules: A ``ModuleSet``, some modules, one, or other targets (see ``Target``). ``method``,
            ``reference``, ``factor``, ``keep_only``, ``controls`` and ``exclude`` apply to modules;
            ``"patch"`` applies to every target that has ``units``.
        prompts: Strings, or a frame with ``prompt`` and ``category``.
        labels: What ``annotate`` returned for these prompts, in place of ``category``. Effects are
            coefficients of a regression on the labels' probabilities, and intervals hold the
            uncertainty of the labels too. With certain labels, nothing differs.
        metric: ``"loss"``, ``"answer_logprob"`` or ``"answer_accuracy"``: the higher, the worse.
        loss_on: The tokens over which ``"loss"`` is averaged: those of the ``"prompt"``, of the
            ``"answer"``, or ``"all"`` of both. The last two read a column ``answer``.
        separator: Text between each prompt and its answer.
        method: How units are changed; see ``Module.fwd_hooks``. ``"patch"`` needs a column
            ``corrupted``; see ``with_corrupted``.
        reference: Source of the values that ablation puts in.
        factor: What ``"scale"`` multiplies by.
        positions: ``"content"`` changes no special token and no attention sink, and means leave
            them out too; ``"all"`` changes every token.
        keep_only: Ablate everything except the module (or the control).
        n_controls: Controls per module; by default as many as each test needs, 19 to 999 (see
            ``StoppingRule``).
        controls: The property that controls share with the module.
        exclude: Units to leave out of modules and controls.
        batch_size: Rows of a forward pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        One row per module and category.

    Raises:
        ModulesError: If an argument does not fit, or the metric is not finite.
    """
    known = None
    if labels is not None:
        frame = prompt_frame(prompts)
        known = UncertainLabels.of(labels, frame["prompt"].tolist(), seed)
        # For what reads a column: the numbers are of the probabilities.
        prompts = frame.assign(category=known.column())
    options = Options(
        metric=metric,
        loss_on=loss_on,
        separator=separator,
        method=method,
        reference=reference,
        factor=factor,
        positions=positions,
        keep_only=keep_only,
        n_controls=n_controls,
        controls=controls,
        exclude=exclude,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=seed,
        progress=progress,
    )
    targets = as_targets(modules)
    n_targets = len(targets) if n_controls is None else None

    def numbers(experiment: Experiment, outcome: Outcome) -> EffectNumbers:
        return EffectNumbers.of(experiment, outcome, seed, keep_only, n_targets, known)

    experiment = run_experiment(
        model,
        targets,
        prompts,
        options,
        compares_own=True,
        enough=lambda experiment, outcome: numbers(experiment, outcome).n_used(),
    )
    tables = []
    for outcome in experiment.outcomes:
        trial, sizes = outcome.trial, outcome.trial.control_sizes
        of_target = numbers(experiment, outcome)
        table = of_target.table()
        table = table.assign(
            controls=controls,
            positions=options.touched,
            metric=metric,
            keep_only=keep_only,
            n_controls=len(sizes),
            n_cell_controls=of_target.n_cell_controls(),
            n_units=trial.size,
            control_units=float(np.mean(sizes)) if sizes else float("nan"),
            **options.loss_column,
        )
        table.insert(0, "module", trial.label)
        if experiment.separators is not None:
            table["separator"] = shown_separators(experiment.separators)
        tables.append(table)
    return _adjusted(pd.concat(tables, ignore_index=True))


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    """With p-values adjusted over all cells, and those of selectivity over the modules."""
    modules = table.drop_duplicates("module")
    for name, adjust in (("holm", holm), ("bh", benjamini_hochberg)):
        table[f"p_{name}"] = adjust(table["p_value"].to_numpy(dtype=float))
        values = adjust(modules["selectivity_p_value"].to_numpy(dtype=float))
        by_module = pd.Series(values, index=modules["module"])
        table[f"selectivity_p_{name}"] = by_module.loc[table["module"]].to_numpy()
    return table
