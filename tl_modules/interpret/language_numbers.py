"""How a set of values varies with language and with meaning, and how alike languages are in it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tl_modules.evaluation.module_means import standardised

Grid = Float[np.ndarray, "languages meanings features"]
_Pairs = Float[np.ndarray, "languages languages"]


@dataclass(frozen=True, eq=False)
class Shuffles:
    """Random permutations of the cells of a grid, as places in its flat order."""

    meanings: Int[np.ndarray, "draws languages meanings"]
    """The meanings permuted within each language."""

    languages: Int[np.ndarray, "draws languages meanings"]
    """The languages permuted within each meaning."""

    @classmethod
    def draw(cls, n_languages: int, n_meanings: int, n_draws: int, seed: int) -> "Shuffles":
        """Draw both kinds."""
        generator = np.random.default_rng(seed)
        cells = np.arange(n_languages * n_meanings).reshape(n_languages, n_meanings)
        every = np.repeat(cells[None], n_draws, axis=0)
        return cls(generator.permuted(every, axis=2), generator.permuted(every, axis=1))


@dataclass(frozen=True, eq=False)
class LanguageNumbers:
    """The numbers of one set of values."""

    language_share: float
    """The share of the variance between the languages' means."""

    meaning_share: float
    """The share of the variance between the meanings' means."""

    language_null: float
    """The expected ``language_share`` with the languages permuted within each meaning."""

    meaning_null: float
    """The expected ``meaning_share`` with the meanings permuted within each language."""

    language_null_max: float
    """The largest ``language_share`` of the drawn permutations."""

    meaning_null_max: float
    """The largest ``meaning_share`` of the drawn permutations."""

    similarity: _Pairs
    """The mean cosine of two languages' values on the same meaning."""

    similarity_shuffled: _Pairs
    """Their mean cosine on different meanings."""

    retrieved: _Pairs
    """How often the same meaning is the nearest one in the other language, both ways."""

    activity: Float[np.ndarray, "languages meanings"]
    """The mean over the features, in standard deviations of each feature."""

    @classmethod
    def of(cls, grid: Grid, shuffles: Shuffles) -> "LanguageNumbers":
        """Measure a grid of values; each feature counts as much, whatever its scale.

        Args:
            grid: The values.
            shuffles: The permutations of the null.

        Returns:
            The numbers; NaN if no feature varies, or there is none.
        """
        n_languages, n_meanings, n_features = grid.shape
        if not n_features:
            grid = np.zeros((n_languages, n_meanings, 1))
        flat = grid.reshape(n_languages * n_meanings, -1)
        # Columns of mean 0 and length 1, or of zeros.
        values = standardised(flat)
        products = values @ values.T
        total = float(np.trace(products))
        cells = np.arange(len(flat)).reshape(n_languages, n_meanings)
        language, meaning = (
            _share(_sums(products, each[None])[0], total) for each in (cells, cells.T)
        )
        same, different, retrieved = _likeness(products, n_languages, n_meanings)
        return cls(
            language_share=language,
            meaning_share=meaning,
            # Permuting keeps what the other margin explains, and spreads the rest evenly.
            language_null=(1 - meaning) / n_meanings,
            meaning_null=(1 - language) / n_languages,
            language_null_max=_share(_sums(products, shuffles.languages).max(), total),
            meaning_null_max=_share(_sums(products, shuffles.meanings.swapaxes(1, 2)).max(), total),
            similarity=same,
            similarity_shuffled=different,
            retrieved=retrieved,
            activity=values.mean(axis=1).reshape(n_languages, n_meanings) * np.sqrt(len(flat) - 1),
        )

    @property
    def rest_share(self) -> float:
        """The share that neither margin explains: their interaction, and what is by chance."""
        return 1 - self.language_share - self.meaning_share

    @property
    def serves(self) -> str | None:
        """``"language"`` or ``"meaning"``, whichever is further above its null; or ``"neither"``.

        A share counts if all drawn permutations have a smaller one. None if no feature varies.
        """
        if np.isnan(self.language_share):
            return None
        excess = {}
        if self.language_share > self.language_null_max:
            excess["language"] = self.language_share - self.language_null
        if self.meaning_share > self.meaning_null_max:
            excess["meaning"] = self.meaning_share - self.meaning_null
        return max(excess, key=lambda name: excess[name]) if excess else "neither"


def _share(part: float, total: float) -> float:
    return float(part / total) if total > 0 else float("nan")


def _sums(
    products: Float[np.ndarray, "cells cells"], groups: Int[np.ndarray, "draws groups members"]
) -> Float[np.ndarray, " draws"]:
    """The sums of squares between groups of cells, from the cells' inner products."""
    n_members = groups.shape[2]
    # One draw at a time: all together would not fit into memory.
    return np.array(
        [products[each[:, :, None], each[:, None, :]].sum() / n_members for each in groups]
    )


def _likeness(
    products: Float[np.ndarray, "cells cells"], n_languages: int, n_meanings: int
) -> tuple[_Pairs, _Pairs, _Pairs]:
    """Cosines on the same and on different meanings, and how often the same is the nearest."""
    if not products.any():
        none = np.full((n_languages, n_languages), np.nan)
        return none, none, none
    lengths = np.sqrt(products.diagonal())
    lengths = np.where(lengths > 0, lengths, 1.0)
    cosines = products / lengths[:, None] / lengths
    shape = n_languages, n_meanings, n_languages, n_meanings
    # Axes: one language, the other, a meaning of the one, a meaning of the other.
    blocks = cosines.reshape(shape).transpose(0, 2, 1, 3)
    same = blocks.diagonal(axis1=2, axis2=3)
    different = (blocks.sum(axis=(2, 3)) - same.sum(axis=2)) / (n_meanings * (n_meanings - 1))
    nearest = blocks >= blocks.max(axis=3, keepdims=True) - _ROUNDING
    # Of several nearest meanings each counts in part.
    hits = (nearest / nearest.sum(axis=3, keepdims=True)).diagonal(axis1=2, axis2=3).mean(axis=2)
    return same.mean(axis=2), different, (hits + hits.T) / 2


_ROUNDING = 1e-12
"""Cosines that differ by less are equal."""
