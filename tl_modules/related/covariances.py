"""How tokens spread at a hook point, and along with their prompts' labels: what LEACE fits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError
from tl_modules.interventions.positions import Where
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import HookedModel, flat, run_hooks_only, token_width
from tl_modules.related.linear_edit import LinearEdit


def check_installed() -> None:
    """Refuse to begin without concept-erasure.

    Raises:
        ModulesError: If it is not installed.
    """
    try:
        import concept_erasure  # noqa: F401 - it may be missing
    except ImportError as error:
        raise ModulesError(
            "leace() needs concept-erasure. Run: pip install concept-erasure"
        ) from error


_TOLERANCE = 1e-6
"""Correlations of a direction with the labels up to this count as none, and are left."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Tokens at some coordinates of one hook point."""

    hook_name: str
    width: int
    index: Int[np.ndarray, " chosen"]
    n_tokens: int
    mean: Float[torch.Tensor, " chosen"]
    scatter: Float[torch.Tensor, "chosen chosen"]
    """Products of the tokens' distances from the mean, added up."""
    sums: Float[torch.Tensor, "prompts chosen"]
    """Each prompt's distances from the mean, added up."""
    shrinkage: bool
    spares_first: bool

    def edit(self, labels: Float[np.ndarray, " prompts"]) -> LinearEdit:
        """What erases labels of the prompts, one number each."""
        from concept_erasure import LeaceFitter

        fitter = LeaceFitter(
            len(self.mean), 1, dtype=torch.float64, shrinkage=self.shrinkage, svd_tol=_TOLERANCE
        )
        fitter.n, fitter.mean_x = torch.tensor(self.n_tokens), self.mean
        fitter.sigma_xx_ = self.scatter
        # Each token has its prompt's label, so that the cross-covariance is a sum over prompts.
        # In standard deviations: the library compares what is left of it with a tolerance.
        scaled = torch.from_numpy(labels / max(labels.std(), np.finfo(float).tiny))
        fitter.sigma_xz_ = self.sums.T @ scaled[:, None]
        eraser = fitter.eraser
        read, write = eraser.proj_right.mH, -eraser.proj_left.mH
        # The library keeps directions that it leaves alone, as zeros.
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
    """Those of prompts in batches."""

    model: HookedModel
    batches: Sequence[Batch]
    shrinkage: bool
    spares_first: bool

    def spread(
        self,
        name: str,
        index: Int[np.ndarray, " chosen"] | None,
        edits: Sequence[LinearEdit],
        done: Callable[[int], object],
    ) -> Spread:
        """How the tokens that count spread at a hook point.

        Args:
            name: The hook point.
            index: Some of its coordinates; None for all.
            edits: What is done at other hook points.
            done: Told how many prompts were run, after each batch.

        Raises:
            ModulesError: If an activation is not finite.
        """
        from concept_erasure import LeaceFitter

        found: dict[str, Any] = {}
        readers = {name: lambda activation: found.update(here=activation)}
        fitter, width = None, 0
        sums, counts = [], []
        for batch in self.batches:
            where = Where(attention_mask=batch.mask)
            with self.model.hooks(fwd_hooks=[edit.hook(where) for edit in edits]):
                run_hooks_only(self.model, batch.tokens, batch.mask, readers)
            width = token_width(found["here"], name, batch.tokens.shape[1])
            index = np.arange(width) if index is None else index
            values = flat(found["here"], width).cpu()[..., torch.from_numpy(index)].double()
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
        assert fitter is not None  # there are prompts
        assert fitter.sigma_xx_ is not None  # by its default method
        rows = np.argsort(np.concatenate([batch.rows for batch in self.batches]))
        totals = torch.cat(sums) - torch.cat(counts)[:, None] * fitter.mean_x
        return Spread(
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
