"""Activation patching of modules: like TransformerLens' ``get_act_patch_*``, a module at a time.

One hook point cannot hold a module, whose units lie in many layers: each cell patches all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from tl_modules.causal.token_runs import Rows, as_measured
from tl_modules.errors import ModulesError, check_choice, shown
from tl_modules.interventions.hooks import unit_hooks
from tl_modules.interventions.measuring import measures
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.token_arrays import TokenArray, Tokens
from tl_modules.modules.module_set import Module, as_list
from tl_modules.runtime.arguments import checked
from tl_modules.units import Units

Metric = Callable[[torch.Tensor], torch.Tensor]
"""``metric(logits)``: a scalar, or one number a prompt of the batch."""


@checked
@measures
def get_act_patch_module(  # noqa: PLR0913 - TransformerLens' arguments, and the modules
    model: HookedModel,
    corrupted_tokens: Tokens,
    clean_cache: Mapping[str, torch.Tensor] | Any,
    patching_metric: Metric | Mapping[str, Metric],
    modules: Module | Iterable[Module],
    return_index_df: bool = False,
    *,
    reduce: str = "scalar",
    baseline: bool = False,
    attention_mask: TokenArray | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> Any:
    """Patch each module's activations of the clean run into the corrupted run, at all positions.

    For the other direction pass the clean tokens and the corrupted run's cache.

    Args:
        model: The model.
        corrupted_tokens: The corrupted run's tokens, ``[batch, pos]``.
        clean_cache: The clean run's activation cache, of the same batch and length.
        patching_metric: From logits ``[batch, pos, d_vocab]`` to a scalar (``reduce="scalar"``) or
            a ``[batch]`` tensor (otherwise), or a mapping of names to such functions.
        modules: A ``ModuleSet``, some modules of one, or one.
        return_index_df: Return the frame of indices too (with a tensor only).
        reduce: ``"scalar"``; ``"mean"`` averages a ``[batch]`` metric, ``"none"`` keeps it.
        baseline: Also measure the corrupted run without a patch.
        attention_mask: 1 or True where a token is real; padding is not patched. Without it the
            model runs as TransformerLens' own patching runs it.
        batch_size: Rows of a forward pass: prompts times modules, which are stacked.
        progress: Show a progress bar.

    Returns:
        A tensor ``[modules]``. As TransformerLens 4 has it, a ``PatchingResult`` if
        ``reduce="none"``, ``baseline=True`` or a mapping of metrics asks for more.

    Raises:
        ModulesError: If the modules belong to another model, a metric returns another shape, the
            cache lacks a hook point or has another length, or a ``PatchingResult`` is asked for
            and the installed TransformerLens has none.
    """
    chosen = as_list(modules)
    rows = Rows.given(model, "corrupted_tokens", corrupted_tokens, attention_mask, batch_size)
    sweep = _Sweep(rows, clean_cache, patching_metric, reduce)
    cells = [({"module": module.label}, module.units, None) for module in chosen]
    return sweep.result(cells, (len(chosen),), return_index_df, baseline, progress)


@checked
@measures
def get_act_patch_module_by_pos(
    model: HookedModel,
    corrupted_tokens: Tokens,
    clean_cache: Mapping[str, torch.Tensor] | Any,
    patching_metric: Metric | Mapping[str, Metric],
    modules: Module | Iterable[Module],
    return_index_df: bool = False,
    **options: Any,
) -> Any:
    """``get_act_patch_module``, one position at a time.

    Args:
        model: The model.
        corrupted_tokens: The corrupted run's tokens, ``[batch, pos]``.
        clean_cache: The clean run's activation cache, of the same batch and length.
        patching_metric: As ``get_act_patch_module`` takes it.
        modules: A ``ModuleSet``, some modules of one, or one.
        return_index_df: Return the frame of indices too (with a tensor only).
        options: What else ``get_act_patch_module`` takes.

    Returns:
        A tensor ``[modules, pos]``, or a ``PatchingResult``.

    Raises:
        ModulesError: As ``get_act_patch_module`` raises.
    """
    chosen = as_list(modules)
    sweep, rest = _sweep(model, corrupted_tokens, clean_cache, patching_metric, options)
    length = sweep.rows.tokens.shape[1]
    cells = [
        ({"module": module.label, "pos": position}, module.units, position)
        for module in chosen
        for position in range(length)
    ]
    return sweep.result(cells, (len(chosen), length), return_index_df, **rest)


@checked
@measures
def get_act_patch_module_by_layer(
    model: HookedModel,
    corrupted_tokens: Tokens,
    clean_cache: Mapping[str, torch.Tensor] | Any,
    patching_metric: Metric | Mapping[str, Metric],
    modules: Module | Iterable[Module],
    return_index_df: bool = False,
    **options: Any,
) -> Any:
    """``get_act_patch_module``, the module's units of one layer at a time.

    Args:
        model: The model.
        corrupted_tokens: The corrupted run's tokens, ``[batch, pos]``.
        clean_cache: The clean run's activation cache, of the same batch and length.
        patching_metric: As ``get_act_patch_module`` takes it.
        modules: A ``ModuleSet``, some modules of one, or one.
        return_index_df: Return the frame of indices too (with a tensor only).
        options: What else ``get_act_patch_module`` takes.

    Returns:
        A tensor ``[modules, layers]``, or a ``PatchingResult``.

    Raises:
        ModulesError: As ``get_act_patch_module`` raises.
    """
    chosen = as_list(modules)
    of_hook = np.asarray(chosen[0].units.layers)
    layers = sorted(set(of_hook.tolist()))
    cells = []
    for module in chosen:
        for layer in layers:
            units = module.units.select(of_hook[module.units.hook] == layer)
            cells.append(({"module": module.label, "layer": layer}, units, None))
    sweep, rest = _sweep(model, corrupted_tokens, clean_cache, patching_metric, options)
    return sweep.result(cells, (len(chosen), len(layers)), return_index_df, **rest)


def _sweep(
    model: HookedModel, tokens: TokenArray, cache: Any, metric: Any, options: dict[str, Any]
) -> tuple["_Sweep", dict[str, bool]]:
    """A sweep from ``get_act_patch_module``'s options, and those for its result."""
    defaults: dict[str, Any] = {
        "reduce": "scalar",
        "baseline": False,
        "attention_mask": None,
        "batch_size": 16,
        "progress": True,
    }
    for name in options:
        check_choice("The option", name, tuple(defaults))
    chosen = defaults | options
    rest = {name: chosen.pop(name) for name in ("baseline", "progress")}
    given = [chosen[name] for name in ("attention_mask", "batch_size")]
    rows = Rows.given(model, "corrupted_tokens", tokens, *given)
    return _Sweep(rows, cache, metric, chosen["reduce"]), rest


_Cell = tuple[dict[str, int], Units, int | None]
"""A cell's indices, the units to patch and the position to patch them at (None for all)."""


@dataclass(frozen=True, eq=False)
class _Sweep:
    """Patches cell after cell, several in a forward pass, and measures each."""

    rows: Rows
    cache: Any
    metric: Metric | Mapping[str, Metric]
    reduce: str

    def result(
        self,
        cells: Sequence[_Cell],
        shape: tuple[int, ...],
        return_index_df: bool,
        baseline: bool,
        progress: bool,
    ) -> Any:
        """What the public functions return."""
        check_choice("reduce", self.reduce, ("scalar", "mean", "none"))
        self.rows.check()
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
        hooks = [self._hooks(units, position) for _, units, position in cells]
        for _, units, _ in cells:
            units.check_model(self.rows.model)
        values = torch.cat(list(self._measured(hooks, progress)), dim=1)
        without = next(self._measured([[]], progress=False))[:, 0] if baseline else None
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

    def _hooks(self, units: Units, position: int | None) -> FwdHooks:
        return unit_hooks(
            units,
            "patch",
            source=self.cache,
            positions=position,
            attention_mask=self.rows.attention_mask,
        )

    def _measured(self, cells: Sequence[FwdHooks], progress: bool) -> Iterator[torch.Tensor]:
        """Every metric of each cell: ``[metrics, cells, batch?]``, some cells at a time."""
        for several in self.rows.passes(cells, "patch", progress):
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
