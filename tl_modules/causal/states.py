"""Mean states of prompts under interventions, read in the runs that measure the interventions."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from tl_modules.causal.prompt_runs import Intervention
from tl_modules.errors import ModulesError
from tl_modules.interventions.stacking import Read
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import FwdHooks, flat, token_width


class States:
    """Each prompt's mean state at a hook point, in several runs.

    The first token counts only in prompts of one: in many models it is an attention sink, alike in
    all prompts, and outweighs the others.
    """

    def __init__(self, hook_name: str, n_runs: int, n_prompts: int) -> None:
        """Allocate the array.

        Args:
            hook_name: Where to read.
            n_runs: How many runs there will be.
            n_prompts: How many prompts each has.
        """
        self._hook_name = hook_name
        self._shape = (n_runs, n_prompts)
        self.means: Float[np.ndarray, "runs prompts width"] = np.empty((n_runs, n_prompts, 0))

    def read(self, runs: Sequence[Intervention]) -> list[Intervention]:
        """The same interventions, with hooks that read the states after all edits."""
        return [self._reading(number, run) for number, run in enumerate(runs)]

    def _reading(self, number: int, run: Intervention) -> Intervention:
        def make(batch: Batch) -> FwdHooks:
            def read(activation: torch.Tensor) -> None:
                self.keep(number, batch, activation)

            return [*run(batch), (self._hook_name, Read(read, last=True))]

        return make

    def keep(self, number: int, batch: Batch, activation: torch.Tensor) -> None:
        """Store the mean states of a batch, ``[batch, pos, ...]``, of one run."""
        width = token_width(activation, self._hook_name, batch.tokens.shape[1])
        states = flat(activation, width).cpu().double()
        if not self.means.shape[-1]:
            self.means = np.empty((*self._shape, width))
        counted = batch.mask.clone()
        counted[:, 0] = batch.mask.sum(1) == 1
        # A product with 0 would not do: padding may hold NaN.
        total = states.masked_fill(~counted[..., None], 0).sum(1)
        means = total / counted.sum(1, keepdim=True)
        if not bool(means.isfinite().all()):
            raise ModulesError(
                f"The activations at {self._hook_name!r} should be finite; some are not. Run the "
                "model in a wider dtype (float32)."
            )
        self.means[number, batch.rows] = means.numpy()
