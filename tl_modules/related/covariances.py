"""Collect what LEACE fits: covariances of tokens at a hook point, among themselves and per prompt.

A concept's labels come later, so that controls with shuffled labels need no further run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError
from tl_modules.interventions.positions import Where
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import HookedModel, flat, token_width
from tl_modules.models.runs import run_hooks_only
from tl_modules.related.linear_edit import LinearEdit


def check_installed() -> None:
    """Raise unless concept-erasure is installed.

    Raises:
        ModulesError: If it is not installed.
    """
    try:
        import concept_erasure  # noqa: F401 - only tests that the import works
    except ImportError as error:
        raise ModulesError(
            "leace() needs concept-erasure. Run: pip install concept-erasure"
        ) from error


_TOLERANCE = 1e-6
"""A direction whose correlation with the labels is at most this is not erased."""


@dataclass(frozen=True, eq=False)
class Covariances:
    """Moments of the tokens at coordinates of one hook point."""

    hook_name: str
    width: int
    index: Int[np.ndarray, " coordinates"]
    n_tokens: int
    mean: Float[torch.Tensor, " coordinates"]
    scatter: Float[torch.Tensor, "coordinates coordinates"]
    """The sum over tokens of the products of their distances from the mean."""
    sums: Float[torch.Tensor, "prompts coordinates"]
    """The sum over each prompt's tokens of their distances from the mean."""
    shrinkage: bool
    spares_first: bool

    def edit(self, labels: Float[np.ndarray, " prompts"]) -> LinearEdit:
        """Fit the edit that erases the prompts' labels."""
        from concept_erasure import LeaceFitter

        fitter = LeaceFitter(
            len(self.mean), 1, dtype=torch.float64, shrinkage=self.shrinkage, svd_tol=_TOLERANCE
        )
        fitter.n, fitter.mean_x = torch.tensor(self.n_tokens), self.mean
        fitter.sigma_xx_ = self.scatter
        # A token has its prompt's label, so the cross-covariance is a sum over prompts. Labels are
        # in standard deviations, because the library compares the covariance with a tolerance.
        scaled = torch.from_numpy(labels / max(labels.std(), np.finfo(float).tiny))
        fitter.sigma_xz_ = self.sums.T @ scaled[:, None]
        eraser = fitter.eraser
        read, write = eraser.proj_right.mH, -eraser.proj_left.mH
        # The library returns zeros for directions that it does not erase.
        used = read.norm(dim=0) * write.norm(dim=1) > 1e-9
        return LinearEdit(
            self.hook_name,
            self.width,
            self.index,
            self.mean.numpy(),
            read[:, used].numpy(),
            write[used].numpy(),
            self.spares_first,
        )


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of prompts, in batches, to run through a model."""

    model: HookedModel
    batches: Sequence[Batch]
    shrinkage: bool
    spares_first: bool

    def covariances(
        self,
        name: str,
        index: Int[np.ndarray, " coordinates"] | None,
        edits: Sequence[LinearEdit],
        done: Callable[[int], object],
    ) -> Covariances:
        """Run the model and compute the moments of the counted tokens at a hook point.

        Args:
            name: The hook point.
            index: The coordinates; None for all.
            edits: The edits at earlier hook points, which act during the run.
            done: Called after each batch with the number of its prompts.

        Raises:
            ModulesError: If an activation is not finite.
        """
        from concept_erasure import LeaceFitter

        read: dict[str, Any] = {}
        readers = {name: lambda activation: read.update(here=activation)}
        fitter, width = None, 0
        sums, counts = [], []
        for batch in self.batches:
            where = Where(attention_mask=batch.mask)
            with self.model.hooks(fwd_hooks=[edit.hook(where) for edit in edits]):
                run_hooks_only(self.model, batch.tokens, batch.mask, readers)
            width = token_width(read["here"], name, batch.tokens.shape[1])
            index = np.arange(width) if index is None else index
            values = flat(read["here"], width).cpu()[..., torch.from_numpy(index)].double()
            if not bool(values[batch.mask].isfinite().all()):
                raise ModulesError(
                    f"The activations at {name!r} should be finite; some are not. Run the model in "
                    "a wider dtype (float32)."
                )
            fitter = fitter or LeaceFitter(len(index), 1, dtype=torch.float64)
            counted = values[batch.counted]
            fitter.update(counted, torch.zeros(len(counted), 1))
            sums.append(values.masked_fill(~batch.counted[..., None], 0).sum(1))
            counts.append(batch.counted.sum(1))
            done(len(batch.rows))
        assert fitter is not None  # there is at least one batch
        assert fitter.sigma_xx_ is not None  # the fitter's default method computes it
        # Batches are sorted by length; labels are in the prompts' order.
        rows = np.argsort(np.concatenate([batch.rows for batch in self.batches]))
        totals = torch.cat(sums) - torch.cat(counts)[:, None] * fitter.mean_x
        return Covariances(
            name,
            width,
            np.asarray(index),
            int(fitter.n),
            fitter.mean_x,
            fitter.sigma_xx_,
            totals[torch.from_numpy(rows)],
            self.shrinkage,
            self.spares_first,
        )
