"""The effect of ablating each module on each category of prompts, beside matched controls."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.experiment import run_experiment
from tl_modules.causal.metrics import MetricName
from tl_modules.causal.options import Options
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.target import Target, as_targets
from tl_modules.models.answers import shown_separators
from tl_modules.models.hooked_model import HookedModel
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import (
    control_mean,
    control_p_value,
    control_std,
    run_rounding,
)
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices, percentile_interval
from tl_modules.tables.p_values import benjamini_hochberg, holm, sign_flip_p_value
from tl_modules.tables.prompt_frames import is_category
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units


@checked
@measures
def module_effects(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    modules: Target | Iterable[Target],
    prompts: Prompts,
    *,
    metric: MetricName = "loss",
    separator: str | None = None,
    method: Method = "mean",
    reference: HasUnitMeans | None = None,
    factor: float | None = None,
    positions: Touched = "content",
    keep_only: bool = False,
    n_controls: int = 20,
    controls: ControlKind = "layer",
    exclude: Units | None = None,
    batch_size: int = 16,
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
        metric: ``"loss"``, ``"answer_logprob"`` or ``"answer_accuracy"``: the higher, the worse.
        separator: Text between each prompt and its answer.
        method: How units are changed; see ``Module.fwd_hooks``. ``"patch"`` needs a column
            ``corrupted``; see ``with_corrupted``.
        reference: Source of the values that ablation puts in.
        factor: What ``"scale"`` multiplies by.
        positions: ``"content"`` changes no special token and no attention sink, and means leave
            them out too; ``"all"`` changes every token.
        keep_only: Ablate everything except the module (or the control).
        n_controls: Controls per module.
        controls: The property that controls share with the module.
        exclude: Units to leave out of modules and controls.
        batch_size: Rows of a forward pass.
        max_tokens: Truncate prompts to this many tokens.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        One row per module and category.

    Raises:
        ModulesError: If an argument does not fit, or the metric is not finite.
    """
    options = Options(
        metric=metric,
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
    experiment = run_experiment(model, as_targets(modules), prompts, options, compares_own=True)
    tables = []
    for outcome in experiment.outcomes:
        trial, sizes = outcome.trial, outcome.trial.control_sizes
        sign = -1.0 if keep_only else 1.0
        cells = _Outcome(
            experiment.categories, experiment.clean, outcome.rises, trial.category, seed, sign
        )
        table = cells.table().assign(
            controls=controls,
            n_units=trial.size,
            control_units=float(np.mean(sizes)) if sizes else float("nan"),
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


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One module's ablation runs, and the numbers made of them."""

    categories: Shaped[np.ndarray, " prompts"]
    clean: Float[np.ndarray, " prompts"]
    rises: Float[np.ndarray, "runs prompts"]
    """Rise of each prompt's loss: the module's first, then each control's."""
    own: str | None
    seed: int
    sign: float
    """1 if harm speaks for the module, -1 if its absence does (keep-only)."""

    def _p_value(self, runs: Float[np.ndarray, " runs"]) -> float:
        tolerance = run_rounding(self.clean)
        return control_p_value(self.sign * float(runs[0]), self.sign * runs[1:], tolerance)

    def table(self) -> pd.DataFrame:
        """One row per category."""
        names = list(dict.fromkeys(self.categories.tolist()))
        effects = self._by_category(self.rises, names)
        groups = pd.factorize(self.categories, sort=True)[0]
        draws = bootstrap_indices(groups, N_RESAMPLES, self.seed)
        members = [is_category(self.categories, name) for name in names]
        sizes = np.array([int(in_category.sum()) for in_category in members])
        resampled = self._by_category(self.rises[0][draws], names)
        # A single prompt has no interval: every resample is that prompt.
        resampled[:, sizes < 2] = np.nan
        low, high = percentile_interval(resampled)
        frame = pd.DataFrame(
            {
                "category": names,
                "own": [name == self.own for name in names],
                "effect": effects[0],
                "ci_low": low,
                "ci_high": high,
                "control_mean": control_mean(effects[1:]),
                "control_std": control_std(effects[1:]),
                "control_max": _max(effects[1:]),
                "z": _z(effects),
                "sign_flip_p": [
                    sign_flip_p_value(self.rises[0, in_category], seed=self.seed)
                    for in_category in members
                ],
                "p_value": [self._p_value(column) for column in effects.T],
                "n": sizes.tolist(),
                "loss": self._by_category(self.clean[None], names)[0],
            }
        )
        selectivity = _selectivity(effects, names, self.own)
        low, high = percentile_interval(_selectivity(resampled, names, self.own))
        return frame.assign(
            selectivity=selectivity[0],
            selectivity_ci_low=float(low),
            selectivity_ci_high=float(high),
            selectivity_control_mean=float(control_mean(selectivity[1:])),
            selectivity_control_std=float(control_std(selectivity[1:])),
            selectivity_control_max=float(_max(selectivity[1:])),
            selectivity_z=float(_z(selectivity)),
            selectivity_p_value=self._p_value(selectivity),
        )

    def _by_category(
        self, values: Float[np.ndarray, "runs prompts"], names: list[str]
    ) -> Float[np.ndarray, "runs categories"]:
        """Means over each category's prompts. Resampling is within categories, so columns stay."""
        members = [is_category(self.categories, name) for name in names]
        return np.stack([values[:, in_category].mean(axis=1) for in_category in members], axis=1)


def _selectivity(
    effects: Float[np.ndarray, "runs categories"], names: list[str], own: str | None
) -> Float[np.ndarray, " runs"]:
    """Effect on the own category minus the mean effect on the others; NaN if there are none."""
    if own not in names or len(names) < 2:
        return np.full(len(effects), np.nan)
    column = names.index(own)
    return effects[:, column] - np.delete(effects, column, axis=1).mean(axis=1)


def _z(runs: Float[np.ndarray, " runs *shape"]) -> Float[np.ndarray, " *shape"]:
    """The first run's number in standard deviations of the others' from their mean."""
    std = control_std(runs[1:])
    return np.asarray((runs[0] - control_mean(runs[1:])) / np.where(std > 0, std, np.nan))


def _max(controls: Float[np.ndarray, " controls *shape"]) -> Float[np.ndarray, " *shape"]:
    return np.asarray(
        controls.max(axis=0) if len(controls) else np.full(controls.shape[1:], np.nan)
    )
