"""Patches of one module on some of the prompts, beside patches of random units."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from tl_modules.causal.graph_runs import PairOfRuns
from tl_modules.causal.token_runs import Rows
from tl_modules.interventions.strata import Strata
from tl_modules.modules.module import Module


@dataclass(frozen=True, eq=False)
class PatchRuns:
    """Patches of one module at a time on some of the prompts."""

    modules: list[Module]
    """The modules."""

    corrupted: Rows
    """The corrupted prompts."""

    pair: PairOfRuns
    """Both runs on all prompts."""

    direct: bool = False
    """Whether all other units stay as in the corrupted run."""

    def patched(
        self, source: int, prompts: Int[np.ndarray, " prompts"], n_controls: int, seed: list[int]
    ) -> tuple[
        Float[np.ndarray, "prompts modules"],
        Float[np.ndarray, "prompts modules"],
        Float[np.ndarray, "prompts modules"],
    ]:
        """Patch a module, then as many random units.

        Args:
            source: The module's place.
            prompts: Rows of the prompts.
            n_controls: The number of sets of random units.
            seed: Seed of these.

        Returns:
            How far each module moved, how far under the controls on average (0 without controls),
            and how far it could have moved.
        """
        units, generator = self.modules[source].units, np.random.default_rng(seed)
        strata = Strata.by_layer(units)
        sets = [units, *(strata.draw(units, generator) for _ in range(n_controls))]
        pair = self.pair.of_prompts(prompts)
        patches = pair.patches(sets, direct=self.direct)
        mask = self.corrupted.attention_mask
        rows = replace(
            self.corrupted,
            tokens=self.corrupted.tokens[prompts],
            attention_mask=None if mask is None else mask[prompts],
        )
        for _ in rows.passes(len(sets), patches.hooks, "", progress=False):
            pass
        moved = patches.moved()
        controls = moved[1:].mean(axis=0) if n_controls else np.zeros_like(moved[0])
        return moved[0], controls, pair.squares
