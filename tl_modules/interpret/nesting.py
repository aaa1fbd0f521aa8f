"""Measure whether finer modules split coarser ones (nestedness), beside permuted labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.html_tables import html_table

_Labels = Int[np.ndarray, " items"]


@dataclass(frozen=True, eq=False, repr=False)
class Nestedness:
    """How far each module of a finer set lies inside one module of the next coarser set."""

    table: pd.DataFrame
    """One row per finer module and kind: ``kind`` (``"units"`` or ``"samples"``), ``coarser_k``,
    ``finer_k``, ``module``, ``n`` (the module's units, or samples), ``coarser`` (the coarser module
    that holds most of them), ``share`` (the share of them in that coarser module; NaN if ``n`` is
    0), ``null_mean`` (the mean share when the coarser labels are permuted) and ``p_value``
    (one-sided, not adjusted)."""

    overall: pd.DataFrame
    """One row per pair of sets and kind: the share over all finer modules together, in which each
    unit or sample counts once. The share is 1 if the finer set only splits the coarser set."""

    def __repr__(self) -> str:
        """Return one line, without the tables."""
        steps = [
            "{coarser_k} > {finer_k} {kind} {share:.2f} (null {null_mean:.2f})".format(**row)
            for row in self.overall.to_dict(orient="records")
        ]
        return f"Nestedness({', '.join(steps)})"

    def _repr_html_(self) -> str:
        """Show Jupyter the table of pairs of sets."""
        return html_table(repr(self), self.overall)


@checked
def nestedness(
    sets: Sequence[ModuleSet],
    *,
    n_permutations: int = 199,
    seed: int = 0,
    progress: bool = True,
) -> Nestedness:
    """Measure whether the modules of a larger K split those of a smaller K, or cut across them.

    The share of a module inside its best coarser module is far above 0 by chance, most of all when
    the coarser modules are few or unequal. Compare the share with its null. The null permutes the
    labels of units within each hook point, which keeps the modules' sizes and layers. It permutes
    the labels of samples over all samples. Any two good partitions of one matrix have structure in
    common, and a share above its null says no more than that. Only a share near 1 says that the
    finer set splits the coarser set.

    Args:
        sets: At least two module sets of one matrix with different K, in any order.
        n_permutations: The number of permutations of the coarser labels.
        seed: Seeds the permutations.
        progress: Show a progress bar.

    Returns:
        The share of each module in the next coarser set, and the shares of all modules together.

    Raises:
        ModulesError: If there are fewer than two sets, two sets have the same K, or their units or
            samples differ.
    """
    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    ordered = _checked(sets)
    generator = np.random.default_rng(seed)
    rows, overall = [], []
    pairs = [(*pair, *kind) for pair in pairwise(ordered) for kind in _kinds(*pair)]
    total = len(pairs) * n_permutations
    with tqdm(total=total, desc="nestedness", unit="draw", disable=not progress) as bar:
        for coarse, fine, kind, coarser, finer, strata in pairs:
            sizes = np.bincount(finer, minlength=len(fine))
            crossed = _crossed(finer, coarser, len(fine), len(coarse))
            null = np.empty((n_permutations, len(fine)))
            for row in null:
                # Sort by stratum with random ties: a permutation within each stratum, because the
                # items of a stratum are contiguous already.
                order = np.lexsort((generator.random(len(strata)), strata))
                shuffled = _crossed(finer, coarser[order], len(fine), len(coarse))
                row[:] = shuffled.max(axis=1)
                bar.update()
            head = {"kind": kind, "coarser_k": len(coarse), "finer_k": len(fine)}
            best = crossed.max(axis=1)
            for module, n in enumerate(sizes.tolist()):
                place = {"module": module, "n": n, "coarser": int(crossed[module].argmax())}
                rows.append(head | place | _beside(int(best[module]), null[:, module], n))
            overall.append(head | _beside(int(best.sum()), null.sum(axis=1), int(sizes.sum())))
    return Nestedness(pd.DataFrame(rows), pd.DataFrame(overall))


def _checked(sets: Sequence[ModuleSet]) -> list[ModuleSet]:
    """Validate the sets and return them, coarsest first."""
    if isinstance(sets, ModuleSet) or not all(isinstance(one, ModuleSet) for one in sets):
        raise ModulesError("sets should be a list of module sets. Pass [coarser, finer].")
    ordered = sorted(sets, key=len)
    ks = [len(modules) for modules in ordered]
    if len(ks) < 2 or len(set(ks)) < len(ks):
        raise ModulesError(
            f"sets should be at least two module sets with different K; got K = {ks}. Discover "
            "modules of one matrix with several n_modules."
        )
    first = ordered[0]
    for modules in ordered[1:]:
        if not modules.units.same_hooks(first.units):
            raise ModulesError(
                f"sets should have the same units; these have {first.units!r} and "
                f"{modules.units!r}. Discover them on one matrix."
            )
        if not modules.samples.equals(first.samples):
            raise ModulesError(
                f"sets should have the same samples; those of K = {len(first)} and "
                f"K = {len(modules)} differ. Discover them on one matrix."
            )
    return ordered


def _kinds(coarse: ModuleSet, fine: ModuleSet) -> Iterator[tuple[str, _Labels, _Labels, _Labels]]:
    """Yield each kind with its coarser labels, its finer labels, and the strata to permute in."""
    inside = fine.unit_labels != BACKGROUND
    hooks = fine.units.hook[inside]
    yield "units", coarse.unit_labels[inside], fine.unit_labels[inside], hooks
    together = np.zeros(len(fine.samples), dtype=np.int64)
    yield "samples", coarse.sample_labels, fine.sample_labels, together


def _crossed(
    finer: _Labels, coarser: _Labels, n_finer: int, n_coarser: int
) -> Int[np.ndarray, "finer coarser"]:
    """Count the items that each two modules share, without the coarser background."""
    n_columns = n_coarser + 1
    flat = finer * n_columns + coarser % n_columns
    counts = np.bincount(flat, minlength=n_finer * n_columns)
    return counts.reshape(n_finer, n_columns)[:, :-1]


def _beside(shared: int, null: np.ndarray, n: int) -> dict[str, float]:
    """Return a share with its null's mean and its p-value; NaN if there are no items."""
    if n == 0:
        return dict.fromkeys(("share", "null_mean", "p_value"), float("nan"))
    return {
        "share": shared / n,
        "null_mean": float(null.mean()) / n,
        "p_value": control_p_value(shared / n, null / n, ROUNDING),
    }
