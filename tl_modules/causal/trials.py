"""What an experiment runs: each target's intervention, and those of its controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from tl_modules.causal.pairs import CorruptedRuns
from tl_modules.causal.prompt_runs import Intervention, on_batches
from tl_modules.interventions.ablation import Ablation
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


def prepare_trials(
    model: HookedModel,
    targets: Sequence[Target],
    ablation: Ablation,
    n_controls: int,
    keys: Sequence[Sequence[int]],
    corrupted: CorruptedRuns | None,
) -> list[tuple[Trial, list[Intervention]]]:
    """The trials, each with its interventions: the target's, then its controls'.

    Args:
        model: The model.
        targets: Modules and other targets.
        ablation: The options for targets that follow the experiment's.
        n_controls: Controls per target.
        keys: What seeds each target's controls.
        corrupted: The runs that units are patched from, if they are.

    Raises:
        ModulesError: If a target belongs to another model, or an option does not fit.
    """

    def intervention(target: Target) -> Intervention:
        units = None if corrupted is None else units_of(target)
        if corrupted is None or units is None:
            return on_batches(target.fwd_hooks)
        return corrupted.intervention(units)

    for target in targets:
        target.check_model(model)
    # All of them before the first draw: some kinds of control run the model.
    prepared = [target.in_experiment(ablation) for target in targets]
    trials = []
    for target, key in zip(prepared, keys, strict=True):
        drawn = target.controls(n_controls, np.random.default_rng(key))
        # A control that changes nothing would make any target look harmful.
        drawn = [control for control in drawn if control.size or not target.size]
        sizes = [control.size for control in drawn]
        trial = Trial(target.label, label_text(target.category), target.size, sizes)
        trials.append((trial, [intervention(each) for each in (target, *drawn)]))
    return trials
