"""Running prompts under each module's ablation and its controls'."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from tqdm.auto import tqdm

from tl_modules.causal.ablate import intervention, no_intervention, run_task
from tl_modules.causal.controls import KINDS, layer_matched_control, matched_control
from tl_modules.causal.shared import ablation_attribution
from tl_modules.causal.tasks import make_task
from tl_modules.errors import ModulesError, check_at_least, check_choice, check_seed
from tl_modules.model import HookedModel
from tl_modules.modules import Module, as_list
from tl_modules.replacements import HasUnitMeans
from tl_modules.tokens import categories_of, prompt_frame
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class Outcome:
    """One module's ablation, and its controls'."""

    module: Module
    """The module, without excluded units."""

    rises: Float[np.ndarray, "runs prompts"]
    """Rise of each prompt's metric: the module's first, then each control's."""

    control_sizes: list[int]
    """Units of each control."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What was measured."""

    categories: Shaped[np.ndarray, " prompts"]
    """Each prompt's."""

    clean: Float[np.ndarray, " prompts"]
    """The metric without an intervention."""

    outcomes: list[Outcome]
    """One a module."""


def run_experiment(  # noqa: PLR0913 - the options of one experiment, all by keyword
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
) -> Experiment:
    """Ablate each module and its controls; the arguments are ``module_effects``'.

    Raises:
        ModulesError: As ``module_effects`` raises.
    """
    check_choice("controls", controls, KINDS)
    check_at_least("n_controls", n_controls, 0)
    check_at_least("batch_size", batch_size, 1)
    check_seed(seed)
    chosen = as_list(modules)
    if exclude is not None:
        if not exclude.same_hooks(chosen[0].units):
            raise ModulesError(
                "exclude should be units of the modules' model; its hook points or widths differ."
            )
        chosen = [replace(module, units=module.units.without(exclude)) for module in chosen]
    keep_only = bool(options.pop("keep_only", False))
    for name in options:
        check_choice("The option", name, ("factor",))
    for module in chosen:
        module.units.check_model(model)
        # Built here only to be refused, if it must be, before the model runs.
        module.fwd_hooks(method, reference, **options)
    frame = prompt_frame(prompts)
    categories = categories_of(frame)
    task = make_task(model, frame, metric, batch_size, max_tokens)
    means = chosen[0].means if reference is None else reference
    draw = _Draw(_values(model, chosen[0], frame, means, controls, batch_size, max_tokens), exclude)
    total = len(frame) * (1 + len(chosen) * (1 + n_controls))
    outcomes = []
    with tqdm(total=total, desc="ablate", unit="prompt", disable=not progress) as bar:
        clean = run_task(model, task, [no_intervention], batch_size, bar.update)[0]
        for module in chosen:
            generator = np.random.default_rng([seed, module.label])
            drawn = [draw(module.units, generator) for _ in range(n_controls)]
            sets = [module.units, *drawn]
            if keep_only:  # all but the set, and never what is excluded
                sets = [units.complement() for units in sets]
                sets = sets if exclude is None else [units.without(exclude) for units in sets]
            own = module.means if reference is None else reference
            runs = [intervention(units, method, own, {"seed": seed} | options) for units in sets]
            rises = run_task(model, task, runs, batch_size, bar.update) - clean
            outcomes.append(Outcome(module, rises, [len(units) for units in drawn]))
    return Experiment(categories, clean, outcomes)


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
    module: Module,
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
        for source in (means, module.means):
            found = getattr(source, "normaliser", None)
            if source is None or found is None or not source.units.same_hooks(module.units):
                continue
            reading = getattr(source, "reading", None)
            if reading is not None and reading.is_magnitude:
                return np.asarray(found.mean, dtype=np.float64)
        raise ModulesError(
            "controls='magnitude' needs the units' mean |activation|, which these modules do not "
            "hold. Discover them from raw activations (or pass modules that were as reference=), "
            "or use controls='layer'."
        )
    if means is None:
        raise ModulesError("controls='attribution' needs means to ablate to. Pass reference=...")
    if not means.units.same_hooks(module.units):
        raise ModulesError(
            "controls='attribution' needs a reference of the modules' own units; its site or model "
            "is another. Collect it with the same units=..."
        )
    estimates, names = ablation_attribution(
        model, frame, means, batch_size=batch_size, max_tokens=max_tokens, progress=False
    )
    counts = frame["category"].astype(str).value_counts() if len(names) > 1 else {names[0]: 1}
    weights = np.array([counts[name] for name in names], dtype=np.float64)
    return weights @ estimates / weights.sum()
