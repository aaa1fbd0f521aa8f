"""What ablating each module does to each category of prompts, beside matched controls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from tqdm.auto import tqdm

from tl_modules.causal.ablate import Intervention, no_intervention, run_losses
from tl_modules.causal.controls import KINDS, layer_matched_control, matched_control
from tl_modules.causal.shared import ablation_attribution
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.model import HookedModel
from tl_modules.modules import Module, as_list
from tl_modules.replacements import HasUnitMeans
from tl_modules.stats import (
    benjamini_hochberg,
    bootstrap_indices,
    control_p_value,
    holm,
    percentile_interval,
    sign_flip_p_value,
)
from tl_modules.tokens import batches, categories_of, prompt_frame, tokenise
from tl_modules.units import Units

METRICS = ("loss",)
"""``loss``: mean next-token loss, nats per token."""

N_RESAMPLES = 2000
"""Bootstrap resamples of the prompts."""


def module_effects(  # noqa: PLR0913 - the options of one experiment, all by keyword
    model: HookedModel,
    modules: Module | Iterable[Module],
    prompts: Sequence[str] | pd.DataFrame,
    *,
    metric: str = "loss",
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
    same). A control takes, in each layer, as many random units outside the module as the module
    has there. Random sets hit the few neurons that every prompt needs, so their raw effect is
    often larger than a module's on every category alike: a raw effect below its controls' is no
    failure and above them no success. The claim is selectivity: the effect on the module's own
    category (the most frequent among its samples) minus its mean effect on the other categories.

    Args:
        model: The model that the activations were collected from.
        modules: A ``ModuleSet``, some modules of one, or one.
        prompts: Strings, or a frame with ``prompt`` and ``category``; better ones that discovery
            did not see.
        metric: ``"loss"``.
        method: What becomes of the units; see ``Module.fwd_hooks`` (``"patch"``, which needs paired
            prompts, is ``get_act_patch_module``'s).
        reference: Where mean ablation takes its values from; by default what the modules were
            discovered on.
        n_controls: Controls for each module. The smallest p-value is ``1 / (1 + n_controls)``.
        controls: What a control's units share with the module's: ``"layer"``; ``"magnitude"``, the
            layer and about the same mean |activation|; ``"attribution"``, the layer and about the
            same estimated effect of ablating each alone on these prompts (``shared_units`` says
            why that matters).
        exclude: Units to leave out of modules and controls alike, such as ``shared_units`` finds.
        batch_size: Rows of a forward pass: prompts times interventions, which are stacked.
        max_tokens: Cut prompts after so many tokens.
        seed: Seeds controls and bootstrap.
        progress: Show a progress bar.
        options: What else ``Module.fwd_hooks`` takes: ``factor``, ``positions``, ``keep_only``.
            With ``keep_only`` the effect is that of losing everything but the module, and of
            everything but the control.

    Returns:
        One row a module and category:

        - ``module``, ``category``, ``own`` (it is the module's own category), ``n`` (prompts);
        - ``loss`` (unablated), ``effect``, ``ci_low``, ``ci_high`` (95 % bootstrap over prompts),
          ``control_mean``, ``control_std``, ``control_max`` (over controls), all in nats per
          token; ``z`` (the effect in standard deviations of the controls' from their mean);
          ``p_value`` (one-sided, against the same number of the controls), ``p_holm`` and ``p_bh``
          (the same, adjusted over all cells after Holm and Benjamini and Hochberg);
          ``sign_flip_p`` (two-sided: is the mean rise over these prompts 0?);
        - ``selectivity`` and the same numbers of it, equal on all rows of a module and adjusted
          over the modules;
        - ``controls``, ``n_units``, ``control_units`` (mean size of its controls).

        Without categories there is one, ``"all"``, and selectivity is NaN.

    Raises:
        ModulesError: If the modules belong to another model, an option is unknown, or a prompt has
            fewer than two tokens.
    """
    check_choice("metric", metric, METRICS)
    check_choice("controls", controls, KINDS)
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    chosen = as_list(modules)
    if exclude is not None:
        if not exclude.same_hooks(chosen[0].units):
            raise ModulesError(
                "exclude should be units of the modules' model; its hook points or widths differ."
            )
        chosen = [replace(module, units=module.units.without(exclude)) for module in chosen]
    for module in chosen:
        module.units.check_model(model)
        # Built here only to be refused, if it must be, before the model runs.
        module.fwd_hooks(method, reference, **options)
    frame = prompt_frame(prompts)
    categories = categories_of(frame)
    token_lists = tokenise(model, frame["prompt"].tolist(), max_tokens, least=2)
    ready = list(batches(token_lists, batch_size))
    means = chosen[0].means if reference is None else reference
    draw = _Draw(_values(model, frame, means, controls, batch_size, max_tokens), exclude)
    total = len(frame) * (1 + len(chosen) * (1 + n_controls))
    tables = []
    with tqdm(total=total, desc="ablate", unit="prompt", disable=not progress) as bar:
        clean = run_losses(model, ready, [no_intervention], batch_size, bar.update)[0]
        for module in chosen:
            generator = np.random.default_rng([seed, module.label])
            drawn = [draw(module.units, generator) for _ in range(n_controls)]
            sets = (module.units, *drawn)
            runs = [
                _intervention(replace(module, units=units), method, reference, options)
                for units in sets
            ]
            rises = run_losses(model, ready, runs, batch_size, bar.update) - clean
            outcome = _Outcome(categories, clean, rises, module.category, seed)
            sizes = [len(units) for units in drawn]
            tables.append(
                outcome.table().assign(
                    controls=controls,
                    n_units=module.n_units,
                    control_units=float(np.mean(sizes)) if sizes else float("nan"),
                )
            )
            tables[-1].insert(0, "module", module.label)
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
class _Draw:
    """Draws a module's controls."""

    values: Float[np.ndarray, " units"] | None
    """What controls match; None for the layer alone."""
    exclude: Units | None

    def __call__(self, units: Units, generator: np.random.Generator) -> Units:
        if self.values is None:
            return layer_matched_control(units, generator, self.exclude)
        return matched_control(units, self.values, generator, self.exclude)


def _values(
    model: HookedModel,
    frame: pd.DataFrame,
    means: HasUnitMeans | None,
    controls: str,
    batch_size: int,
    max_tokens: int | None,
) -> Float[np.ndarray, " units"] | None:
    """The value of every unit that this kind of controls matches."""
    if controls == "layer":
        return None
    if controls == "magnitude":
        found = getattr(means, "unit_center", None)
        if found is None:
            raise ModulesError(
                "controls='magnitude' needs the units' mean |activation|, which these modules do "
                "not hold. Discover them from raw activations, or use controls='layer'."
            )
        return np.asarray(found, dtype=np.float64)
    if means is None:
        raise ModulesError("controls='attribution' needs means to ablate to. Pass reference=...")
    estimates, names = ablation_attribution(
        model, frame, means, batch_size=batch_size, max_tokens=max_tokens, progress=False
    )
    counts = frame["category"].astype(str).value_counts() if len(names) > 1 else {names[0]: 1}
    weights = np.array([counts[name] for name in names], dtype=np.float64)
    return weights @ estimates / weights.sum()


def _intervention(
    module: Module, method: str, reference: HasUnitMeans | None, options: dict[str, Any]
) -> Intervention:
    return lambda mask: module.fwd_hooks(method, reference, attention_mask=mask, **options)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """One module's ablation runs, and the numbers made of them."""

    categories: Shaped[np.ndarray, " prompts"]
    clean: Float[np.ndarray, " prompts"]
    rises: Float[np.ndarray, "runs prompts"]
    """Rise of each prompt's loss: the module's first, then each control's."""
    own: str | None
    seed: int

    def table(self) -> pd.DataFrame:
        """One row a category."""
        names = list(dict.fromkeys(self.categories.tolist()))
        effects = self._by_category(self.rises, names)
        draws = bootstrap_indices(self.categories.astype(str), N_RESAMPLES, self.seed)
        resampled = self._by_category(self.rises[0][draws], names)
        low, high = percentile_interval(resampled)
        frame = pd.DataFrame(
            {
                "category": names,
                "own": [name == self.own for name in names],
                "effect": effects[0],
                "ci_low": low,
                "ci_high": high,
                "control_mean": _mean(effects[1:]),
                "control_std": _std(effects[1:]),
                "control_max": _max(effects[1:]),
                "z": _z(effects),
                "sign_flip_p": [
                    sign_flip_p_value(self.rises[0, self.categories == name], seed=self.seed)
                    for name in names
                ],
                "p_value": [
                    control_p_value(float(effects[0, c]), effects[1:, c]) for c in range(len(names))
                ],
                "n": [int((self.categories == name).sum()) for name in names],
                "loss": self._by_category(self.clean[None], names)[0],
            }
        )
        selectivity = _selectivity(effects, names, self.own)
        low, high = percentile_interval(_selectivity(resampled, names, self.own))
        return frame.assign(
            selectivity=selectivity[0],
            selectivity_ci_low=float(low),
            selectivity_ci_high=float(high),
            selectivity_control_mean=float(_mean(selectivity[1:])),
            selectivity_control_std=float(_std(selectivity[1:])),
            selectivity_control_max=float(_max(selectivity[1:])),
            selectivity_z=float(_z(selectivity)),
            selectivity_p_value=control_p_value(float(selectivity[0]), selectivity[1:]),
        )

    def _by_category(
        self, values: Float[np.ndarray, "runs prompts"], names: list[str]
    ) -> Float[np.ndarray, "runs categories"]:
        """Means over each category's prompts. Resampling is within categories, so columns stay."""
        return np.stack([values[:, self.categories == name].mean(axis=1) for name in names], axis=1)


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
    std = _std(runs[1:])
    return np.asarray((runs[0] - _mean(runs[1:])) / np.where(std > 0, std, np.nan))


def _mean(controls: Float[np.ndarray, " controls *shape"]) -> Float[np.ndarray, " *shape"]:
    return np.asarray(
        controls.mean(axis=0) if len(controls) else np.full(controls.shape[1:], np.nan)
    )


def _max(controls: Float[np.ndarray, " controls *shape"]) -> Float[np.ndarray, " *shape"]:
    return np.asarray(
        controls.max(axis=0) if len(controls) else np.full(controls.shape[1:], np.nan)
    )


def _std(controls: Float[np.ndarray, " controls *shape"]) -> Float[np.ndarray, " *shape"]:
    if len(controls) < 2:
        return np.full(controls.shape[1:], np.nan)
    return np.asarray(controls.std(axis=0, ddof=1))
