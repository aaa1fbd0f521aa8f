"""Two checkpoints' modules side by side: which is which, and what moved between them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import ZScore
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.module_means import module_means
from tl_modules.modules.module_set import BACKGROUND, ModuleSet
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
    """Each module of one set beside its match in another, and what differs between the two."""

    a: ModuleSet
    """The one set: the base model's, say."""

    b: ModuleSet
    """The other: the fine-tuned model's."""

    by: str
    """What they were matched by: ``"units"`` or ``"profiles"``."""

    similarity: Float[np.ndarray, "_modules_a _modules_b"]
    """Every module of ``a`` with every one of ``b``: the Jaccard overlap of their units, or the
    correlation of their profiles."""

    pairs: pd.DataFrame
    """One row a match, in ``a``'s order, then what is left of ``b``: ``module_a``, ``module_b``
    (NA without a partner), ``similarity``, ``null_mean``, ``p_value``, ``n_units_a``,
    ``n_units_b``, ``n_common`` (NA for different hook points), ``category_a``, ``category_b``."""

    def diff(self) -> pd.DataFrame:
        """What moved between the two, module by module.

        Returns:
            One row a row of ``pairs``: ``module_a``, ``module_b``; ``units_kept``, ``units_lost``
            and ``units_gained`` (NA for different hook points), ``share_kept`` (of ``a``'s
            units); ``samples_kept``, ``samples_lost`` and ``samples_gained`` (NA unless both sets
            are of the same prompts, each there once); and before and after, as ``_a`` and
            ``_b``: ``category``, ``mean_activation`` (the block's mean, normalised) and
            ``mean_layer`` of the units. Without a partner, everything is lost, or gained.
        """
        at_a, at_b = _numbers(self.pairs)
        before, after = _described(self.a, at_a), _described(self.b, at_b)
        units = _turnover("units", _crossed_units(self.a, self.b), at_a, at_b)
        samples = _turnover("samples", _crossed_samples(self.a, self.b), at_a, at_b)
        share = units["units_kept"] / before["n_units"].where(before["n_units"] > 0)
        units["share_kept"] = share.astype("float64")  # NaN where missing, as in all other shares
        sides = {
            f"{name}_{side}": described[name]
            for name in ("category", "mean_activation", "mean_layer")
            for side, described in (("a", before), ("b", after))
        }
        named = self.pairs[["module_a", "module_b"]]
        return pd.concat([named, units, samples, pd.DataFrame(sides)], axis=1)

    def moved_units(self) -> pd.DataFrame:
        """The units that left their module: for another module's match, or for none.

        Returns:
            One row a unit: ``layer``, ``hook_name``, ``unit``, ``module_a`` and ``module_b`` (each
            set's own numbers; NA for none), ``score_a`` and ``score_b`` (how well it fits there;
            NaN if not known). The largest ``|score_a|`` come first: border units, whose label is
            close to a coin flip, last.

        Raises:
            ModulesError: If the sets' hook points differ.
        """
        if not self.a.units.same_hooks(self.b.units):
            raise ModulesError(
                f"Units can only move between sets of the same hook points; these are "
                f"{self.a.units!r} and {self.b.units!r}. Compare modules by diff()."
            )
        # What b's labels are called in a: no number of a's where unmatched, -1 for -1 (the last).
        called = np.full(len(self.b) + 1, len(self.a))
        called[BACKGROUND] = BACKGROUND
        at_a, at_b = _numbers(self.pairs)
        both = (at_a != _NOBODY) & (at_b != _NOBODY)
        called[at_b[both]] = at_a[both]
        moved = np.flatnonzero(self.a.unit_labels != called[self.b.unit_labels])
        table = self.a.units.select(moved).to_frame()
        for side, modules in (("a", self.a), ("b", self.b)):
            labels = pd.Series(modules.unit_labels[moved], dtype="Int64")
            table[f"module_{side}"] = labels.mask(labels == BACKGROUND)
        for side, modules in (("a", self.a), ("b", self.b)):
            scores = modules.unit_scores
            table[f"score_{side}"] = np.nan if scores is None else scores[moved]
        table = table.sort_values("score_a", key=np.abs, ascending=False, kind="stable")
        return table.reset_index(drop=True)

    def __repr__(self) -> str:
        """One line, not its arrays."""
        found = self.pairs["similarity"].dropna()
        return (
            f"ModuleMatch({len(found)} pairs of {len(self.a)} and {len(self.b)} modules by "
            f"{self.by}, mean similarity {found.mean():.3f})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the table of pairs."""
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
    """Find which module of one set is which of another's: before and after fine-tuning, say.

    The pairs are those whose similarities have the largest sum (Kuhn 1955, the Hungarian method).
    As many are made as the smaller set has modules, also where nothing is alike: read ``p_value``.

    Args:
        a: The one set.
        b: The other; it may have another number of modules.
        profiles: What to match by. Without it, by the units that two modules share, which takes
            the same hook points: similarity is the Jaccard overlap. With raw activations of the
            same held-out prompts from each set's own model, by what drives the modules, across
            architectures too: similarity is the Pearson correlation of the modules' normalised
            means over these samples (0 where one is constant).
        n_permutations: Draws of the null. By units: ``b``'s labels permuted within each hook point,
            which keeps the modules' sizes and layers. By profiles: ``b``'s samples permuted.
        seed: Seeds the permutations.

    Returns:
        The pairs. ``null_mean`` and ``p_value`` compare a pair with the best similarity that the
        module of ``a`` has to any of ``b``'s in each permutation; a pair's is at most its module's
        best, so that the p-value errs on the large side. It is not adjusted for the number of
        modules.

    Raises:
        ModulesError: If the hook points differ and there are no profiles, the profiles are of other
            units or other prompts, or of fewer than 3 samples.

    >>> from tl_modules.discovery.from_activations import discover
    >>> values = np.random.default_rng(0).random((8, 6)) + np.kron(np.eye(2), np.ones((4, 3)))
    >>> modules = discover(ActivationMatrix.from_arrays(values), 2)
    >>> match_modules(modules, modules)
    ModuleMatch(2 pairs of 2 and 2 modules by units, mean similarity 1.000)
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    generator = np.random.default_rng(seed)
    if profiles is None:
        similarity, null = _by_units(a, b, n_permutations, generator)
    else:
        similarity, null = _by_profiles(a, b, profiles, n_permutations, generator)
    matched = linear_sum_assignment(similarity, maximize=True)
    partners = np.full(len(a), _NOBODY)
    partners[matched[0]] = matched[1]
    left = np.setdiff1d(np.arange(len(b)), partners)
    at_a = np.concatenate([np.arange(len(a)), np.full(len(left), _NOBODY)])
    at_b = np.concatenate([partners, left])
    by = "units" if profiles is None else "profiles"
    return ModuleMatch(a, b, by, similarity, _pairs(a, b, at_a, at_b, similarity, null))


def _by_units(
    a: ModuleSet, b: ModuleSet, n_permutations: int, generator: np.random.Generator
) -> tuple[_Similarity, _Null]:
    """Jaccard overlaps, and each module's best under permutations within the hook points."""
    crossed = _crossed_units(a, b)
    if crossed is None:
        raise ModulesError(
            f"To be matched by units, a and b should have the same hook points; theirs differ: "
            f"{a.units!r} and {b.units!r}. Pass profiles=(acts_a, acts_b), each model's raw "
            "activations of the same held-out prompts."
        )
    parts = np.split(b.unit_labels, np.cumsum(b.units.widths)[:-1])
    null = np.empty((n_permutations, len(a)))
    for row in null:
        shuffled = np.concatenate([generator.permutation(part) for part in parts])
        row[:] = _jaccard(_crossed(a.unit_labels, shuffled, len(a), len(b))).max(axis=1)
    return _jaccard(crossed), null


def _by_profiles(
    a: ModuleSet,
    b: ModuleSet,
    profiles: tuple[ActivationMatrix, ActivationMatrix],
    n_permutations: int,
    generator: np.random.Generator,
) -> tuple[_Similarity, _Null]:
    """Correlations over samples, and each module's best under permutations of the samples."""
    _check_same_prompts(*profiles)
    one, other = (
        _standardised(module_means(modules, acts))
        for modules, acts in zip((a, b), profiles, strict=True)
    )
    null = np.empty((n_permutations, len(a)))
    for row in null:
        row[:] = (one.T @ generator.permutation(other)).max(axis=1)
    return one.T @ other, null


def _standardised(
    profiles: Float[np.ndarray, "samples modules"],
) -> Float[np.ndarray, "samples modules"]:
    """Profiles whose products are correlations; a constant one becomes 0."""
    profiles = profiles.astype(np.float64)
    return ZScore.fit(profiles).apply(profiles) / np.sqrt(len(profiles) - 1)


def _check_same_prompts(one: ActivationMatrix, other: ActivationMatrix) -> None:
    """Refuse profiles that cannot be compared sample by sample."""
    n_samples = len(one.samples)
    if n_samples != len(other.samples):
        raise ModulesError(
            f"profiles should be of the same held-out prompts; they hold {n_samples} and "
            f"{len(other.samples)} samples. Collect the same prompts from both models."
        )
    if n_samples < 3:  # of two, every correlation is 1 or -1
        raise ModulesError(
            f"profiles should hold at least 3 samples to be correlated; got {n_samples}. Collect "
            "more held-out prompts."
        )
    if "prompt" in one.samples and "prompt" in other.samples:
        texts = (as_texts(acts.samples["prompt"]).to_numpy() for acts in (one, other))
        differ = np.flatnonzero(np.not_equal(*texts))
        if len(differ):
            raise ModulesError(
                f"profiles should be of the same held-out prompts in the same order; sample "
                f"{differ[0]} is another. Collect the same prompts from both models."
            )


def _crossed(
    labels_a: Int[np.ndarray, " _items"], labels_b: Int[np.ndarray, " _items"], k_a: int, k_b: int
) -> _Crossed:
    """How many items have each pair of labels; the background is the last row and column."""
    shape = (k_a + 1, k_b + 1)
    flat = labels_a % shape[0] * shape[1] + labels_b % shape[1]
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


def _crossed_units(a: ModuleSet, b: ModuleSet) -> _Crossed | None:
    """How many units each two modules share, if the hook points are the same."""
    if not a.units.same_hooks(b.units):
        return None
    return _crossed(a.unit_labels, b.unit_labels, len(a), len(b))


def _crossed_samples(a: ModuleSet, b: ModuleSet) -> _Crossed | None:
    """How many samples each two modules share, if the prompts are the same, each there once."""
    if "prompt" not in a.samples or "prompt" not in b.samples:
        return None
    one, other = (pd.Index(modules.samples["prompt"]) for modules in (a, b))
    if not (one.is_unique and other.is_unique and set(one) == set(other)):
        return None
    return _crossed(a.sample_labels, b.sample_labels[other.get_indexer(one)], len(a), len(b))


def _jaccard(crossed: _Crossed) -> _Similarity:
    """Shared over united; 0 for two modules without units."""
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
    """The table of pairs."""
    both = (at_a != _NOBODY) & (at_b != _NOBODY)
    found = np.where(both, similarity[at_a, at_b], np.nan)
    before, after = _described(a, at_a), _described(b, at_b)
    return pd.DataFrame(
        {
            "module_a": _nullable(at_a),
            "module_b": _nullable(at_b),
            "similarity": found,
            "null_mean": np.where(both, null.mean(axis=0)[at_a], np.nan),
            "p_value": [
                control_p_value(float(value), null[:, module], ROUNDING)
                for value, module in zip(found, at_a, strict=True)
            ],
            "n_units_a": before["n_units"],
            "n_units_b": after["n_units"],
            "n_common": _turnover("units", _crossed_units(a, b), at_a, at_b)["units_kept"],
            "category_a": before["category"],
            "category_b": after["category"],
        }
    )


def _turnover(name: str, crossed: _Crossed | None, at_a: _Numbers, at_b: _Numbers) -> pd.DataFrame:
    """What each pair kept, lost and gained; NA where that cannot be told."""
    names = [f"{name}_{change}" for change in ("kept", "lost", "gained")]
    if crossed is None:
        return pd.DataFrame(pd.NA, index=range(len(at_a)), columns=names, dtype="Int64")
    kept = np.where((at_a == _NOBODY) | (at_b == _NOBODY), 0, crossed[at_a, at_b])
    lost = np.where(at_a == _NOBODY, 0, crossed.sum(axis=1)[at_a] - kept)
    gained = np.where(at_b == _NOBODY, 0, crossed.sum(axis=0)[at_b] - kept)
    return pd.DataFrame(dict(zip(names, (kept, lost, gained), strict=True)), dtype="Int64")


def _described(modules: ModuleSet, at: _Numbers) -> pd.DataFrame:
    """What is said of each module of a pair; a missing one's row is empty."""
    layers = np.asarray(modules.units.layers)[modules.units.hook]
    table = modules.to_frame()
    table["mean_layer"] = pd.Series(layers).groupby(modules.unit_labels).mean()
    table = table.reindex(at).reset_index(drop=True)
    return table.astype({"n_units": "Int64"})


def _nullable(at: _Numbers) -> pd.Series:
    """Numbers of modules as a column; NA for a missing partner."""
    numbers = pd.Series(at, dtype="Int64")
    return numbers.mask(numbers == _NOBODY)


def _numbers(pairs: pd.DataFrame) -> tuple[_Numbers, _Numbers]:
    """The modules of each pair, as ``match_modules`` counted them."""
    at_a, at_b = pairs[["module_a", "module_b"]].fillna(_NOBODY).to_numpy(dtype=np.int64).T
    return at_a, at_b
