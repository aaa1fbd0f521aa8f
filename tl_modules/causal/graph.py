"""Which module drives which: patch one, read the others' activations and the metric."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from tl_modules.causal.passes import no_hooks
from tl_modules.causal.token_runs import Rows, check_pairs
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.copy_edits import CopyEdits
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import Sources
from tl_modules.interventions.resident import Resident
from tl_modules.interventions.strata import Strata
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn, flat
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.modules.module import Module, as_list
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
    listed = as_list(modules)
    check_at_least("the number of modules", len(listed), 2)
    check_at_least("n_controls", n_controls, 0)
    check_seed(seed)
    for module in listed:
        module.units.check_model(model)
        if not module.n_units:
            raise ModulesError(
                f"Every module should have units; module {module.label} has none. Leave it out."
            )
    clean, corrupted = (
        Rows.given(model, name, tokens, attention_mask, batch_size)
        for name, tokens in (
            ("clean_tokens", clean_tokens),
            ("corrupted_tokens", corrupted_tokens),
        )
    )
    check_pairs(clean.tokens, corrupted.tokens)
    names = listed[0].units.hook_names
    pair = _Pair(
        listed, clean.activations(names), corrupted.activations(names), clean.attention_mask
    )
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


class _Pair:
    """The two runs' activations, and hooks that read how far each module moved between them."""

    def __init__(
        self,
        modules: Sequence[Module],
        clean: Mapping[str, torch.Tensor],
        corrupted: Mapping[str, torch.Tensor],
        attention_mask: torch.Tensor | None,
    ) -> None:
        """Prepare.

        Args:
            modules: The modules.
            clean: The clean run's activations by hook point.
            corrupted: The corrupted run's.
            attention_mask: True where a token is real.
        """
        units = modules[0].units
        widths = units.coordinates().widths
        self._mask = attention_mask
        self._padding = None
        if attention_mask is not None:
            self._padding = Resident(~attention_mask.cpu()[..., None])
        self._clean, self._corrupted = (
            {
                name: flat(run[name], width)
                for name, width in zip(units.hook_names, widths, strict=True)
            }
            for run in (clean, corrupted)
        )
        members = np.zeros((sum(widths), len(modules)), dtype=np.float32)
        for place, module in enumerate(modules):
            members[module.units.coordinates().flat(), place] = 1
        parts = np.split(members, np.cumsum(widths)[:-1])
        self._members = {
            name: torch.from_numpy(part).to(self._clean[name].device)
            for name, part in zip(units.hook_names, parts, strict=True)
        }
        self._change = {
            name: self._real(self._clean[name].float() - self._corrupted[name].float())
            for name in self._members
        }
        squares: Float[torch.Tensor, "batch modules"] = torch.stack(
            [
                ((change**2).sum(1) @ self._members[name]).cpu()
                for name, change in self._change.items()
            ]
        ).sum(0)
        self.squares = squares.double().numpy()
        for squares_of, module in zip(self.squares.sum(axis=0), modules, strict=True):
            if not np.isfinite(squares_of):
                raise ModulesError(
                    f"Activations should be finite, and their squares; module {module.label}'s "
                    "are not in one of the runs. Run the model in a wider dtype (float32)."
                )
        still = np.flatnonzero(self.squares.sum(axis=0) == 0)
        if len(still):
            raise ModulesError(
                f"Every module's activations should differ between the runs; module "
                f"{modules[still[0]].label}'s do not. Leave it out, or use other prompts."
            )

    def patches(self, sets: Sequence[Units], *, direct: bool) -> "_Patches":
        """Patches of sets of units from the clean run.

        Args:
            sets: The sets.
            direct: Hold all other units at the corrupted run's values.
        """
        sources = [(list(sets), self._clean)]
        if direct:
            sources.append(([units.complement() for units in sets], self._corrupted))
        edits = [
            CopyEdits(some, "patch", Sources(source=source), attention_mask=self._mask)
            for some, source in sources
        ]
        return _Patches(self, edits)

    @property
    def hook_names(self) -> list[str]:
        """The hook points of the modules' units."""
        return list(self._members)

    def moved(
        self, name: str, activation: Float[torch.Tensor, "_rows pos *axes"], n_copies: int
    ) -> Float[torch.Tensor, "copies batch modules"]:
        """How far the part of each module at one hook point moved towards the clean run."""
        before = self._corrupted[name].float()
        copies = flat(activation.float(), before.shape[-1]).unflatten(0, (n_copies, -1))
        change = self._real(copies - before)
        return (change * self._change[name]).sum(2) @ self._members[name]

    def _real(
        self, change: Float[torch.Tensor, "*copies batch pos coordinates"]
    ) -> Float[torch.Tensor, "*copies batch pos coordinates"]:
        """A change, 0 at padding."""
        if self._padding is None:
            return change
        return change.masked_fill(self._padding.on(change.device), 0)


class _Patches:
    """Hooks that patch sets of units, and read how far each module moved before it is patched."""

    def __init__(self, pair: _Pair, edits: Sequence[CopyEdits]) -> None:
        self._pair = pair
        self._edits = edits
        self._passes: list[list[Float[torch.Tensor, "copies batch modules"]]] = []

    def hooks(self, first: int, last: int) -> FwdHooks:
        """Hooks of some sets for one pass, which should then be run."""
        parts: list[Float[torch.Tensor, "copies batch modules"]] = []
        self._passes.append(parts)

        def reader(name: str) -> HookFn:
            def read(activation: torch.Tensor, hook: Any = None) -> None:
                del hook
                parts.append(self._pair.moved(name, activation, last - first))

            return read

        reads: FwdHooks = [(name, reader(name)) for name in self._pair.hook_names]
        return reads + [hook for edits in self._edits for hook in edits.hooks(first, last)]

    def moved(self) -> Float[np.ndarray, "sets batch modules"]:
        """How far each module moved under each set, over the passes that were run."""
        # Read at the end, so that a GPU is not waited for at each hook point.
        sums = [torch.stack([part.cpu().double() for part in each]).sum(0) for each in self._passes]
        return torch.cat(sums).numpy()


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(p_bh=benjamini_hochberg(table["p_value"].to_numpy(dtype=float)))
