"""A metric of a run in which only some of a set of units are kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.causal.token_runs import Rows, check_pairs, tokens_of
from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.copy_edits import CopyEdits
from tl_modules.interventions.replacements import HasUnitMeans, Sources
from tl_modules.models.content_tokens import content_tokens
from tl_modules.models.token_arrays import TokenArray
from tl_modules.tables.against_controls import run_rounding
from tl_modules.units import Units

KeepMethod = Literal["patch", "mean", "zero"]
"""What becomes of units that are not kept; see ``replacements.Method``."""


@dataclass(frozen=True, eq=False)
class KeptUnits:
    """A metric of the clean run, with some of the units and without the others."""

    rows: Rows
    metric: Callable[[torch.Tensor], torch.Tensor]
    units: Units
    """The units that are either kept or ablated; the model's other units stay as they are."""

    ablated: Callable[[list[Units]], CopyEdits]
    """Makes the edits that ablate some sets of units."""

    full: Float[np.ndarray, " batch"]
    """The metric of each prompt with all units."""

    empty: Float[np.ndarray, " batch"]
    """The metric of each prompt with none."""

    @classmethod
    def prepare(
        cls,
        rows: Rows,
        corrupted_tokens: TokenArray | None,
        metric: Callable[[torch.Tensor], torch.Tensor],
        units: Units,
        method: KeepMethod,
        reference: HasUnitMeans | None,
        positions: Touched,
    ) -> "KeptUnits":
        """Check everything, and measure the metric with all units and with none."""
        units.check_model(rows.model)
        source = _source(rows, corrupted_tokens, units) if method == "patch" else None
        where = None
        if positions == "content" and method != "patch":
            real = rows.attention_mask
            real = torch.ones_like(rows.tokens, dtype=torch.bool) if real is None else real
            where = content_tokens(rows.model, rows.tokens, real)

        def ablated(sets: list[Units]) -> CopyEdits:
            return CopyEdits(
                sets,
                method,
                Sources(reference, source, of_content=where is not None),
                positions=where,
                attention_mask=rows.attention_mask,
            )

        ends = ablated([units.select(np.arange(0)), units])
        full, empty = rows.measured(metric, len(ends), ends.hooks, "", progress=False)
        task = cls(rows, metric, units, ablated, full, empty)
        task.check_gap(np.arange(len(full)))
        return task

    @property
    def gap(self) -> Float[np.ndarray, " batch"]:
        """How much of each prompt's metric is due to the units."""
        return self.full - self.empty

    @property
    def rounding(self) -> float:
        """How far rounding may move a share: a hundred thousandth of the metric."""
        return run_rounding(self.full, self.empty) / abs(float(self.gap.mean()))

    def check_gap(self, prompts: Int[np.ndarray, " prompts"]) -> None:
        """Refuse prompts on which the units make no difference to the metric."""
        full, empty = self.full[prompts], self.empty[prompts]
        if abs(full.mean() - empty.mean()) <= run_rounding(full, empty):
            raise ModulesError(
                f"Ablating all {len(self.units):,} units should change the metric; over "
                f"{len(prompts)} prompts it stays at {full.mean():.6g}. Use a metric that depends "
                "on them, or prompts that differ more."
            )

    def measured(
        self, kept: Iterable[Units], desc: str, progress: bool
    ) -> Float[np.ndarray, "runs batch"]:
        """The metric of each prompt when only these of the units are kept, set by set."""
        sets = [self.units.without(some) for some in kept]
        if not sets:
            return np.empty((0, len(self.full)))
        edits = self.ablated(sets)
        return self.rows.measured(self.metric, len(edits), edits.hooks, desc, progress)


def _source(rows: Rows, corrupted_tokens: TokenArray | None, units: Units) -> dict[str, Any]:
    """The corrupted run's activations."""
    if corrupted_tokens is None:
        raise ModulesError(
            "method='patch' takes its values from the corrupted run. Pass corrupted_tokens, or use "
            "method='mean'."
        )
    corrupted = tokens_of(rows.model, "corrupted_tokens", corrupted_tokens)
    check_pairs(rows.tokens, corrupted)
    if torch.equal(rows.tokens.cpu(), corrupted.cpu()):
        raise ModulesError(
            "clean_tokens and corrupted_tokens should differ; they are the same. Patching between "
            "them changes nothing."
        )
    other = Rows(rows.model, corrupted, rows.attention_mask, rows.batch_size)
    return other.activations(units.hook_names)
