"""Labels of prompts that are known, or drawn several times from what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.labels import checked_labels, quoted

N_DRAWS = 20
"""Draws of uncertain labels. Rubin's rules count the variance between them 1 + 1 / 20 times."""


@runtime_checkable
class HasLabelDraws(Protocol):
    """Labels that are not certain: what ``annotate`` returned."""

    def draw_labels(
        self, prompts: Sequence[str], n_draws: int, seed: int
    ) -> Shaped[np.ndarray, "draws prompts"]:
        """Labels of these prompts, drawn several times from their joint distribution."""
        ...


@dataclass(frozen=True, eq=False)
class LabelDraws:
    """Each prompt's label in each draw; labels that are known are one draw."""

    names: list[str]
    """The labels, in the order of the first draw's prompts; without those that are left out."""

    codes: Int[np.ndarray, "draws prompts"]
    """The label's number; -1 for a label that is left out."""

    @classmethod
    def known(cls, categories: Shaped[np.ndarray, " prompts"]) -> "LabelDraws":
        """Labels that are certain."""
        codes, names = pd.factorize(categories)
        return cls([str(name) for name in names], codes[None])

    @classmethod
    def drawn(cls, labels: HasLabelDraws, prompts: Sequence[str], seed: int) -> "LabelDraws":
        """Draw labels. A label that has no prompt in some draw is left out, with a warning.

        Args:
            labels: What the labels are drawn from.
            prompts: The prompts' texts.
            seed: Seeds the draws.

        Returns:
            ``N_DRAWS`` draws; one, if all are the same.

        Raises:
            ModulesError: If the labels are of other prompts, or every label is left out.
        """
        found = np.asarray(labels.draw_labels(prompts, N_DRAWS, seed), dtype=object)
        if found.shape != (N_DRAWS, len(prompts)):
            raise ModulesError(
                f"labels should draw one label for each of the {len(prompts)} prompts, {N_DRAWS} "
                f"times; got an array of shape {found.shape}. Pass what tlm.annotate returned for "
                "these prompts."
            )
        codes, every = pd.factorize(np.array(checked_labels(found.ravel().tolist()), dtype=object))
        names = [str(name) for name in every]
        codes = codes.reshape(found.shape)
        if (codes == codes[0]).all():
            codes = codes[:1]
        counts = np.stack([np.bincount(draw, minlength=len(names)) for draw in codes])
        stays = counts.min(axis=0) > 0
        staying = [name for name, stay in zip(names, stays, strict=True) if stay]
        if not staying:
            raise ModulesError(
                f"Some label should have a prompt in each of {N_DRAWS} draws; none of "
                f"{quoted(names)} has. Add prompts, or annotators that agree more."
            )
        if len(staying) < len(names):
            left_out = [name for name in names if name not in staying]
            warn_user(
                f"Labels that are so rare, or so uncertain, that they have no prompt in some of "
                f"{N_DRAWS} draws are left out: {quoted(left_out)}. Add prompts of them."
            )
        numbers = np.where(stays, stays.cumsum() - 1, -1)
        return cls(staying, numbers[codes])

    @property
    def groups(self) -> Int[np.ndarray, "draws prompts"]:
        """Numbers that follow the labels' alphabetical order, as strata of a bootstrap; or -1."""
        places = np.argsort(np.argsort(np.array(self.names, dtype=object), kind="stable"))
        return np.where(self.codes >= 0, places[self.codes], -1)

    def first_draw(self) -> list[str]:
        """Each prompt's label in the first draw: so every one of ``names`` occurs.

        A prompt whose label is left out has the first of ``names``.
        """
        return [self.names[at] for at in np.maximum(self.codes[0], 0)]

    def members(self, name: str) -> Bool[np.ndarray, "draws prompts"]:
        """Which prompts have a label in each draw."""
        return self.codes == self.names.index(name)
