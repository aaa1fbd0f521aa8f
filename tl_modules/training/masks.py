"""Which entries of a model's parameters belong to some MLP neurons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError, check_type
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import checked
from tl_modules.units import SITES, Units

_NEURON_AXIS = {"W_in": 1, "W_gate": 1, "b_in": 0, "b_gate": 0, "W_out": 0}
"""TransformerLens' names of what an MLP neuron has, and the axis that counts neurons."""

_NEEDED = ("W_in", "W_out")

Named = dict[str, torch.nn.Parameter]


@dataclass(frozen=True, eq=False)
class NeuronRows:
    """A parameter as a layer's neurons have it: row i is neuron i's, however it is stored."""

    name: str
    """Its name in ``model.named_parameters()``."""

    parameter: torch.nn.Parameter
    """It."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def of(self, tensor: Shaped[torch.Tensor, "..."]) -> Shaped[torch.Tensor, "neurons width"]:
        """The rows of a tensor that is laid out like the parameter, as a view."""
        return tensor.as_strided(self.shape, self.strides, tensor.storage_offset() + self.offset)


@checked
def parameter_masks(
    model: HookedModel, module: Module | Units
) -> dict[str, Bool[torch.Tensor, "..."]]:
    """Find the weights that a module consists of.

    An MLP neuron has a vector of the up-projection (``W_in``) and, if gated, of the gate
    (``W_gate``), an entry of their biases, and the vector of the down-projection (``W_out``) that
    it writes. Zeroing a module's entries of ``W_out`` is zero-ablating it.

    Args:
        model: The model.
        module: The module, or units, of the site ``"mlp"``.

    Returns:
        Masks by the names of ``model.named_parameters()``, each of its parameter's shape: True
        where an entry is the module's. Parameters without such an entry are left out.

    Raises:
        ModulesError: If it is no module and no units, the units are no MLP neurons or belong to
            another model, or their weights are not to be found among its parameters.
    """
    masks: dict[str, torch.Tensor] = {}
    for _, index, every in neuron_rows(model, units_of(module)):
        for rows in every:
            if rows.name not in masks:
                masks[rows.name] = torch.zeros_like(rows.parameter, dtype=torch.bool)
            mask = masks[rows.name]
            rows.of(mask)[torch.from_numpy(index).to(mask.device)] = True
    return masks


def units_of(module: Module | Units) -> Units:
    """A module's units, or the units themselves.

    Raises:
        ModulesError: If it is something else, such as a whole set of modules.
    """
    check_type(
        module,
        (Module, Units),
        "module should be one module, or units",
        "Pass one of them, such as modules[0].",
    )
    return module.units if isinstance(module, Module) else module


def parameters_of(model: HookedModel) -> Named:
    """The model's parameters by name.

    Raises:
        ModulesError: If it shows none.
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
    """Each layer that has some of the units: its number, their indices, and its neurons' weights.

    Raises:
        ModulesError: As ``parameter_masks`` raises.
    """
    units.check_model(model)
    named = parameters_of(model)
    chosen = dict(units.by_hook())
    for hook in chosen:
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
        every = _layer_rows(model, named, layer, width)
        # Also of layers without a unit here: they might share the others' weights.
        for rows in every:
            first = holders.setdefault((rows.name, rows.offset), layer)
            if first != layer:
                raise ModulesError(
                    f"Each layer should have weights of its own; layers {first} and {layer} share "
                    f"{rows.name!r}. Choose a model whose layers share none."
                )
        if hook in chosen:
            yield layer, units.index[chosen[hook]].astype(np.int64), every


def _pattern(layer: int) -> str:
    """The hook point of a layer's neurons."""
    return SITES["mlp"].pattern.format(layer=layer)


def _layer_rows(model: HookedModel, named: Named, layer: int, width: int) -> list[NeuronRows]:
    """What the neurons of a layer have, always in the same order."""
    blocks: Any = getattr(model, "blocks", None)
    mlp = None if blocks is None else getattr(blocks[layer], "mlp", None)
    found = []
    for kind, axis in _NEURON_AXIS.items():
        weight = getattr(mlp, kind, None)
        if weight is None and kind not in _NEEDED:
            continue
        where = f"blocks.{layer}.mlp.{kind}"
        if not isinstance(weight, torch.Tensor) or weight.shape[axis] != width:
            raise ModulesError(
                f"{model_name(model)!r} should expose {where} with {width} neurons on axis {axis}; "
                "it does not. Choose a model whose MLP weights TransformerLens exposes."
            )
        found.append(_rows(_holder(named, weight, where), weight.movedim(axis, 0)))
    return found


def _holder(named: Named, weight: torch.Tensor, where: str) -> tuple[str, torch.nn.Parameter]:
    """The parameter whose memory a weight lies in: the weight may be a view, say the transpose."""
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
            f"{where} should lie in one parameter of the model, which is nobody else's; it lies in "
            f"{names}. Choose a model whose layers have weights of their own, in memory."
        )
    return holders[0]


def _rows(holder: tuple[str, torch.nn.Parameter], weight: torch.Tensor) -> NeuronRows:
    """A view of the parameter with the neurons on the first axis."""
    name, parameter = holder
    weight = weight[:, None] if weight.ndim == 1 else weight
    offset = int(weight.storage_offset() - parameter.storage_offset())
    return NeuronRows(name, parameter, tuple(weight.shape), weight.stride(), offset)
