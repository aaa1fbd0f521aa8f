"""Activation patching of modules: like TransformerLens' ``get_act_patch_*``, one module at a time.

One hook point cannot hold a module, whose units lie in many layers: each cell patches all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from tl_modules.causal.passes import HooksOfCopies, no_hooks
from tl_modules.causal.token_runs import Rows, as_measured
from tl_modules.errors import ModulesError, shown
from tl_modules.interventions.copy_edits import CopyEdits
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import Sources
from tl_modules.interventions.target import Target, as_targets, units_on_one_site
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.runtime.arguments import checked
from tl_modules.units import Units

Metric = Callable[[torch.Tensor], torch.Tensor]
"""``metric(logits)``: a scalar, or one number per prompt of the batch."""

Reduction = Literal["scalar", "mean", "none"]
"""What becomes of the metric over the batch's prompts."""


@checked
@measures
def get_act_patch_module(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    corrupted_tokens: Tokens,
    clean_cache: Mapping[str, torch.Tensor] | Any,
    patching_metric: Metric | Mapping[str, Metric],
    modules: Target | Iterable[Target],
    return_index_df: bool = False,
    *,
    reduce: Reduction = "scalar",
    baseline: bool = False,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = True,
) -> Any:
    """Patch each module's activations from the clean run into the corrupted run, at all positions.

    For the other direction pass the clean tokens and the corrupted run's cache. A first token that
    both prompts share, such as BOS, has the same activations in both runs; patching it changes
    nothing.

    Args:
        model: The model.
        corrupted_tokens: The corrupted run's tokens, ``[batch, pos]``.
        clean_cache: The clean run's activation cache, of the same batch and length.
        patching_metric: From logits ``[batch, pos, d_vocab]`` to a scalar (``reduce="scalar"``) or
            a ``[batch]`` tensor (otherwise), or a mapping of names to such functions.
        modules: A ``ModuleSet``, some modules of one, or one; or other targets with ``units``.
        return_index_df: Also return the frame of indices; only with a tensor result.
        reduce: ``"scalar"``; ``"mean"`` averages a ``[batch]`` metric, ``"none"`` keeps it.
        baseline: Also measure the corrupted run without a patch.
        attention_mask: 1 or True where a token is real; padding is not patched. Without a mask, the
            model runs as in TransformerLens' own patching.
        batch_size: Rows of a forward pass, prompts times modules, which are stacked; ``"auto"``: as
            many as memory holds (``collect``), but never fewer than the prompts.
        progress: Show a progress bar.

    Returns:
        A tensor ``[modules]``. With ``reduce="none"``, ``baseline=True`` or a mapping of metrics, a
        ``PatchingResult`` of TransformerLens 4.

    Raises:
        ModulesError: If the modules belong to another model, a metric returns another shape, the
            cache lacks a hook point or has another length, or a ``PatchingResult`` is asked for
            and the installed TransformerLens has none.
    """
    targets = as_targets(modules)
    cells = [
        ({"module": target.label}, units, None)
        for target, units in zip(targets, units_on_one_site(targets), strict=True)
    ]
    rows = Rows.given(model, "corrupted_tokens", corrupted_tokens, attention_mask, batch_size)
    sweep = _Sweep(rows, clean_cache, patching_metric, reduce)
    return sweep.result(cells, (len(targets),), return_index_df, baseline, progress)


@checked
@measures
def get_act_patch_module_by_pos(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    corrupted_tokens: Tokens,
    clean_cache: Mapping[str, torch.Tensor] | Any,
    patching_metric: Metric | Mapping[str, Metric],
    modules: Target | Iterable[Target],
    return_index_df: bool = False,
    *,
    reduce: Reduction = "scalar",
    baseline: bool = False,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = True,
) -> Any:
    """Patch as ``get_act_patch_module`` does, one position at a time.

    Args:
        model: The model.
        corrupted_tokens: The corrupted run's tokens, ``[batch, pos]``.
        clean_cache: The clean run's activation cache, of the same batch and length.
        patching_metric: See ``get_act_patch_module``.
        modules: A ``ModuleSet``, some modules of one, or one; or other targets with ``units``.
        return_index_df: Also return the frame of indices; only with a tensor result.
        reduce: See ``get_act_patch_module``.
        baseline: Also measure the corrupted run without a patch.
        attention_mask: 1 or True where a token is real; padding is not patched.
        batch_size: Rows of a forward pass, prompts times cells; see ``get_act_patch_module``.
        progress: Show a progress bar.

    Returns:
        A tensor ``[modules, pos]``, or a ``PatchingResult``.

    Raises:
        ModulesError: As in ``get_act_patch_module``.
    """
    targets = as_targets(modules)
    each_units = units_on_one_site(targets)
    rows = Rows.given(model, "corrupted_tokens", corrupted_tokens, attention_mask, batch_size)
    length = rows.tokens.shape[1]
    cells = [
        ({"module": target.label, "pos": position}, units, position)
        for target, units in zip(targets, each_units, strict=True)
        for position in range(length)
    ]
    sweep = _Sweep(rows, clean_cache, patching_metric, reduce)
    return sweep.result(cells, (len(targets), length), return_index_df, baseline, progress)


@checked
@measures
def get_act_patch_module_by_layer(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    corrupted_tokens: Tokens,
    clean_cache: Mapping[str, torch.Tensor] | Any,
    patching_metric: Metric | Mapping[str, Metric],
    modules: Target | Iterable[Target],
    return_index_df: bool = False,
    *,
    reduce: Reduction = "scalar",
    baseline: bool = False,
    attention_mask: TokenArray | None = None,
    batch_size: BatchSize = "auto",
    progress: bool = True,
) -> Any:
    """Patch as ``get_act_patch_module`` does, but only a module's units of one layer at a time.

    Args:
        model: The model.
        corrupted_tokens: The corrupted run's tokens, ``[batch, pos]``.
        clean_cache: The clean run's activation cache, of the same batch and length.
        patching_metric: See ``get_act_patch_module``.
        modules: A ``ModuleSet``, some modules of one, or one; or other targets with ``units``.
        return_index_df: Also return the frame of indices; only with a tensor result.
        reduce: See ``get_act_patch_module``.
        baseline: Also measure the corrupted run without a patch.
        attention_mask: 1 or True where a token is real; padding is not patched.
        batch_size: Rows of a forward pass, prompts times cells; see ``get_act_patch_module``.
        progress: Show a progress bar.

    Returns:
        A tensor ``[modules, layers]``, or a ``PatchingResult``.

    Raises:
        ModulesError: As in ``get_act_patch_module``.
    """
    targets = as_targets(modules)
    each_units = units_on_one_site(targets)
    layer_of_hook = np.asarray(each_units[0].layers)
    layers = sorted(set(layer_of_hook.tolist()))
    cells = []
    for target, units in zip(targets, each_units, strict=True):
        for layer in layers:
            in_layer = units.select(layer_of_hook[units.hook] == layer)
            cells.append(({"module": target.label, "layer": layer}, in_layer, None))
    rows = Rows.given(model, "corrupted_tokens", corrupted_tokens, attention_mask, batch_size)
    sweep = _Sweep(rows, clean_cache, patching_metric, reduce)
    return sweep.result(cells, (len(targets), len(layers)), return_index_df, baseline, progress)


_Cell = tuple[dict[str, int | str], Units, int | None]
"""A cell's indices, the units to patch and the position to patch them at. It is None for all
positions, and then for every cell of a sweep."""


@dataclass(frozen=True, eq=False)
class _Sweep:
    """Patches cell after cell, several in a forward pass, and measures each."""

    rows: Rows
    cache: Any
    metric: Metric | Mapping[str, Metric]
    reduce: Reduction

    def result(
        self,
        cells: Sequence[_Cell],
        shape: tuple[int, ...],
        return_index_df: bool,
        baseline: bool,
        progress: bool,
    ) -> Any:
        """What the public functions return."""
        if not callable(getattr(self.cache, "keys", None)):
            raise ModulesError(
                "clean_cache should be the clean run's activation cache; got "
                f"{shown(self.cache)}. Pass the second of what model.run_with_cache(clean_tokens) "
                "returns."
            )
        named = isinstance(self.metric, Mapping)
        wants_more = named or self.reduce == "none" or baseline
        if wants_more and return_index_df:
            raise ModulesError(
                "return_index_df goes with a tensor; a PatchingResult carries its own index_df. "
                "Leave one out."
            )
        result_type = _patching_result() if wants_more else None
        edits = self._edits(cells)
        for _, units, _ in cells:
            units.check_model(self.rows.model)
        values = torch.cat(list(self._measured(len(edits), edits.hooks, progress)), dim=1)
        without = next(self._measured(1, no_hooks, progress=False))[:, 0] if baseline else None
        if self.reduce == "mean":
            values = values.mean(-1)
            without = None if without is None else without.mean(-1)
        values = values.reshape(values.shape[0], *shape, *values.shape[2:])
        index_df = pd.DataFrame([index for index, _, _ in cells])
        if result_type is None:
            return (values[0], index_df) if return_index_df else values[0]
        return result_type(
            values=values if named else values[0],
            axis_names=list(index_df.columns),
            index_df=index_df,
            metric_names=list(self._metrics()),
            reduced=self.reduce != "none",
            baseline=without if named or without is None else without[0],
            has_metric_axis=named,
        )

    def _edits(self, cells: Sequence[_Cell]) -> CopyEdits:
        places = [position for _, _, position in cells if position is not None]
        return CopyEdits(
            [units for _, units, _ in cells],
            "patch",
            Sources(source=self.cache),
            attention_mask=self.rows.attention_mask,
            places=places or None,
        )

    def _measured(
        self, n_cells: int, hooks: HooksOfCopies, progress: bool
    ) -> Iterator[torch.Tensor]:
        """Every metric of each cell: ``[metrics, cells, batch?]``, some cells at a time."""
        for several in self.rows.passes(n_cells, hooks, "patch", progress):
            yield torch.stack([self._measure(logits) for logits in several], dim=1)

    def _measure(self, logits: Float[torch.Tensor, "batch pos vocab"]) -> torch.Tensor:
        """Every metric of one cell: ``[metrics, batch?]``."""
        expected = () if self.reduce == "scalar" else (len(self.rows.tokens),)
        rows = []
        for name, metric in self._metrics().items():
            with torch.inference_mode():  # as the logits were made
                value = as_measured(
                    f"The metric {name!r}", metric(logits), f"a tensor of shape {expected}"
                )
            if value.shape != expected:
                raise ModulesError(
                    f"With reduce={self.reduce!r} the metric {name!r} should return a tensor of "
                    f"shape {expected}; it has {tuple(value.shape)}. A [batch] metric goes with "
                    "reduce='mean' or 'none', a scalar with 'scalar'."
                )
            rows.append(value.detach().float())
        return torch.stack(rows)

    def _metrics(self) -> Mapping[str, Metric]:
        if not isinstance(self.metric, Mapping):
            return {"metric": self.metric}
        if not self.metric:
            raise ModulesError("patching_metric should hold at least one metric; it is empty.")
        return self.metric


def _patching_result() -> Any:
    """TransformerLens' result type, which its 3.x line lacks."""
    try:
        from transformer_lens.patching import PatchingResult  # seconds to import, so only here
    except ImportError as error:
        raise ModulesError(
            "reduce='none', baseline=True and several metrics need TransformerLens 4's "
            "PatchingResult; the installed version has none. Use one metric with 'scalar' or "
            "'mean', or install transformer-lens>=4."
        ) from error
    return PatchingResult
