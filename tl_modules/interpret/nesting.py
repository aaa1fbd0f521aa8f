"""Do finer modules split coarser ones: nestedness over K, beside permuted labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.modules.module_set import BACKGROUND, ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.html_tables import html_table

_Labels = Int[np.ndarray, " items"]


@dataclass(frozen=True, eq=False, repr=False)
class Nestedness:
    """How far each module of a finer set lies inside one module of the next coarser set."""

    table: pd.DataFrame
    """One row a finer module and kind: ``kind`` (``"units"`` or ``"samples"``), ``coarser_k``,
    ``finer_k``, ``module``, ``n`` (its units, or samples), ``coarser`` (the coarser module that
    holds most of them), ``share`` (of them that it holds; NaN without any), ``null_mean`` (the
    same with the coarser labels permuted) and ``p_value`` (one-sided, not adjusted)."""

    overall: pd.DataFrame
    """One row a pair of sets and kind: the same of all finer modules together, each unit or
    sample counting the same. 1 where the finer set only splits the coarser one."""

    def __repr__(self) -> str:
        """One line, not its tables."""
        steps = [
            "{coarser_k} > {finer_k} {kind} {share:.2f} (null {null_mean:.2f})".format(**row)
            for row in self.overall.to_dict(orient="records")
        ]
        return f"Nestedness({', '.join(steps)})"

    def _repr_html_(self) -> str:
        """For Jupyter: the table of pairs of sets."""
        return html_table(repr(self), self.overall)


@checked
def nestedness(
    sets: Sequence[ModuleSet],
    *,
    n_permutations: int = 199,
    seed: int = 0,
    progress: bool = True,
) -> Nestedness:
    """Compare module sets of one matrix and different K: does each finer module split a coarser?

    The share of a module in its best coarser one is far above 0 by chance, and the more so the
    fewer and the more unequal the coarser modules are, so that it means something beside its null
    only: units' labels are permuted within each hook point, which keeps the modules' sizes and
    layers; samples' labels over all samples. Above its null it says that the two sets have
    structure in common, as any two good partitions of one matrix have; only near 1 does the finer
    set do nothing but split.

    Args:
        sets: Two module sets or more, in any order.
        n_permutations: Permutations of the coarser labels.
        seed: Seeds them.
        progress: Show a progress bar.

    Returns:
        The shares of each set's modules in the next coarser set's, and of all together.

    Raises:
        ModulesError: If there are fewer than two sets, two have one K, or they are of different
            units or samples.
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
                # Sorted by stratum, at random within: strata are contiguous already.
                order = np.lexsort((generator.random(len(strata)), strata))
                shuffled = _crossed(finer, coarser[order], len(fine), len(coarse))
                row[:] = shuffled.max(axis=1)
                bar.update()
            head = {"kind": kind, "coarser_k": len(coarse), "finer_k": len(fine)}
            best = crossed.max(axis=1)
            for module, n in enumerate(sizes.tolist()):
                found = {"module": module, "n": n, "coarser": int(crossed[module].argmax())}
                rows.append(head | found | _beside(int(best[module]), null[:, module], n))
            overall.append(head | _beside(int(best.sum()), null.sum(axis=1), int(sizes.sum())))
    return Nestedness(pd.DataFrame(rows), pd.DataFrame(overall))


def _checked(sets: Sequence[ModuleSet]) -> list[ModuleSet]:
    """The sets, coarsest first."""
    if isinstance(sets, ModuleSet) or not all(isinstance(one, ModuleSet) for one in sets):
        raise ModulesError("sets should be a list of module sets. Pass [coarser, finer].")
    ordered = sorted(sets, key=len)
    ks = [len(modules) for modules in ordered]
    if len(ks) < 2 or len(set(ks)) < len(ks):
        raise ModulesError(
            f"sets should be two module sets or more, each of another K; got K = {ks}. Discover "
            "modules of one matrix with several n_modules."
        )
    first = ordered[0]
    for modules in ordered[1:]:
        if not modules.units.same_hooks(first.units):
            raise ModulesError(
                f"sets should be of the same units; these are {first.units!r} and "
                f"{modules.units!r}. Discover them on one matrix."
            )
        if not modules.samples.equals(first.samples):
            raise ModulesError(
                f"sets should be of the same samples; those of K = {len(first)} and "
                f"K = {len(modules)} differ. Discover them on one matrix."
            )
    return ordered


def _kinds(coarse: ModuleSet, fine: ModuleSet) -> Iterator[tuple[str, _Labels, _Labels, _Labels]]:
    """Units, then samples: coarser and finer labels, and within what labels are permuted."""
    inside = fine.unit_labels != BACKGROUND
    hooks = fine.units.hook[inside]
    yield "units", coarse.unit_labels[inside], fine.unit_labels[inside], hooks
    together = np.zeros(len(fine.samples), dtype=np.int64)
    yield "samples", coarse.sample_labels, fine.sample_labels, together


def _crossed(
    finer: _Labels, coarser: _Labels, n_finer: int, n_coarser: int
) -> Int[np.ndarray, "finer coarser"]:
    """How many items each two modules share; the coarser background is nobody's."""
    n_columns = n_coarser + 1
    flat = finer * n_columns + coarser % n_columns
    counts = np.bincount(flat, minlength=n_finer * n_columns)
    return counts.reshape(n_finer, n_columns)[:, :-1]


def _beside(shared: int, null: np.ndarray, n: int) -> dict[str, float]:
    """A share beside its null; NaN of nothing."""
    if n == 0:
        return dict.fromkeys(("share", "null_mean", "p_value"), float("nan"))
    return {
        "share": shared / n,
        "null_mean": float(null.mean()) / n,
        "p_value": control_p_value(shared / n, null / n, ROUNDING),
    }
