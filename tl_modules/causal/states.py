"""Mean states of prompts under interventions, read in the runs that measure the interventions."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError
from tl_modules.interventions.stacking import Read
from tl_modules.models.hooked_model import HookFn, flat, token_width


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

    def reader(
        self,
        runs: Int[np.ndarray, " batch"],
        rows: Int[np.ndarray, " batch"],
        mask: Bool[torch.Tensor, "batch pos"],
    ) -> tuple[str, HookFn]:
        """A hook that reads the states of a pass after all edits.

        Args:
            runs: The run of each row of the pass.
            rows: The prompt of each row.
            mask: True at real tokens.
        """

        def read(activation: torch.Tensor) -> None:
            self._keep(runs, rows, mask.cpu(), activation)

        return self._hook_name, Read(read, last=True)

    def _keep(
        self,
        runs: Int[np.ndarray, " batch"],
        rows: Int[np.ndarray, " batch"],
        mask: Bool[torch.Tensor, "batch pos"],
        activation: torch.Tensor,
    ) -> None:
        """Store the mean states of a pass, ``[batch, pos, ...]``."""
        width = token_width(activation, self._hook_name, mask.shape[1])
        states = flat(activation, width).cpu().double()
        if not self.means.shape[-1]:
            self.means = np.empty((*self._shape, width))
        counted = mask.clone()
        counted[:, 0] = mask.sum(1) == 1
        # A product with 0 would not do: padding may hold NaN.
        total = states.masked_fill(~counted[..., None], 0).sum(1)
        means = total / counted.sum(1, keepdim=True)
        if not bool(means.isfinite().all()):
            raise ModulesError(
                f"The activations at {self._hook_name!r} should be finite; some are not. Run the "
                "model in a wider dtype (float32)."
            )
        self.means[runs, rows] = means.numpy()
