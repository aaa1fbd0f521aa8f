"""What ablating each module does to each category of prompts, beside matched controls."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from tl_modules.causal.experiment import run_experiment
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.target import Target
from tl_modules.models.answers import shown_separators
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module import Module
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
    modules: Module | Target | Iterable[Module | Target],
    prompts: Prompts,
    *,
    metric: str = "loss",
    separator: str | None = None,
    method: str = "mean",
    reference: HasUnitMeans | None = None,
    n_controls: int = 20,
    controls: str = "layer",
    exclude: Units | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Ablate each module, and sets of random units like it, and compare the loss on each category.

    The effect is the rise of the mean next-token loss (nats per token, each prompt counting the
    same), or of another metric that is higher the worse the model does. A control takes, in each
    layer, as many random units outside the module as the module has there. Random sets hit the few
    neurons that every prompt needs, so their raw effect is often larger than a module's on every
    category alike: a raw effect below its controls' is no failure and above them no success. The
    claim is selectivity: the effect on the module's own category (the most frequent among its
    samples, or what ``ModuleSet.with_categories`` gave it) minus its mean effect on the other
    categories. A warning names the own categories that are not among the prompts', and ties;
    without controls only those that are spelt alike.

    Args:
        model: The model that the activations were collected from.
        modules: A ``ModuleSet``, some modules of one, or one; beside them, or alone, other targets
            (such as ``eigenshift`` makes), which bring controls of their own: what is said here of
            ``method``, ``reference``, ``controls``, ``exclude`` and ``options`` is of modules.
        prompts: Strings, or a frame with ``prompt`` and ``category``; better ones that discovery
            did not see.
        metric: ``"loss"``, or how badly the model answers prompts with a column ``answer``:
            ``"answer_logprob"`` (minus the answer's log-probability, nats) or
            ``"answer_accuracy"`` (1 where greedy decoding misses it). The text is prompt and answer
            exactly as given; see the how-to "Your own prompts".
        separator: What stands between each prompt and its answer, such as ``" "``; by default what
            the prompts' column ``separator`` says, and nothing where there is none.
        method: What becomes of the units; see ``Module.fwd_hooks``. ``"patch"`` takes their values
            from the run of another prompt of as many tokens, in a column ``corrupted`` (see
            ``with_corrupted``); of other targets it is said of ``Parts`` too.
        reference: Where mean ablation takes its values from; by default what the modules were
            discovered on.
        n_controls: Controls for each module. The smallest p-value is ``1 / (1 + n_controls)``.
        controls: What a control's units share with the module's: ``"layer"``; ``"magnitude"``, the
            layer and a similar mean |activation|; ``"attribution"``, the layer and a similar
            estimated effect of ablating each alone on these prompts (``shared_units`` says why that
            matters). Similar units are those of one stratum: a layer's units by rank, the 8 lowest
            and the 8 highest first, then 16 each, and so on up to an eighth of the layer.
        exclude: Units to leave out of modules and controls alike, such as ``shared_units`` finds.
        batch_size: Rows of a forward pass: prompts times interventions, which are stacked.
        max_tokens: Cut prompts after so many tokens.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.
        options: ``factor`` for ``"scale"``; ``keep_only=True`` for sufficiency: the effect is that
            of losing everything but the module, or but the control, and p-values count the
            controls that do less harm.

    Returns:
        One row a module and category:

        - ``module``, ``category``, ``own`` (it is the module's own category), ``n`` (prompts);
        - ``loss`` (unablated), ``effect``, ``ci_low``, ``ci_high`` (95 % bootstrap over prompts;
          NaN for a category of one, and for selectivity then), ``control_mean``,
          ``control_std``, ``control_max`` (over controls), all in nats per token; ``z`` (the effect
          in standard deviations of the controls' from their mean);
          ``p_value`` (one-sided, against the same number of the controls), ``p_holm`` and ``p_bh``
          (the same, adjusted over all cells after Holm and Benjamini and Hochberg);
          ``sign_flip_p`` (two-sided: is the mean rise over these prompts 0?);
        - ``selectivity`` and the same numbers of it, equal on all rows of a module and adjusted
          over the modules;
        - ``controls``, ``n_units`` (or components, or directions), ``control_units`` (mean size of
          its controls); with an answer metric ``separator``, in quotes.

        Without categories there is one, ``"all"``, and selectivity is NaN.

    Raises:
        ModulesError: If the modules belong to another model, an option is unknown, a prompt has
            fewer than two tokens, an answer has no tokens of its own, the model is not causal, or
            the metric is NaN or infinite in any run.
    """
    experiment = run_experiment(
        model,
        modules,
        prompts,
        metric=metric,
        separator=separator,
        method=method,
        reference=reference,
        n_controls=n_controls,
        controls=controls,
        exclude=exclude,
        batch_size=batch_size,
        max_tokens=max_tokens,
        seed=seed,
        progress=progress,
        compares_own=True,
        **options,
    )
    tables = []
    for outcome in experiment.outcomes:
        trial, sizes = outcome.trial, outcome.trial.control_sizes
        sign = -1.0 if options.get("keep_only") else 1.0
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
    each = table.drop_duplicates("module")
    for name, adjust in (("holm", holm), ("bh", benjamini_hochberg)):
        table[f"p_{name}"] = adjust(table["p_value"].to_numpy(dtype=float))
        values = adjust(each["selectivity_p_value"].to_numpy(dtype=float))
        by_module = pd.Series(values, index=each["module"])
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
        """One row a category."""
        names = list(dict.fromkeys(self.categories.tolist()))
        effects = self._by_category(self.rises, names)
        groups = pd.factorize(self.categories, sort=True)[0]
        draws = bootstrap_indices(groups, N_RESAMPLES, self.seed)
        chosen = [is_category(self.categories, name) for name in names]
        sizes = np.array([int(own.sum()) for own in chosen])
        resampled = self._by_category(self.rises[0][draws], names)
        resampled[:, sizes < 2] = np.nan  # one prompt resampled is itself: no interval
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
                    sign_flip_p_value(self.rises[0, own], seed=self.seed) for own in chosen
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
        chosen = [is_category(self.categories, name) for name in names]
        return np.stack([values[:, own].mean(axis=1) for own in chosen], axis=1)


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
