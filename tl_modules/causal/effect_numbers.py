"""The numbers that a table of effects has of one target, beside its controls."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from tl_modules.causal.experiment import FIRST, Experiment, Outcome
from tl_modules.causal.shared_by_all import is_shared_by_all
from tl_modules.tables.against_controls import (
    control_mean,
    control_std,
    exceeding,
    p_value_of,
    run_rounding,
)
from tl_modules.tables.bootstrap import percentile_interval
from tl_modules.tables.control_selectivities import in_own_row
from tl_modules.tables.p_values import sign_flip_p_value
from tl_modules.tables.prompt_labels import KnownLabels, PromptLabels
from tl_modules.tables.sequential import StoppingRule


@dataclass(frozen=True, eq=False)
class EffectNumbers:
    """One target's ablation runs, and the numbers made of them.

    A category's effect is one linear function of a run's losses, also where labels are uncertain.
    It is the same for the target and its controls, so that the p-values against controls are as
    valid as with certain labels: each is the rank of one number of a run.
    """

    labels: PromptLabels
    """The prompts' categories."""

    clean: Float[np.ndarray, " prompts"]
    """Each prompt's loss without an intervention."""

    rises: Float[np.ndarray, "runs prompts"]
    """Rise of each prompt's loss: the target's first, then each control's."""

    own: str | None
    """The target's own category."""

    seed: int
    """Seed of the bootstrap."""

    sign: float
    """1 if harm speaks for the target, -1 if its absence does (keep-only)."""

    n_targets: int | None
    """How many targets are tested together, if each test decides how many controls it needs."""

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        outcome: Outcome,
        seed: int,
        keep_only: bool,
        n_targets: int | None,
        labels: PromptLabels | None = None,
    ) -> "EffectNumbers":
        """The numbers of one outcome of an experiment; ``labels`` replace its categories."""
        sign = -1.0 if keep_only else 1.0
        if labels is None:
            labels = KnownLabels.of(experiment.categories)
        given = (labels, experiment.clean, outcome.rises, outcome.trial.category)
        return cls(*given, seed, sign, n_targets)

    def n_used(self) -> int | None:
        """How many of the controls run so far the test used; None if it needs more.

        Selectivity is the test. Where there is none (no own category among the prompts', or no
        other one), each category's effect is a test.
        """
        names = self.labels.names
        effects = self.labels.means(self.rises)
        selectivity = self._selectivity(effects, names)
        tests = selectivity[None] if self._is_selective(names) else effects.T
        used = [self._rule(names).n_used(self._exceeding(runs)) for runs in tests]
        known = [number for number in used if number is not None]
        return max([*known, FIRST]) if len(known) == len(used) else None

    def _rule(self, names: list[str]) -> StoppingRule:
        assert self.n_targets is not None
        return StoppingRule.for_tests(
            self.n_targets * (1 if self._is_selective(names) else len(names))
        )

    def _is_selective(self, names: list[str]) -> bool:
        """Whether the target can be selective: its own category has others beside it."""
        return self.own in names and len(names) > 1

    def _selectivity(
        self, effects: Float[np.ndarray, "*shape categories"], names: list[str]
    ) -> Float[np.ndarray, " *shape"]:
        """Effect on the own category minus the mean effect on the others; NaN without these."""
        if not self._is_selective(names):
            return np.full(effects.shape[:-1], np.nan)
        column = names.index(str(self.own))
        return effects[..., column] - np.delete(effects, column, axis=-1).mean(axis=-1)

    def _exceeding(self, runs: Float[np.ndarray, " runs"]) -> Bool[np.ndarray, " controls"]:
        """Whether each control's number is at least as large as the target's."""
        return exceeding(self.sign * float(runs[0]), self.sign * runs[1:], run_rounding(self.clean))

    def _effect_p_values(
        self, effects: Float[np.ndarray, "runs categories"], names: list[str]
    ) -> list[float]:
        """The p-value of each category's effect."""
        each = [self._exceeding(runs) for runs in effects.T]
        if self.n_targets is None:
            return [p_value_of(exceeds) for exceeds in each]
        if self._is_selective(names):
            # How many controls ran hangs on them, by way of selectivity. The first ones ran in any
            # case, so that a p-value of these is valid.
            return [p_value_of(exceeds[:FIRST]) for exceeds in each]
        return [self._rule(names).p_value(exceeds) for exceeds in each]

    def n_cell_controls(self) -> int:
        """How many controls the p-values of ``_effect_p_values`` rest on."""
        n_controls = len(self.rises) - 1
        if self.n_targets is not None and self._is_selective(self.labels.names):
            return min(n_controls, FIRST)
        return n_controls

    def _selectivity_p_value(
        self, selectivity: Float[np.ndarray, " runs"], names: list[str]
    ) -> float:
        if not self._is_selective(names):
            return float("nan")
        exceeds = self._exceeding(selectivity)
        return p_value_of(exceeds) if self.n_targets is None else self._rule(names).p_value(exceeds)

    def table(self) -> pd.DataFrame:
        """One row per category, each with the selectivity for the target's own category."""
        names = self.labels.names
        effects = self.labels.means(self.rises)
        resampled = self.labels.resampled(self.rises[0], self.seed)
        frame = self._effects(names, effects, resampled)
        controls = self._selectivity(effects, names)[1:]
        return frame.assign(
            **self._selectivities(names, effects, resampled),
            selectivity_controls=in_own_row(frame["own"], controls),
            shared_by_all=self._is_shared(effects, resampled, names),
        )

    def table_of_each(self) -> pd.DataFrame:
        """One row per category, each with the selectivity for the row's category."""
        names = self.labels.names
        effects = self.labels.means(self.rises)
        resampled = self.labels.resampled(self.rises[0], self.seed)
        each = [replace(self, own=name)._selectivities(names, effects, resampled) for name in names]
        return pd.concat([self._effects(names, effects, resampled), pd.DataFrame(each)], axis=1)

    def _effects(
        self,
        names: list[str],
        effects: Float[np.ndarray, "runs categories"],
        resampled: Float[np.ndarray, "resamples categories"],
    ) -> pd.DataFrame:
        """The columns of each category's effect."""
        low, high = percentile_interval(resampled)
        return pd.DataFrame(
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
                    sign_flip_p_value(self.labels.parts(self.rises[0], name), seed=self.seed)
                    for name in names
                ],
                "p_value": self._effect_p_values(effects, names),
                "n": self.labels.sizes,
                "loss": self.labels.means(self.clean[None])[0],
            }
        )

    def _selectivities(
        self,
        names: list[str],
        effects: Float[np.ndarray, "runs categories"],
        resampled: Float[np.ndarray, "resamples categories"],
    ) -> dict[str, float]:
        """The columns of the selectivity for the own category."""
        selectivity = self._selectivity(effects, names)
        low, high = percentile_interval(self._selectivity(resampled, names))
        return {
            "selectivity": float(selectivity[0]),
            "selectivity_ci_low": float(low),
            "selectivity_ci_high": float(high),
            "selectivity_control_mean": float(control_mean(selectivity[1:])),
            "selectivity_control_std": float(control_std(selectivity[1:])),
            "selectivity_control_max": float(_max(selectivity[1:])),
            "selectivity_z": float(_z(selectivity)),
            "selectivity_p_value": self._selectivity_p_value(selectivity, names),
        }

    def _is_shared(
        self,
        effects: Float[np.ndarray, "runs categories"],
        resampled: Float[np.ndarray, "resamples categories"],
        names: list[str],
    ) -> bool:
        """Whether every category needs the target; keeping it alone does not show that."""
        own = names.index(self.own) if self.own in names else None
        rounding = run_rounding(self.clean)
        given = (effects, resampled, own, rounding)
        return self.sign > 0 and is_shared_by_all(*given, first_only=self.n_targets is not None)


def _z(runs: Float[np.ndarray, " runs *shape"]) -> Float[np.ndarray, " *shape"]:
    """The first run's number in standard deviations of the others' from their mean."""
    std = control_std(runs[1:])
    return np.asarray((runs[0] - control_mean(runs[1:])) / np.where(std > 0, std, np.nan))


def _max(controls: Float[np.ndarray, " controls *shape"]) -> Float[np.ndarray, " *shape"]:
    return np.asarray(
        controls.max(axis=0) if len(controls) else np.full(controls.shape[1:], np.nan)
    )
