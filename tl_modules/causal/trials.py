"""What an experiment runs: each target's intervention, and those of its controls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np

from tl_modules.causal.pairs import CorruptedRuns
from tl_modules.causal.prompt_runs import Intervention, UnitRun, on_batches
from tl_modules.interventions.ablation import Ablation
from tl_modules.interventions.prepared_units import PreparedUnits
from tl_modules.interventions.target import Target, units_of
from tl_modules.models.hooked_model import HookedModel
from tl_modules.tables.labels import label_text


@dataclass(frozen=True, eq=False)
class Trial:
    """A target in an experiment, and its controls."""

    label: int | str
    """The target's name in tables."""

    category: str | None
    """The category of prompts that the target is meant for."""

    size: int
    """How many units, components or directions the target changes."""

    control_sizes: list[int]
    """How many each control changes."""


@dataclass(eq=False)
class Runs:
    """A target's intervention, and those of its controls, which are drawn when they are needed."""

    target: Target
    """The target, prepared for the experiment."""

    key: Sequence[int]
    """Seed of the controls."""

    intervention: Callable[[Target], Intervention]
    """Makes the intervention of the target, or of a control."""

    _drawn: list[Target] = field(default_factory=list, init=False)
    _n_asked: int = field(default=-1, init=False)

    def of_target(self) -> Intervention:
        """The target's intervention."""
        return self.intervention(self.target)

    def controls(self, start: int, stop: int) -> list[Intervention]:
        """The interventions of some controls, numbered in the order of the draws.

        Args:
            start: The first control.
            stop: The end.

        Returns:
            Fewer than ``stop - start`` interventions if the target has no more controls.
        """
        if stop > self._n_asked:
            # Twice as many as before, since the first ones are drawn again: a target may draw its
            # controls without replacement, so that a call has to know the earlier ones.
            self._n_asked = max(stop, 2 * self._n_asked)
            drawn = self.target.controls(self._n_asked, np.random.default_rng(self.key))
            # A control that changes nothing would make any target look harmful.
            self._drawn = [each for each in drawn if each.size or not self.target.size]
        return [self.intervention(control) for control in self._drawn[start:stop]]

    def trial(self, n_controls: int) -> Trial:
        """What the tables say of the target and its first controls."""
        sizes = [control.size for control in self._drawn[:n_controls]]
        category = label_text(self.target.category)
        return Trial(self.target.label, category, self.target.size, sizes)


def seed_keys(targets: Sequence[Target], seed: int) -> list[list[int]]:
    """What seeds each target's controls.

    Args:
        targets: The targets.
        seed: The experiment's seed.

    Returns:
        One key per target. A number as label (a module's) gives the same controls in every
        experiment; targets with a text as label are numbered among themselves.
    """
    keys, n_texts = [], 0
    for target in targets:
        if isinstance(target.label, Integral):
            keys.append([seed, int(target.label)])
        else:
            keys.append([seed, n_texts, 1])
            n_texts += 1
    return keys


def prepare_runs(
    model: HookedModel,
    targets: Sequence[Target],
    ablation: Ablation,
    keys: Sequence[Sequence[int]],
    corrupted: CorruptedRuns | None,
) -> list[Runs]:
    """Prepare the runs of all targets.

    Args:
        model: The model.
        targets: Modules and other targets.
        ablation: The options for targets that follow the experiment's.
        keys: What seeds each target's controls.
        corrupted: The runs that units are patched from, if they are.

    Returns:
        The runs, in the order of the targets.

    Raises:
        ModulesError: If a target belongs to another model, or an option does not fit.
    """

    def intervention(target: Target) -> Intervention:
        units = None if corrupted is None else units_of(target)
        if corrupted is not None and units is not None:
            return corrupted.intervention(units)
        if isinstance(target, PreparedUnits):
            return UnitRun(target)
        return on_batches(target.fwd_hooks)

    for target in targets:
        target.check_model(model)
    # All of them before the first draw: some kinds of control run the model.
    prepared = [target.in_experiment(ablation) for target in targets]
    return [Runs(target, key, intervention) for target, key in zip(prepared, keys, strict=True)]
