"""Forward hooks that overwrite chosen units and leave every other unit as it is."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_choice
from tl_modules.model import FwdHooks
from tl_modules.units import Units

METHODS = ("zero", "mean")
"""Ways to ablate. ``zero``: to 0. ``mean``: to the unit's mean over the tokens of a reference."""


@runtime_checkable
class HasUnitMeans(Protocol):
    """A reference for mean ablation: an ActivationMatrix or a ModuleSet."""

    @property
    def units(self) -> Units:
        """All units of the model's hook points."""
        ...

    @property
    def unit_means(self) -> Float[np.ndarray, " units"] | None:
        """Each unit's mean activation (signed) over the reference's tokens."""
        ...


class Overwrite:
    """A forward hook that sets some units of one hook point to fixed values, at every position."""

    def __init__(
        self,
        name: str,
        width: int,
        index: Int[np.ndarray, " chosen"],
        values: Float[np.ndarray, " chosen"],
    ) -> None:
        """Remember what to overwrite.

        Args:
            name: The hook point, for messages: the model may call it by an alias.
            width: How many units the hook point has.
            index: The units to overwrite.
            values: What to set each to.
        """
        self.name = name
        self.width = width
        self._index = torch.from_numpy(np.array(index, dtype=np.int64))
        self._values = torch.from_numpy(np.array(values, dtype=np.float32))

    def __call__(
        self, activation: Float[torch.Tensor, "*batch width"], hook: Any = None
    ) -> Float[torch.Tensor, "*batch width"]:
        """The activation with the units overwritten; the tensor given is not changed."""
        del hook
        if activation.shape[-1] != self.width:
            raise ModulesError(
                f"The module's units at {self.name!r} are among {self.width}; the activation there "
                f"has shape {tuple(activation.shape)}. Use the model that the module comes from."
            )
        if self._index.device != activation.device:
            self._index = self._index.to(activation.device)
            self._values = self._values.to(activation.device)
        result = activation.clone()
        result[..., self._index] = self._values.to(activation.dtype)
        return result


def ablation_hooks(
    units: Units, method: str = "mean", reference: HasUnitMeans | None = None
) -> FwdHooks:
    """Hooks that ablate units at every layer they lie in.

    Args:
        units: What to ablate.
        method: ``"zero"`` or ``"mean"``.
        reference: For ``"mean"``, where the means come from.

    Returns:
        ``(hook_name, fn)`` pairs for ``run_with_hooks`` or ``hooks``, one a hook point.

    Raises:
        ModulesError: If the method is unknown, or ``"mean"`` lacks means of these units.
    """
    check_choice("method", method, METHODS)
    values = np.zeros(len(units)) if method == "zero" else _means(units, reference)
    pairs: FwdHooks = []
    for hook, at in units.by_hook():
        name = units.hook_names[hook]
        pairs.append((name, Overwrite(name, units.widths[hook], units.index[at], values[at])))
    return pairs


def _means(units: Units, reference: HasUnitMeans | None) -> Float[np.ndarray, " units"]:
    """The reference's means of these units."""
    if reference is None or reference.unit_means is None:
        raise ModulesError(
            "method='mean' needs the units' mean activations, and none are known: these modules "
            "come from a matrix without them. Pass reference=tlm.collect(model, prompts), or use "
            "method='zero'."
        )
    if not reference.units.same_hooks(units):
        raise ModulesError(
            "reference should come from the same model as the modules: its hook points or widths "
            "differ. Collect it from the model that the modules were discovered on."
        )
    return np.asarray(reference.unit_means, dtype=np.float64)[units.flat()]
