"""Which module drives which: patch one, read the others' activations and the metric."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from tl_modules.causal.graph_runs import PairOfRuns, nodes_of_graph, rows_of_runs
from tl_modules.causal.passes import no_hooks
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.strata import Strata
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ratio_beside_controls, run_rounding
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.p_values import benjamini_hochberg
from tl_modules.tables.text import text_column
from tl_modules.units import Units

EdgeColumn = Literal[
    "effect", "ci_low", "ci_high", "control_mean", "control_std", "p_value", "control_units", "p_bh"
]
"""The columns of ``ModuleGraph.edges`` that hold numbers."""


@dataclass(frozen=True, eq=False, repr=False)
class ModuleGraph:
    """Effects of modules on each other and on a metric: a directed weighted graph."""

    nodes: pd.DataFrame
    """One row per module: ``module``, ``category``, ``n_units``, ``effect`` (the change of the
    metric when the module is patched, in the metric's units), ``ci_low``, ``ci_high`` (95 %
    bootstrap over prompts), ``control_mean``, ``control_std``, ``p_value`` (one-sided: controls
    with at least as much effect towards the clean run), ``control_units`` (mean size of its
    controls) and ``p_bh``."""

    edges: pd.DataFrame
    """One row per ordered pair of modules: ``source``, ``target``, ``effect`` (the share of the
    target's change between the runs that patching the source brings about), and the same columns;
    ``p_value`` counts the controls whose share is at least as large."""

    metric_clean: float
    """The metric on the clean run, averaged over prompts."""

    metric_corrupted: float
    """The metric on the corrupted run."""

    def matrix(self, value: EdgeColumn = "effect") -> pd.DataFrame:
        """The edges as a table, sources down and targets across; NaN on the diagonal.

        Args:
            value: The column of ``edges`` that the table shows.

        Returns:
            The table.
        """
        return self.edges.pivot(index="source", columns="target", values=value)

    def to_networkx(self) -> Any:
        """Convert the graph for networkx.

        Returns:
            A ``DiGraph``. Its nodes are the modules' labels, with the columns of ``nodes``; its
            edges have the columns of ``edges``, and the effect as ``weight``.

        Raises:
            ModulesError: If networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise ModulesError(
                "to_networkx needs networkx, which is not installed. Run pip install networkx, or "
                "use the frames nodes and edges."
            ) from error
        graph = networkx.DiGraph()
        for row in self.nodes.to_dict("records"):
            graph.add_node(row.pop("module"), **row)
        for row in self.edges.to_dict("records"):
            graph.add_edge(row.pop("source"), row.pop("target"), weight=row["effect"], **row)
        return graph

    def __repr__(self) -> str:
        """One line."""
        return (
            f"ModuleGraph({len(self.nodes)} modules, {len(self.edges)} edges, metric "
            f"{self.metric_corrupted:.4g} corrupted, {self.metric_clean:.4g} clean)"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: both tables."""
        return html_table(repr(self), self.nodes, self.edges)


@checked
@measures
def module_graph(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    clean_tokens: Tokens,
    corrupted_tokens: Tokens,
    metric: Callable[[torch.Tensor], torch.Tensor],
    modules: Iterable[Module],
    *,
    direct: bool = False,
    n_controls: int = 19,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = True,
) -> ModuleGraph:
    """Patch each module from the clean into the corrupted run, and measure the other modules.

    The effect of P on Q is the share of Q's change between the runs that patching P brings about:
    ``sum (a - corrupted) * (clean - corrupted) / sum (clean - corrupted) ** 2`` over Q's units and
    all positions and prompts, where ``a`` is the activation that reaches the unit while P is
    patched. The share is 1 if Q becomes as in the clean run, 0 if Q does not change, and below 0 if
    Q moves the other way. Positions where the runs agree, such as a shared BOS, add 0.

    A control patches random units instead, as many per layer as P has. The how-to "Combine modules
    with activation patching" explains controls that share units with P or Q.

    Args:
        model: The model.
        clean_tokens: The clean run's tokens, ``[batch, pos]``.
        corrupted_tokens: The corrupted run's tokens, of the same shape.
        metric: From logits ``[batch, pos, d_vocab]`` to one number per prompt, ``[batch]``.
        modules: A ``ModuleSet``, or some modules of one.
        direct: Hold all other units of the site at the corrupted run's values, so that only effects
            through attention and the residual stream count (direct effects; Wang et al. 2022's path
            patching, one module at a time). By default, effects through other modules count too.
        n_controls: Controls per module; the smallest p-value is ``1 / (1 + n_controls)``. One of m
            cells needs ``20 * m - 1`` controls to stay below 0.05 after correction.
        attention_mask: 1 or True where a token is real; padding does not count.
        batch_size: See ``circuit_scores``.
        seed: Seed of controls and bootstrap.
        progress: Show a progress bar.

    Returns:
        The graph.

    Raises:
        ModulesError: If the runs differ in shape, there are fewer than two modules, a module is of
            another model or has the same activations in both runs, or the metric is not one number
            per prompt.
    """
    listed = nodes_of_graph(model, modules)
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    clean, corrupted = rows_of_runs(
        model, clean_tokens, corrupted_tokens, attention_mask, batch_size
    )
    pair = PairOfRuns.between(listed, clean, corrupted)
    sets: list[Units] = []
    own_runs, sizes = [], []
    strata = Strata.by_layer(listed[0].units)
    for module in listed:
        generator = np.random.default_rng([seed, module.label])
        drawn = [strata.draw(module.units, generator) for _ in range(n_controls)]
        sizes.append(float(np.mean([len(units) for units in drawn])) if drawn else np.nan)
        own_runs.append(slice(len(sets), len(sets) + 1 + len(drawn)))
        sets += [module.units, *drawn]
    patches = pair.patches(sets, direct=direct)
    before, after = (
        rows.measured(metric, 1, no_hooks, "", progress=False)[0] for rows in (corrupted, clean)
    )
    changes = corrupted.measured(metric, len(sets), patches.hooks, "graph", progress) - before
    moved = patches.moved()
    ones = np.ones(len(clean.tokens))
    draws = bootstrap_indices(ones, N_RESAMPLES, seed)
    towards = float(np.sign(after.mean() - before.mean()))
    rounding = run_rounding(before, after)
    nodes, edges = [], []
    for source, runs, size in zip(listed, own_runs, sizes, strict=True):
        row = {"module": source.label, "category": source.category_title, "n_units": source.n_units}
        numbers = ratio_beside_controls(changes[runs], ones, draws, towards, rounding)
        nodes.append(row | numbers | {"control_units": size})
        for place, target in enumerate(listed):
            if target is source:
                continue
            row = {"source": source.label, "target": target.label}
            parts, whole = moved[runs, :, place], pair.squares[:, place]
            edges.append(row | ratio_beside_controls(parts, whole, draws, tolerance=1e-5))
    nodes, edges = (_adjusted(pd.DataFrame(rows)) for rows in (nodes, edges))
    return ModuleGraph(
        nodes.assign(category=text_column(nodes["category"])),
        edges,
        metric_clean=float(after.mean()),
        metric_corrupted=float(before.mean()),
    )


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(p_bh=benjamini_hochberg(table["p_value"].to_numpy(dtype=float)))
