"""How faithful the first units of a ranking are to the whole model, at every size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped

from tl_modules.causal.core_sizes import core_sizes
from tl_modules.causal.faithfulness_numbers import curve_numbers
from tl_modules.causal.kept_units import KeepMethod, KeptUnits
from tl_modules.causal.token_runs import Rows
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.sites import SiteName
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.runtime.arguments import checked
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.labels import quoted
from tl_modules.tables.text import text_column
from tl_modules.units import site_units

RANDOM = "random"
"""The name of the ranking that is a random order."""


@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurves:
    """How much of a task's metric the first units of each ranking keep, at every size."""

    table: pd.DataFrame
    """One row per ranking and size: ``ranking``, ``n_units``, ``share`` (of the site's units),
    ``metric`` (the mean over prompts), ``faithfulness`` and its 95 % bootstrap interval over
    prompts, ``ci_low`` and ``ci_high``. The ranking ``"random"`` has the mean over the random
    orders, and their ``lowest`` and ``highest`` faithfulness, which are NaN for other rankings."""

    areas: pd.DataFrame
    """One row per ranking: ``ranking``, ``cpr`` and ``cmd``, each with the same four numbers
    (``cpr_ci_low``, ...)."""

    metric_full: float
    """The metric with all units, averaged over prompts."""

    metric_empty: float
    """The metric with none of the units, averaged over prompts."""

    @checked
    def smallest(
        self, faithfulness: float = 0.9, testing: "FaithfulnessCurves | None" = None
    ) -> pd.DataFrame:
        """The smallest size of each ranking that reaches a faithfulness.

        A size that is chosen and reported on the same prompts looks better than it is. So choose on
        some prompts and report on others: ``chosen.smallest(0.9, testing=tested)``.

        Args:
            faithfulness: The faithfulness to reach.
            testing: Curves of the same rankings and sizes on other prompts, whose numbers are
                reported; by default the numbers of these curves.

        Returns:
            One row per ranking: ``ranking``, ``n_units``, ``share``, ``faithfulness``, ``ci_low``,
            ``ci_high``. All but the first are missing where no size reaches it.

        Raises:
            ModulesError: If ``testing`` lacks one of the sizes.
        """
        shown = self if testing is None else testing
        columns = ["ranking", "n_units", "share", "faithfulness", "ci_low", "ci_high"]
        reported = shown.table[columns].set_index(["ranking", "n_units"])
        rows = []
        for ranking, curve in self.table.groupby("ranking", sort=False):
            reach = curve.loc[curve["faithfulness"] >= faithfulness, "n_units"]
            row: dict[str, object] = {"ranking": ranking, "n_units": pd.NA}
            if len(reach):
                size = int(reach.iloc[0])
                if (ranking, size) not in reported.index:
                    raise ModulesError(
                        f"testing should have the rankings and sizes of these curves; it lacks "
                        f"{size:,} units of {ranking!r}. Measure both with the same rankings and "
                        "sizes."
                    )
                row |= {"n_units": size} | reported.loc[(ranking, size)].to_dict()
            rows.append(row)
        table = pd.DataFrame(rows, columns=columns)
        numbers = dict.fromkeys(columns[2:], "float64")
        return table.astype({"n_units": "Int64"} | numbers)

    def __repr__(self) -> str:
        """One line."""
        n_sizes = self.table["n_units"].nunique()
        return f"FaithfulnessCurves({len(self.areas)} rankings, {n_sizes} sizes)"

    def _repr_html_(self) -> str:
        """For Jupyter: the areas."""
        return html_table(repr(self), self.areas)


@checked
@measures
def faithfulness_curves(  # noqa: PLR0913 - TransformerLens' arguments, and the rankings
    model: HookedModel,
    clean_tokens: Tokens,
    corrupted_tokens: Tokens | None,
    metric: Callable[[torch.Tensor], torch.Tensor],
    rankings: Mapping[str, Shaped[np.ndarray, " _units"]],
    *,
    units: SiteName | str = "mlp",
    sizes: Sequence[int | float] | None = None,
    method: KeepMethod = "patch",
    reference: HasUnitMeans | None = None,
    positions: Touched = "content",
    n_random: int = 5,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> FaithfulnessCurves:
    """Measure how much of a task the first n units of a ranking do alone, for many n.

    Faithfulness is ``f(n) = (m(n) - m(none)) / (m(all) - m(none))``; ``m(n)`` is the mean metric of
    the clean run with all units of the site ablated but the first n. CPR is the area under f over
    the share of units, CMD that of ``|1 - f|``, as in MIB (Mueller et al. 2025, arXiv 2504.13151):
    trapezoids between neighbouring sizes, and nothing before the first or after the last one. So f
    = 1 has a CPR of 0.999 at MIB's sizes; other sizes give areas that do not compare with MIB's.

    Rank on other prompts than these; by magnitudes for CMD, as MIB does.

    Args:
        model: The model.
        clean_tokens: See ``circuit_scores``.
        corrupted_tokens: See ``circuit_scores``.
        metric: From logits ``[batch, pos, d_vocab]`` to one number per prompt, ``[batch]``.
        rankings: By name, one score per unit of the site, ``[units]``; the highest comes first,
            equal ones in random order.
        units: The site; see ``collect``.
        sizes: Numbers of units, or shares; by default MIB's, from 0.1 % to 100 %.
        method: See ``circuit_scores``.
        reference: Means for ``"mean"``.
        positions: See ``circuit_scores``.
        n_random: Number of random orders.
        attention_mask: 1 or True where a token is real.
        batch_size: See ``circuit_scores``.
        seed: Seeds random orders and intervals.
        progress: Show a progress bar.

    Returns:
        The curves and areas.

    Raises:
        ModulesError: If scores do not fit the site, or as in ``circuit_scores``.
    """
    check_at_least("n_random", n_random, 0)
    check_seed(seed)
    site = site_units(model, units)
    ladder = core_sizes(sizes, len(site))
    if ladder[-1] > len(site):
        raise ModulesError(
            f"sizes should be at most the site's {len(site):,} units; got {ladder[-1]:,}."
        )
    if method == "mean" and reference is None:
        raise ModulesError(
            "method='mean' needs means to put in the units' place. Pass reference="
            f"tlm.collect(model, prompts, units={units!r})."
        )
    orders = _orders(rankings, len(site), n_random, seed)
    rows = Rows.given(model, "clean_tokens", clean_tokens, attention_mask, batch_size)
    task = KeptUnits.prepare(rows, corrupted_tokens, metric, site, method, reference, positions)
    values = _measured(
        task, [order for several in orders.values() for order in several], ladder, progress
    )
    ends = np.cumsum([len(several) for several in orders.values()])[:-1]
    draws = bootstrap_indices(np.zeros(len(task.full)), N_RESAMPLES, seed)
    table, areas = [], []
    for name, each in zip(orders, np.split(values, ends), strict=True):
        shares = [size / len(site) for size in ladder]
        numbers, area = curve_numbers(each - task.empty, task.gap, shares, draws)
        sizes_of = pd.DataFrame({"ranking": name, "n_units": ladder, "share": shares})
        sizes_of["metric"] = each.mean(axis=(0, 2))
        table.append(pd.concat([sizes_of, pd.DataFrame(numbers)], axis=1))
        areas.append({"ranking": name} | area)
    return FaithfulnessCurves(
        _with_text(pd.concat(table, ignore_index=True)),
        _with_text(pd.DataFrame(areas)),
        metric_full=float(task.full.mean()),
        metric_empty=float(task.empty.mean()),
    )


def _orders(
    rankings: Mapping[str, Shaped[np.ndarray, "..."]], n_units: int, n_random: int, seed: int
) -> dict[str, list[Int[np.ndarray, " units"]]]:
    """The orders of the units under each name: one for a ranking, several for the random one."""
    if RANDOM in rankings or not (rankings or n_random):
        raise ModulesError(
            f"rankings should hold at least one ranking, none called {RANDOM!r}, which is the name "
            f"of random orders; got {quoted(map(str, rankings))}."
        )
    # Equal scores keep this order.
    shuffled = np.random.default_rng([seed, 0]).permutation(n_units)
    orders = {}
    for name, scores in rankings.items():
        is_number = scores.shape == (n_units,) and scores.dtype.kind in "biuf"
        if not is_number or np.isnan(scores).any():
            raise ModulesError(
                f"rankings[{name!r}] should be one number per unit of the site, ({n_units},), none "
                f"of them NaN; it has shape {scores.shape} and dtype {scores.dtype}. Name the site "
                "of the scores, such as units='mlp+attn_heads'."
            )
        falling = np.argsort(-scores[shuffled].astype(np.float64), kind="stable")
        orders[str(name)] = [shuffled[falling]]
    generators = [np.random.default_rng([seed, 1, number]) for number in range(n_random)]
    drawn = [generator.permutation(n_units) for generator in generators]
    return orders | ({RANDOM: drawn} if drawn else {})


def _measured(
    task: KeptUnits, orders: Sequence[Int[np.ndarray, " units"]], ladder: list[int], progress: bool
) -> Float[np.ndarray, "orders sizes batch"]:
    """The metric of each prompt with the first units of each order kept, at each size."""
    below = [size for size in ladder if size < len(task.units)]
    kept = [task.units.select(np.sort(order[:size])) for order in orders for size in below]
    values = task.measured(kept, "curves", progress)
    values = values.reshape(len(orders), len(below), len(task.full))
    if len(below) == len(ladder):
        return values
    whole = np.broadcast_to(task.full, (len(orders), 1, len(task.full)))  # nothing is ablated
    return np.concatenate([values, whole], axis=1)


def _with_text(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(ranking=text_column(table["ranking"]))
