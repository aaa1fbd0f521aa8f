"""What an experiment runs: each target's intervention, and those of its controls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.causal.controls import Strata
from tl_modules.causal.pairs import CorruptedRuns
from tl_modules.causal.parts import Parts
from tl_modules.causal.prompt_runs import Intervention, intervention, on_batches
from tl_modules.causal.shared_unit_scores import ablation_attribution
from tl_modules.errors import ModulesError
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.target import Target
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import Module
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.labels import label_text
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class Trial:
    """One target's intervention, and its controls'."""

    label: int | str
    """What tables call the target."""

    category: str | None
    """The category of prompts that it is meant for."""

    size: int
    """How many units, components or directions it changes."""

    control_sizes: list[int]
    """The same of each control."""

    runs: list[Intervention]
    """Its own, then the controls'."""


@dataclass(frozen=True, eq=False)
class ModuleTrials:
    """How modules and their controls are ablated; the fields are ``module_effects``' arguments."""

    model: HookedModel
    frame: pd.DataFrame
    method: str
    reference: HasUnitMeans | None
    n_controls: int
    controls: str
    exclude: Units | None
    batch_size: int
    max_tokens: int | None
    seed: int
    options: dict[str, Any]
    corrupted: CorruptedRuns | None = None
    """Where ``"patch"`` takes its values from."""

    def of(self, modules: list[Module]) -> list[Trial]:
        """The modules' trials.

        Raises:
            ModulesError: If a module is another model's, or an option does not fit.
        """
        if self.exclude is not None:
            if not self.exclude.same_hooks(modules[0].units):
                raise ModulesError(
                    "exclude should be units of the modules' model; its hook points or widths "
                    "differ."
                )
            modules = [
                replace(module, units=module.units.without(self.exclude)) for module in modules
            ]
        options = {name: value for name, value in self.options.items() if name != "keep_only"}
        for module in modules:
            module.units.check_model(self.model)
            if self.corrupted is None:
                # Built here only to be refused, if it must be, before the model runs.
                module.fwd_hooks(self.method, self.reference, **options)
        strata = self._strata(modules[0])
        return [self._trial(module, strata, {"seed": self.seed} | options) for module in modules]

    def _trial(self, module: Module, strata: Strata, options: dict[str, Any]) -> Trial:
        generator = np.random.default_rng([self.seed, module.label])
        drawn = [strata.draw(module.units, generator) for _ in range(self.n_controls)]
        _warn_if_nothing_differs(module, drawn)
        sets = [module.units, *drawn]
        if self.options.get("keep_only"):  # all but the set, and never what is excluded
            sets = [units.complement() for units in sets]
            sets = sets if self.exclude is None else [units.without(self.exclude) for units in sets]
        if self.corrupted is None:
            own = self._means(module)
            runs = [intervention(units, self.method, own, options) for units in sets]
        else:
            runs = [self.corrupted.intervention(units) for units in sets]
        sizes = [len(units) for units in drawn]
        return Trial(module.label, module.category, module.n_units, sizes, runs)

    def _means(self, module: Module) -> HasUnitMeans | None:
        return module.means if self.reference is None else self.reference

    def _strata(self, module: Module) -> Strata:
        """What this kind of controls holds alike."""
        if self.controls == "layer":
            return Strata.by_layer(module.units, self.exclude)
        return Strata.matched(module.units, self._values(module), self.exclude)

    def _values(self, module: Module) -> Float[np.ndarray, " units"]:
        """The value of every unit that this kind of controls matches."""
        means = self._means(module)
        if self.controls == "magnitude":
            for source in (means, module.means):
                found = getattr(source, "normaliser", None)
                if source is None or found is None or not source.units.same_hooks(module.units):
                    continue
                reading = getattr(source, "reading", None)
                if reading is not None and reading.is_magnitude:
                    return np.asarray(found.mean, dtype=np.float64)
            raise ModulesError(
                "controls='magnitude' needs the units' mean |activation|, which these modules do "
                "not hold. Discover them from raw activations (or pass modules that were as "
                "reference=), or use controls='layer'."
            )
        if means is None:
            raise ModulesError(
                "controls='attribution' needs means to ablate to. Pass reference=..."
            )
        if not means.units.same_hooks(module.units):
            raise ModulesError(
                "controls='attribution' needs a reference of the modules' own units; its site or "
                "model is another. Collect it with the same units=..."
            )
        estimates, names = ablation_attribution(
            self.model,
            self.frame,
            means,
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
            progress=False,
        )
        counts = self.frame["category"].astype(str).value_counts() if len(names) > 1 else None
        weights = np.array([1 if counts is None else counts[name] for name in names], dtype=float)
        return weights @ estimates / weights.sum()


def _warn_if_nothing_differs(module: Module, drawn: Sequence[Units]) -> None:
    """Warn where the module's units are all that its controls can hold."""
    own = np.sort(module.units.flat())
    if drawn and all(np.array_equal(units.flat(), own) for units in drawn):
        what = "holds all units that its controls are drawn from" if len(own) else "has no units"
        warn_user(
            f"Module {module.label} {what}, so that every control is the module itself: its "
            "p-values are 1 and say nothing. Leave it out, or exclude fewer units."
        )


def target_trials(
    model: HookedModel,
    targets: Sequence[Target],
    n_controls: int,
    seed: int,
    corrupted: CorruptedRuns | None = None,
) -> list[Trial]:
    """The trials of targets that are no modules; parts are patched if there are corrupted runs.

    Raises:
        ModulesError: If one is another model's.
    """
    for target in targets:
        target.check_model(model)
    trials = []
    for at, target in enumerate(targets):
        drawn = target.controls(n_controls, np.random.default_rng([seed, at, 1]))
        drawn = [each for each in drawn if each.size or not target.size]
        runs = [
            on_batches(each.fwd_hooks)
            if corrupted is None or not isinstance(each, Parts)
            else corrupted.intervention(each.units)
            for each in (target, *drawn)
        ]
        sizes = [each.size for each in drawn]
        trials.append(Trial(target.label, label_text(target.category), target.size, sizes, runs))
    return trials


def split(
    chosen: Module | Target | Iterable[Module | Target],
) -> tuple[list[Module], list[Target]]:
    """Modules, and the other targets, of which there may be none.

    Raises:
        ModulesError: If a target's label is another one's, or a module's number.
    """
    listed = [chosen] if isinstance(chosen, Module | Target) else list(chosen)
    targets = [each for each in listed if isinstance(each, Target)]
    labels = [str(each.label) for each in listed]
    if targets and len(set(labels)) < len(labels):
        raise ModulesError(
            "Targets should have different labels, which tell their rows from others and from "
            f"modules'; got {labels}. Use dataclasses.replace(target, label=...)."
        )
    return [each for each in listed if not isinstance(each, Target)], targets
