"""Find the entries of a model's parameters that belong to MLP neurons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError, check_type
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.models.sites import SITES
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import checked
from tl_modules.units import Units

_NEURON_AXIS = {"W_in": 1, "W_gate": 1, "b_in": 0, "b_gate": 0, "W_out": 0}
"""TransformerLens' names of an MLP's weights, with the axis over neurons. ``b_out`` is missing,
because it belongs to no neuron."""

_NEEDED = ("W_in", "W_out")  # the others exist in gated MLPs, or in MLPs with biases

Named = dict[str, torch.nn.Parameter]


@dataclass(frozen=True, eq=False)
class NeuronRows:
    """A view of a parameter in which row i belongs to neuron i, in any storage order."""

    name: str
    """The parameter's name in ``model.named_parameters()``."""

    parameter: torch.nn.Parameter
    """The parameter that holds the weights."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def of(self, tensor: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "neurons width"]:
        """Return the neurons' rows of a tensor that is laid out like the parameter, as a view."""
        return tensor.as_strided(self.shape, self.strides, tensor.storage_offset() + self.offset)


@checked
def parameter_masks(
    model: HookedModel, module: Module | Units
) -> dict[str, Bool[torch.Tensor, "..."]]:
    """Find the weights of a module, to train, freeze or edit them.

    An MLP neuron has a vector of the up-projection (``W_in``), a vector of the gate (``W_gate``) if
    the MLP is gated, an entry of each bias, and a vector of the down-projection (``W_out``), which
    it writes. Weights act at every token, a prompt's first token included: zeroing a module's
    entries of ``W_out`` is the same as zero-ablating the module everywhere.

    Args:
        model: The model.
        module: The module, or units, of the site ``"mlp"``.

    Returns:
        Boolean masks by the names of ``model.named_parameters()``, in the shapes of the parameters:
        True if the entry belongs to the module. Parameters without such an entry are left out.

    Raises:
        ModulesError: If ``module`` is no module and no units, the units are not MLP neurons or
            belong to another model, or the model's parameters do not hold their weights.
    """
    masks: dict[str, torch.Tensor] = {}
    for _, index, weights in neuron_rows(model, units_of(module)):
        for rows in weights:
            if rows.name not in masks:
                masks[rows.name] = torch.zeros_like(rows.parameter, dtype=torch.bool)
            mask = masks[rows.name]
            rows.of(mask)[torch.from_numpy(index).to(mask.device)] = True
    return masks


def units_of(module: Module | Units) -> Units:
    """Return a module's units, or the units themselves.

    Raises:
        ModulesError: If ``module`` is something else, such as a whole set of modules.
    """
    check_type(
        module,
        (Module, Units),
        "module should be one module, or units",
        "Pass one module, such as modules[0].",
    )
    return module.units if isinstance(module, Module) else module


def parameters_of(model: HookedModel) -> Named:
    """Return the model's parameters by name.

    Raises:
        ModulesError: If the model has no ``named_parameters``.
    """
    loose: Any = model
    if not hasattr(loose, "named_parameters"):
        raise ModulesError(
            f"Training needs a model with parameters; {model_name(model)!r} is a "
            f"{type(model).__name__}, which has no named_parameters(). Use a TransformerBridge or "
            "HookedTransformer."
        )
    return dict(loose.named_parameters())


def neuron_rows(
    model: HookedModel, units: Units
) -> Iterator[tuple[int, Int[np.ndarray, " chosen"], list[NeuronRows]]]:
    """Yield the weights of the units' layers.

    Yields:
        The layer, the units' numbers in it, and the weights of all its neurons.

    Raises:
        ModulesError: As ``parameter_masks`` raises.
    """
    units.check_model(model)
    named = parameters_of(model)
    places_by_hook = dict(units.by_hook())
    for hook in places_by_hook:
        if units.hook_names[hook] != _pattern(units.layers[hook]):
            raise ModulesError(
                "Only MLP neurons have weights of their own; the module has units at "
                f"{units.hook_names[hook]!r}. Collect with units='mlp'."
            )
    holders: dict[tuple[str, int], int] = {}
    for hook, (name, layer, width) in enumerate(
        zip(units.hook_names, units.layers, units.widths, strict=True)
    ):
        if name != _pattern(layer):
            continue
        weights = _layer_rows(model, named, layer, width)
        # Layers without one of these units are checked too, because they might share weights.
        for rows in weights:
            first = holders.setdefault((rows.name, rows.offset), layer)
            if first != layer:
                raise ModulesError(
                    f"Each layer should have weights of its own; layers {first} and {layer} share "
                    f"{rows.name!r}. Choose a model whose layers share none."
                )
        if hook in places_by_hook:
            yield layer, units.index[places_by_hook[hook]].astype(np.int64), weights


def _pattern(layer: int) -> str:
    """Return the hook point of a layer's neurons."""
    return SITES["mlp"].pattern.format(layer=layer)


def _layer_rows(model: HookedModel, named: Named, layer: int, width: int) -> list[NeuronRows]:
    """Return the weights of a layer's neurons, always in the same order."""
    blocks: Any = getattr(model, "blocks", None)
    mlp = None if blocks is None else getattr(blocks[layer], "mlp", None)
    weights = []
    for kind, axis in _NEURON_AXIS.items():
        weight = getattr(mlp, kind, None)
        if weight is None and kind not in _NEEDED:
            continue
        path = f"blocks.{layer}.mlp.{kind}"
        if not isinstance(weight, torch.Tensor) or weight.shape[axis] != width:
            raise ModulesError(
                f"{model_name(model)!r} should expose {path} with {width} neurons on axis {axis}; "
                "it does not. Choose a model whose MLP weights TransformerLens exposes."
            )
        weights.append(_neurons_first(_holder(named, weight, path), weight.movedim(axis, 0)))
    return weights


def _holder(named: Named, weight: torch.Tensor, path: str) -> tuple[str, torch.nn.Parameter]:
    """Find the parameter that holds a weight's memory; the weight may be a view, as a transpose."""
    # Compared by memory, because TransformerLens may expose views of the parameters.
    memory = weight.untyped_storage().data_ptr()
    holders = [
        (name, parameter)
        for name, parameter in named.items()
        if not parameter.is_meta
        and parameter.untyped_storage().data_ptr() == memory
        and 0 <= weight.storage_offset() - parameter.storage_offset() < parameter.numel()
    ]
    if len(holders) != 1:
        names = ", ".join(repr(name) for name, _ in holders) or "none"
        raise ModulesError(
            f"{path} should lie in exactly one parameter of the model, in memory; it lies in "
            f"{names}. Choose a model whose layers have weights of their own."
        )
    return holders[0]


def _neurons_first(holder: tuple[str, torch.nn.Parameter], weight: torch.Tensor) -> NeuronRows:
    """Describe the view of the parameter that has the neurons on the first axis."""
    name, parameter = holder
    weight = weight[:, None] if weight.ndim == 1 else weight
    offset = int(weight.storage_offset() - parameter.storage_offset())
    return NeuronRows(name, parameter, tuple(weight.shape), weight.stride(), offset)
