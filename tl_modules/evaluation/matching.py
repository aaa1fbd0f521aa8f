"""Match the modules of two sets, such as two checkpoints', and list the units that moved."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.module_means import module_means, standardised
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.text import as_texts

_NOBODY = -1
"""The number of a missing partner."""

_Similarity = Float[np.ndarray, "modules_a modules_b"]
_Null = Float[np.ndarray, "permutations modules_a"]
_Crossed = Int[np.ndarray, "labels_a labels_b"]
_Numbers = Int[np.ndarray, " pairs"]


@dataclass(frozen=True, eq=False, repr=False)
class ModuleMatch:
    """The modules of one set with their matches in another, and the differences."""

    a: ModuleSet
    """The first set, for example the base model's."""

    b: ModuleSet
    """The second set, for example the fine-tuned model's."""

    by: str
    """The kind of similarity: ``"units"`` or ``"profiles"``."""

    similarity: Float[np.ndarray, "_modules_a _modules_b"]
    """The similarity of every module of ``a`` to every module of ``b``: the Jaccard overlap of
    their units, or the correlation of their profiles."""

    pairs: pd.DataFrame
    """One row per match in the order of ``a``, then one per unmatched module of ``b``:
    ``module_a``, ``module_b`` (NA without a partner), ``similarity``, ``null_mean``, ``p_value``,
    ``n_units_a``, ``n_units_b``, ``n_common`` (NA for different hook points), ``category_a``,
    ``category_b``."""

    def diff(self) -> pd.DataFrame:
        """Compare the two modules of each pair: kept, lost and gained units and samples.

        Returns:
            One row per row of ``pairs``: ``module_a``, ``module_b``; ``units_kept``, ``units_lost``
            and ``units_gained`` (NA for different hook points), ``share_kept`` (of the units in
            ``a``); ``samples_kept``, ``samples_lost`` and ``samples_gained`` (NA unless both sets
            have the same prompts, without repetition). The suffixes ``_a`` and ``_b`` mark
            ``category``, ``mean_activation`` (the block's normalised mean) and ``mean_layer`` of
            both modules. A module without a partner has lost, or gained, everything.
        """
        at_a, at_b = _numbers(self.pairs)
        before, after = _described(self.a, at_a), _described(self.b, at_b)
        units = _turnover("units", _crossed_units(self.a, self.b), at_a, at_b)
        samples = _turnover("samples", _crossed_samples(self.a, self.b), at_a, at_b)
        share = units["units_kept"] / before["n_units"].where(before["n_units"] > 0)
        units["share_kept"] = share.astype("float64")  # missing is NaN, as in all other shares
        descriptions = {
            f"{name}_{suffix}": described[name]
            for name in ("category", "mean_activation", "mean_layer")
            for suffix, described in (("a", before), ("b", after))
        }
        numbers = self.pairs[["module_a", "module_b"]]
        return pd.concat([numbers, units, samples, pd.DataFrame(descriptions)], axis=1)

    def moved_units(self) -> pd.DataFrame:
        """List the units that are not in the match of their module.

        Returns:
            One row per unit: ``layer``, ``hook_name``, ``unit``, ``module_a`` and ``module_b``
            (the module's number in each set; NA for none), ``score_a`` and ``score_b`` (how well
            the unit fits its module; NaN if unknown). Rows are sorted by descending ``|score_a|``,
            so units whose label is close to a coin flip come last.

        Raises:
            ModulesError: If the sets' hook points differ.
        """
        if not self.a.units.same_hooks(self.b.units):
            raise ModulesError(
                f"moved_units needs two sets with the same hook points; these have "
                f"{self.a.units!r} and {self.b.units!r}. Compare modules by diff()."
            )
        # The label in a of each label in b. An unmatched module of b gets len(a), which is no label
        # in a; the background, -1, indexes the last entry.
        label_in_a = np.full(len(self.b) + 1, len(self.a))
        label_in_a[BACKGROUND] = BACKGROUND
        at_a, at_b = _numbers(self.pairs)
        both = (at_a != _NOBODY) & (at_b != _NOBODY)
        label_in_a[at_b[both]] = at_a[both]
        moved = np.flatnonzero(self.a.unit_labels != label_in_a[self.b.unit_labels])
        table = self.a.units.select(moved).to_frame()
        for suffix, modules in (("a", self.a), ("b", self.b)):
            labels = pd.Series(modules.unit_labels[moved], dtype="Int64")
            table[f"module_{suffix}"] = labels.mask(labels == BACKGROUND)
        for suffix, modules in (("a", self.a), ("b", self.b)):
            scores = modules.unit_scores
            table[f"score_{suffix}"] = np.nan if scores is None else scores[moved]
        table = table.sort_values("score_a", key=np.abs, ascending=False, kind="stable")
        return table.reset_index(drop=True)

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        similarities = self.pairs["similarity"].dropna()
        return (
            f"ModuleMatch({len(similarities)} pairs of {len(self.a)} and {len(self.b)} modules by "
            f"{self.by}, mean similarity {similarities.mean():.3f})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the table of pairs."""
        return html_table(repr(self), self.pairs)


@checked
def match_modules(
    a: ModuleSet,
    b: ModuleSet,
    *,
    profiles: tuple[ActivationMatrix, ActivationMatrix] | None = None,
    n_permutations: int = 199,
    seed: int = 0,
) -> ModuleMatch:
    """Match the modules of two sets, for example those before and after fine-tuning.

    The match maximises the sum of the pairs' similarities (Kuhn 1955, the Hungarian method). Every
    module of the smaller set gets a partner, even a dissimilar one: read ``p_value``.

    Args:
        a: The first set.
        b: The second set; the number of modules may differ.
        profiles: Without profiles, similarity is the Jaccard overlap of two modules' units, which
            needs the same hook points. With profiles (raw activations of the same held-out prompts
            from both sets' models), it is the Pearson correlation of the modules' normalised means
            over these samples, 0 if one is constant. Profiles also work across architectures.
        n_permutations: The number of permutations (the null). Without profiles, they permute the
            labels of ``b`` within each hook point, which keeps the modules' sizes and layers; with
            profiles, the samples of ``b``.
        seed: Seeds the permutations.

    Returns:
        The pairs. ``null_mean`` and ``p_value`` compare a pair's similarity with that of the pair
        that its module of ``a`` makes in the match of each permutation, which is sought in the same
        way. P-values are not adjusted for the number of modules.

    Raises:
        ModulesError: If the hook points differ and there are no profiles, or the profiles have
            other units, other prompts or fewer than 3 samples.

    >>> from tl_modules.discovery.from_activations import discover
    >>> values = np.random.default_rng(0).random((8, 6)) + np.kron(np.eye(2), np.ones((4, 3)))
    >>> modules = discover(ActivationMatrix.from_arrays(values), 2)
    >>> match_modules(modules, modules)
    ModuleMatch(2 pairs of 2 and 2 modules by units, mean similarity 1.000)
    """
    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    generator = np.random.default_rng(seed)
    if profiles is None:
        similarity, null = _by_units(a, b, n_permutations, generator)
    else:
        similarity, null = _by_profiles(a, b, profiles, n_permutations, generator)
    partners = _partners(similarity)
    left = np.setdiff1d(np.arange(len(b)), partners)
    at_a = np.concatenate([np.arange(len(a)), np.full(len(left), _NOBODY)])
    at_b = np.concatenate([partners, left])
    by = "units" if profiles is None else "profiles"
    return ModuleMatch(a, b, by, similarity, _pairs(a, b, at_a, at_b, similarity, null))


def _partners(similarity: _Similarity) -> _Numbers:
    """Find the partner of each module of ``a``; ``_NOBODY`` for a module without one."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    # A greedy match would depend on the order of the modules.
    matched = linear_sum_assignment(similarity, maximize=True)
    partners = np.full(len(similarity), _NOBODY)
    partners[matched[0]] = matched[1]
    return partners


def _of_pairs(similarity: _Similarity) -> Float[np.ndarray, " modules_a"]:
    """Return the similarity of each module of ``a`` to its partner; NaN without one."""
    partners = _partners(similarity)
    return np.where(partners == _NOBODY, np.nan, similarity[np.arange(len(partners)), partners])


def _by_units(
    a: ModuleSet, b: ModuleSet, n_permutations: int, generator: np.random.Generator
) -> tuple[_Similarity, _Null]:
    """Compute Jaccard overlaps, and each pair's in matches of permutations per hook point."""
    crossed = _crossed_units(a, b)
    if crossed is None:
        raise ModulesError(
            f"a and b should have the same hook points to be matched by units; they have "
            f"{a.units!r} and {b.units!r}. Pass profiles=(acts_a, acts_b), each model's raw "
            "activations of the same held-out prompts."
        )
    # Within hook points: modules that merely lie in the same layers should not look alike.
    parts = np.split(b.unit_labels, np.cumsum(b.units.widths)[:-1])
    null = np.empty((n_permutations, len(a)))
    for row in null:
        shuffled = np.concatenate([generator.permutation(part) for part in parts])
        row[:] = _of_pairs(_jaccard(_crossed(a.unit_labels, shuffled, len(a), len(b))))
    return _jaccard(crossed), null


def _by_profiles(
    a: ModuleSet,
    b: ModuleSet,
    profiles: tuple[ActivationMatrix, ActivationMatrix],
    n_permutations: int,
    generator: np.random.Generator,
) -> tuple[_Similarity, _Null]:
    """Compute correlations over samples, and each pair's in matches of permuted samples."""
    _check_same_prompts(*profiles)
    one, other = (
        standardised(module_means(modules, acts))
        for modules, acts in zip((a, b), profiles, strict=True)
    )
    null = np.empty((n_permutations, len(a)))
    for row in null:
        row[:] = _of_pairs(one.T @ generator.permutation(other))
    return one.T @ other, null


def _check_same_prompts(one: ActivationMatrix, other: ActivationMatrix) -> None:
    """Raise unless two profiles can be compared sample by sample."""
    n_samples = len(one.samples)
    if n_samples != len(other.samples):
        raise ModulesError(
            f"profiles should hold the same held-out prompts; they hold {n_samples} and "
            f"{len(other.samples)} samples. Collect the same prompts from both models."
        )
    if n_samples < 3:  # any correlation over two samples is 1 or -1
        raise ModulesError(
            f"profiles should hold at least 3 samples to be correlated; got {n_samples}. Collect "
            "more held-out prompts."
        )
    if "prompt" in one.samples and "prompt" in other.samples:
        texts = (as_texts(acts.samples["prompt"]).to_numpy() for acts in (one, other))
        differ = np.flatnonzero(np.not_equal(*texts))
        if len(differ):
            raise ModulesError(
                f"profiles should hold the same held-out prompts in the same order; sample "
                f"{differ[0]} differs. Collect the same prompts from both models."
            )


def _crossed(
    labels_a: Int[np.ndarray, " _items"], labels_b: Int[np.ndarray, " _items"], k_a: int, k_b: int
) -> _Crossed:
    """Count the items of each pair of labels; the background is the last row and column."""
    shape = (k_a + 1, k_b + 1)
    flat = labels_a % shape[0] * shape[1] + labels_b % shape[1]
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


def _crossed_units(a: ModuleSet, b: ModuleSet) -> _Crossed | None:
    """Count the units that each two modules share, if the hook points are the same."""
    if not a.units.same_hooks(b.units):
        return None
    return _crossed(a.unit_labels, b.unit_labels, len(a), len(b))


def _crossed_samples(a: ModuleSet, b: ModuleSet) -> _Crossed | None:
    """Count the samples that each two modules share, if both sets have the same unique prompts."""
    if "prompt" not in a.samples or "prompt" not in b.samples:
        return None
    # Samples are matched by their prompts, because two sets may hold them in different orders.
    one, other = (pd.Index(modules.samples["prompt"]) for modules in (a, b))
    if not (one.is_unique and other.is_unique and set(one) == set(other)):
        return None
    return _crossed(a.sample_labels, b.sample_labels[other.get_indexer(one)], len(a), len(b))


def _jaccard(crossed: _Crossed) -> _Similarity:
    """Divide shared units by united units; 0 for two modules without units."""
    common = crossed[:-1, :-1]
    united = crossed.sum(axis=1)[:-1, None] + crossed.sum(axis=0)[None, :-1] - common
    return common / np.maximum(united, 1)


def _pairs(
    a: ModuleSet,
    b: ModuleSet,
    at_a: _Numbers,
    at_b: _Numbers,
    similarity: _Similarity,
    null: _Null,
) -> pd.DataFrame:
    """Make the table of pairs."""
    both = (at_a != _NOBODY) & (at_b != _NOBODY)
    similarities = np.where(both, similarity[at_a, at_b], np.nan)
    before, after = _described(a, at_a), _described(b, at_b)
    n_matched = np.maximum(np.count_nonzero(~np.isnan(null), axis=0), 1)
    null_mean = np.nansum(null, axis=0) / n_matched
    return pd.DataFrame(
        {
            "module_a": _nullable(at_a),
            "module_b": _nullable(at_b),
            "similarity": similarities,
            "null_mean": np.where(both, null_mean[at_a], np.nan),
            "p_value": [
                control_p_value(float(value), null[:, module], ROUNDING)
                for value, module in zip(similarities, at_a, strict=True)
            ],
            "n_units_a": before["n_units"],
            "n_units_b": after["n_units"],
            "n_common": _turnover("units", _crossed_units(a, b), at_a, at_b)["units_kept"],
            "category_a": before["category"],
            "category_b": after["category"],
        }
    )


def _turnover(name: str, crossed: _Crossed | None, at_a: _Numbers, at_b: _Numbers) -> pd.DataFrame:
    """Count the items that each pair kept, lost and gained; NA if they cannot be compared."""
    names = [f"{name}_{change}" for change in ("kept", "lost", "gained")]
    if crossed is None:
        return pd.DataFrame(pd.NA, index=range(len(at_a)), columns=names, dtype="Int64")
    kept = np.where((at_a == _NOBODY) | (at_b == _NOBODY), 0, crossed[at_a, at_b])
    lost = np.where(at_a == _NOBODY, 0, crossed.sum(axis=1)[at_a] - kept)
    gained = np.where(at_b == _NOBODY, 0, crossed.sum(axis=0)[at_b] - kept)
    return pd.DataFrame(dict(zip(names, (kept, lost, gained), strict=True)), dtype="Int64")


def _described(modules: ModuleSet, at: _Numbers) -> pd.DataFrame:
    """Return the row of each module of the pairs; the row of a missing partner is empty."""
    layers = np.asarray(modules.units.layers)[modules.units.hook]
    table = modules.to_frame()
    table["mean_layer"] = pd.Series(layers).groupby(modules.unit_labels).mean()
    table = table.reindex(at).reset_index(drop=True)
    return table.astype({"n_units": "Int64"})


def _nullable(at: _Numbers) -> pd.Series:
    """Return modules' numbers as a column; NA for a missing partner."""
    numbers = pd.Series(at, dtype="Int64")
    return numbers.mask(numbers == _NOBODY)


def _numbers(pairs: pd.DataFrame) -> tuple[_Numbers, _Numbers]:
    """Return the modules of each pair as arrays, with -1 for a missing partner."""
    at_a, at_b = pairs[["module_a", "module_b"]].fillna(_NOBODY).to_numpy(dtype=np.int64).T
    return at_a, at_b
